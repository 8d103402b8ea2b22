//! What the writer thread does with a batch. One write each: an incarnation has one batch in flight, so there is nothing to gather.

use std::sync::Arc;

use rocksdb::WriteBatch;
use schemas::Sequence;
use tokio::sync::{oneshot, watch};

use super::store::{Origin, Store};
use super::{UsageAppendError, UsageAppended};
use crate::storage::StorageError;
use crate::worker::Request;

type Answer = Result<UsageAppended, UsageAppendError>;

/// One batch that waits for its answer.
pub(super) struct Append {
    pub(super) origin: Origin,
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl Request for Append {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

pub(super) struct Writer {
    store: Arc<Store>,
    /// The last sequence on stable storage, as readers see it.
    head: watch::Sender<Sequence>,
    /// Set by the first fault of the storage, for good.
    failed: Option<StorageError>,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>, head: watch::Sender<Sequence>) -> Self {
        Self { store, head, failed: None }
    }

    pub(super) fn commit(&mut self, appends: Vec<Append>) {
        for append in appends {
            let answer = self.append(&append);
            // Whoever asked may have left; the outcome stands all the same.
            let _ = append.answer.send(answer);
        }
    }

    fn append(&mut self, append: &Append) -> Answer {
        if let Some(error) = &self.failed {
            return Err(UsageAppendError::Failed(error.clone()));
        }
        match self.decide(append) {
            Ok(None) => Ok(self.write(append)),
            Ok(Some(answer)) => answer,
            Err(error) => {
                self.fail(error.clone());
                Err(UsageAppendError::Failed(error))
            }
        }
    }

    /// The answer to a batch that is not to be written; none to the one that comes next.
    fn decide(&self, append: &Append) -> Result<Option<Answer>, StorageError> {
        let Append { origin, number, bytes, .. } = append;
        let expected = self.store.last_number(origin)? + 1;
        if *number == expected {
            return Ok(None);
        }
        Ok(Some(match self.store.find(origin, *number)? {
            Some(stored) if stored == *bytes => Ok(UsageAppended::AlreadyAppended),
            Some(_) => Err(UsageAppendError::OtherContent { number: *number }),
            None => Err(UsageAppendError::Gap { expected, found: *number }),
        }))
    }

    fn write(&mut self, append: &Append) -> UsageAppended {
        let sequence = self.head.borrow().next();
        let mut rows = WriteBatch::default();
        self.store.put(&mut rows, sequence, &append.origin, append.number, &append.bytes);
        if let Err(error) = self.store.write(rows, sequence) {
            self.fail(error);
            return UsageAppended::Unknown;
        }
        self.head.send_replace(sequence);
        UsageAppended::Appended
    }

    fn fail(&mut self, error: StorageError) {
        tracing::error!(%error, "the usage log has failed and takes no more batches until it is opened again");
        self.failed = Some(error);
    }
}
