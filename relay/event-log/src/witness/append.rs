//! Appends: passed on while the log is trusted, and answered for when the record is remembered.

use std::time::Duration;

use bytes::Bytes;
use schemas::Sequence;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::index::{Noted, Print, digest};
use super::store::Row;
use super::writer::Remember;
use super::{Health, Shared};
use crate::contract::{AppendError, Appended, Expect, Stored};

/// How long an append whose record is in question waits for the comparison, before its outcome is said to be unknown.
const SETTLE_WAIT: Duration = Duration::from_secs(5);

/// How things stood when an append began.
struct Before {
    doubts: u64,
    last: Sequence,
}

/// What became of remembering an acknowledged record.
#[derive(PartialEq, Eq)]
enum Owned {
    Remembered,
    /// Another record is remembered at its place.
    Contradicts,
    /// Our own storage has failed.
    Failed,
}

impl Shared {
    pub(super) async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        self.may_append()?;
        let before = Before { doubts: self.doubts(), last: self.index.lock().last() };
        let outcome = self.log.append(subject, expect, record.clone()).await?;
        let (Appended::Appended(sequence) | Appended::AlreadyAppended(sequence)) = outcome else {
            return self.not_appended(expect, outcome).await;
        };
        let stored = Stored { sequence, subject: subject.into(), bytes: record };
        // The log gave out a place that was taken before: it has lost what was there.
        let is_replaced = matches!(outcome, Appended::Appended(_)) && sequence <= before.last;
        match if is_replaced { Owned::Contradicts } else { self.remember_own(&stored).await } {
            Owned::Remembered if self.doubts() == before.doubts && self.is_trusted() => return Ok(outcome),
            Owned::Remembered => {}
            Owned::Contradicts => {
                tracing::error!(%sequence, "the event log acknowledged a record at a place that was taken before");
                self.suspect();
            }
            Owned::Failed => return Ok(Appended::Unknown),
        }
        Ok(self.settle(&stored, outcome).await)
    }

    fn may_append(&self) -> Result<(), AppendError> {
        if let Some(error) = self.failed.get() {
            return Err(AppendError::Failed(error.clone()));
        }
        match &*self.health.borrow() {
            Health::Trusted => Ok(()),
            health => Err(AppendError::Unavailable { reason: health.reason() }),
        }
    }

    /// A conflict with less than what stands remembered is a log that lost records, unless the caller expected what never was.
    async fn not_appended(&self, expect: Expect, outcome: Appended) -> Result<Appended, AppendError> {
        let Appended::Conflict { subject_last, .. } = outcome else { return Ok(outcome) };
        let remembered = self.index.lock().get(expect.subject);
        let (true, Some(remembered)) = (subject_last < expect.subject, remembered) else { return Ok(outcome) };
        match self.log.read_range(expect.subject, 1).await.as_deref() {
            Ok([found]) if found.sequence == expect.subject && digest(found) == remembered => Ok(outcome),
            _ => {
                self.suspect();
                self.may_append().map(|()| outcome)
            }
        }
    }

    /// Remembers an acknowledged record: at once for comparisons, and on stable storage when this returns.
    async fn remember_own(&self, stored: &Stored) -> Owned {
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("witness-forgets") {
            return Owned::Remembered;
        }
        let print = Print::of(stored);
        let mut remember = Remember::default();
        match self.index.lock().note(&print, true, &mut remember.forget) {
            Noted::Contradicts => return Owned::Contradicts,
            Noted::Old => {}
            // Known: whoever noted it may not have sent the row yet.
            Noted::New | Noted::Known => remember.rows.push(Row { stored: stored.clone(), is_own: true }),
        }
        if self.write(remember).await { Owned::Remembered } else { Owned::Failed }
    }

    /// Has rows written, and waits for them and for all that were sent before. False if the storage has failed or is closed.
    pub(super) async fn write(&self, mut remember: Remember) -> bool {
        let (answer, written) = oneshot::channel();
        remember.answer = Some(answer);
        self.writer.send(remember).await.is_ok() && written.await.is_ok_and(|written| written.is_ok())
    }

    /// Answers for a record that was acknowledged by a log that was, or came to be, in question: only if the log is trusted again and the
    /// record stands in it.
    async fn settle(&self, stored: &Stored, outcome: Appended) -> Appended {
        let Ok(Health::Trusted) = timeout(SETTLE_WAIT, self.settled()).await else { return Appended::Unknown };
        match self.log.read_range(stored.sequence, 1).await.as_deref() {
            Ok([found]) if found == stored && self.remember_own(stored).await == Owned::Remembered => outcome,
            _ => Appended::Unknown,
        }
    }
}
