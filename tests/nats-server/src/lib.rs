//! Real nats-servers for tests: on loopback with ports of their own, killed, paused, and rolled back to an older copy of their data.
//!
//! The program is `nats-server` 2.15 or later: `KEYRELAY_NATS_SERVER`, or the one in the virtual environment that `tests/run` makes, or the
//! one on the path. A cluster is stopped and its directory removed when the value is dropped.

mod config;
mod monitor;
mod ports;
mod server;

use std::ffi::OsString;
use std::hash::{BuildHasher as _, RandomState};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use ports::Ports;
pub use server::{Server, program};

/// How long servers may take to be ready, an election included.
const READY_WAIT: Duration = Duration::from_secs(120);
const READY_PAUSE: Duration = Duration::from_millis(50);

const PORT_ATTEMPTS: usize = 100;

/// When a server syncs what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before every acknowledgement.
    Always,
    /// The server's default: every two minutes.
    Default,
}

/// Where a server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where clients and the other servers reach it.
    pub address: Ipv4Addr,
    /// Where a test reaches it and its monitor: apart, so that a server can still be watched that is cut off from the others.
    pub watch_address: Ipv4Addr,
    /// A program and its arguments in front of the server, such as `ip netns exec NAME`. It must become the server, for the signals go to its
    /// process.
    pub under: Vec<OsString>,
}

impl Default for Place {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, watch_address: Ipv4Addr::LOCALHOST, under: Vec::new() }
    }
}

/// One server, or several with one JetStream among them.
pub struct Cluster {
    servers: Vec<Server>,
    // After the servers: they are killed before their directory and their ports go.
    _directory: TempDir,
    _ports: Ports,
}

impl Cluster {
    /// Starts servers `n0`, `n1`, … and waits until JetStream answers on all of them.
    pub fn start(count: usize, sync: Sync) -> Result<Self> {
        Self::start_with(count, sync, "")
    }

    /// As [`Cluster::start`], with further lines in each server's configuration.
    pub fn start_with(count: usize, sync: Sync, further: &str) -> Result<Self> {
        Self::start_at(&vec![Place::default(); count], sync, further)
    }

    /// As [`Cluster::start_with`], one server at each place.
    pub fn start_at(places: &[Place], sync: Sync, further: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (mut servers, mut ports) = (Vec::new(), Ports::default());
        for config in config::of_cluster(directory.path(), &mut ports, places, sync, further)? {
            servers.push(Server::start(config)?);
        }
        let cluster = Self { servers, _directory: directory, _ports: ports };
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// The addresses of all servers, as one list with commas.
    pub fn url(&self) -> String {
        self.servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    /// The addresses of all servers where a test reaches them, as one list with commas.
    pub fn watch_url(&self) -> String {
        self.servers.iter().map(Server::watch_url).collect::<Vec<_>>().join(",")
    }

    /// The monitoring addresses of all servers, as one list with commas.
    pub fn monitor_url(&self) -> String {
        self.servers.iter().map(Server::monitor_url).collect::<Vec<_>>().join(",")
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    pub fn server(&mut self, index: usize) -> &mut Server {
        &mut self.servers[index]
    }

    /// The server that leads a stream, if one does.
    pub fn leader_of(&self, stream: &str) -> Option<usize> {
        let name = self.servers.iter().filter(|server| server.is_running()).find_map(|server| monitor::leader_of(server, stream))?;
        self.servers.iter().position(|server| server.name() == name)
    }

    /// Waits until a stream has a leader among the servers that run.
    pub fn wait_leader_of(&self, stream: &str) -> Result<usize> {
        let mut found = None;
        self.until("a leader", || {
            found = self.leader_of(stream).filter(|leader| self.servers[*leader].is_running());
            found.is_some()
        })?;
        found.context("a leader was found")
    }

    /// Waits until every server that should run is healthy: JetStream is there and its streams have caught up.
    pub fn wait_ready(&self) -> Result<()> {
        self.until("healthy nats-servers", || self.servers.iter().filter(|server| server.is_running()).all(monitor::is_healthy))
    }

    /// Waits until something holds of the servers, for as long as they may take to be ready.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
        let begin = Instant::now();
        while !holds() {
            ensure!(begin.elapsed() < READY_WAIT, "no {what} after {READY_WAIT:?}");
            std::thread::sleep(READY_PAUSE);
        }
        Ok(())
    }
}

/// Ports that the system gives to no outgoing connection: a server that is ended and started again finds its own still free.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    // Each value of this type is drawn anew, which spares a crate for random numbers.
    let drawn = || PORTS.start + (RandomState::new().hash_one(0) % PORTS.len() as u64) as u16;
    std::iter::repeat_with(drawn).take(PORT_ATTEMPTS).find(is_free).context("no free port on loopback")
}
