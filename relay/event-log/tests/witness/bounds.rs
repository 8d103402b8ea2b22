//! How much is remembered, and for how long.

use std::sync::Arc;

use event_log::testing::Faithless;
use event_log::{EventLog, Health};
use schemas::Sequence;

use crate::node::Node;
use crate::records::{append, fill, signed};

const WINDOW: u64 = 50;

async fn small(log: &Faithless) -> Node {
    let node = Node::open(Arc::new(log.clone()), Arc::new(tempfile::tempdir().unwrap()), WINDOW);
    node.is(&Health::Trusted).await;
    node
}

#[tokio::test]
async fn one_node_alone_remembers_the_first_record_and_the_last_ones() {
    let log = Faithless::new();
    let node = small(&log).await;
    fill(&node.log, 1..=400).await;
    assert_eq!(node.log.remembered() as u64, WINDOW + 1);
    let directory = node.stop().await;
    let node = Node::open(Arc::new(log.clone()), directory, WINDOW);
    assert_eq!(node.log.remembered() as u64, WINDOW + 1);
    node.is(&Health::Trusted).await;
    // Not more than is remembered can be put back.
    log.lose_tail(50).await;
    node.reconnect().await;
    node.has_healed(50).await;
    log.lose_tail(51).await;
    node.reconnect().await;
    node.is_refused().await;
}

#[tokio::test]
async fn own_records_are_remembered_until_another_writer_has_seen_them() {
    let log = Faithless::new();
    let node = small(&log).await;
    let mut last = 0;
    let mut write = async |log: &dyn EventLog, writer: u8, seen: u64| {
        last += 1;
        assert_eq!(append(log, "kr.e.default.key.0", signed(writer, last, seen)).await, last);
    };
    for _ in 0..10 {
        write(&node.log, 1, 0).await;
    }
    // Another writer, who has seen the first four, and then nothing of ours for longer than the window.
    for _ in 0..200 {
        write(&log, 2, 4).await;
    }
    node.follow_to(210).await;
    // Number 1 as the first of all, 5 to 10 as our own, and the window.
    assert_eq!(node.log.remembered() as u64, 1 + 6 + WINDOW);
    write(&log, 2, 9).await;
    node.follow_to(211).await;
    assert_eq!(node.log.remembered() as u64, 1 + 1 + WINDOW);
    let directory = node.stop().await;
    let node = Node::open(Arc::new(log.clone()), directory, WINDOW);
    assert_eq!(node.log.remembered() as u64, 1 + 1 + WINDOW);

    // An own record far before the window is compared after a reconnect all the same.
    node.is(&Health::Trusted).await;
    log.overwrite(Sequence(10), "another".into()).await;
    node.reconnect().await;
    let (reason, _) = node.is_refused().await;
    assert!(reason.contains("sequence 10 holds"), "{reason}");
}

#[tokio::test]
async fn own_records_that_nobody_vouches_for_are_bounded_too() {
    let log = Faithless::new();
    let node = small(&log).await;
    append(&node.log, "kr.e.default.key.0", signed(1, 0, 0)).await;
    append(&log, "kr.e.default.key.1", signed(2, 0, 0)).await;
    node.follow_to(2).await;
    for number in 1..400 {
        append(&node.log, "kr.e.default.key.0", signed(1, number, 0)).await;
    }
    assert_eq!(node.log.remembered() as u64, 1 + 2 * WINDOW);
}

/// A reader of the whole history does not push the end of the log out of what is remembered.
#[tokio::test]
async fn history_that_passes_by_is_not_remembered() {
    let log = Faithless::new();
    fill(&log, 1..=500).await;
    let node = small(&log).await;
    node.follow_to(500).await;
    while node.log.remembered() < WINDOW as usize + 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.log.remembered() as u64, WINDOW + 1);
    log.lose_tail(50).await;
    node.reconnect().await;
    node.has_healed(50).await;
    assert_eq!(log.head().await, Ok(Sequence(500)));
}
