//! From the spool into the stream: everything once, in order, whatever is ended at whatever step.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::{Client, HeaderMap, header};
use event_log::usage::{BATCH_BYTES_MAX, USAGE_STREAM, UsageAppendError, UsageAppended, UsageStream as _};
use nats_server::{Cluster, Sync};
use schemas::usage::UsageBatch;
use schemas::{Digest, Sequence};
use tokio::time::{sleep, timeout};

use crate::backend::{Node, PATIENCE, client, open_bounded, open_spool, prepare, read};
use crate::records::{batch, batches, record, sum};

/// Brings a batch into the stream as a node does that ends before it hears of it.
async fn publish_unheard(client: &Client, batch: &UsageBatch, follows: u64) -> u64 {
    let bytes = batch.encode();
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, follows.to_string());
    headers.insert(header::NATS_MESSAGE_ID, Digest::blake3(&bytes).to_string());
    let subject = format!("kr.u.{}.{}", batch.node, batch.incarnation);
    let context = jetstream::new(client.clone());
    let begin = Instant::now();
    loop {
        let ack = context.publish_with_headers(subject.clone(), headers.clone(), bytes.clone().into()).await.unwrap().await;
        match ack {
            // A new stream is not known to every server at once, and nobody took the message then.
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound && begin.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(10)).await
            }
            ack => {
                let ack = ack.unwrap();
                assert!(!ack.duplicate);
                return ack.sequence;
            }
        }
    }
}

