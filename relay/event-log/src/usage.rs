//! The stream of usage batches: numbered per node and incarnation, durable, and apart from the event log because of its volume.
//!
//! A batch is settled money, so it is stored once and only once: the number says which, and a number that comes again must bring the same
//! bytes. [`UsageStream`] is the contract. [`UsageLog`] keeps it in a directory of this machine, with the event log's care about syncing and
//! damage; [`JetStreamUsage`] keeps it on NATS, behind a spool on this machine that is the answer to every append.

mod check;
mod embedded;
mod jetstream;
mod spool;
mod store;
mod writer;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use schemas::Sequence;
use schemas::usage::UsageBatch;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use crate::contract::ReadError;
use crate::storage::StorageError;

pub use embedded::UsageLog;
pub use jetstream::{JetStreamUsage, USAGE_STREAM};
pub use spool::{SPOOL_BYTES_MAX, SpoolStatus};

/// The most bytes of one encoded batch: what a message of any backend can carry, its headers beside it.
pub const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 4 * 1024;
/// The most bytes of a message: what a nats-server takes unless it is told otherwise.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What stands at a place of the stream. The sequence counts the batches of all nodes, from 1, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    pub sequence: Sequence,
    /// The batch, or why there is none to be read.
    pub batch: Result<UsageBatch, UsageVoid>,
}

/// Why a place of the stream holds no batch.
///
/// It is carried in the batch's place, neither left out nor an end of the reading: whoever counts has to write down that something stood
/// here that is not counted, and to go on with what follows. If it was a batch, its number is missing too, which is told apart from this.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum UsageVoid {
    /// A foreign message, damage, or a batch in a format of a later release. A release that brings a format folds the stream again.
    #[error("the message on {subject} is no usage batch of that subject")]
    NotABatch { subject: String },
    #[error("what stood here is gone from the stream")]
    Missing,
}

/// What became of the append of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a batch that is not stored must be appended again"]
pub enum UsageAppended {
    /// The batch is on stable storage.
    Appended,
    /// It was there already, with the same bytes.
    AlreadyAppended,
    /// The write failed in a way that leaves it open. The stream takes no more until it is opened again; appending the same batch then tells.
    Unknown,
}

/// Why a batch is refused. Nothing of it is in the stream through this attempt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UsageAppendError {
    #[error("usage batch {found} does not follow: the next of this incarnation is {expected}")]
    Gap { expected: u64, found: u64 },
    #[error("usage batch {number} is in the stream with other content")]
    OtherContent { number: u64 },
    /// Too old to be compared: it and its successors have left this machine.
    #[error("usage batch {number} was stored long ago and is not at hand any more")]
    Passed { number: u64 },
    #[error("a usage batch has at most {BATCH_BYTES_MAX} bytes, this one has {bytes}")]
    TooLarge { bytes: usize },
    /// Passes when batches have been shipped: append the same batch again.
    #[error("the usage spool is full: it holds {bytes} bytes that could not be shipped yet")]
    SpoolFull { bytes: u64 },
    #[error("the usage stream has failed and takes no more batches")]
    Failed(#[source] StorageError),
    #[error("the usage stream is closed")]
    Closed,
}

/// Runs of places, each not empty, ascending and dense, each following on the one before.
pub type UsageBatches = BoxStream<'static, Result<Vec<StoredBatch>, ReadError>>;

/// The contract of a usage stream.
///
/// - *Durability.* A batch that was answered for is on stable storage. It is in what readers read at once, or later, when it was shipped: what
///   this machine answered for survives its restart either way, and comes to every reader once.
/// - *Numbers.* The batches of an incarnation are appended one at a time, numbered 1, 2, 3, ...; a number that does not follow is refused.
///   An incarnation has one writer.
/// - *Retries.* The last batch may be appended again with the same bytes, which is harmless, and is refused with others. An older one is
///   answered alike as long as it can be compared, and refused after.
/// - *Order.* Readers see all batches in one order, the same for all, and those of an incarnation in the order of their numbers.
/// - *Concurrency.* Everything may be called from any number of tasks at once.
#[async_trait]
pub trait UsageStream: Send + Sync {
    /// Appends the next batch of an incarnation, the first of which has number 1. Durable before the answer.
    async fn append(&self, batch: &UsageBatch) -> Result<UsageAppended, UsageAppendError>;

    /// Reads from a sequence on: first what is there, then what comes, for ever. The stream waits out what may pass, and ends with its
    /// first error.
    fn read(&self, from: Sequence) -> UsageBatches;

    /// Reads what is there now from a sequence on: at most `limit` places and at most one run. Empty only if there is nothing.
    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<StoredBatch>, ReadError>;

    /// The last sequence, 0 if the stream is empty.
    async fn head(&self) -> Result<Sequence, ReadError>;

    /// The last sequence that this handle has heard of. It tells of every one that comes, where the backend does; 0 before it was reached.
    fn watch(&self) -> watch::Receiver<Sequence>;

    /// Finishes what is queued and refuses further batches. Readers that wait for more are told.
    async fn close(&self);
}

/// The bytes of a batch, if a message can carry them.
fn encode(batch: &UsageBatch) -> Result<Vec<u8>, UsageAppendError> {
    let bytes = batch.encode();
    if bytes.len() > BATCH_BYTES_MAX { Err(UsageAppendError::TooLarge { bytes: bytes.len() }) } else { Ok(bytes) }
}
