//! What a log may do to what it acknowledged, and what follows from each.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::testing::Faithless;
use event_log::{EventLog, Health, Stored};
use schemas::Sequence;
use serde_json::Value;

use crate::node::{NOTICED_MAX, Node};
use crate::records::{append, fill, record, root, signed};

const COUNT: u64 = 20;

/// How a case has to end.
enum End {
    /// The log holds again what it held, byte for byte, and the node put back that many records.
    Healed { put_back: u64 },
    /// With this in the reason, and this many records kept of each side.
    Refused { reason: &'static str, remembered: usize, found: usize },
}

/// A log of 20 records, of which this node wrote all but the last two, and the copies that nodes made of it.
async fn case(name: &str, is_told: bool, end: End, damage: impl AsyncFnOnce(&Faithless)) {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=COUNT - 2).await;
    // Two by somebody else, which pass by.
    fill(&log, COUNT - 1..=COUNT).await;
    node.follow_to(COUNT).await;
    let before = log.records().await;

    let begin = Instant::now();
    damage(&log).await;
    if is_told {
        node.reconnect().await;
    }
    match end {
        End::Healed { put_back } => {
            node.has_healed(put_back).await;
            let after = log.records().await;
            assert_eq!(root(&after), root(&before), "{name}");
            assert_eq!(after, before, "{name}");
            assert_eq!(node.log.counts().healed_records, put_back, "{name}");
            fill(&node.log, COUNT + 1..=COUNT + 1).await;
        }
        End::Refused { reason, remembered, found } => {
            let (text, evidence) = node.is_refused().await;
            assert!(text.contains(reason), "{name}: {text}");
            assert_eq!(lines(&evidence.join("remembered.jsonl")).len(), remembered, "{name}");
            assert_eq!(lines(&evidence.join("found.jsonl")).len(), found, "{name}");
            let report: Value = serde_json::from_slice(&fs::read(evidence.join("report.json")).unwrap()).unwrap();
            assert_eq!(report["remembered"]["records"], remembered, "{name}");
            let (subject, bytes) = record(COUNT + 1);
            let refused = node.log.append(&subject, event_log::Expect { subject: Sequence(0), log: None }, bytes).await;
            assert!(refused.unwrap_err().to_string().contains(reason), "{name}");
        }
    }
    println!("{name}: settled after {:?}", begin.elapsed());
    assert!(begin.elapsed() < NOTICED_MAX, "{name}");
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The first records of a log.
fn first(records: &[Stored], count: u64) -> impl Iterator<Item = Stored> {
    records.iter().take(count as usize).cloned()
}

#[tokio::test]
async fn a_lost_tail_is_put_back_as_it_was() {
    for is_told in [true, false] {
        for lost in [1, 2, 7, COUNT - 1] {
            case(&format!("lost {lost}"), is_told, End::Healed { put_back: lost }, async |log| log.lose_tail(lost as usize).await).await;
        }
    }
}

#[tokio::test]
async fn a_log_that_answers_late_is_healed_too() {
    case("late", true, End::Healed { put_back: 3 }, async |log| {
        log.lose_tail(3).await;
        log.set_delay(Duration::from_millis(300));
    })
    .await;
}

#[tokio::test]
async fn a_log_that_went_away_and_came_back_shorter_is_healed() {
    case("away", true, End::Healed { put_back: 5 }, async |log| {
        log.lose_tail(5).await;
        log.set_away(true);
        tokio::spawn({
            let log = log.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                log.set_away(false);
            }
        });
    })
    .await;
}

#[tokio::test]
async fn a_branch_is_refused() {
    for is_told in [true, false] {
        let end = End::Refused { reason: "sequence 16 holds another record", remembered: 5, found: 1 };
        case("branch, shorter", is_told, end, async |log| {
            log.lose_tail(5).await;
            append(log, "kr.e.default.key.0", Bytes::from_static(b"another")).await;
        })
        .await;
        let end = End::Refused { reason: "sequence 16 holds another record", remembered: 5, found: 5 };
        case("branch, longer", is_told, end, async |log| {
            log.lose_tail(5).await;
            for number in 0..9 {
                append(log, "kr.e.default.key.0", signed(2, number, 0)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_changed_middle_is_refused() {
    let end = || End::Refused { reason: "sequence 7 holds another record", remembered: 14, found: 14 };
    case("changed middle", true, end(), async |log| log.overwrite(Sequence(7), Bytes::from_static(b"another")).await).await;
    // Nobody can tell from the end of the log, so it takes a reconnect.
    let end = End::Refused { reason: "sequence 7, and the log has there: sequence 7 is missing", remembered: 14, found: 0 };
    case("lost middle", true, end, async |log| log.hide(7..=9)).await;
}

#[tokio::test]
async fn a_log_that_begins_anew_is_refused() {
    for is_told in [true, false] {
        let end = End::Refused { reason: "the log is empty", remembered: 20, found: 0 };
        case("empty", is_told, end, async |log| log.roll_back_to([])).await;
        let end = End::Refused { reason: "begins with another record", remembered: 20, found: 20 };
        case("another founding", is_told, end, async |log| {
            let mut other = Vec::new();
            for (stored, number) in log.records().await.into_iter().zip(100..) {
                other.push(Stored { bytes: signed(5, number, 0), ..stored });
            }
            log.roll_back_to(other);
        })
        .await;
    }
}

#[tokio::test]
async fn a_tail_of_which_nobody_has_everything_is_refused() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    // One that does not pass by before one of ours.
    fill(&log, 11..=11).await;
    fill(&node.log, 12..=12).await;
    assert_eq!(node.log.remembered(), 11);
    let before = log.records().await;
    log.roll_back_to(first(&before, 8));
    node.reconnect().await;
    let (reason, evidence) = node.is_refused().await;
    assert!(reason.contains("lost records from sequence 11 on"), "{reason}");
    // As far as it is exact the log was healed all the same.
    assert_eq!(log.records().await, before[..10]);
    assert_eq!(lines(&evidence.join("remembered.jsonl")).len(), 1);
    assert_eq!(lines(&evidence.join("found.jsonl")).len(), 1);

    // Whoever has the record comes late and puts it back.
    fill(&log, 11..=11).await;
    node.is(&Health::Trusted).await;
    assert_eq!(log.records().await, before);
}

#[tokio::test]
async fn a_log_that_only_went_away_is_trusted_again() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    log.set_away(true);
    node.reconnect().await;
    node.is(&Health::Unknown).await;
    log.set_away(false);
    node.is(&Health::Trusted).await;
    fill(&node.log, 11..=11).await;
    assert_eq!(node.log.counts().healed_records, 0);
}
