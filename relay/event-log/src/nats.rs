//! The connection to NATS: one per process, shared by all that use it.
//!
//! It is never given up: whatever happens to the servers, the connection is tried again, at most two seconds apart, until it is
//! closed. Whoever waits for an answer when it breaks is told at once. What a record is, this module does not know.
//! Beside it stands what the streams of batches have in common: [`remote`] and [`feed`].

pub(crate) mod api;
mod back_off;
pub(crate) mod feed;
mod observer;
mod options;
pub(crate) mod remote;
pub(crate) mod requests;
pub(crate) mod troubles;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ServerAddr, ServerInfo};
use http::Uri;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use observer::Observer;
use requests::{Requests, Waiting};

/// The copies of a stream on a clustered server, where nothing else is configured.
const REPLICAS_CLUSTERED: usize = 3;
/// How long closing waits for what is on its way; without a connection it may be on its way for ever.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How to reach NATS, and what is asked of it.
#[derive(Clone, Default)]
pub struct NatsConfig {
    /// The servers to begin with; the others of their cluster are learnt from them. A user and a password may stand in an address.
    pub url: Vec<String>,
    /// A credentials file: a JWT and the seed that goes with it.
    pub credentials: Option<PathBuf>,
    /// A file with an nkey seed.
    pub nkey: Option<PathBuf>,
    /// The certificates that servers are checked against, instead of those of the system.
    pub tls_ca: Option<PathBuf>,
    /// What this client shows the servers; a certificate needs its key.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// How many servers keep each stream. Without it: three where servers are clustered, else one.
    pub replicas: Option<usize>,
    /// The monitoring addresses of the servers, by which is checked how they sync.
    pub monitor_url: Vec<String>,
    /// Refuses servers that were not seen to sync before they acknowledge.
    pub require_verified_sync: bool,
}

/// Whether there is a connection, and which: every one that comes about has the next epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connection {
    pub is_up: bool,
    pub epoch: u64,
}

/// Why no connection can ever come about.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("no NATS server is given")]
    NoServer,
    #[error("{url:?} is no address of a NATS server")]
    Url { url: String, source: std::io::Error },
    #[error("{url:?} is no monitoring address of a NATS server, as http://host:8222 is")]
    MonitorUrl { url: String },
    #[error("{} cannot be read", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} can be read by every user of this machine (mode {mode:04o}); take that right away: chmod o-rwx", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is no credentials file", path.display())]
    Credentials { path: PathBuf, source: std::io::Error },
    #[error("{} holds no seed of a user nkey, as SU… is", path.display())]
    Nkey { path: PathBuf },
    #[error("a TLS client certificate needs its key, and the key its certificate")]
    TlsPair,
    #[error("there is no randomness for the waits between attempts")]
    Randomness(#[source] getrandom::Error),
}

/// One connection to NATS; a clone is another handle of the same one.
#[derive(Clone)]
pub struct Nats {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    replicas: Option<usize>,
    monitors: Vec<Uri>,
    require_verified_sync: bool,
    connection: watch::Receiver<Connection>,
    requests: Requests,
    closing: CancellationToken,
    tasks: TaskTracker,
    /// Whether it was said that a single copy is kept.
    warned: AtomicBool,
}

impl Nats {
    /// Begins to connect. Returns without waiting for a server, and fails only for a configuration that can never work.
    pub async fn connect(config: NatsConfig) -> Result<Self, ConnectError> {
        let servers = options::servers(&config)?;
        let monitors = options::monitors(&config)?;
        let waiting = Arc::new(Waiting::default());
        let (observer, connection) = Observer::new(Arc::clone(&waiting));
        let options = options::options(&config, &servers, observer).await?;
        // With the option to retry from the start, nothing but a list of addresses without an address can fail here.
        let client = options.connect(servers).await.map_err(|_| ConnectError::NoServer)?;
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let requests = Requests::start(client.clone(), waiting, &tasks, closing.clone()).await;
        let shared = Shared {
            client,
            replicas: config.replicas,
            monitors,
            require_verified_sync: config.require_verified_sync,
            connection,
            requests,
            closing,
            tasks,
            warned: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The client of this connection, for other users of NATS in this process.
    pub fn client(&self) -> Client {
        self.shared.client.clone()
    }

    /// Tells of every connection that comes about or breaks.
    pub fn connected(&self) -> watch::Receiver<Connection> {
        self.shared.connection.clone()
    }

    /// How many servers keep each stream: as configured, else three where the server is clustered and one where it is not. None while
    /// nothing is configured and no server has answered yet.
    pub fn replicas(&self) -> Option<usize> {
        if self.shared.replicas.is_some() {
            return self.shared.replicas;
        }
        if self.server()?.cluster.is_some() {
            return Some(REPLICAS_CLUSTERED);
        }
        if !self.shared.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("the NATS server is not clustered: every stream has a single copy, and is away while the server is");
        }
        Some(1)
    }

    /// Sends what is on its way, and ends the connection. Whatever is asked of it later fails.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        // The error says that the connection has ended already.
        let _ = self.shared.client.drain().await;
        self.shared.tasks.close();
        let mut connection = self.connected();
        let ended = async {
            self.shared.tasks.wait().await;
            // An error says that the connection is gone for good.
            let _ = connection.wait_for(|connection| !connection.is_up).await;
        };
        if timeout(CLOSE_WAIT, ended).await.is_err() {
            tracing::warn!("the connection to NATS was left before everything was sent");
        }
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.shared.requests
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closing.is_cancelled()
    }

    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.shared.closing
    }

    pub(crate) fn is_up(&self) -> bool {
        self.shared.client.connection_state() == State::Connected
    }

    /// What the server said of itself when it was connected to; none before the first connection.
    pub(crate) fn server(&self) -> Option<ServerInfo> {
        self.shared.client.try_server_info()
    }

    pub(crate) fn monitors(&self) -> &[Uri] {
        &self.shared.monitors
    }

    pub(crate) fn requires_verified_sync(&self) -> bool {
        self.shared.require_verified_sync
    }
}

/// How many servers keep a stream: as configured, else three where the servers are clustered and one where they are not. Asked while there is
/// a connection, since without one nobody can tell.
pub(crate) fn replicas_of(client: &Client, configured: Option<usize>) -> usize {
    let is_clustered = client.try_server_info().is_some_and(|server| server.cluster.is_some());
    configured.unwrap_or(if is_clustered { REPLICAS_CLUSTERED } else { 1 })
}

/// What servers are called in messages: without the user and the password that may stand in an address.
fn spell(server: &ServerAddr) -> String {
    format!("{}:{}", server.host(), server.port())
}
