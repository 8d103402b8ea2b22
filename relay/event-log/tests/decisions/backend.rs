//! The streams under test, how each is opened again, and batches to store.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::OpenError;
use event_log::decisions::{DecisionLog, DecisionStream, JetStreamDecisions, SPOOL_BYTES_MAX};
use futures_util::StreamExt as _;
use nats_server::{Cluster, Sync};
use schemas::decision::{DecisionAnswer, DecisionBatch, DecisionEffect, DecisionMode, DecisionRecord};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::{BindingId, Digest, IncarnationId, KeyId, RequestId, Sequence, TenantId, Timestamp, WriterId};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long anything may take, a restart of a server included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// The bound of the streams of the suite.
pub(crate) const BYTES_MAX: u64 = 64 * 1024;

/// Where a stream is kept for one test.
pub(crate) struct Backend {
    directory: TempDir,
    nats: Option<Cluster>,
}

pub(crate) fn embedded() -> Backend {
    Backend { directory: tempfile::tempdir().unwrap(), nats: None }
}

pub(crate) fn jetstream() -> Backend {
    Backend { directory: tempfile::tempdir().unwrap(), nats: Some(Cluster::start(1, Sync::Default).unwrap()) }
}

/// An open stream, and the task that ships where there is one.
pub(crate) struct Opened {
    pub(crate) stream: Arc<dyn DecisionStream>,
    shipping: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Backend {
    pub(crate) async fn open(&self) -> Opened {
        let Some(nats) = &self.nats else {
            return Opened { stream: Arc::new(DecisionLog::open_bounded(self.directory.path(), BYTES_MAX).unwrap()), shipping: None };
        };
        let stream = spool(nats, self.directory.path(), SPOOL_BYTES_MAX).await;
        let cancel = CancellationToken::new();
        let (running, stop) = (stream.clone(), cancel.clone());
        let shipping = tokio::spawn(async move { running.run(stop).await });
        Opened { stream, shipping: Some((cancel, shipping)) }
    }
}

impl Opened {
    /// Ships what waits, and closes.
    pub(crate) async fn close(self) {
        if let Some((cancel, shipping)) = self.shipping {
            cancel.cancel();
            shipping.await.unwrap();
        }
        self.stream.close().await;
    }
}

/// A stream behind a spool that nobody ships from yet.
pub(crate) async fn spool(nats: &Cluster, directory: &Path, bytes_max: u64) -> Arc<JetStreamDecisions> {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect().reconnect_delay_callback(|_| Duration::from_millis(50));
    let addresses: Vec<async_nats::ServerAddr> = nats.servers().iter().map(|server| server.url().parse().unwrap()).collect();
    let client = options.connect(addresses).await.unwrap();
    let begin = Instant::now();
    loop {
        match JetStreamDecisions::open_bounded(client.clone(), directory, 1, bytes_max, BYTES_MAX) {
            // A read that was under way when a task was stopped is still at its end.
            Err(OpenError::AlreadyOpen { .. }) if begin.elapsed() < PATIENCE => tokio::task::yield_now().await,
            opened => return Arc::new(opened.unwrap()),
        }
    }
}

/// A batch of one decision with an input of so many bytes, told apart by its number.
pub(crate) fn batch(number: u64, bytes: usize) -> DecisionBatch {
    let (node, incarnation) = (WriterId::from_bytes([1; 16]), IncarnationId::from_bytes([2; 16]));
    DecisionBatch { node, incarnation, number, records: vec![record(number, bytes, DecisionEffect::Permit)] }
}

pub(crate) fn record(number: u64, bytes: usize, effect: DecisionEffect) -> DecisionRecord {
    let mut request = [0; 16];
    request[8..].copy_from_slice(&number.to_be_bytes());
    DecisionRecord {
        request: RequestId::from_bytes(request),
        at: Timestamp::from_micros(number),
        tenant: TenantId::default_tenant(),
        key: KeyId::from_bytes([4; 16]),
        kind: PolicyKind::Quota,
        binding: BindingId::from_bytes([5; 16]),
        policy: Digest::from_bytes([6; 32]),
        class: Some(PolicyClass::Fast),
        settings: Digest::from_bytes([7; 32]),
        mode: DecisionMode::Enforced,
        input: vec![8; bytes],
        answer: DecisionAnswer::Output(vec![9; 8]),
        effect,
        reasons: vec![],
        combined: effect,
        cost_max: Some(number),
        fuel: number,
        elapsed_ns: 1,
        engine: "test".to_owned(),
    }
}

/// The batches from a sequence on, as soon as that with the last number has come.
pub(crate) async fn read_until(stream: &dyn DecisionStream, from: Sequence, last: u64) -> Vec<(Sequence, DecisionBatch)> {
    let mut runs = stream.read(from);
    let mut found: Vec<(Sequence, DecisionBatch)> = Vec::new();
    while found.last().is_none_or(|(_, batch)| batch.number < last) {
        let run = timeout(PATIENCE, runs.next()).await.expect("batches come in time").unwrap().unwrap();
        assert!(!run.is_empty());
        found.extend(run.into_iter().map(|stored| (stored.sequence, stored.batch.unwrap())));
    }
    assert!(found.is_sorted_by(|(a, _), (b, _)| a < b));
    found
}

pub(crate) fn numbers(found: &[(Sequence, DecisionBatch)]) -> Vec<u64> {
    found.iter().map(|(_, batch)| batch.number).collect()
}
