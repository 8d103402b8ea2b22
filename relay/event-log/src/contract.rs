//! The contract of an event log, and the words it is spoken in.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use schemas::record::{Frame, RECORD_BYTES_MAX};
use schemas::{ClusterId, Event, Sequence};
use thiserror::Error;

use crate::storage::StorageError;

/// The most bytes a subject may have.
pub const SUBJECT_BYTES_MAX: usize = 255;
/// The most records of one run, whatever limit the reader asks for.
pub const RUN_RECORDS_MAX: usize = 1024;
/// A run ends with the record that brings it to this many bytes.
pub const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an append expects to find. Sequences are compared for equality: too old and too new are both a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    /// The last sequence on the subject; 0 if there is none.
    pub subject: Sequence,
    /// The last sequence of the whole log, where that matters too: the founding and a migration.
    pub log: Option<Sequence>,
}

/// A record as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub sequence: Sequence,
    pub subject: Arc<str>,
    pub bytes: Bytes,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an append that is not looked at may not have happened"]
pub enum Appended {
    /// The record is in the log, durably, at this sequence.
    Appended(Sequence),
    /// An earlier attempt with the same bytes and the same expectation had stored the record, at this sequence.
    AlreadyAppended(Sequence),
    /// Nothing was stored: the expectation does not hold, and another record stands in our place. The sequences are
    /// what was found instead; `log_last` is told to those who expected something of it.
    Conflict { subject_last: Sequence, log_last: Option<Sequence> },
    /// The record may or may not be in the log. Appending the same bytes with the same expectation finds out,
    /// see [`append_resolving`](crate::append_resolving); nothing else may touch the subject before.
    Unknown,
}

/// Why an append was not attempted. Nothing of the record is in the log through this attempt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    #[error("a record has at most {RECORD_BYTES_MAX} bytes, this one has {bytes}")]
    RecordTooLarge { bytes: usize },
    #[error("{subject:?} is no subject: at most {SUBJECT_BYTES_MAX} visible ASCII characters, no wildcard, no empty part between dots")]
    Subject { subject: String },
    /// The storage failed under an earlier append; the log takes nothing more until it was opened again.
    #[error("the log has failed and takes no more records")]
    Failed(#[source] StorageError),
    #[error("the log is closed")]
    Closed,
    /// The log cannot be reached, or is not trusted now; it may be later.
    #[error("the log cannot be reached: {reason}")]
    Unavailable { reason: String },
}

/// Why records cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    #[error("the log cannot be read")]
    Storage(#[from] StorageError),
    #[error("the record at sequence 1 does not found a cluster")]
    NotFounded,
    #[error("the log is closed")]
    Closed,
    /// The log cannot be reached; it may be later.
    #[error("the log cannot be reached: {reason}")]
    Unavailable { reason: String },
}

/// How far the backend's word "durable" has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// This process syncs the log itself, before it answers.
    Embedded,
    /// Nothing is kept beyond the process.
    Memory,
    /// Every server that keeps the log was seen to sync before it acknowledges.
    Verified,
    /// Nobody could be asked how the servers sync.
    Unverified,
    /// A server that keeps the log does not sync before it acknowledges: a power cut may lose what was acknowledged.
    Lazy,
}

impl SyncMode {
    /// The word in the ready line and in `/readyz`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Memory => "memory",
            Self::Verified => "verified",
            Self::Unverified => "unverified",
            Self::Lazy => "lazy",
        }
    }
}

/// Runs of records, each not empty, ascending and dense, each following on the one before.
pub type Batches = BoxStream<'static, Result<Vec<Stored>, ReadError>>;

