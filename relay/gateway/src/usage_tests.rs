#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and waits for the tasks it spawns")]

use std::collections::VecDeque;

use async_trait::async_trait;
use event_log::ReadError;
use event_log::usage::{StoredBatch, UsageBatches};
use parking_lot::Mutex;
use schemas::upstream::Dialect;
use schemas::usage::{Outcome, TokenParts, UsageSource};
use schemas::{KeyId, RequestId, Sequence, TenantId, Timestamp, UpstreamId};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::meters::tests::{ORIGIN, meters};

const PATIENCE: Duration = Duration::from_secs(10);

/// A usage stream with room or without; it keeps what it takes.
struct Room {
    has_room: watch::Sender<bool>,
    /// Counts the appends that found none.
    refused: watch::Sender<u64>,
    taken: Mutex<VecDeque<UsageBatch>>,
}

#[async_trait]
impl UsageStream for Room {
    async fn append(&self, batch: &UsageBatch) -> Result<UsageAppended, UsageAppendError> {
        if !*self.has_room.borrow() {
            self.refused.send_modify(|count| *count += 1);
            return Err(UsageAppendError::SpoolFull { bytes: 1 });
        }
        self.taken.lock().push_back(batch.clone());
        Ok(UsageAppended::Appended)
    }

    fn read(&self, _: Sequence) -> UsageBatches {
        unreachable!("the gateway never reads")
    }

    async fn read_range(&self, _: Sequence, _: usize) -> Result<Vec<StoredBatch>, ReadError> {
        unreachable!("the gateway never reads")
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        unreachable!("the gateway never reads")
    }

    fn watch(&self) -> watch::Receiver<Sequence> {
        unreachable!("the gateway never reads")
    }

    async fn close(&self) {}
}

fn record(n: u8) -> UsageRecord {
    UsageRecord {
        request: RequestId::from_bytes([n; 16]),
        tenant: TenantId::default_tenant(),
        key: KeyId::from_bytes([4; 16]),
        secret_number: 1,
        upstream: UpstreamId::from_bytes([5; 16]),
        dialect: Dialect::Openai,
        model_requested: "gpt-4o".into(),
        model_billed: None,
        streamed: true,
        attempts: 1,
        status: 200,
        outcome: Outcome::Completed,
        source: UsageSource::Provider,
        tokens: TokenParts::default(),
        started_at: Timestamp::from_micros(1),
        settled_at: Timestamp::from_micros(2),
        client: None,
    }
}

#[tokio::test]
async fn a_full_spool_refuses_new_requests_and_loses_nothing_of_the_others() {
    let room = Arc::new(Room { has_room: watch::Sender::new(false), refused: watch::Sender::new(0), taken: Mutex::default() });
    let directory = tempfile::tempdir().unwrap();
    let (meters, ..) = meters(directory.path()).await;
    let (sink, writer) = UsageSink::new(room.clone(), ORIGIN, meters, &Metrics::new());
    let finish = CancellationToken::new();
    let written = tokio::spawn(writer.run(finish.clone()));

    // Two requests are in flight when the first of them finds the spool full.
    let (first, second) = (sink.reserve().unwrap(), sink.reserve().unwrap());
    first.fill(record(1), None);
    let refused = |count: u64| {
        let mut refused = room.refused.subscribe();
        async move { timeout(PATIENCE, refused.wait_for(|refused| *refused >= count)).await.unwrap().map(|_| ()).unwrap() }
    };
    // The second attempt comes after the answer to the first was looked at.
    refused(2).await;
    assert_eq!(sink.reserve().err(), Some(Refusal::UsageSpoolFull));
    second.fill(record(2), None);
    assert!(!written.is_finished(), "a full spool does not stop the process");

    room.has_room.send_replace(true);
    let mut slot = sink.reserve();
    let begin = Instant::now();
    while slot.is_err() {
        assert!(begin.elapsed() < PATIENCE, "nobody was let in again");
        tokio::task::yield_now().await;
        slot = sink.reserve();
    }
    slot.unwrap().fill(record(3), None);
    finish.cancel();
    timeout(PATIENCE, written).await.unwrap().unwrap().unwrap();

    let taken = std::mem::take(&mut *room.taken.lock());
    let numbers: Vec<_> = taken.iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let requests: Vec<_> = taken.into_iter().flat_map(|batch| batch.records).collect();
    assert_eq!(requests, [record(1), record(2), record(3)]);
}

#[tokio::test]
async fn any_other_refusal_of_the_stream_stops_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let (meters, log, _) = meters(directory.path()).await;
    let (sink, writer) = UsageSink::new(log.clone(), ORIGIN, meters, &Metrics::new());
    log.close().await;
    sink.reserve().unwrap().fill(record(1), None);
    let stopped = writer.run(CancellationToken::new()).await;
    assert!(matches!(stopped, Err(UsageWriteError::Append { number: 1, source: UsageAppendError::Closed })));
    assert_eq!(sink.reserve().err(), Some(Refusal::Overloaded));
}
