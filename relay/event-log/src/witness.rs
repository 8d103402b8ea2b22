//! A log that somebody else keeps, watched: what it acknowledged is remembered here and compared with what it holds.
//!
//! A server that does not sync, a disk that loses a block, a restored backup: each may take back what was acknowledged. So every record that
//! was acknowledged to us is on our own stable storage before its `Appended` is answered, and every record that passes by is remembered too.
//! The log is compared with that on each reconnect and every [`COMPARE_INTERVAL`]:
//!
//! - A log that **agrees** is trusted.
//! - A log that **lost its tail** and has every remembered record before it is healed: the lost records are appended again in their order, each
//!   expecting the very place that it had. Sequences, bytes and root come out identical. Any number of nodes may heal at once.
//! - Everything else (another record at a remembered place, a log that begins anew, a lost tail of which records are not remembered by
//!   anybody who is there) is **refused**, and both sides are kept as evidence.
//!
//! # Invariants
//!
//! - While the log is not trusted nothing is appended, no reader that follows the log gets a record.
//! - `Appended` is answered only for a record that stands in a trusted log.
//! - A log that cannot be reached proves nothing: the judgement stays, or is open if there was none since the reconnect.
//! - The witness knows nothing of validity: garbage is remembered and appended again as it was.
//!
//! # For the operator
//!
//! A refusal is written to `REFUSED` in the witness's directory and names an `evidence-<n>` directory beside it: `report.json` says what was
//! expected and what was found, `remembered.jsonl` and `found.jsonl` have the records of both sides. It outlives restarts, and ends by itself when
//! the log agrees again (a server with the right data came back). To accept the log as it is, stop the node and move the witness's
//! directory away: acknowledged records are then given up, and the log is taken as it is found.

mod append;
mod compare;
mod evidence;
mod heal;
mod index;
mod read;
mod run;
mod store;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use schemas::Sequence;
use tokio::sync::{Notify, watch};

use crate::contract::{AppendError, Appended, Batches, EventLog, Expect, ReadError, Stored, SyncMode};
use crate::directory::{Directory, Kind, OpenError};
use crate::reader::Reader;
use crate::storage::StorageError;
use crate::worker::{RunLimits, Worker};
use evidence::Refusal;
use index::Index;
use store::Store;
use writer::{Remember, Writer};

/// How many records at the end of the log are always remembered.
pub const WINDOW: u64 = 100_000;
/// How often the end of the log is compared while nothing happens.
pub const COMPARE_INTERVAL: Duration = Duration::from_secs(2);

/// How long other nodes have to put back what is not remembered here. With it a log that cannot be healed is refused within 10 s.
const PATIENCE: Duration = Duration::from_secs(6);
const KIND: Kind = Kind { name: "witness of an event log", format: 1 };
const RUN_LIMITS: RunLimits = RunLimits { requests: 1024, bytes: 4 * 1024 * 1024 };

/// What is thought of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It agreed with everything remembered when it was last compared.
    Trusted,
    /// It was not compared since it was opened or reconnected, or something did not fit and is being looked into.
    Unknown,
    /// It lost acknowledged records, which are being appended again.
    Healing,
    /// It is not the log that is remembered, and cannot be made so.
    Refused { reason: String, evidence: PathBuf },
}

impl Health {
    /// The word in `/readyz` and in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Unknown => "unknown",
            Self::Healing => "healing",
            Self::Refused { .. } => "refused",
        }
    }
}

/// What was done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Comparisons that were begun.
    pub comparisons: u64,
    /// How often the log was not taken at its word: a reconnect, or something that did not fit.
    pub doubts: u64,
    /// Lost records that this node has put back.
    pub healed_records: u64,
}

/// An [`EventLog`] around another one, which it does not take at its word. A clone is another handle of the same witness.
///
/// The log is not trusted before [`compare`](Self::compare) or [`run`](Self::run) has reached it once.
#[derive(Clone)]
pub struct WitnessedLog {
    shared: Arc<Shared>,
}

struct Shared {
    log: Arc<dyn EventLog>,
    directory: PathBuf,
    /// See [`PATIENCE`].
    patience: Duration,
    /// Written by whoever learns of a record, at once; the rows follow.
    index: Mutex<Index>,
    writer: Worker<Remember>,
    rows: Reader<Store>,
    failed: Arc<OnceLock<StorageError>>,
    health: watch::Sender<Health>,
    /// Counts the times that trust was put in question. Like the next, changed only under the lock of `health`.
    doubts: AtomicU64,
    /// A look at samples is not enough to trust the log again.
    is_suspected: AtomicBool,
    /// Wakes the comparison before its time.
    nudge: Notify,
    /// The refusal that stands. Held while comparing, so that one comparison at a time heals or writes evidence.
    refusal: tokio::sync::Mutex<Option<Refusal>>,
    comparisons: AtomicU64,
    healed_records: AtomicU64,
}

