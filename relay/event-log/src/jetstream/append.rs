//! From attempts to an outcome.
//!
//! A server that was paused may answer as if it led the stream still, out of an older log. What it says is true of that log and says
//! nothing of ours, so an answer is believed where the log can be seen to be no older than what is expected of it: the record in our place, or
//! the record that was expected to be last, is there. Otherwise the same is asked again, for a while.

use std::time::Duration;

use bytes::Bytes;
use schemas::Sequence;
use tokio::time::{Instant, sleep};

use super::leader::gone;
use super::publish::{Published, publish};
use super::{CONTRADICTION_WAIT, Shared};
use crate::contract::{AppendError, Appended, Expect, ReadError};

/// The first wait before the same is asked again; each further one is twice as long ...
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What is known after a refusal.
enum Judged {
    Outcome(Appended),
    /// The answers contradict each other, or the world has moved on: the same has to be asked again. The outcome stands if it stays so.
    Again(Appended),
}

impl Shared {
    pub(super) async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        let deadline = Instant::now() + CONTRADICTION_WAIT;
        let mut pause = PAUSE_MIN;
        loop {
            let judged = match publish(&self.nats, subject, expect, &record).await {
                Published::Stored(sequence) => {
                    self.see(sequence);
                    return Ok(Appended::Appended(sequence));
                }
                Published::WrongLast(reported) => self.judge(subject, expect, &record, reported).await,
                Published::Duplicate => self.judge(subject, expect, &record, None).await,
                Published::Busy => Ok(Judged::Again(Appended::Unknown)),
                Published::NotTaken(reason) => return Err(AppendError::Unavailable { reason }),
                Published::Nobody => return self.nobody().await,
                Published::Unheard(reason) => {
                    tracing::debug!(subject, reason, "the outcome of an append is not known");
                    return Ok(Appended::Unknown);
                }
            };
            let last_word = match judged {
                Ok(Judged::Outcome(outcome)) => return Ok(outcome),
                Ok(Judged::Again(last_word)) => last_word,
                // Another record may be in our place, or this one.
                Err(error) => {
                    tracing::debug!(subject, %error, "the outcome of an append could not be read");
                    return Ok(Appended::Unknown);
                }
            };
            if Instant::now() >= deadline {
                if let Appended::Conflict { subject_last, .. } = last_word {
                    tracing::error!(subject, expected = expect.subject.0, found = subject_last.0, "the log on NATS has lost records");
                }
                return Ok(last_word);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Tells a stream that is gone from one that has no leader now.
    async fn nobody(&self) -> Result<Appended, AppendError> {
        match self.leader.exists().await {
            Ok(false) => Err(AppendError::Unavailable { reason: gone() }),
            Ok(true) | Err(_) => Ok(Appended::Unknown),
        }
    }

    /// Finds out what stands in our place. `reported` is the last sequence on the subject, if the refusal can only have been about it.
    async fn judge(&self, subject: &str, expect: Expect, record: &[u8], reported: Option<Sequence>) -> Result<Judged, ReadError> {
        let seen = self.seen();
        let place = self.leader.first_on(subject, expect.subject).await?;
        let subject_last = match (expect.log, reported) {
            (None, Some(reported)) => reported,
            _ => self.leader.last_on(subject).await?,
        };
        let log_last = if expect.log.is_some() { self.leader.head().await? } else { Sequence::ZERO };
        let place = place.as_ref().map(|stored| (stored.sequence, stored.bytes.as_ref()));
        if let Some((sequence, _)) = place {
            self.see(sequence);
            return Ok(Judged::Outcome(expect.not_held(record, subject_last.max(sequence), log_last.max(sequence), place)));
        }
        if expect.holds(subject_last, log_last) || subject_last > expect.subject {
            return Ok(Judged::Again(Appended::Unknown));
        }
        let conflict = expect.not_held(record, subject_last, log_last, None);
        let is_old = expect.log.is_some() && log_last < seen;
        if is_old {
            return Ok(Judged::Again(conflict));
        }
        if subject_last == expect.subject || self.is_mistaken(subject, expect.subject).await? {
            return Ok(Judged::Outcome(conflict));
        }
        Ok(Judged::Again(conflict))
    }

    /// Whether an expected last record that is not the last on its subject never was on it.
    async fn is_mistaken(&self, subject: &str, expected: Sequence) -> Result<bool, ReadError> {
        match self.leader.at(expected).await? {
            Some(stored) => Ok(*stored.subject != *subject),
            None => Ok(expected > self.seen()),
        }
    }
}
