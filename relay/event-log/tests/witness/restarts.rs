//! What outlives the process, and what several nodes do together.

use std::fs;

use event_log::testing::Faithless;
use event_log::{EventLog, Health};
use schemas::Sequence;

use crate::node::Node;
use crate::records::{fill, root};

#[tokio::test]
async fn what_was_acknowledged_is_remembered_across_a_restart() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    let before = log.records().await;
    log.lose_tail(6).await;
    let node = node.restart(&log).await;
    node.is(&Health::Trusted).await;
    assert_eq!(log.records().await, before);
    assert_eq!(node.log.counts().healed_records, 6);
}

/// The record was stored and the process died before it could be remembered.
#[tokio::test]
async fn a_record_that_was_acknowledged_to_a_dying_process_is_read_back() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=5).await;
    let directory = node.stop().await;
    fill(&log, 6..=8).await;
    let node = Node::open(std::sync::Arc::new(log.clone()), directory, crate::node::WINDOW);
    node.is(&Health::Trusted).await;
    while node.log.remembered() < 8 {
        tokio::task::yield_now().await;
    }
    let before = log.records().await;
    log.lose_tail(3).await;
    node.reconnect().await;
    node.has_healed(3).await;
    assert_eq!(log.records().await, before);
}

#[tokio::test]
async fn a_refusal_stands_across_restarts_until_the_log_agrees() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    let right = log.records().await;
    log.overwrite(Sequence(4), "another".into()).await;
    node.reconnect().await;
    let (reason, evidence) = node.is_refused().await;
    let kept = fs::read(evidence.join("found.jsonl")).unwrap();

    // Without a log to ask, too.
    log.set_away(true);
    let node = node.restart(&log).await;
    assert_eq!(node.is_refused().await, (reason.clone(), evidence.clone()));
    log.set_away(false);
    node.log.compare().await;
    assert_eq!(node.is_refused().await, (reason, evidence.clone()));
    assert_eq!(evidences(&node), 1, "the same finding is kept once");

    // Another change is other evidence; the first stays as it is.
    log.overwrite(Sequence(2), "another still".into()).await;
    log.overwrite(Sequence(4), right[3].bytes.clone()).await;
    node.becomes(|health| matches!(health, Health::Refused { evidence: found, .. } if *found != evidence)).await;
    assert_eq!(evidences(&node), 2);
    assert_eq!(fs::read(evidence.join("found.jsonl")).unwrap(), kept);

    log.roll_back_to(right);
    node.is(&Health::Trusted).await;
    let node = node.restart(&log).await;
    assert_eq!(node.health(), Health::Unknown);
    node.is(&Health::Trusted).await;
    fill(&node.log, 11..=11).await;
    assert_eq!(evidences(&node), 2);
}

/// The way out for an operator who has looked at both sides.
#[tokio::test]
async fn a_log_is_taken_as_it_is_when_the_directory_was_moved_away() {
    let log = Faithless::new();
    let node = Node::new(&log).await;
    fill(&node.log, 1..=10).await;
    log.roll_back_to([]);
    node.reconnect().await;
    node.is_refused().await;
    drop(node);
    let node = Node::new(&log).await;
    fill(&node.log, 1..=3).await;
}

/// Two nodes that each have half of the lost tail: neither can heal it alone.
#[tokio::test]
async fn nodes_heal_one_log_together() {
    let log = Faithless::new();
    let (one, two) = (Node::new(&log).await, Node::new(&log).await);
    fill(&one.log, 1..=1).await;
    two.follow_to(1).await;
    for number in 2..=31 {
        fill(if number % 2 == 0 { &one.log } else { &two.log }, number..=number).await;
    }
    let before = log.records().await;
    log.roll_back_to(before[..1].iter().cloned());
    tokio::join!(one.reconnect(), two.reconnect());
    while one.log.counts().healed_records + two.log.counts().healed_records < 30 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for node in [&one, &two] {
        node.is(&Health::Trusted).await;
    }
    let after = log.records().await;
    assert_eq!(root(&after), root(&before));
    assert_eq!(after, before);
    assert_eq!(one.log.counts().healed_records + two.log.counts().healed_records, 30);
}

/// Two nodes that both have everything, at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_heal_at_once_do_not_disturb_each_other() {
    let log = Faithless::new();
    let (one, two) = (Node::new(&log).await, Node::new(&log).await);
    fill(&one.log, 1..=300).await;
    two.follow_to(300).await;
    let before = log.records().await;
    log.lose_tail(280).await;
    tokio::join!(one.reconnect(), two.reconnect());
    while one.log.counts().healed_records + two.log.counts().healed_records < 280 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    for node in [&one, &two] {
        node.is(&Health::Trusted).await;
    }
    assert_eq!(log.records().await, before);
    assert_eq!(one.log.head().await.unwrap(), Sequence(300));
}

fn evidences(node: &Node) -> usize {
    let entries = fs::read_dir(node.path()).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("evidence-")).count()
}
