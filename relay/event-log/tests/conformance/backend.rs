//! The logs under test, and how each is opened again.

use std::sync::Arc;
use std::time::Duration;

use event_log::{EmbeddedLog, EventLog, Health, JetStreamLog, MemoryLog, Nats, NatsConfig, PrepareError, WitnessedLog};
use nats_server::{Cluster, Sync};
use tempfile::TempDir;

use crate::disturbed::{Disturbed, Servers};

const PREPARE_PAUSE: Duration = Duration::from_millis(50);

/// Where a log is kept for one test.
pub(crate) enum Backend {
    Memory(MemoryLog),
    Embedded(TempDir),
    /// The embedded log with a witness before it.
    Witnessed(TempDir),
    JetStream(Cluster),
    Disturbed(Servers),
}

pub(crate) async fn memory() -> Backend {
    Backend::Memory(MemoryLog::new())
}

pub(crate) async fn embedded() -> Backend {
    Backend::Embedded(tempfile::tempdir().unwrap())
}

pub(crate) async fn witnessed() -> Backend {
    Backend::Witnessed(tempfile::tempdir().unwrap())
}

/// One server.
pub(crate) async fn jetstream_r1() -> Backend {
    jetstream(1).await
}

/// Three servers that each keep the log.
pub(crate) async fn jetstream_r3() -> Backend {
    jetstream(3).await
}

/// The one server, while it is killed and comes back.
pub(crate) async fn jetstream_r1_disturbed() -> Backend {
    Backend::Disturbed(Servers::new(Cluster::start(1, Sync::Default).unwrap()))
}

/// The same three, while one after the other is killed.
pub(crate) async fn jetstream_r3_disturbed() -> Backend {
    Backend::Disturbed(Servers::new(Cluster::start(3, Sync::Default).unwrap()))
}

async fn jetstream(servers: usize) -> Backend {
    Backend::JetStream(Cluster::start(servers, Sync::Default).unwrap())
}

impl Backend {
    /// Opens the log with what is in it. Whoever has it open must have dropped it, streams included.
    pub(crate) async fn open(&self) -> Arc<dyn EventLog> {
        match self {
            Self::Memory(log) => Arc::new(log.clone()),
            Self::Embedded(directory) => Arc::new(EmbeddedLog::open(directory.path()).unwrap()),
            Self::Witnessed(directory) => {
                let log = EmbeddedLog::open(&directory.path().join("log")).unwrap();
                let log = WitnessedLog::open(Arc::new(log), &directory.path().join("witness")).unwrap();
                assert_eq!(log.compare().await, Health::Trusted);
                Arc::new(log)
            }
            Self::JetStream(cluster) => Arc::new(prepared(&cluster.url(), cluster.servers().len()).await),
            Self::Disturbed(servers) => {
                let log = prepared(&servers.url, servers.count).await;
                Arc::new(Disturbed { log, servers: servers.clone() })
            }
        }
    }
}

/// The log of these servers, as soon as they have one.
async fn prepared(url: &str, replicas: usize) -> JetStreamLog {
    let url = url.split(',').map(str::to_owned).collect();
    let nats = Nats::connect(NatsConfig { url, ..NatsConfig::default() }).await.unwrap();
    nats.connected().wait_for(|connection| connection.is_up).await.unwrap();
    let log = JetStreamLog::new(&nats);
    loop {
        match log.prepare().await {
            Ok(prepared) => {
                assert_eq!(prepared.replicas, replicas);
                return log;
            }
            Err(PrepareError::Unavailable { .. }) => tokio::time::sleep(PREPARE_PAUSE).await,
            Err(error) => panic!("{error}"),
        }
    }
}
