//! Servers that end, leaders that change, and storage that goes back in time.

use std::time::{Duration, Instant};

use event_log::usage::{USAGE_STREAM, UsageAppended, UsageStream as _};
use event_log::{Damage, ReadError, StorageError};
use futures_util::StreamExt as _;
use nats_server::{Cluster, Sync};
use schemas::Sequence;
use tokio::time::timeout;

use crate::backend::{Node, PATIENCE, read};
use crate::records::{batch, batches, sum};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_read_on() {
    let mut nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(&nats, directory.path(), 1).await;
    let mut runs = node.usage.read(Sequence(1));
    let mut found = Vec::new();
    for number in 1..=4 {
        assert_eq!(node.usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
        let run = timeout(PATIENCE, runs.next()).await.expect("the reader goes on").unwrap().unwrap();
        found.extend(batches(&run));
        // The consumer of the reader lives in memory and is gone with the server.
        nats.server(0).kill().unwrap();
        nats.server(0).run().unwrap();
    }
    assert_eq!(found, (1..=4).map(|number| batch(1, 1, number)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_loses_nothing_and_stores_nothing_twice() {
    let mut nats = Cluster::start(3, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(&nats, directory.path(), 3).await;
    let reader = node.usage.clone();
    let mut appended = Vec::new();
    let append = async |appended: &mut Vec<_>, count: u64| {
        for _ in 0..count {
            let batch = batch(1, 1, appended.len() as u64 + 1);
            assert_eq!(node.usage.append(&batch).await, Ok(UsageAppended::Appended));
            appended.push(batch);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    append(&mut appended, 200).await;
    let reading = tokio::spawn(async move { read(&*reader, 600).await });
    let leader = nats.wait_leader_of(USAGE_STREAM).unwrap();
    append(&mut appended, 50).await;
    nats.server(leader).kill().unwrap();
    append(&mut appended, 350).await;
    node.shipped().await;
    nats.server(leader).run().unwrap();
    let found = batches(&timeout(PATIENCE, reading).await.unwrap().unwrap());
    assert_eq!(sum(&found), sum(&appended));
    assert_eq!(found, appended);
    assert_eq!(head(&node).await, Ok(Sequence(600)));
    let status = *node.usage.spool().borrow();
    assert_eq!((status.shipped, status.refused, status.losses), (600, 0, 0));
}

/// The end of the stream, as soon as a leader can tell: a server that comes back may have another one elected.
async fn head(node: &Node) -> Result<Sequence, ReadError> {
    let begin = Instant::now();
    loop {
        match node.usage.head().await {
            Err(ReadError::Unavailable { .. }) if begin.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
            head => return head,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_lost_its_end_is_told() {
    let mut nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let copied = directory.path().join("copied");
    let node = Node::open(&nats, &directory.path().join("spool"), 1).await;
    for number in 1..=3 {
        assert_eq!(node.usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    node.shipped().await;
    nats.server(0).stop().unwrap();
    nats.server(0).copy_store(&copied).unwrap();
    nats.server(0).run().unwrap();
    for number in 4..=8 {
        assert_eq!(node.usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    node.shipped().await;
    let mut runs = node.usage.read(Sequence(1));
    let mut count = 0;
    while count < 8 {
        count += timeout(PATIENCE, runs.next()).await.unwrap().unwrap().unwrap().len();
    }
    nats.server(0).kill().unwrap();
    nats.server(0).roll_back_to(&copied).unwrap();
    nats.server(0).run().unwrap();

    // The one who has read on is told, since it cannot be mended by waiting.
    let begin = Instant::now();
    let told = timeout(PATIENCE, runs.next()).await.unwrap().unwrap();
    let lost = Damage::Lost { remembered: Sequence(8), found: Sequence(3) };
    assert_eq!(told, Err(ReadError::Storage(StorageError::Damage(lost))));
    assert!(begin.elapsed() > Duration::from_secs(10), "a leader of the past is given time to know");

    // The next batch is shipped all the same, and what is missing shows in the numbers.
    assert_eq!(node.usage.append(&batch(1, 1, 9)).await, Ok(UsageAppended::Appended));
    node.shipped().await;
    let numbers: Vec<_> = batches(&read(&*node.usage, 4).await).iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, [1, 2, 3, 9]);
    assert_eq!(node.usage.spool().borrow().losses, 1);
}
