//! The forms under test, and nodes in them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::{Client, ConnectOptions};
use coordination::{Clock, Coordination, LocalCoordination, NatsCoordination, NodeStatus, Nodes};
use nats_server::{Cluster, Sync};
use schemas::{ClusterId, Sequence, Timestamp, WriterId};
use tokio::sync::watch;

/// How long anything may take that is only waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) enum Backend {
    Local,
    Nats(Cluster),
}

/// A cluster of nodes.
#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) cluster: ClusterId,
    form: Form,
}

#[derive(Clone)]
enum Form {
    Local(Arc<LocalCoordination>),
    Nats { url: String, replicas: usize },
}

impl Backend {
    pub(crate) fn local() -> Self {
        Self::Local
    }

    pub(crate) fn nats(count: usize) -> Self {
        Self::Nats(Cluster::start(count, Sync::Always).unwrap())
    }

    /// Waits until the streams are made, which takes an election of each: from then on calls are answered in their time.
    pub(crate) async fn ready(&self) {
        let node = self.room().node(1).await;
        until("the streams of leases", async || node.lease("ready", PATIENCE).await.ok()).await;
        until("the stream of counters", async || node.add("ready", 1, 1).await.ok()).await;
    }

    pub(crate) fn room(&self) -> Room {
        let form = match self {
            Self::Local => Form::Local(Arc::new(LocalCoordination::new(node(0), clock(0)))),
            Self::Nats(servers) => Form::Nats { url: servers.url(), replicas: servers.servers().len() },
        };
        Room { cluster: cluster(), form }
    }
}

impl Room {
    /// On the servers that are given.
    pub(crate) fn on(servers: &Cluster) -> Self {
        Self { cluster: cluster(), form: Form::Nats { url: servers.url(), replicas: servers.servers().len() } }
    }

    pub(crate) async fn node(&self, number: u8) -> Arc<dyn Coordination> {
        self.node_with_clock(number, 0).await
    }

    /// A node whose clock is ahead by some seconds; in process all share one.
    pub(crate) async fn node_with_clock(&self, number: u8, ahead_seconds: i64) -> Arc<dyn Coordination> {
        match &self.form {
            Form::Local(first) => Arc::new(first.beside(node(number))),
            Form::Nats { .. } => Arc::new(self.nats_node(number, ahead_seconds).await),
        }
    }

    pub(crate) async fn nats_node(&self, number: u8, ahead_seconds: i64) -> NatsCoordination {
        let Form::Nats { replicas, .. } = &self.form else { panic!("not over NATS") };
        NatsCoordination::start(self.client().await, self.cluster, node(number), *replicas, clock(ahead_seconds))
    }

    /// Waits until a node that announced itself is known to who comes after it. In process that is at once.
    pub(crate) async fn is_written(&self, number: u8) {
        let Form::Nats { .. } = &self.form else { return };
        let context = async_nats::jetstream::new(self.client().await);
        let subject = format!("$KV.KEYRELAY_COORDINATION.{}.node.{}", self.cluster, node(number));
        until("the entry of a node", async || {
            let bucket = context.get_stream("KV_KEYRELAY_COORDINATION").await.ok()?;
            bucket.get_last_raw_message_by_subject(&subject).await.ok()
        })
        .await;
    }

    pub(crate) async fn client(&self) -> Client {
        let Form::Nats { url, .. } = &self.form else { panic!("not over NATS") };
        let servers: Vec<&str> = url.split(',').collect();
        ConnectOptions::new().retry_on_initial_connect().connect(servers).await.unwrap()
    }
}

pub(crate) fn node(number: u8) -> WriterId {
    WriterId::from_bytes([number; 16])
}

fn cluster() -> ClusterId {
    static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
    ClusterId::from_bytes([NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed); 16])
}

fn clock(ahead_seconds: i64) -> Clock {
    Arc::new(move || {
        let micros = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
        Timestamp::from_micros(u64::try_from(micros + ahead_seconds * 1_000_000).unwrap())
    })
}

pub(crate) fn status(number: u8, applied: u64) -> NodeStatus {
    NodeStatus {
        node: node(number),
        release: "0.1.0".to_owned(),
        format_level: 1,
        started_at: Timestamp::from_micros(1),
        relay: "http://127.0.0.1:8080".to_owned(),
        admin: "http://127.0.0.1:8081".to_owned(),
        applied: Sequence(applied),
        policies: Sequence::ZERO,
        root_keys: Vec::new(),
        ready: true,
    }
}

/// The outcome of a call that may be made again: on a busy machine one may come to the end of its time.
macro_rules! patiently {
    ($call:expr) => {{
        let begin = std::time::Instant::now();
        loop {
            match $call.await {
                Err(coordination::CoordinationError::Unavailable { .. }) if begin.elapsed() < crate::backend::PATIENCE => {}
                outcome => break outcome,
            }
        }
    }};
}
pub(crate) use patiently;

/// Waits until the registry is as wanted, and tells how long that took.
pub(crate) async fn shows(nodes: &mut watch::Receiver<Nodes>, what: &str, wanted: impl Fn(&Nodes) -> bool) -> Duration {
    let begin = Instant::now();
    let waited = tokio::time::timeout(PATIENCE, nodes.wait_for(|nodes| wanted(nodes))).await.map(|found| found.map(|_| ()));
    assert!(matches!(waited, Ok(Ok(()))), "not seen: {what}; there is {:?}", nodes.borrow());
    begin.elapsed()
}

/// Whether a node is listed, and if so whether it is live.
pub(crate) fn liveness(nodes: &Nodes, number: u8) -> Option<bool> {
    nodes.iter().find(|entry| entry.status.node == node(number)).map(|entry| entry.live)
}

/// Tries until something is there, at most for [`PATIENCE`], and tells how long that took.
pub(crate) async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> (T, Duration) {
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt().await {
            return (found, begin.elapsed());
        }
        assert!(begin.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
