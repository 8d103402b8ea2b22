//! The streams under test, and how each is opened again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::usage::{JetStreamUsage, SPOOL_BYTES_MAX, StoredBatch, UsageLog, UsageStream};
use event_log::{OpenError, StreamPrepareError};
use futures_util::StreamExt as _;
use nats_server::{Cluster, Sync};
use schemas::Sequence;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long anything may take: an election, and a restart of a server.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

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
    pub(crate) stream: Arc<dyn UsageStream>,
    shipping: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Backend {
    /// Opens the stream with what is in it. Whoever has it open must have closed it, and dropped what reads from it.
    pub(crate) async fn open(&self) -> Opened {
        let Some(nats) = &self.nats else {
            return Opened { stream: Arc::new(UsageLog::open(self.directory.path()).unwrap()), shipping: None };
        };
        let node = Node::open(nats, self.directory.path(), 1).await;
        Opened { stream: node.usage, shipping: Some((node.cancel, node.shipping)) }
    }
}

impl Opened {
    /// Closes it without waiting for what is not shipped.
    pub(crate) async fn close(self) {
        self.stream.close().await;
        if let Some((_, shipping)) = self.shipping {
            shipping.await.unwrap();
        }
    }
}

/// One node of a cluster: its spool, and the task that ships.
pub(crate) struct Node {
    pub(crate) usage: Arc<JetStreamUsage>,
    pub(crate) cancel: CancellationToken,
    pub(crate) shipping: JoinHandle<()>,
}

impl Node {
    pub(crate) async fn open(nats: &Cluster, spool: &Path, replicas: usize) -> Self {
        Self::run(open_spool(nats, spool, replicas).await)
    }

    /// Ships from a spool that is open.
    pub(crate) fn run(usage: Arc<JetStreamUsage>) -> Self {
        let cancel = CancellationToken::new();
        let (running, stop) = (usage.clone(), cancel.clone());
        let shipping = tokio::spawn(async move { running.run(stop).await });
        Self { usage, cancel, shipping }
    }

    /// Ends as a process that is killed: nothing is finished.
    pub(crate) async fn kill(self) {
        self.shipping.abort();
        assert!(self.shipping.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(Arc::strong_count(&self.usage), 1, "the spool is closed with this");
    }

    /// Waits until the spool is empty.
    pub(crate) async fn shipped(&self) {
        let mut spool = self.usage.spool();
        timeout(PATIENCE, spool.wait_for(|status| status.batches == 0)).await.expect("everything is shipped in time").unwrap();
    }
}

/// A spool that nobody ships from.
pub(crate) async fn open_spool(nats: &Cluster, spool: &Path, replicas: usize) -> Arc<JetStreamUsage> {
    open_bounded(nats, spool, replicas, SPOOL_BYTES_MAX).await
}

/// A spool of few bytes.
pub(crate) async fn open_bounded(nats: &Cluster, spool: &Path, replicas: usize, bytes_max: u64) -> Arc<JetStreamUsage> {
    let begin = Instant::now();
    loop {
        match JetStreamUsage::open_bounded(client(nats).await, spool, replicas, bytes_max) {
            // A read that was under way when a node was killed is still at its end.
            Err(OpenError::AlreadyOpen { .. }) if begin.elapsed() < PATIENCE => tokio::task::yield_now().await,
            opened => return Arc::new(opened.unwrap()),
        }
    }
}

/// Makes the stream, or finds out why not, as soon as there is a connection.
pub(crate) async fn prepare(usage: &JetStreamUsage) -> Result<(), StreamPrepareError> {
    loop {
        match usage.prepare().await {
            Err(StreamPrepareError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            prepared => return prepared,
        }
    }
}

/// A client that connects when it can.
pub(crate) async fn client(nats: &Cluster) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .connection_timeout(Duration::from_secs(1))
        .ping_interval(Duration::from_secs(2))
        .reconnect_delay_callback(|_| Duration::from_millis(50));
    let addresses: Vec<async_nats::ServerAddr> = nats.servers().iter().map(|server| server.url().parse().unwrap()).collect();
    options.connect(addresses).await.unwrap()
}

/// The first places of a stream, as soon as there are so many.
pub(crate) async fn read(stream: &dyn UsageStream, count: usize) -> Vec<StoredBatch> {
    let mut runs = stream.read(Sequence(1));
    let mut places: Vec<StoredBatch> = Vec::new();
    while places.len() < count {
        let run = timeout(PATIENCE, runs.next()).await.expect("batches come in time").unwrap().unwrap();
        assert!(!run.is_empty());
        places.extend(run);
    }
    for (place, n) in places.iter().zip(1..) {
        assert_eq!(place.sequence, Sequence(n), "places are dense");
    }
    places
}
