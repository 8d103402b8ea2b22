//! The stream of usage batches on one machine: numbered per node and incarnation, durable, and apart from the event log.
//!
//! A batch is settled money, so it is stored once and only once: the number says which, and a number that comes again must bring the same
//! bytes. It is kept like the event log, in a directory of its own with the same care about syncing and damage.

mod check;
mod store;
mod writer;

use std::path::Path;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use schemas::Sequence;
use schemas::usage::UsageBatch;
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use crate::contract::{RUN_RECORDS_MAX, ReadError};
use crate::directory::{Directory, Kind, OpenError};
use crate::reader::Reader;
use crate::storage::StorageError;
use crate::tail::tail;
use crate::worker::{RunLimits, Worker};
use store::Store;
use writer::{Append, Writer};

/// The most bytes of one encoded batch, which is what a message of any backend can carry.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

const KIND: Kind = Kind { name: "embedded usage log", format: 1 };
/// Batches are written one by one.
const RUN_LIMITS: RunLimits = RunLimits { requests: 1, bytes: BATCH_BYTES_MAX };

/// A batch as the log keeps it. Its sequence counts the batches of all nodes, from 1, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    pub sequence: Sequence,
    pub batch: UsageBatch,
}

/// What became of the append of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a batch that is not stored must be appended again"]
pub enum UsageAppended {
    /// The batch is on stable storage, at this sequence.
    Appended(Sequence),
    /// It was there already, with the same bytes.
    AlreadyAppended(Sequence),
    /// The write failed in a way that leaves it open. The log takes no more until it is opened again; appending the same batch then tells.
    Unknown,
}

/// Why a batch is refused. Nothing of it is in the log through this attempt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UsageAppendError {
    #[error("usage batch {found} does not follow: the next of this incarnation is {expected}")]
    Gap { expected: u64, found: u64 },
    #[error("usage batch {number} is in the log with other content")]
    OtherContent { number: u64 },
    #[error("a usage batch has at most {BATCH_BYTES_MAX} bytes, this one has {bytes}")]
    TooLarge { bytes: usize },
    #[error("the usage log has failed and takes no more batches")]
    Failed(#[source] StorageError),
    #[error("the usage log is closed")]
    Closed,
}

/// Runs of batches, each not empty, ascending and dense, each following on the one before.
pub type UsageBatches = BoxStream<'static, Result<Vec<StoredBatch>, ReadError>>;

/// The usage stream in a directory of this machine.
pub struct UsageLog {
    writer: Worker<Append>,
    reader: Reader<Store>,
}

impl UsageLog {
    /// Opens the log in a directory, which is made if it is not there. Blocks while it reads and checks every batch once.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let directory = Directory::open(path, KIND)?;
        let (store, head) = Store::open(directory)?;
        let store = Arc::new(store);
        let (publish, head) = watch::channel(head);
        let reader = Reader::new(Arc::clone(&store), head);
        let mut writer = Writer::new(store, publish);
        let writer = Worker::spawn("usage-log-writer", RUN_LIMITS, move |appends| writer.commit(appends))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { writer, reader })
    }

    /// Appends the next batch of an incarnation, the first of which has number 1. Durable before the answer; exact repetition is harmless.
    pub async fn append(&self, batch: &UsageBatch) -> Result<UsageAppended, UsageAppendError> {
        let bytes = batch.encode();
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(UsageAppendError::TooLarge { bytes: bytes.len() });
        }
        let (answer, outcome) = oneshot::channel();
        let append = Append { origin: (batch.node, batch.incarnation), number: batch.number, bytes, answer };
        self.writer.send(append).await.map_err(|_| UsageAppendError::Closed)?;
        // No answer: the thread has died with the batch in its hands.
        outcome.await.unwrap_or(Ok(UsageAppended::Unknown))
    }

    /// Reads from a sequence on: first what is there, then what comes, for ever. The stream ends with its first error.
    pub fn read(&self, from: Sequence) -> UsageBatches {
        let reader = self.reader.clone();
        tail(self.reader.watch(), from, move |from| {
            let reader = reader.clone();
            async move { reader.run(move |store, head| store.range(from, head, RUN_RECORDS_MAX)).await }
        })
    }

    /// Reads what is there now from a sequence on, at most one run. Empty only if there is nothing.
    pub async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<StoredBatch>, ReadError> {
        self.reader.run(move |store, head| store.range(from, head, limit)).await
    }

    /// The last sequence, 0 if the log is empty.
    pub fn head(&self) -> Sequence {
        self.reader.head()
    }

    /// Tells of every sequence that comes.
    pub fn watch(&self) -> watch::Receiver<Sequence> {
        self.reader.watch()
    }

    /// Finishes what is queued and ends the writer thread, see [`EmbeddedLog::close`](crate::EmbeddedLog::close).
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
