//! The log on three servers, of which one after the other is killed and comes back while a case runs; or on one, which is away until it does.
//!
//! What the contract leaves open under such faults is settled here: an unknown outcome is resolved, and what cannot be reached now is asked
//! again. All else has to be as ever.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use event_log::{AppendError, Appended, Batches, EventLog, Expect, ReadError, Stored, SyncMode, append_resolving};
use nats_server::Cluster;
use parking_lot::Mutex;
use schemas::Sequence;
use tokio::time::{Instant, sleep};

const STREAM: &str = "KEYRELAY_EVENTS";
/// The server that leads is killed at the second append and then once in so many.
const APPENDS_PER_STRIKE: u64 = 300;
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// Subject, expectations and bytes.
type Append = (String, Sequence, Option<Sequence>, Bytes);

/// Servers that fail, and what was appended to them.
#[derive(Clone)]
pub(crate) struct Servers {
    pub(crate) url: String,
    /// How many there are, each of which keeps the log.
    pub(crate) count: usize,
    strikes: SyncSender<()>,
    appends: Arc<AtomicU64>,
    /// The appends that were told to have stored their record.
    stored: Arc<Mutex<HashSet<Append>>>,
}

impl Servers {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let (strikes, asked) = sync_channel(1);
        let (url, count) = (cluster.url(), cluster.servers().len());
        std::thread::spawn(move || strike(cluster, &asked));
        Self { url, count, strikes, appends: Arc::default(), stored: Arc::default() }
    }
}

/// Kills leaders when asked to, until nobody can ask any more; then the servers end.
fn strike(mut cluster: Cluster, asked: &Receiver<()>) {
    let (mut waits_for_successor, is_alone) = (false, cluster.servers().len() == 1);
    while asked.recv().is_ok() {
        let leader = if is_alone { 0 } else { cluster.wait_leader_of(STREAM).unwrap() };
        cluster.server(leader).kill().unwrap();
        if waits_for_successor && !is_alone {
            cluster.wait_leader_of(STREAM).unwrap();
        }
        waits_for_successor = !waits_for_successor;
        cluster.server(leader).run().unwrap();
        cluster.wait_ready().unwrap();
    }
}

pub(crate) struct Disturbed<L> {
    pub(crate) log: L,
    pub(crate) servers: Servers,
}

/// Asks again while the log cannot be reached.
macro_rules! patiently {
    ($asked:expr) => {{
        let deadline = Instant::now() + PATIENCE;
        loop {
            match $asked.await {
                Err(ReadError::Unavailable { .. }) if Instant::now() < deadline => sleep(PAUSE).await,
                answer => break answer,
            }
        }
    }};
}

#[async_trait]
impl<L: EventLog> EventLog for Disturbed<L> {
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        if self.servers.appends.fetch_add(1, Ordering::Relaxed) % APPENDS_PER_STRIKE == 1 {
            // It may be busy with the strike before.
            let _ = self.servers.strikes.try_send(());
        }
        let deadline = Instant::now() + PATIENCE;
        let outcome = loop {
            match append_resolving(&self.log, subject, expect, record.clone(), deadline).await {
                Ok(Appended::Unknown) | Err(AppendError::Unavailable { .. }) if Instant::now() < deadline => sleep(PAUSE).await,
                outcome => break outcome?,
            }
        };
        let (Appended::Appended(sequence) | Appended::AlreadyAppended(sequence)) = outcome else { return Ok(outcome) };
        // An attempt that was not heard of may have stored it; then it was this append all the same.
        let is_first = self.servers.stored.lock().insert((subject.to_owned(), expect.subject, expect.log, record));
        Ok(if is_first { Appended::Appended(sequence) } else { outcome })
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        patiently!(self.log.read(from))
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        patiently!(self.log.read_range(from, limit))
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        patiently!(self.log.read_subject(subject, after, limit))
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        patiently!(self.log.last(subject))
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        patiently!(self.log.head())
    }

    fn sync(&self) -> SyncMode {
        self.log.sync()
    }
}
