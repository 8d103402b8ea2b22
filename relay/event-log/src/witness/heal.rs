//! Putting back what the log lost: the same bytes, at the same places, in the same order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use schemas::Sequence;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::index::digest;
use crate::contract::{Appended, Expect, RUN_RECORDS_MAX, ReadError, Stored};
use crate::resolve::append_resolving;

/// How long one record is tried before the rest is left to the next comparison.
const APPEND_WAIT: Duration = Duration::from_secs(5);
/// How often a record is tried with what the log says about its subject.
const ATTEMPTS_MAX: usize = 3;

/// How often to look whether somebody else has put back what is not remembered here.
const GAP_PAUSE: Duration = Duration::from_millis(50);

/// How far healing came.
pub(super) enum Healed {
    /// To the end of what is remembered, or to where the log was changed by somebody else: it has to be compared again.
    Further,
    /// To a place that is not remembered here.
    Missing(Sequence),
}

impl Shared {
    /// Appends what is remembered after the log's end, and waits so long for other nodes wherever that has a gap. An error leaves the rest to a
    /// later attempt, which begins where the log ends then.
    pub(super) async fn heal(&self, head: Sequence, patience: Duration) -> Result<Healed, ReadError> {
        let last = self.index.lock().last();
        let mut subjects = HashMap::new();
        let mut next = head.next();
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("witness-heals-out-of-order") {
            return self.heal_out_of_order(next).await;
        }
        while next <= last {
            let run = self.rows.run(move |store, _| store.range(next, RUN_RECORDS_MAX)).await?;
            let is_gap = run.first().is_none_or(|stored| stored.sequence != next);
            if is_gap {
                match self.wait_for(next, patience).await? {
                    Some(head) => next = head.next(),
                    None => return Ok(Healed::Missing(next)),
                }
                // What others have put back may be on subjects of ours.
                subjects.clear();
                continue;
            }
            for (stored, sequence) in run.iter().zip(next.0..=last.0) {
                if stored.sequence.0 != sequence {
                    break;
                }
                if !self.put_back(stored, &mut subjects).await? {
                    return Ok(Healed::Further);
                }
                next = stored.sequence.next();
            }
        }
        Ok(Healed::Further)
    }

    /// Waits for somebody else to put a record back; returns the log's end then.
    async fn wait_for(&self, place: Sequence, patience: Duration) -> Result<Option<Sequence>, ReadError> {
        let deadline = Instant::now() + patience;
        loop {
            let head = self.end().await?;
            if head >= place {
                return Ok(Some(head));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(GAP_PAUSE).await;
        }
    }

    /// Puts one record back at its place; false if the place, or one before it, holds something else now. `subjects` has the last sequences
    /// of the subjects met so far.
    async fn put_back(&self, stored: &Stored, subjects: &mut HashMap<Arc<str>, Sequence>) -> Result<bool, ReadError> {
        let Stored { sequence, subject, bytes } = stored;
        let mut subject_last = match subjects.get(subject) {
            Some(last) => *last,
            None => self.ask(self.log.last(subject)).await?,
        };
        subjects.insert(Arc::clone(subject), *sequence);
        let before = Sequence(sequence.0 - 1);
        for _ in 0..ATTEMPTS_MAX {
            let expect = Expect { subject: subject_last, log: Some(before) };
            match append_resolving(&*self.log, subject, expect, bytes.clone(), Instant::now() + APPEND_WAIT).await {
                Ok(Appended::Appended(at)) if at == *sequence => {
                    self.healed_records.fetch_add(1, Ordering::Relaxed);
                    return Ok(true);
                }
                Ok(Appended::AlreadyAppended(at)) if at == *sequence => return Ok(true),
                Ok(Appended::Appended(_) | Appended::AlreadyAppended(_)) => return Ok(false),
                // What the log says of a subject elsewhere is a hint; this is not.
                Ok(Appended::Conflict { subject_last: found, log_last: Some(log_last) }) if log_last == before && found != subject_last => {
                    subject_last = found;
                }
                // Another node may be ahead of us.
                Ok(Appended::Conflict { .. }) => return self.stands(*sequence, digest(stored)).await,
                Ok(Appended::Unknown) => {
                    return Err(ReadError::Unavailable { reason: "it does not say what became of an append".to_owned() });
                }
                Err(error) => return Err(ReadError::Unavailable { reason: error.to_string() }),
            }
        }
        Ok(false)
    }

    /// The planted bug: subject by subject, wherever there is room.
    #[cfg(feature = "faults")]
    async fn heal_out_of_order(&self, from: Sequence) -> Result<Healed, ReadError> {
        let mut lost = self.rows.run(move |store, _| store.range(from, RUN_RECORDS_MAX)).await?;
        lost.sort_by(|one, other| one.subject.cmp(&other.subject));
        for Stored { subject, bytes, .. } in lost {
            let expect = Expect { subject: self.log.last(&subject).await?, log: None };
            let _outcome = self.log.append(&subject, expect, bytes).await;
            self.healed_records.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Healed::Further)
    }
}
