//! The log on NATS JetStream: one stream, one literal subject per aggregate, and the servers' word for what is in it.
//!
//! The stream's leader decides. It is asked for everything that an answer rests on: appends carry what they expect, and what stands in a
//! place is read from it. Two servers may take themselves for the leader for a moment, when one of them was paused or cut off; so an answer
//! that contradicts what was seen before is not believed at once, but asked for again, see [`append`]. Records are read by a consumer of our own, which
//! may be on any server, and which is made anew at the next sequence whenever anything about it is in doubt, see [`follow`].
//!
//! The stream is made once, by [`JetStreamLog::prepare`], and never changed, emptied or made again.

mod append;
mod consumer;
mod definition;
mod follow;
mod leader;
mod prepare;
mod publish;
mod sync;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use parking_lot::RwLock;
use schemas::Sequence;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::contract::{
    AppendError, Appended, Batches, EventLog, Expect, RUN_BYTES_MAX, RUN_RECORDS_MAX, ReadError, Stored, SyncMode, check_append,
};
use crate::nats::Nats;
use crate::storage::Damage;
use leader::{Head, Leader};

pub use definition::Difference;
pub use prepare::{PrepareError, Prepared};

/// The stream of the event log.
const STREAM: &str = "KEYRELAY_EVENTS";
/// The beginning of every subject in it.
const SUBJECT_PREFIX: &str = "kr.e.";
/// The most appends under way at once; more wait. Beyond this a cluster is not faster, only later.
const APPENDS_MAX: usize = 512;
/// The most records of one range that are asked for at once.
const GETS_MAX: usize = 32;
/// How long servers may contradict what was seen before they are believed: a follower may be ahead of its leader for a moment, and a server
/// that was paused may take itself for the leader.
const CONTRADICTION_WAIT: Duration = Duration::from_secs(4);
const CONTRADICTION_PAUSE: Duration = Duration::from_millis(100);

/// An [`EventLog`] on JetStream; a clone is another handle of the same log.
///
/// Nothing is appended or read before [`prepare`](Self::prepare) has passed: until then every call answers `Unavailable`.
#[derive(Clone)]
pub struct JetStreamLog {
    shared: Arc<Shared>,
}

struct Shared {
    nats: Nats,
    /// Whether the stream has to be there already.
    is_known: bool,
    leader: Leader,
    appends: Semaphore,
    /// What `prepare` found; none before it has passed.
    prepared: RwLock<Option<SyncMode>>,
    /// The largest sequence that an answer, a record or the leader has shown.
    seen: AtomicU64,
    /// Whether the servers have contradicted what was seen for so long that they are believed at once.
    is_lost: AtomicBool,
}

impl JetStreamLog {
    /// A log whose stream is made if it is missing.
    pub fn new(nats: &Nats) -> Self {
        Self::with(nats, false)
    }

    /// A log that was there before: if its stream is missing it was lost, and is not made again.
    pub fn known(nats: &Nats) -> Self {
        Self::with(nats, true)
    }

    /// When the stream was made, in its servers' own words: one of the same name that was taken away and made again has another time.
    pub async fn made_at(&self) -> Result<String, ReadError> {
        self.shared.check_readable()?;
        self.shared.leader.made_at().await
    }

    fn with(nats: &Nats, is_known: bool) -> Self {
        let shared = Shared {
            nats: nats.clone(),
            is_known,
            leader: Leader::new(nats.clone()),
            appends: Semaphore::new(APPENDS_MAX),
            prepared: RwLock::new(None),
            seen: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }
}

#[async_trait]
impl EventLog for JetStreamLog {
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        check_append(subject, &record)?;
        if !subject.starts_with(SUBJECT_PREFIX) {
            return Err(AppendError::Subject { subject: subject.to_owned() });
        }
        self.shared.check_ready()?;
        let _permit = self.shared.appends.acquire().await.expect("the semaphore is never closed");
        self.shared.append(subject, expect, record).await
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        self.shared.check_readable()?;
        Ok(follow::follow(Arc::clone(&self.shared), from))
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.shared.check_readable()?;
        self.shared.range(from.max(Sequence(1)), limit.min(RUN_RECORDS_MAX)).await
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.shared.check_readable()?;
        self.shared.on_subject(subject, after, limit.min(RUN_RECORDS_MAX)).await
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        self.shared.check_readable()?;
        self.shared.leader.last_on(subject).await
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        self.shared.check_readable()?;
        self.shared.head().await
    }

    fn sync(&self) -> SyncMode {
        self.shared.prepared.read().unwrap_or(SyncMode::Unverified)
    }

