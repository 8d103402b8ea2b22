//! Records on their way to a reader: compared with what is remembered, remembered where nothing is.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use schemas::Sequence;

use super::index::{Noted, Print, digest};
use super::store::Row;
use super::writer::Remember;
use super::{Health, Shared};
use crate::contract::{Batches, ReadError, Stored};
use crate::storage::{Damage, StorageError};

/// A reader under way.
struct Follower {
    shared: Arc<Shared>,
    runs: Batches,
    next: Sequence,
}

impl Follower {
    async fn next_run(&mut self) -> Result<Option<Vec<Stored>>, ReadError> {
        loop {
            match self.runs.next().await {
                None => return Ok(None),
                Some(Ok(run)) => {
                    let run = self.shared.pass_trusted(run).await?;
                    self.next = run.last().map_or(self.next, |last| last.sequence.next());
                    return Ok(Some(run));
                }
                Some(Err(ReadError::Storage(StorageError::Damage(damage)))) => {
                    tracing::warn!(next = %self.next, %damage, "a reader of the event log waits until it was compared");
                    self.shared.suspect();
                    self.shared.trusted().await?;
                    self.runs = self.shared.log.read(self.next).await?;
                }
                Some(Err(error)) => return Err(error),
            }
        }
    }
}

impl Shared {
    /// Reads on for ever. A run is held back while the log is not trusted. The stream ends where the log is refused, and with
    /// [`Damage::Forked`] at a record that contradicts what is remembered; it goes on after records that were lost and put back.
    pub(super) async fn read(shared: Arc<Self>, from: Sequence) -> Result<Batches, ReadError> {
        let runs = shared.log.read(from).await?;
        let follower = Follower { shared, runs, next: from.max(Sequence(1)) };
        Ok(stream::try_unfold(follower, async |mut follower| Ok(follower.next_run().await?.map(|run| (run, follower)))).boxed())
    }

    async fn pass_trusted(&self, run: Vec<Stored>) -> Result<Vec<Stored>, ReadError> {
        loop {
            self.trusted().await?;
            self.pass(&run).await?;
            // Doubts that came up meanwhile may be about this very run.
            if self.is_trusted() {
                return Ok(run);
            }
        }
    }

    /// Waits until the log is trusted; an error if it is refused.
    async fn trusted(&self) -> Result<(), ReadError> {
        match self.settled().await {
            Health::Trusted => Ok(()),
            refused => Err(ReadError::Unavailable { reason: refused.reason() }),
        }
    }

    /// The end of the log, if that is not before what is remembered.
    pub(super) async fn head(&self) -> Result<Sequence, ReadError> {
        // Whoever is level with a log that is another one than it was must not count as fresh.
        if let refused @ Health::Refused { .. } = &*self.health.borrow() {
            return Err(ReadError::Unavailable { reason: refused.reason() });
        }
        // Taken before the question, so that an answer below it contradicts it.
        let last = self.index.lock().last();
        match self.log.head().await {
            Ok(head) if head >= last => Ok(head),
            Ok(_) | Err(ReadError::Storage(StorageError::Damage(_))) => {
                self.suspect();
                Err(ReadError::Unavailable { reason: self.health.borrow().reason() })
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the log is trusted or refused.
    pub(super) async fn settled(&self) -> Health {
        let mut health = self.health.subscribe();
        let settled = health.wait_for(|health| matches!(health, Health::Trusted | Health::Refused { .. })).await;
        settled.expect("we hold the sender").clone()
    }

    /// Compares a dense run with what is remembered, and remembers what is not, if the log is trusted.
    pub(super) async fn pass(&self, run: &[Stored]) -> Result<(), ReadError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
        let (from, to) = (first.sequence, last.sequence);
        if !self.index.lock().concerns(from, to) {
            return Ok(());
        }
        if !self.is_trusted() {
            return self.compare_each(run);
        }
        let prints: Vec<Print> = run.iter().map(Print::of).collect();
        let mut remember = Remember::default();
        let contradicted = self.note_run(run, &prints, &mut remember);
        if !remember.rows.is_empty() || !remember.forget.is_empty() {
            // An error is the thread's end: the node is shutting down, and what passes by need not be remembered.
            let _ = self.writer.send(remember).await;
        }
        match contradicted {
            Some(sequence) => Err(self.contradicted(sequence)),
            None => Ok(()),
        }
    }

    /// Notes a run up to the first record that contradicts.
    fn note_run(&self, run: &[Stored], prints: &[Print], remember: &mut Remember) -> Option<Sequence> {
        let mut index = self.index.lock();
        for (stored, print) in run.iter().zip(prints) {
            match index.note(print, false, &mut remember.forget) {
                Noted::New => remember.rows.push(Row { stored: stored.clone(), is_own: false }),
                Noted::Known | Noted::Old => {}
                Noted::Contradicts => return Some(stored.sequence),
            }
        }
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            index.check(first.sequence, last.sequence);
        }
        None
    }

    /// Compares records with what is remembered, and remembers nothing.
    pub(super) fn compare_each(&self, records: &[Stored]) -> Result<(), ReadError> {
        for stored in records {
            let remembered = self.index.lock().get(stored.sequence);
            if remembered.is_some_and(|remembered| remembered != digest(stored)) {
                return Err(self.contradicted(stored.sequence));
            }
        }
        Ok(())
    }

    fn contradicted(&self, sequence: Sequence) -> ReadError {
        tracing::error!(%sequence, "the event log holds another record than the one that is remembered");
        self.suspect();
        ReadError::Storage(StorageError::Damage(Damage::Forked { sequence }))
    }
}

impl Health {
    /// Why nothing is passed on.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Trusted | Self::Unknown => "it is being compared with what is remembered of it".to_owned(),
            Self::Healing => "it lost acknowledged records, which are being put back".to_owned(),
            Self::Refused { reason, evidence } => format!("it is refused: {reason}; the evidence is in {}", evidence.display()),
        }
    }
}
