#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use bytes::Bytes;
use event_log::{Appended, Expect, MemoryLog};
use schemas::Digest;

use super::*;

const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);
const MADE_AT: &str = "2026-01-01T00:00:00Z";
/// Records of the source, and those that were copied and compared ahead.
const ALL: u64 = 100;
const AHEAD: u64 = 60;

/// A log whose records tell their place and a word.
async fn filled(count: u64, word: impl Fn(u64) -> &'static str) -> MemoryLog {
    let log = MemoryLog::new();
    for n in 1..=count {
        let subject = format!("s.{}", n % 7);
        let expect = Expect { subject: log.last(&subject).await.unwrap(), log: None };
        let record = Bytes::from(format!("{n} {}", word(n)));
        assert!(matches!(log.append(&subject, expect, record).await, Ok(Appended::Appended(_))));
    }
    log
}

async fn ours(count: u64) -> MemoryLog {
    filled(count, |_| "ours").await
}

async fn tree_of(log: &MemoryLog, size: u64) -> Frontier {
    tree(log, Frontier::default(), Sequence(size), |_| Ok(false)).await.unwrap()
}

async fn ahead() -> Ahead {
    Ahead { cluster: CLUSTER, made_at: MADE_AT.to_owned(), tree: tree_of(&ours(AHEAD).await, AHEAD).await }
}

/// How many records need not be compared again.
async fn agreed(ahead: Ahead, source: &MemoryLog, target: &MemoryLog, made_at: &str) -> u64 {
    let head = source.head().await.unwrap();
    let root: Digest = tree_of(source, head.0).await.root();
    let agreed = ahead.agreed(CLUSTER, source, (target, made_at), (head, root), |_| Ok(false)).await.unwrap();
    agreed.map_or(0, |tree| tree.size())
}

#[tokio::test]
async fn what_was_compared_ahead_is_not_compared_again() {
    let source = ours(ALL).await;
    for held in [AHEAD, AHEAD + 1, ALL] {
        assert_eq!(agreed(ahead().await, &source, &ours(held).await, MADE_AT).await, AHEAD);
    }
    assert_eq!(agreed(ahead().await, &ours(AHEAD).await, &ours(AHEAD).await, MADE_AT).await, AHEAD, "nothing came since");
}

#[tokio::test]
async fn of_other_logs_than_those_that_were_read_everything_is_compared() {
    let (source, target) = (ours(ALL).await, ours(AHEAD).await);
    let other_cluster = Ahead { cluster: ClusterId::from_bytes([2; 16]), ..ahead().await };
    assert_eq!(agreed(other_cluster, &source, &target, MADE_AT).await, 0);
    assert_eq!(agreed(ahead().await, &source, &target, "2026-01-02T00:00:00Z").await, 0, "a stream that was made anew");
    assert_eq!(agreed(ahead().await, &source, &ours(AHEAD - 1).await, MADE_AT).await, 0, "a target that lost its end");
    let taken = filled(AHEAD, |n| if n > 50 { "theirs" } else { "ours" }).await;
    assert_eq!(agreed(ahead().await, &source, &taken, MADE_AT).await, 0, "a target whose end is another writer's by now");
    let rewritten = filled(ALL, |n| if n == 3 { "theirs" } else { "ours" }).await;
    assert_eq!(agreed(ahead().await, &rewritten, &target, MADE_AT).await, 0, "a source that is another log before the place");
    assert_eq!(agreed(ahead().await, &ours(AHEAD - 1).await, &target, MADE_AT).await, 0, "a source that lost its end");
}

#[tokio::test]
async fn a_tree_that_somebody_made_up_is_not_believed() {
    let source = ours(ALL).await;
    let forged = filled(AHEAD, |n| if n == 3 { "theirs" } else { "ours" }).await;
    let forged = Ahead { tree: tree_of(&forged, AHEAD).await, ..ahead().await };
    assert_eq!(agreed(forged, &source, &ours(AHEAD).await, MADE_AT).await, 0);
    let empty = Ahead { tree: Frontier::default(), ..ahead().await };
    assert_eq!(agreed(empty, &source, &ours(AHEAD).await, MADE_AT).await, 0);
}

#[tokio::test]
async fn what_is_read_back_has_to_be_what_the_export_holds() {
    let export = async |log: &MemoryLog| {
        let (sender, runs) = mpsc::channel(2);
        let records = log.read_range(Sequence(1), 100).await.unwrap();
        for run in records.chunks(records.len().div_ceil(2)) {
            sender.send(run.to_vec()).await.unwrap();
        }
        runs
    };
    let source = ours(AHEAD).await;
    let read = read_back(&ours(AHEAD + 5).await, Frontier::default(), export(&source).await, &BTreeSet::new(), |_| {}).await.unwrap();
    assert_eq!(read, tree_of(&source, AHEAD).await);
    let damaged = filled(AHEAD, |n| if n == 3 { "theirs" } else { "ours" }).await;
    let refused = read_back(&damaged, Frontier::default(), export(&source).await, &BTreeSet::new(), |_| {}).await.unwrap_err().to_string();
    assert!(refused.contains("sequence 3"), "{refused}");
}

#[test]
fn the_file_is_read_as_it_was_written_and_what_is_none_is_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut tree = Frontier::default();
    (0..5).for_each(|n| tree.push([n; 32]));
    let ahead = Ahead { cluster: CLUSTER, made_at: MADE_AT.to_owned(), tree };
    assert_eq!(Ahead::read(directory.path()), None);
    ahead.write(directory.path()).unwrap();
    assert_eq!(Ahead::read(directory.path()), Some(ahead));
    let text = fs::read_to_string(path(directory.path())).unwrap().replace("\"size\": 5", "\"size\": 7");
    fs::write(path(directory.path()), text).unwrap();
    assert_eq!(Ahead::read(directory.path()), None, "an edge that is of no tree of that size");
    Ahead::remove(directory.path()).unwrap();
    Ahead::remove(directory.path()).unwrap();
    assert_eq!(Ahead::read(directory.path()), None);
}

#[tokio::test]
async fn a_copy_ahead_that_was_cut_off_goes_on_whatever_it_left_behind() {
    // Each record is the first on its subject, as keys' are, and the target has more of the run than one read gives.
    let created = async |count: u64| {
        let log = MemoryLog::new();
        for n in 1..=count {
            let first = Expect { subject: Sequence::ZERO, log: None };
            assert!(matches!(log.append(&format!("s.{n}"), first, Bytes::from(n.to_string())).await, Ok(Appended::Appended(_))));
        }
        log
    };
    let (source, target) = (created(4000).await, created(3000).await);
    let mut run = Vec::new();
    while run.len() < 3700 {
        run.extend(source.read_range(Sequence(301 + run.len() as u64), 3700 - run.len()).await.unwrap());
    }
    Copier::beginning_at(&target, Sequence(300)).check_or_append(&run).await.unwrap();
    assert_eq!(target.head().await.unwrap(), Sequence(4000));
}