/// How many messages the stream holds.
async fn messages(client: &Client) -> u64 {
    jetstream::new(client.clone()).get_stream(USAGE_STREAM).await.unwrap().cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_everything_waits_and_is_shipped_when_it_is_back() {
    let mut nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(&nats, directory.path(), 1).await;
    for number in 1..=5 {
        assert_eq!(node.usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    node.shipped().await;

    nats.server(0).kill().unwrap();
    for number in 6..=60 {
        assert_eq!(node.usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    let mut spool = node.usage.spool();
    timeout(PATIENCE, spool.wait_for(|status| status.oldest.is_some())).await.unwrap().unwrap();
    let status = *node.usage.spool().borrow();
    assert_eq!((status.batches, status.oldest), (55, Some(record(6).settled_at)));
    assert!(status.bytes > 55 * 100);
    assert!(node.usage.head().await.is_err());

    nats.server(0).run().unwrap();
    node.shipped().await;
    let found = batches(&read(&*node.usage, 60).await);
    assert_eq!(found, (1..=60).map(|number| batch(1, 1, number)).collect::<Vec<_>>());
    let status = *node.usage.spool().borrow();
    assert_eq!((status.batches, status.bytes, status.oldest, status.shipped), (0, 0, None, 60));
    assert!(status.last_shipped.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_and_appends_without_nats() {
    let mut nats = Cluster::start(1, Sync::Default).unwrap();
    nats.server(0).kill().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(&nats, directory.path(), 1).await;
    assert_eq!(node.usage.append(&batch(1, 1, 1)).await, Ok(UsageAppended::Appended));
    node.kill().await;

    // The batch of the earlier incarnation comes first.
    let node = Node::open(&nats, directory.path(), 1).await;
    assert_eq!(node.usage.append(&batch(1, 2, 1)).await, Ok(UsageAppended::Appended));
    nats.server(0).run().unwrap();
    node.shipped().await;
    assert_eq!(batches(&read(&*node.usage, 2).await), [batch(1, 1, 1), batch(1, 2, 1)]);
}

/// What an earlier life of the process brought into the stream without hearing of it is dropped, not stored twice: within what the
/// server remembers of ids and beyond, and on every number of replicas.
async fn unheard_batches_are_dropped(servers: usize) {
    let nats = Cluster::start(servers, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let spool = open_spool(&nats, directory.path(), servers).await;
    for number in 1..=6 {
        assert_eq!(spool.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    let client = client(&nats).await;
    prepare(&spool).await.unwrap();
    let mut follows = 0;
    for number in 1..=4 {
        follows = publish_unheard(&client, &batch(1, 1, number), follows).await;
    }
    let node = Node::run(spool);
    node.shipped().await;
    assert_eq!(batches(&read(&*node.usage, 6).await), (1..=6).map(|number| batch(1, 1, number)).collect::<Vec<_>>());
    assert_eq!(messages(&client).await, 6);
    let status = *node.usage.spool().borrow();
    assert_eq!((status.shipped, status.refused, status.losses), (6, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unheard_batches_are_dropped_on_one_server() {
    unheard_batches_are_dropped(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unheard_batches_are_dropped_on_three_servers() {
    unheard_batches_are_dropped(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_at_any_moment_ships_everything_once() {
    const EACH: u64 = 10;
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let client = client(&nats).await;
    let directory = tempfile::tempdir().unwrap();
    let (mut appended, mut unheard) = (Vec::new(), 0);
    for incarnation in 1..=40 {
        let spool = open_spool(&nats, directory.path(), 1).await;
        for number in 1..=EACH {
            let batch = batch(1, incarnation, number);
            assert_eq!(spool.append(&batch).await, Ok(UsageAppended::Appended));
            appended.push(batch);
        }
        let mut status = spool.spool();
        let node = Node::run(spool);
        // Somewhere in the middle of a batch.
        let some = u64::from(incarnation) % EACH;
        timeout(PATIENCE, status.wait_for(|status| status.shipped >= some)).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_micros(u64::from(incarnation) * 10)).await;
        node.kill().await;
        let waiting = status.borrow().batches;
        if some > 0 && messages(&client).await + waiting > appended.len() as u64 {
            unheard += 1;
        }
    }
    assert!(unheard > 0, "no node was killed between the storing of a batch and hearing of it");
    let node = Node::open(&nats, directory.path(), 1).await;
    node.shipped().await;
    let found = batches(&read(&*node.usage, appended.len()).await);
    assert_eq!(sum(&found), sum(&appended));
    assert_eq!(found, appended);
    assert_eq!(messages(&client).await, appended.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_shipped_is_known_when_it_is_appended_again() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(&nats, directory.path(), 1).await;
    for number in 1..=3 {
        assert_eq!(node.usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    node.shipped().await;
    node.kill().await;
    let node = Node::open(&nats, directory.path(), 1).await;
    assert_eq!(node.usage.append(&batch(1, 1, 3)).await, Ok(UsageAppended::AlreadyAppended));
    assert_eq!(node.usage.append(&batch(1, 1, 2)).await, Err(UsageAppendError::Passed { number: 2 }));
    let other = UsageBatch { records: vec![record(7)], ..batch(1, 1, 3) };
    assert_eq!(node.usage.append(&other).await, Err(UsageAppendError::OtherContent { number: 3 }));
    assert_eq!(node.usage.append(&batch(1, 1, 4)).await, Ok(UsageAppended::Appended));
    node.shipped().await;
    assert_eq!(messages(&client(&nats).await).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_refuses_until_it_has_shipped() {
    let mut nats = Cluster::start(1, Sync::Default).unwrap();
    nats.server(0).kill().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let bytes_max = 1000;
    let usage = open_bounded(&nats, directory.path(), 1, bytes_max).await;
    let mut number = 1;
    let refused = loop {
        match usage.append(&batch(1, 1, number)).await {
            Ok(UsageAppended::Appended) => number += 1,
            refused => break refused,
        }
    };
    let held = usage.spool().borrow().bytes;
    assert_eq!(refused, Err(UsageAppendError::SpoolFull { bytes: held }));
    assert!(held <= bytes_max && number > 3, "{number} batches, {held} bytes");
    // What is in it is still known.
    assert_eq!(usage.append(&batch(1, 1, number - 1)).await, Ok(UsageAppended::AlreadyAppended));

    let node = Node::run(usage);
    nats.server(0).run().unwrap();
    node.shipped().await;
    assert_eq!(node.usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    node.shipped().await;
    assert_eq!(batches(&read(&*node.usage, number as usize).await).last(), Some(&batch(1, 1, number)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_that_wait_are_counted_anew_at_the_start() {
    let mut nats = Cluster::start(1, Sync::Default).unwrap();
    nats.server(0).kill().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let usage = open_spool(&nats, directory.path(), 1).await;
    for number in 1..=7 {
        assert_eq!(usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    let before = *usage.spool().borrow();
    drop(usage);
    let usage = open_spool(&nats, directory.path(), 1).await;
    let after = *usage.spool().borrow();
    assert_eq!((after.batches, after.bytes), (before.batches, before.bytes));
    assert_eq!(after.batches, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_batch_travels() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let usage = open_spool(&nats, directory.path(), 1).await;
    let padded = |bytes: usize| {
        let mut batch = batch(1, 1, 1);
        batch.records[0].model_requested = "x".repeat(bytes);
        batch
    };
    // A length of three bytes on either side of the bound, so that the rest is what the text has not.
    let rest = padded(100_000).encode().len() - 100_000;
    let largest = padded(BATCH_BYTES_MAX - rest);
    assert_eq!(largest.encode().len(), BATCH_BYTES_MAX);
    let larger = padded(BATCH_BYTES_MAX - rest + 1);
    assert_eq!(usage.append(&larger).await, Err(UsageAppendError::TooLarge { bytes: BATCH_BYTES_MAX + 1 }));
    assert_eq!(usage.append(&largest).await, Ok(UsageAppended::Appended));
    // Also when it has to be compared.
    prepare(&usage).await.unwrap();
    publish_unheard(&client(&nats).await, &largest, 0).await;
    let node = Node::run(usage);
    node.shipped().await;
    assert_eq!(batches(&read(&*node.usage, 1).await), [largest]);
    assert_eq!(node.usage.head().await, Ok(Sequence(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_share_the_stream_and_see_one_order() {
    const EACH: u64 = 150;
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, two) = (Node::open(&nats, directories[0].path(), 1).await, Node::open(&nats, directories[1].path(), 1).await);
    let append = async |node: &Node, id: u8| {
        for number in 1..=EACH {
            assert_eq!(node.usage.append(&batch(id, id, number)).await, Ok(UsageAppended::Appended));
        }
    };
    tokio::join!(append(&one, 1), append(&two, 2));
    let count = 2 * EACH as usize;
    let (seen_by_one, seen_by_two) = tokio::join!(read(&*one.usage, count), read(&*two.usage, count));
    assert_eq!(seen_by_one, seen_by_two);
    let found = batches(&seen_by_one);
    for id in [1, 2] {
        let own: Vec<_> = found.iter().filter(|found| found.node.as_bytes()[0] == id).cloned().collect();
        assert_eq!(own, (1..=EACH).map(|number| batch(id, id, number)).collect::<Vec<_>>());
    }
    one.cancel.cancel();
    timeout(PATIENCE, one.shipping).await.unwrap().unwrap();
}
