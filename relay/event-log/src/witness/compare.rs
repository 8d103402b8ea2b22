//! The comparison: what is remembered against what the log holds, and what follows from it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use schemas::{Digest, Sequence};
use tokio::time::timeout;

use super::evidence::{Finding, Refusal};
use super::heal::Healed;
use super::index::digest;
use super::writer::Remember;
use super::{Health, Shared, WitnessedLog};
use crate::contract::{RUN_RECORDS_MAX, ReadError, Stored};
use crate::storage::{Damage, StorageError};

/// How long a question to the log may take before it counts as unreachable. A log that asks servers may need several seconds to believe
/// that records are gone.
const CALL_WAIT: Duration = Duration::from_secs(12);
/// How many remembered places a quick look compares.
const SAMPLES: usize = 16;
/// How often one comparison begins again because the log moved, before it leaves the rest to the next.
const ROUNDS_MAX: usize = 4;

/// What a comparison shows.
enum Verdict {
    /// Everything remembered is there, as far as was looked.
    Agrees {
        head: Sequence,
    },
    /// Everything remembered up to the log's end is there; the rest is lost.
    Shorter {
        head: Sequence,
    },
    Differs(Finding),
}

/// How closely to look.
#[derive(PartialEq, Eq)]
enum Look {
    /// At the end: nothing has happened since the last time.
    Glance,
    /// At places all over: the connection is new.
    Sample,
    /// At everything.
    Survey,
}

impl WitnessedLog {
    /// Compares the log with what is remembered now, heals it if that is possible, and returns what is thought of it then.
    pub async fn compare(&self) -> Health {
        self.shared.compare().await
    }
}

impl Shared {
    pub(super) async fn compare(&self) -> Health {
        let mut refusal = self.refusal.lock().await;
        self.comparisons.fetch_add(1, Ordering::Relaxed);
        for _ in 0..ROUNDS_MAX {
            match self.compare_once(&mut refusal).await {
                Ok(true) => {}
                Ok(false) => break,
                // The judgement stays what it was.
                Err(error) => {
                    tracing::debug!(%error, "the event log cannot be compared now");
                    break;
                }
            }
        }
        self.health.borrow().clone()
    }

    /// One round; whether another has to follow at once.
    async fn compare_once(&self, refusal: &mut Option<Refusal>) -> Result<bool, ReadError> {
        let doubts = self.doubts();
        match self.judge(refusal.as_ref()).await? {
            Verdict::Agrees { head } => Ok(!self.trust(refusal, doubts, head)),
            Verdict::Differs(finding) => self.refuse(refusal, finding).await.map(|()| false),
            Verdict::Shorter { head } => {
                // A refusal stands until there is something that can be done, and has waited long enough.
                let patience = if refusal.is_some() { Duration::ZERO } else { self.patience };
                if refusal.is_none() || self.index.lock().get(head.next()).is_some() {
                    self.publish(Health::Healing);
                }
                match self.heal(head, patience).await? {
                    Healed::Further => Ok(true),
                    Healed::Missing(missing) => self.refuse(refusal, Finding::Incomplete { missing }).await.map(|()| false),
                }
            }
        }
    }

    async fn judge(&self, refusal: Option<&Refusal>) -> Result<Verdict, ReadError> {
        // Rows that are on their way are needed for healing and for evidence.
        if !self.write(Remember::default()).await {
            return Err(ReadError::Closed);
        }
        let look = self.look(refusal);
        let (last, sample) = {
            let index = self.index.lock();
            (index.last(), index.sample(if look == Look::Glance { 1 } else { SAMPLES }))
        };
        let head = self.end().await?;
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("witness-blind") {
            return Ok(Verdict::Agrees { head: head.max(last) });
        }
        if last == Sequence::ZERO {
            return Ok(Verdict::Agrees { head });
        }
        if head == Sequence::ZERO {
            return Ok(Verdict::Differs(Finding::Emptied { remembered: last }));
        }
        if let Some(finding) = self.still_found(refusal, head).await? {
            return Ok(Verdict::Differs(finding));
        }
        let sample = sample.into_iter().filter(|(sequence, _)| *sequence <= head);
        let stand = try_join_all(sample.map(|(sequence, remembered)| self.stands(sequence, remembered))).await?;
        if head >= last && look != Look::Survey && stand.iter().all(|stands| *stands) {
            return Ok(Verdict::Agrees { head });
        }
        // Whatever the survey shows, nothing goes on before it.
        self.publish(Health::Unknown);
        self.survey(head).await
    }

    fn look(&self, refusal: Option<&Refusal>) -> Look {
        if refusal.is_some() || self.is_suspected.load(Ordering::SeqCst) {
            return Look::Survey;
        }
        match &*self.health.borrow() {
            Health::Trusted => Look::Glance,
            Health::Unknown => Look::Sample,
            Health::Healing | Health::Refused { .. } => Look::Survey,
        }
    }

    /// The finding of the last refusal, if it stands: then nothing else needs to be looked at.
    async fn still_found(&self, refusal: Option<&Refusal>, head: Sequence) -> Result<Option<Finding>, ReadError> {
        let Some(Refusal { finding, .. }) = refusal else { return Ok(None) };
        let remembered = self.index.lock().get(finding.place());
        let is_found = match (finding, remembered) {
            (Finding::Incomplete { missing }, None) => head.next() == *missing,
            (Finding::Anew { .. } | Finding::Forked { .. } | Finding::Damaged { .. }, Some(remembered)) => {
                finding.place() <= head && !self.stands(finding.place(), remembered).await?
            }
            _ => false,
        };
        Ok(is_found.then(|| finding.clone()))
    }