    fn accept_end(&self, end: Sequence) {
        // Only what was told can be accepted.
        if self.shared.is_lost.swap(false, Ordering::Relaxed) {
            self.shared.seen.store(end.0, Ordering::Release);
        }
    }
}

impl Shared {
    fn check_readable(&self) -> Result<(), ReadError> {
        if self.nats.is_closed() {
            return Err(ReadError::Closed);
        }
        if self.prepared.read().is_none() {
            return Err(ReadError::Unavailable { reason: "its stream was not prepared yet".to_owned() });
        }
        Ok(())
    }

    fn check_ready(&self) -> Result<(), AppendError> {
        self.check_readable().map_err(|error| match error {
            ReadError::Unavailable { reason } => AppendError::Unavailable { reason },
            _ => AppendError::Closed,
        })?;
        if self.nats.is_up() { Ok(()) } else { Err(AppendError::Unavailable { reason: "there is no connection to NATS".to_owned() }) }
    }

    fn seen(&self) -> Sequence {
        Sequence(self.seen.load(Ordering::Acquire))
    }

    fn see(&self, sequence: Sequence) {
        self.seen.fetch_max(sequence.0, Ordering::AcqRel);
    }

    /// The last sequence, as the leader says. An answer below what was seen is asked for again, until it has to be believed.
    async fn head(&self) -> Result<Sequence, ReadError> {
        let deadline = self.contradiction_deadline();
        loop {
            // Taken before the question, so that an answer below it contradicts it.
            let seen = self.seen();
            let Head { sequence: head, is_followed } = self.leader.head().await?;
            if head >= seen {
                self.see(head);
                self.is_lost.store(false, Ordering::Relaxed);
                return Ok(head);
            }
            if Instant::now() >= deadline {
                if !is_followed {
                    return Err(ReadError::Unavailable { reason: "its leader has lost the other servers".to_owned() });
                }
                self.believe_lost(seen, head);
                return Err(ReadError::Storage(Damage::Lost { remembered: seen, found: head }.into()));
            }
            sleep(CONTRADICTION_PAUSE).await;
        }
    }

    /// Until when an answer that contradicts what was seen is asked for again.
    fn contradiction_deadline(&self) -> Instant {
        let wait = if self.is_lost.load(Ordering::Relaxed) { Duration::ZERO } else { CONTRADICTION_WAIT };
        Instant::now() + wait
    }

    fn believe_lost(&self, expected: Sequence, found: Sequence) {
        if !self.is_lost.swap(true, Ordering::Relaxed) {
            tracing::error!(expected = expected.0, found = found.0, "the log on NATS has lost records");
        }
    }

    async fn range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let head = self.head().await?;
        let end = from.0.saturating_add(limit as u64).min(head.0.saturating_add(1));
        let mut records = stream::iter(from.0..end).map(|sequence| self.present(Sequence(sequence))).buffered(GETS_MAX);
        let mut run = Run::default();
        while let Some(record) = records.next().await {
            run.push(record?);
            if run.is_full() {
                break;
            }
        }
        Ok(run.records)
    }

    async fn on_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let mut run = Run::default();
        let mut after = after;
        while run.records.len() < limit && !run.is_full() {
            let Some(stored) = self.leader.first_on(subject, after).await? else { break };
            after = stored.sequence;
            run.push(stored);
        }
        Ok(run.records)
    }

    /// The record at a sequence that the log has reached. That there is none is believed only after a while.
    async fn present(&self, sequence: Sequence) -> Result<Stored, ReadError> {
        let deadline = Instant::now() + CONTRADICTION_WAIT;
        loop {
            if let Some(stored) = self.leader.at(sequence).await? {
                return Ok(stored);
            }
            if Instant::now() >= deadline {
                // Either the end is gone, or there is a hole before it.
                self.head().await?;
                let found = self.leader.first_at_or_after(sequence).await?.unwrap_or_default();
                tracing::error!(sequence = sequence.0, found = found.0, "the log on NATS has a hole");
                return Err(ReadError::Storage(Damage::Hole { expected: sequence, found }.into()));
            }
            sleep(CONTRADICTION_PAUSE).await;
        }
    }
}

/// Records that follow each other, up to the bounds of one run.
#[derive(Default)]
struct Run {
    records: Vec<Stored>,
    bytes: usize,
}

impl Run {
    fn push(&mut self, stored: Stored) {
        self.bytes += stored.bytes.len();
        self.records.push(stored);
    }

    fn is_full(&self) -> bool {
        self.records.len() >= RUN_RECORDS_MAX || self.bytes >= RUN_BYTES_MAX
    }
}
