//! What callers and readers get while the log is in question.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_log::testing::Faithless;
use event_log::{AppendError, Appended, Damage, EventLog, Expect, Health, ReadError, StorageError, append_resolving};
use futures_util::StreamExt;
use schemas::Sequence;
use tokio::time::Instant;

use crate::node::{Node, WINDOW};
use crate::records::{append, fill, record, root};

#[tokio::test]
async fn nothing_is_appended_before_the_log_was_compared() {
    let log = Faithless::new();
    log.set_away(true);
    let node = Node::open(Arc::new(log.clone()), Arc::new(tempfile::tempdir().unwrap()), WINDOW);
    let (subject, bytes) = record(1);
    let early = node.log.append(&subject, Expect { subject: Sequence(0), log: None }, bytes).await;
    assert!(matches!(early, Err(AppendError::Unavailable { .. })), "{early:?}");
    assert_eq!(node.health(), Health::Unknown);
    log.set_away(false);
    node.is(&Health::Trusted).await;
    fill(&node.log, 1..=1).await;
}

#[tokio::test]
async fn a_record_at_a_place_that_was_taken_is_not_answered_for() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    log.lose_tail(3).await;
    // Nobody told the node yet.
    let expect = Expect { subject: Sequence(0), log: None };
    let outcome = node.log.append("kr.e.default.key.new", expect, Bytes::from_static(b"new")).await;
    assert_eq!(outcome, Ok(Appended::Unknown));
    let (reason, _) = node.is_refused().await;
    assert!(reason.contains("sequence 8 holds another record"), "{reason}");
}

#[tokio::test]
async fn a_conflict_with_less_than_is_remembered_is_looked_into() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    let before = log.records().await;
    log.lose_tail(3).await;
    let (subject, bytes) = record(10);
    let expect = Expect { subject: Sequence(10), log: None };
    let outcome = node.log.append(&subject, expect, Bytes::from_static(b"the next")).await;
    assert!(matches!(outcome, Err(AppendError::Unavailable { .. })), "{outcome:?}");
    node.is(&Health::Trusted).await;
    assert_eq!(root(&log.records().await), root(&before));
    // Who expects what never was gets a conflict and nothing else.
    let outcome = node.log.append("kr.e.default.key.unknown", expect, bytes).await;
    assert_eq!(outcome, Ok(Appended::Conflict { subject_last: Sequence(0), log_last: None }));
    assert_eq!(node.health(), Health::Trusted);
}

/// A record that was acknowledged by a log that then lost it: the caller hears nothing before it is back.
#[tokio::test]
async fn an_append_under_way_while_the_log_is_lost_is_resolved_after_healing() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    log.set_delay(Duration::from_millis(200));
    let (subject, bytes) = record(11);
    let expect = Expect { subject: log.last(&subject).await.unwrap(), log: None };
    let appending = tokio::spawn({
        let (log, deadline) = (node.log.clone(), Instant::now() + Duration::from_secs(10));
        async move { append_resolving(&log, &subject, expect, bytes, deadline).await }
    });
    node.reconnect().await;
    node.becomes(|health| *health == Health::Unknown).await;
    let outcome = appending.await.unwrap().unwrap();
    assert!(matches!(outcome, Appended::Appended(Sequence(11)) | Appended::AlreadyAppended(Sequence(11))), "{outcome:?}");
    assert_eq!(node.health(), Health::Trusted);
}

#[tokio::test]
async fn a_reader_gets_no_record_that_contradicts() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    log.overwrite(Sequence(4), Bytes::from_static(b"another")).await;
    let mut runs = node.log.read(Sequence(1)).await.unwrap();
    let forked = || Err(ReadError::Storage(StorageError::Damage(Damage::Forked { sequence: Sequence(4) })));
    assert_eq!(runs.next().await, Some(forked()));
    assert_eq!(runs.next().await, None);
    node.is_refused().await;
    assert_eq!(node.log.read_range(Sequence(2), 10).await, forked());
    assert_eq!(node.log.read_subject("kr.e.default.key.1", Sequence(1), 10).await, forked());
    // The rest can be looked at, and nothing can be followed.
    assert_eq!(node.log.read_range(Sequence(5), 10).await.unwrap().len(), 6);
    let mut runs = node.log.read(Sequence(5)).await.unwrap();
    assert!(matches!(runs.next().await, Some(Err(ReadError::Unavailable { .. }))));
}

#[tokio::test]
async fn a_head_before_what_is_remembered_is_not_told() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    log.lose_tail(3).await;
    let head = node.log.head().await;
    assert!(matches!(head, Err(ReadError::Unavailable { .. })), "{head:?}");
    node.has_healed(3).await;
    assert_eq!(node.log.head().await, Ok(Sequence(10)));
}

#[tokio::test]
async fn a_log_that_is_refused_has_no_head_however_long_it_is() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    assert_eq!(node.log.head().await, Ok(Sequence(10)));
    log.overwrite(Sequence(4), Bytes::from_static(b"another")).await;
    node.reconnect().await;
    let (reason, _) = node.is_refused().await;
    // Whoever is level with it must not count as fresh.
    append(&log, "kr.e.default.key.0", Bytes::from_static(b"on and on")).await;
    assert_eq!(log.head().await, Ok(Sequence(11)));
    match node.log.head().await {
        Err(ReadError::Unavailable { reason: told }) => assert!(told.contains(&reason), "{told}"),
        head => panic!("{head:?}"),
    }
}

/// A branch that goes on where the reader waits must not reach it.
#[tokio::test]
async fn a_reader_at_the_end_gets_nothing_of_a_branch() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    let mut runs = node.log.read(Sequence(11)).await.unwrap();
    // Reconnected, and the branch comes while the comparison is under way.
    log.set_delay(Duration::from_millis(100));
    node.reconnect().await;
    node.is(&Health::Unknown).await;
    log.lose_tail(3).await;
    for _ in 0..6 {
        append(&log, "kr.e.default.key.0", Bytes::from_static(b"branch")).await;
    }
    let run = runs.next().await.unwrap();
    assert!(matches!(run, Err(ReadError::Unavailable { .. })), "{run:?}");
    node.is_refused().await;
}
