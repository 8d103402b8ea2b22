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

impl Shared {
    /// Reads on for ever. A run is held back while the log is not trusted; the stream ends where it is refused, and with
    /// [`Damage::Forked`] at a record that contradicts what is remembered.
    pub(super) async fn read(shared: Arc<Self>, from: Sequence) -> Result<Batches, ReadError> {
        let runs = shared.log.read(from).await?;
        // None after an error: the contract ends a stream with its first.
        let passed = stream::unfold(Some((shared, runs)), |state| async move {
            let (shared, mut runs) = state?;
            let passed = match runs.next().await? {
                Ok(run) => shared.pass_trusted(run).await,
                Err(error) => Err(error),
            };
            let next = passed.is_ok().then_some((shared, runs));
            Some((passed, next))
        });
        Ok(passed.boxed())
    }

    async fn pass_trusted(&self, run: Vec<Stored>) -> Result<Vec<Stored>, ReadError> {
        loop {
            let health = self.settled().await;
            if health != Health::Trusted {
                return Err(ReadError::Unavailable { reason: health.reason() });
            }
            self.pass(&run).await?;
            // Doubts that came up meanwhile may be about this very run.
            if self.is_trusted() {
                return Ok(run);
            }
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
