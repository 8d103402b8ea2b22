//! A spool while NATS is away, at its bound, and before a stream that is not ours.

use event_log::StreamPrepareError;
use event_log::decisions::{DECISIONS_STREAM, DecisionStream as _};
use nats_server::{Cluster, Sync};
use schemas::Sequence;
use schemas::decision::{DecisionBatch, DecisionEffect};
use tokio_util::sync::CancellationToken;

use crate::backend::{BYTES_MAX, batch, numbers, read_until, record, spool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_appended_without_nats_is_shipped_after_a_restart() {
    let mut nats = Cluster::start(1, Sync::Default).unwrap();
    nats.server(0).kill().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let before = spool(&nats, directory.path(), BYTES_MAX).await;
    for number in 1..=5 {
        before.append(&batch(number, 10)).await.unwrap();
    }
    before.close().await;
    drop(before);
    nats.server(0).run().unwrap();

    let after = spool(&nats, directory.path(), BYTES_MAX).await;
    assert_eq!(after.held().batches, 5);
    let (running, cancel) = (after.clone(), CancellationToken::new());
    let stop = cancel.clone();
    let shipping = tokio::spawn(async move { running.run(stop).await });
    assert_eq!(numbers(&read_until(&*after, Sequence(1), 5).await), [1, 2, 3, 4, 5]);
    cancel.cancel();
    shipping.await.unwrap();
    let held = after.held();
    assert_eq!((held.batches, held.bytes, held.dropped), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_is_half_full_takes_denials_and_faults_only() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let spool = spool(&nats, directory.path(), 16 * 1024).await;
    let mixed = |number: u64| {
        let effects = [DecisionEffect::Permit, DecisionEffect::Deny, DecisionEffect::NotApplicable, DecisionEffect::Fault];
        let records = effects.into_iter().map(|effect| record(number, 500, effect)).collect();
        DecisionBatch { records, ..batch(number, 0) }
    };
    let size = mixed(1).encode().len() as u64;
    let mut number = 0;
    while spool.held().bytes <= 8 * 1024 {
        number += 1;
        spool.append(&mixed(number)).await.unwrap();
    }
    let before = spool.held();
    assert_eq!((before.shed, before.batches), (0, number));
    spool.append(&mixed(number + 1)).await.unwrap();
    let after = spool.held();
    assert_eq!((after.shed, after.dropped, after.batches), (2, 0, number + 1));
    assert!(after.bytes - before.bytes < size * 2 / 3);
    // A batch of nothing but samples is not there at all.
    spool.append(&batch(number + 2, 10)).await.unwrap();
    assert_eq!((spool.held().shed, spool.held().batches), (3, number + 1));
    // At the bound the oldest go, which is counted.
    for number in number + 3..number + 30 {
        spool.append(&mixed(number)).await.unwrap();
    }
    assert!(spool.held().bytes <= 16 * 1024);
    assert!(spool.held().dropped > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_another_definition_is_refused() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let decisions = spool(&nats, directory.path(), BYTES_MAX).await;
    let client = async_nats::connect(nats.servers()[0].url()).await.unwrap();
    let config = async_nats::jetstream::stream::Config {
        name: DECISIONS_STREAM.to_owned(),
        subjects: vec!["kr.d.>".to_owned()],
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    async_nats::jetstream::new(client).create_stream(config).await.unwrap();
    let refused = loop {
        match decisions.prepare().await {
            Err(StreamPrepareError::Unavailable { .. }) => tokio::task::yield_now().await,
            prepared => break prepared,
        }
    };
    let Err(StreamPrepareError::Differs { difference, .. }) = refused else { panic!("{refused:?}") };
    for name in ["discard is New, not Old", "max_bytes is none, not 65536"] {
        assert!(difference.contains(name), "{difference}");
    }
}
