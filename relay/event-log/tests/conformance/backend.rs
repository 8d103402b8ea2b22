//! The logs under test, and how each is opened again.

use std::sync::Arc;
use std::time::Duration;

use event_log::{EmbeddedLog, EventLog, JetStreamLog, MemoryLog, Nats, NatsConfig, PrepareError};
use nats_server::{Cluster, Sync};
use tempfile::TempDir;

const PREPARE_PAUSE: Duration = Duration::from_millis(50);

/// Where a log is kept for one test.
pub(crate) enum Backend {
    Memory(MemoryLog),
    Embedded(TempDir),
    JetStream(Arc<Cluster>),
}

pub(crate) async fn memory() -> Backend {
    Backend::Memory(MemoryLog::new())
}

pub(crate) async fn embedded() -> Backend {
    Backend::Embedded(tempfile::tempdir().unwrap())
}

/// One server.
pub(crate) async fn jetstream_r1() -> Backend {
    jetstream(1).await
}

/// Three servers that each keep the log.
pub(crate) async fn jetstream_r3() -> Backend {
    jetstream(3).await
}

async fn jetstream(servers: usize) -> Backend {
    let cluster = tokio::task::spawn_blocking(move || Cluster::start(servers, Sync::Default)).await.unwrap().unwrap();
    Backend::JetStream(Arc::new(cluster))
}

impl Backend {
    /// Opens the log with what is in it. Whoever has it open must have dropped it, streams included.
    pub(crate) async fn open(&self) -> Arc<dyn EventLog> {
        match self {
            Self::Memory(log) => Arc::new(log.clone()),
            Self::Embedded(directory) => Arc::new(EmbeddedLog::open(directory.path()).unwrap()),
            Self::JetStream(cluster) => {
                let nats = connect(cluster).await;
                let log = prepared(&nats).await;
                assert_eq!(nats.replicas(), Some(cluster.servers().len()));
                Arc::new(log)
            }
        }
    }
}

pub(crate) async fn connect(cluster: &Cluster) -> Nats {
    let url = cluster.url().split(',').map(str::to_owned).collect();
    let nats = Nats::connect(NatsConfig { url, ..NatsConfig::default() }).await.unwrap();
    nats.connected().wait_for(|connection| connection.is_up).await.unwrap();
    nats
}

/// The log of these servers, as soon as they have one.
pub(crate) async fn prepared(nats: &Nats) -> JetStreamLog {
    let log = JetStreamLog::new(nats);
    loop {
        match log.prepare().await {
            Ok(_) => return log,
            Err(PrepareError::Unavailable { .. }) => tokio::time::sleep(PREPARE_PAUSE).await,
            Err(error) => panic!("{error}"),
        }
    }
}
