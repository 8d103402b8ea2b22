//! What the writer thread does with a batch that comes, and with those that may go.

use std::sync::Arc;

use schemas::Sequence;
use tokio::sync::{oneshot, watch};

use super::ring::{Dropped, Ring};
use super::{DecisionAppendError, DecisionsHeld};
use crate::storage::StorageError;
use crate::worker;

pub(super) type Answer = oneshot::Sender<Result<(), DecisionAppendError>>;

pub(super) enum Request {
    Append {
        bytes: Vec<u8>,
        answer: Answer,
    },
    /// Everything up to a sequence is in the stream and may go.
    Trim {
        to: Sequence,
        answer: Answer,
    },
}

impl worker::Request for Request {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { bytes, .. } => bytes.len(),
            Self::Trim { .. } => 0,
        }
    }
}

pub(super) struct Writer {
    ring: Arc<Ring>,
    /// The last sequence on stable storage, as readers see it.
    head: watch::Sender<Sequence>,
    held: Arc<watch::Sender<DecisionsHeld>>,
    bytes_max: u64,
    /// Set by the first fault of the storage, for good.
    failed: Option<StorageError>,
}

impl Writer {
    pub(super) fn new(ring: Arc<Ring>, head: watch::Sender<Sequence>, held: Arc<watch::Sender<DecisionsHeld>>, bytes_max: u64) -> Self {
        Self { ring, head, held, bytes_max, failed: None }
    }

    pub(super) fn commit(&mut self, requests: Vec<Request>) {
        for request in requests {
            // Whoever asked may have left; the outcome stands all the same.
            match request {
                Request::Append { bytes, answer } => drop(answer.send(self.append(&bytes))),
                Request::Trim { to, answer } => drop(answer.send(self.trim(to))),
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DecisionAppendError> {
        self.check()?;
        let sequence = self.head.borrow().next();
        let size = bytes.len() as u64;
        let excess = (self.held.borrow().bytes + size).saturating_sub(self.bytes_max);
        let dropped = self.ring.add(sequence, bytes, excess).map_err(|error| self.fail(error))?;
        self.held.send_modify(|held| {
            held.batches += 1;
            held.bytes += size;
            held.dropped += dropped.records;
        });
        self.forget(dropped);
        self.head.send_replace(sequence);
        Ok(())
    }

    fn trim(&mut self, to: Sequence) -> Result<(), DecisionAppendError> {
        self.check()?;
        let dropped = self.ring.trim(to).map_err(|error| self.fail(error))?;
        self.forget(dropped);
        Ok(())
    }

    fn forget(&self, dropped: Dropped) {
        self.held.send_modify(|held| {
            held.batches -= dropped.batches;
            held.bytes -= dropped.bytes;
        });
    }

    fn check(&self) -> Result<(), DecisionAppendError> {
        self.failed.clone().map_or(Ok(()), |error| Err(DecisionAppendError::Failed(error)))
    }

    fn fail(&mut self, error: StorageError) -> DecisionAppendError {
        tracing::error!(%error, "the decision log has failed and takes no more batches until it is opened again");
        self.failed = Some(error.clone());
        DecisionAppendError::Failed(error)
    }
}
