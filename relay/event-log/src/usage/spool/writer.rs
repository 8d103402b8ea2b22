//! What the writer thread of the spool does with a batch that comes, and with one that may go.

use std::sync::Arc;
use std::time::Instant;

use rocksdb::WriteBatch;
use schemas::{Digest, Sequence};
use tokio::sync::{oneshot, watch};

use super::SpoolStatus;
use super::store::{SpoolStore, Waiting};
use crate::storage::StorageError;
use crate::usage::store::Origin;
use crate::usage::{UsageAppendError, UsageAppended};
use crate::worker;

type Answer = Result<UsageAppended, UsageAppendError>;

pub(super) enum Request {
    Append(Append),
    Settle(Settle),
}

/// One batch that waits for its answer.
pub(super) struct Append {
    pub(super) origin: Origin,
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// The oldest batch, and what became of it.
pub(super) struct Settle {
    pub(super) waiting: Waiting,
    pub(super) settlement: Settlement,
    pub(super) answer: oneshot::Sender<Result<(), UsageAppendError>>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::usage) enum Settlement {
    /// It is in the stream, at this sequence.
    Shipped(u64),
    /// At this sequence of the stream stands another one in its place.
    Refused(u64),
}

impl worker::Request for Request {
    fn bytes(&self) -> usize {
        match self {
            Self::Append(append) => append.bytes.len(),
            Self::Settle(_) => 0,
        }
    }
}

pub(super) struct Writer {
    store: Arc<SpoolStore>,
    /// The last sequence on stable storage.
    head: watch::Sender<Sequence>,
    status: Arc<watch::Sender<SpoolStatus>>,
    bytes_max: u64,
    /// Set by the first fault of the storage, for good.
    failed: Option<StorageError>,
}

impl Writer {
    pub(super) fn new(
        store: Arc<SpoolStore>,
        head: watch::Sender<Sequence>,
        status: Arc<watch::Sender<SpoolStatus>>,
        bytes_max: u64,
    ) -> Self {
        Self { store, head, status, bytes_max, failed: None }
    }

    pub(super) fn commit(&mut self, requests: Vec<Request>) {
        for request in requests {
            // Whoever asked may have left; the outcome stands all the same.
            match request {
                Request::Append(append) => {
                    let answer = self.append(&append);
                    let _ = append.answer.send(answer);
                }
                Request::Settle(settle) => {
                    let answer = self.settle(&settle.waiting, settle.settlement);
                    let _ = settle.answer.send(answer);
                }
            }
        }
    }

    fn append(&mut self, append: &Append) -> Answer {
        self.check()?;
        match self.decide(append) {
            Ok(None) => Ok(self.write(append)),
            Ok(Some(answer)) => answer,
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The answer to a batch that is not to be written; none to the one that comes next and has room.
    fn decide(&self, append: &Append) -> Result<Option<Answer>, StorageError> {
        let Append { origin, number, bytes, .. } = append;
        let (number, passed) = (*number, self.store.shipped(origin)?);
        let last = self.store.batches().last_number(origin)?.max(passed.map_or(0, |last| last.number));
        if number == last + 1 {
            let held = self.status.borrow().bytes;
            let is_full = held + bytes.len() as u64 > self.bytes_max;
            return Ok(is_full.then_some(Err(UsageAppendError::SpoolFull { bytes: held })));
        }
        let is_same = match (self.store.batches().find(origin, number)?, passed) {
            (Some(stored), _) => stored == *bytes,
            (None, Some(last)) if last.number == number => last.digest == Digest::blake3(bytes),
            (None, Some(last)) if (1..last.number).contains(&number) => return Ok(Some(Err(UsageAppendError::Passed { number }))),
            (None, _) => return Ok(Some(Err(UsageAppendError::Gap { expected: last + 1, found: number }))),
        };
        Ok(Some(if is_same { Ok(UsageAppended::AlreadyAppended) } else { Err(UsageAppendError::OtherContent { number }) }))
    }

    fn write(&mut self, append: &Append) -> UsageAppended {
        let sequence = self.head.borrow().next();
        let mut rows = WriteBatch::default();
        self.store.batches().put(&mut rows, sequence, &append.origin, append.number, &append.bytes);
        if let Err(error) = self.store.batches().write(rows, sequence) {
            self.fail(error);
            return UsageAppended::Unknown;
        }
        self.status.send_modify(|status| {
            status.batches += 1;
            status.bytes += append.bytes.len() as u64;
        });
        self.head.send_replace(sequence);
        UsageAppended::Appended
    }

    fn settle(&mut self, waiting: &Waiting, settlement: Settlement) -> Result<(), UsageAppendError> {
        self.check()?;
        let head = *self.head.borrow();
        let settled = match settlement {
            Settlement::Shipped(place) => self.store.drop_oldest(waiting, place),
            Settlement::Refused(place) => self.store.refuse_oldest(waiting, place, head),
        };
        settled.map_err(|error| self.fail(error))?;
        self.status.send_modify(|status| {
            status.batches -= 1;
            status.bytes -= waiting.bytes.len() as u64;
            if status.batches == 0 {
                status.oldest = None;
            }
            match settlement {
                Settlement::Shipped(_) => {
                    status.shipped += 1;
                    status.last_shipped = Some(Instant::now());
                }
                Settlement::Refused(_) => status.refused += 1,
            }
        });
        Ok(())
    }

    fn check(&self) -> Result<(), UsageAppendError> {
        self.failed.clone().map_or(Ok(()), |error| Err(UsageAppendError::Failed(error)))
    }

    fn fail(&mut self, error: StorageError) -> UsageAppendError {
        tracing::error!(%error, "the usage spool has failed and takes no more batches until it is opened again");
        self.failed = Some(error.clone());
        UsageAppendError::Failed(error)
    }
}
