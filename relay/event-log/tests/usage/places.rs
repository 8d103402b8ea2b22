//! What stands in the stream and should not, and what should and does not.

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use event_log::StreamPrepareError;
use event_log::usage::{USAGE_STREAM, UsageAppended, UsageStream as _, UsageVoid};
use nats_server::{Cluster, Sync};
use schemas::usage::UsageBatch;

use crate::backend::{Node, client, open_spool, prepare, read};
use crate::records::{batch, batches, record};

async fn publish(nats: &Cluster, subject: &str, bytes: Vec<u8>) {
    jetstream::new(client(nats).await).publish(subject.to_owned(), bytes.into()).await.unwrap().await.unwrap();
}

fn subject_of(batch: &UsageBatch) -> String {
    format!("kr.u.{}.{}", batch.node, batch.incarnation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_batch_is_carried_in_its_place() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(&nats, directory.path(), 1).await;
    assert_eq!(node.usage.append(&batch(1, 1, 1)).await, Ok(UsageAppended::Appended));
    node.shipped().await;
    publish(&nats, "kr.u.someone.else", b"hello".to_vec()).await;
    // A batch under the subject of another incarnation, and rubbish under our own.
    let displaced = subject_of(&batch(1, 1, 2));
    publish(&nats, &displaced, batch(1, 2, 1).encode()).await;
    publish(&nats, &displaced, vec![0; 10]).await;
    assert_eq!(node.usage.append(&batch(1, 1, 2)).await, Ok(UsageAppended::Appended));
    node.shipped().await;

    let places = read(&*node.usage, 5).await;
    let void = |subject: &str| Err(UsageVoid::NotABatch { subject: subject.to_owned() });
    let expected = [Ok(batch(1, 1, 1)), void("kr.u.someone.else"), void(&displaced), void(&displaced), Ok(batch(1, 1, 2))];
    assert_eq!(places.into_iter().map(|place| place.batch).collect::<Vec<_>>(), expected);
    let status = *node.usage.spool().borrow();
    assert_eq!((status.refused, status.losses), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_batch_in_the_place_of_one_does_not_hold_up_the_next() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let usage = open_spool(&nats, directory.path(), 1).await;
    prepare(&usage).await.unwrap();
    let other = UsageBatch { records: vec![record(77)], ..batch(1, 1, 1) };
    publish(&nats, &subject_of(&other), other.encode()).await;
    for number in 1..=2 {
        assert_eq!(usage.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    let node = Node::run(usage);
    node.shipped().await;
    assert_eq!(batches(&read(&*node.usage, 2).await), [other, batch(1, 1, 2)]);
    let status = *node.usage.spool().borrow();
    assert_eq!((status.refused, status.shipped, status.bytes), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_gone_is_told() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    // Without the protection that a stream of ours has.
    let context = jetstream::new(client(&nats).await);
    let config = Config { name: USAGE_STREAM.to_owned(), subjects: vec!["kr.u.>".to_owned()], ..Config::default() };
    let stream = context.create_stream(config).await.unwrap();
    for number in 1..=6 {
        publish(&nats, &subject_of(&batch(1, 1, number)), batch(1, 1, number).encode()).await;
    }
    for sequence in [3, 4] {
        assert!(stream.delete_message(sequence).await.unwrap());
    }
    let directory = tempfile::tempdir().unwrap();
    let usage = open_spool(&nats, directory.path(), 1).await;
    while usage.head().await.is_err() {
        tokio::task::yield_now().await;
    }
    let places: Vec<_> = read(&*usage, 6).await.into_iter().map(|place| place.batch).collect();
    let gone = || Err(UsageVoid::Missing);
    let there = |number| Ok(batch(1, 1, number));
    assert_eq!(places, [there(1), there(2), gone(), gone(), there(5), there(6)]);

    let refused = prepare(&usage).await;
    let Err(StreamPrepareError::Differs { difference, .. }) = refused else { panic!("{refused:?}") };
    for name in ["discard is Old, not New", "max_msg_size is none, not 1048576", "deny_delete is false, not true", "deny_purge"] {
        assert!(difference.contains(name), "{difference}");
    }
    assert!(!difference.contains("subjects"), "{difference}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_cannot_be_had_are_refused() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let usage = open_spool(&nats, directory.path(), 3).await;
    let refused = prepare(&usage).await;
    assert!(matches!(refused, Err(StreamPrepareError::Refused { .. })), "{refused:?}");
}
