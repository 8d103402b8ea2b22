//! From attempts to an outcome.
//!
//! A server that was paused or cut off may answer as if it led the stream still, out of an older log. What it says is true of that log and says
//! nothing of ours, so an answer is believed where the log can be seen to be no older than what is expected of it: the record in our place, or
//! the record that was expected to be last, is there. Otherwise the same is asked again, for a while, and is believed in the end only of a
//! server that the others follow.

use std::time::Duration;

use bytes::Bytes;
use schemas::Sequence;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::leader::gone;
use super::publish::{Published, publish};
use crate::contract::{AppendError, Appended, Expect, ReadError};

/// How long other appends and elections are waited for; then the outcome is unknown.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How often the same is asked again at once. A server acknowledges an append a little before it lets the next one on the subject in, and the
/// way there and back is wait enough for that.
const AT_ONCE_MAX: u32 = 4;
/// The first wait before the same is asked again later; each further one is twice as long ...
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What is known after a refusal.
enum Judged {
    Outcome(Appended),
    /// Another append is being decided on, the log has moved on meanwhile, or nobody leads it.
    Busy,
    /// The log does not reach what is expected of it, and had reached it. The conflict is the outcome if it stays so.
    Lost {
        found: Sequence,
        conflict: Appended,
    },
}

impl Shared {
    pub(super) async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        let (busy_until, contradicted_until) = (Instant::now() + BUSY_WAIT, self.contradiction_deadline());
        let (mut at_once, mut pause) = (0, PAUSE_MIN);
        loop {
            let judged = match publish(&self.nats, subject, expect, &record).await {
                Published::Stored(sequence) => {
                    self.see(sequence);
                    return Ok(Appended::Appended(sequence));
                }
                Published::WrongLast(reported) => self.judge(subject, expect, &record, reported).await,
                Published::Duplicate => self.judge(subject, expect, &record, None).await,
                Published::Busy => Ok(Judged::Busy),
                Published::NotTaken(reason) => return Err(AppendError::Unavailable { reason }),
                Published::Nobody if self.is_gone().await => return Err(AppendError::Unavailable { reason: gone() }),
                Published::Nobody => Ok(Judged::Busy),
                Published::Unheard(reason) => {
                    tracing::debug!(subject, reason, "the outcome of an append is not known");
                    return Ok(Appended::Unknown);
                }
            };
            match judged {
                Ok(Judged::Outcome(outcome)) => return Ok(outcome),
                Ok(Judged::Busy) if Instant::now() < busy_until => {}
                Ok(Judged::Busy) => return Ok(Appended::Unknown),
                Ok(Judged::Lost { .. }) if Instant::now() < contradicted_until => {}
                Ok(Judged::Lost { found, conflict }) => return Ok(self.lost(expect.subject, found, conflict).await),
                // Another record may be in our place, or this one.
                Err(error) => {
                    tracing::debug!(subject, %error, "the outcome of an append could not be read");
                    return Ok(Appended::Unknown);
                }
            }
            if at_once < AT_ONCE_MAX {
                at_once += 1;
                continue;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Tells a stream that is gone from one that has no leader now.
    async fn is_gone(&self) -> bool {
        matches!(self.leader.exists().await, Ok(false))
    }

    /// The last word on a log that does not reach what is expected of it: a server that nobody follows has not the last word.
    async fn lost(&self, expected: Sequence, found: Sequence, conflict: Appended) -> Appended {
        match self.leader.head().await {
            Ok(head) if head.is_followed => {
                self.believe_lost(expected, found);
                conflict
            }
            Ok(_) | Err(_) => Appended::Unknown,
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
        let log_last = if expect.log.is_some() { self.leader.head().await?.sequence } else { Sequence::ZERO };
        let place = place.as_ref().map(|stored| (stored.sequence, stored.bytes.as_ref()));
        if let Some((sequence, _)) = place {
            self.see(sequence);
            return Ok(Judged::Outcome(expect.not_held(record, subject_last.max(sequence), log_last.max(sequence), place)));
        }
        // The expectation holds by now, or the leader that said so is not the one that was asked for the record.
        if expect.holds(subject_last, log_last) || subject_last > expect.subject {
            return Ok(Judged::Busy);
        }
        let conflict = expect.not_held(record, subject_last, log_last, None);
        if expect.log.is_some() && log_last < seen {
            return Ok(Judged::Lost { found: log_last, conflict });
        }
        if subject_last == expect.subject {
            return Ok(Judged::Outcome(conflict));
        }
        match self.leader.at(expect.subject).await? {
            Some(stored) if *stored.subject == *subject => Ok(Judged::Busy),
            // The expectation was never right.
            Some(_) => Ok(Judged::Outcome(conflict)),
            None if expect.subject > self.seen() => Ok(Judged::Outcome(conflict)),
            None => Ok(Judged::Lost { found: subject_last, conflict }),
        }
    }
}