    /// Compares everything that is remembered up to the log's end.
    async fn survey(&self, head: Sequence) -> Result<Verdict, ReadError> {
        let remembered = self.index.lock().all();
        let mut left = remembered.as_slice();
        while let Some((from, _)) = left.first().copied().filter(|(sequence, _)| *sequence <= head) {
            let run = match self.ask(self.log.read_range(from, RUN_RECORDS_MAX)).await {
                Err(ReadError::Storage(StorageError::Damage(damage))) => {
                    return Ok(Verdict::Differs(Finding::Damaged { sequence: from, found: damage.to_string() }));
                }
                run => run?,
            };
            let Some(to) = run.last().map(|last| last.sequence) else {
                return Err(ReadError::Unavailable { reason: format!("it says that it reaches {head} and has nothing at {from}") });
            };
            let compared = left.partition_point(|(sequence, _)| *sequence <= to);
            if let Some(finding) = left[..compared].iter().find_map(|(sequence, remembered)| differs(&run, *sequence, *remembered)) {
                return Ok(Verdict::Differs(finding));
            }
            left = &left[compared..];
        }
        let last = remembered.last().map(|(sequence, _)| *sequence).unwrap_or_default();
        Ok(if head < last { Verdict::Shorter { head } } else { Verdict::Agrees { head } })
    }

    /// Whether a place holds the record that is remembered there.
    pub(super) async fn stands(&self, sequence: Sequence, remembered: Digest) -> Result<bool, ReadError> {
        match self.ask(self.log.read_range(sequence, 1)).await {
            Ok(run) => Ok(run.first().is_some_and(|found| found.sequence == sequence && digest(found) == remembered)),
            Err(ReadError::Storage(StorageError::Damage(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Trusts the log, unless something happened since it was looked at.
    fn trust(&self, refusal: &mut Option<Refusal>, doubts: u64, head: Sequence) -> bool {
        {
            let mut index = self.index.lock();
            // An acknowledgement that was under way tells of more than was compared.
            if !self.is_trusted() && index.last() > head {
                return false;
            }
            index.heard(head);
        }
        if self.doubts() != doubts || refusal.as_ref().is_some_and(|refusal| !refusal.withdraw(&self.directory)) {
            return false;
        }
        *refusal = None;
        let mut is_trusted = false;
        self.health.send_if_modified(|health| {
            is_trusted = self.doubts() == doubts;
            if !is_trusted {
                return false;
            }
            self.is_suspected.store(false, Ordering::SeqCst);
            if *health != Health::Trusted {
                tracing::info!(%head, "the event log agrees with what is remembered of it");
            }
            std::mem::replace(health, Health::Trusted) != Health::Trusted
        });
        is_trusted
    }

    async fn refuse(&self, refusal: &mut Option<Refusal>, finding: Finding) -> Result<(), ReadError> {
        self.publish(Health::Unknown);
        let kept = match refusal.take().filter(|refusal| refusal.finding == finding) {
            Some(kept) => kept,
            None => self.keep_evidence(finding).await?,
        };
        self.publish(kept.health());
        *refusal = Some(kept);
        Ok(())
    }

    /// Says what is thought of the log, short of trust. A refusal gives way only to another, to healing and to trust.
    fn publish(&self, found: Health) {
        self.health.send_if_modified(|health| {
            let is_news = *health != found && !(found == Health::Unknown && *health != Health::Trusted);
            if is_news {
                self.doubts.fetch_add(1, Ordering::SeqCst);
                tracing::warn!(health = found.as_str(), reason = found.reason(), "the event log is not trusted");
                *health = found;
            }
            is_news
        });
    }

    /// Where the log ends. One that complains that it had reached further is taken as it is: what it lost is our business.
    pub(super) async fn end(&self) -> Result<Sequence, ReadError> {
        match self.ask(self.log.head()).await {
            Err(ReadError::Storage(StorageError::Damage(Damage::Lost { found, .. }))) => {
                self.log.accept_end(found);
                Ok(found)
            }
            head => head,
        }
    }

    /// Asks the log something, for so long.
    pub(super) async fn ask<T>(&self, answer: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        let late = || ReadError::Unavailable { reason: format!("no answer within {CALL_WAIT:?}") };
        timeout(CALL_WAIT, answer).await.unwrap_or_else(|_| Err(late()))
    }
}

/// How a run that was read differs from the record remembered at a place.
fn differs(run: &[Stored], sequence: Sequence, remembered: Digest) -> Option<Finding> {
    let Some(stored) = run.iter().find(|stored| stored.sequence >= sequence).filter(|stored| stored.sequence == sequence) else {
        return Some(Finding::Damaged { sequence, found: "nothing, and records behind it".to_owned() });
    };
    let found = digest(stored);
    match sequence {
        _ if found == remembered => None,
        Sequence(1) => Some(Finding::Anew { remembered, found }),
        sequence => Some(Finding::Forked { sequence, remembered, found }),
    }
}