/// An append-only log of records.
///
/// # Guarantees, the same on every backend
///
/// - **Total order, dense.** The first record has sequence 1, the next 2; there is never a hole. A reader meets records in
///   that order, and all readers meet the same ones.
/// - **All or nothing.** A record is in the log whole or not at all, and it never changes or goes away.
/// - **Durable before `Appended`.** An answer with a sequence survives the loss of power. What [`read`](Self::read) and
///   [`head`](Self::head) show is durable too: nobody acts on a record that may yet vanish.
/// - **Only an append decides.** Of any number of appends to one subject that expect the same, one at most is stored.
/// - **Exact retry.** Where the expectation does not hold, but the first record on the subject after [`Expect::subject`] has the very
///   same bytes (and, if [`Expect::log`] was given, is the one right after it), the answer is `AlreadyAppended`: now, after a restart, and
///   after any number of later records. Otherwise it is `Conflict`.
/// - **Not a judge.** Any bytes up to [`RECORD_BYTES_MAX`] are stored. More are refused.
///
/// # Concurrency
///
/// All methods may be called at any time from any task. Dropping the future of an append leaves its outcome unknown; dropping any
/// other future changes nothing.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Appends one record to a subject if the expectation holds.
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError>;

    /// Reads from a sequence on: first what is there, then what comes, for ever. A sequence that is not there yet is waited for.
    /// The stream ends with its first error.
    async fn read(&self, from: Sequence) -> Result<Batches, ReadError>;

    /// Reads what is there now from a sequence on: at most `limit` records and at most one run. Empty only if there is nothing.
    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError>;

    /// Reads the first records on a subject after a sequence, from the one copy that decides on appends. Bounded like
    /// [`read_range`](Self::read_range).
    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError>;

    /// The last sequence on a subject, 0 if there is none. A hint: by the time it is looked at, it may be old.
    async fn last(&self, subject: &str) -> Result<Sequence, ReadError>;

    /// The last sequence of the log, 0 if it is empty. Never decreases.
    async fn head(&self) -> Result<Sequence, ReadError>;

    /// The cluster that the record at sequence 1 founds; none on an empty log.
    async fn identity(&self) -> Result<Option<ClusterId>, ReadError> {
        let first = self.read_range(Sequence(1), 1).await?;
        first.first().map(|stored| founded(&stored.bytes).ok_or(ReadError::NotFounded)).transpose()
    }

    /// What "durable" rests on.
    fn sync(&self) -> SyncMode;

    /// Takes the log as it is after it was told to have lost its end ([`Damage::Lost`](crate::Damage::Lost)), which it says of every read
    /// until then. For whoever compares the log with what is remembered of it, and puts back what is missing. A log that keeps itself
    /// has nothing to take.
    fn accept_end(&self, _end: Sequence) {}
}

/// The cluster that a record founds, if it founds one. Whether it may is judged elsewhere.
fn founded(bytes: &[u8]) -> Option<ClusterId> {
    let events = Frame::parse(bytes).ok()?.events().ok()?;
    let [Event::ClusterFounded(founded)] = events.as_slice() else { return None };
    Some(founded.cluster_id)
}

impl Expect {
    pub(crate) fn holds(&self, subject_last: Sequence, log_last: Sequence) -> bool {
        self.subject == subject_last && self.log.is_none_or(|log| log == log_last)
    }

    /// The outcome where the expectation does not hold: an exact retry of `place`, the first record on the subject after the expected
    /// one, or a conflict.
    pub(crate) fn not_held(&self, record: &[u8], subject_last: Sequence, log_last: Sequence, place: Option<(Sequence, &[u8])>) -> Appended {
        match place {
            Some((sequence, bytes)) if bytes == record && self.log.is_none_or(|log| log.0.checked_add(1) == Some(sequence.0)) => {
                Appended::AlreadyAppended(sequence)
            }
            _ => Appended::Conflict { subject_last, log_last: self.log.map(|_| log_last) },
        }
    }
}

/// What every backend refuses before it tries.
pub(crate) fn check_append(subject: &str, record: &[u8]) -> Result<(), AppendError> {
    let spelt = subject.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>');
    if !spelt || subject.len() > SUBJECT_BYTES_MAX || subject.split('.').any(str::is_empty) {
        return Err(AppendError::Subject { subject: subject.to_owned() });
    }
    if record.len() > RECORD_BYTES_MAX { Err(AppendError::RecordTooLarge { bytes: record.len() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn subjects_are_literal() {
        assert_eq!(check_append("kr.e._.cluster.0", &[]), Ok(()));
        for wrong in ["", ".", "a.", "a..b", "a.*", "a.>", "a b", "a\0b", "ä", &"x".repeat(256)] {
            assert_eq!(check_append(wrong, &[]), Err(AppendError::Subject { subject: wrong.to_owned() }));
        }
    }
}