impl WitnessedLog {
    /// Opens what is remembered in a directory of this machine, which is made if it is not there, and reads all of it once. The log itself is not
    /// asked for anything.
    pub fn open(log: Arc<dyn EventLog>, directory: &Path) -> Result<Self, OpenError> {
        Self::open_with(log, directory, WINDOW, PATIENCE)
    }

    /// As [`open`](Self::open), remembering fewer records, and waiting for other nodes no longer than this.
    #[cfg(feature = "faults")]
    pub fn open_small(log: Arc<dyn EventLog>, directory: &Path, window: u64, patience: Duration) -> Result<Self, OpenError> {
        Self::open_with(log, directory, window, patience)
    }

    fn open_with(log: Arc<dyn EventLog>, path: &Path, window: u64, patience: Duration) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let (store, prints) = Store::open(Directory::open(path, KIND)?)?;
        let head = prints.last().map(|(print, _)| print.sequence).unwrap_or_default();
        let (index, forget) = Index::load(window, &prints);
        let refusal = Refusal::read(path).map_err(io)?;
        let health = refusal.as_ref().map_or(Health::Unknown, Refusal::health);
        let store = Arc::new(store);
        let (publish, head) = watch::channel(head);
        let failed = Arc::new(OnceLock::new());
        let writer = Writer { store: Arc::clone(&store), head: publish, failed: Arc::clone(&failed) };
        writer.commit(vec![Remember { forget, ..Remember::default() }]);
        let shared = Shared {
            log,
            directory: path.to_owned(),
            patience,
            index: Mutex::new(index),
            writer: Worker::spawn("event-log-witness", RUN_LIMITS, move |requests| writer.commit(requests)).map_err(io)?,
            rows: Reader::new(store, head),
            failed,
            health: watch::Sender::new(health),
            doubts: AtomicU64::new(0),
            is_suspected: AtomicBool::new(false),
            nudge: Notify::new(),
            refusal: tokio::sync::Mutex::new(refusal),
            comparisons: AtomicU64::new(0),
            healed_records: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What is thought of the log, now and as it changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    pub fn counts(&self) -> Counts {
        Counts {
            comparisons: self.shared.comparisons.load(Ordering::Relaxed),
            doubts: self.shared.doubts(),
            healed_records: self.shared.healed_records.load(Ordering::Relaxed),
        }
    }

    /// How many records are remembered.
    pub fn remembered(&self) -> usize {
        self.shared.index.lock().all().len()
    }

    /// Finishes what is queued and ends the thread; later appends are refused. The directory is free when every clone and every
    /// stream that reads from the log is dropped.
    pub async fn close(&self) {
        self.shared.writer.close().await;
    }
}

impl Shared {
    fn is_trusted(&self) -> bool {
        *self.health.borrow() == Health::Trusted
    }

    /// Nothing is answered for, and nothing passed on, before the log was compared.
    fn doubt(&self) {
        self.question(false);
    }

    /// Something does not fit: the whole is compared, at once.
    fn suspect(&self) {
        self.question(true);
        self.nudge.notify_one();
    }

    fn question(&self, is_suspected: bool) {
        self.health.send_if_modified(|health| {
            self.doubts.fetch_add(1, Ordering::SeqCst);
            self.is_suspected.fetch_or(is_suspected, Ordering::SeqCst);
            let was_trusted = *health == Health::Trusted;
            if was_trusted {
                *health = Health::Unknown;
            }
            was_trusted
        });
        self.index.lock().recheck();
    }

    fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl EventLog for WitnessedLog {
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        self.shared.append(subject, expect, record).await
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        Shared::read(Arc::clone(&self.shared), from).await
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let run = self.shared.log.read_range(from, limit).await?;
        self.shared.pass(&run).await?;
        Ok(run)
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let records = self.shared.log.read_subject(subject, after, limit).await?;
        self.shared.compare_each(&records)?;
        Ok(records)
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        self.shared.log.last(subject).await
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        self.shared.head().await
    }

    fn sync(&self) -> SyncMode {
        self.shared.log.sync()
    }
}
