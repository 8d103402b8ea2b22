//! The stream of decision records: what policies were asked and what they answered, bounded, and apart from the event log.
//!
//! A record is evidence, not money: it may be lost, and every loss is counted. What the bound does not hold is dropped from the old end, so
//! that sequences begin anywhere and a reader passes over what is gone. [`DecisionStream`] is the contract. [`DecisionLog`] keeps it in a
//! directory of this machine; [`JetStreamDecisions`] keeps it on NATS, behind a spool on this machine that is the answer to every append.
//!
//! The spool lies on disk and not in memory, because denials and faults have to survive a restart while NATS is away. It is a decision log
//! itself, so that there is one store; past half of its bound it takes no more samples, which leaves the other half to denials and faults.

mod embedded;
mod jetstream;
mod ring;
mod writer;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use schemas::Sequence;
use schemas::decision::DecisionBatch;
use thiserror::Error;
use tokio::sync::watch;

use crate::contract::ReadError;
use crate::storage::StorageError;

pub use embedded::DecisionLog;
pub use jetstream::{DECISIONS_STREAM, JetStreamDecisions};

/// The most bytes of one encoded batch: what a message of any backend can carry, its headers beside it.
pub const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 4 * 1024;
/// The most bytes of a message: what a nats-server takes unless it is told otherwise.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The most bytes of batches that a stream keeps: about half a million decisions.
pub const STREAM_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The most bytes of batches that wait in a spool: an hour without NATS at some 20 denials a second.
pub const SPOOL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What stands at a place of the stream. The sequence counts the batches of all nodes; what is gone leaves a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDecisions {
    pub sequence: Sequence,
    /// None for what no release up to this one writes there.
    pub batch: Option<DecisionBatch>,
}

/// Plain numbers about what lies on this machine: the stream, or the spool before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecisionsHeld {
    pub batches: u64,
    /// Of the encoded batches.
    pub bytes: u64,
    /// Records that were dropped from the old end since the start. In a spool they never came into the stream.
    pub dropped: u64,
    /// Samples that a spool did not take since the start, because it was half full.
    pub shed: u64,
}

/// Why a batch is not in the stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecisionAppendError {
    #[error("a batch of decisions has at most {BATCH_BYTES_MAX} bytes, this one has {bytes}")]
    TooLarge { bytes: usize },
    #[error("the decision stream has failed and takes no more batches")]
    Failed(#[source] StorageError),
    #[error("the decision stream is closed")]
    Closed,
}

/// Runs of places, each not empty, ascending, each after the one before.
pub type DecisionBatches = BoxStream<'static, Result<Vec<StoredDecisions>, ReadError>>;

/// The contract of a decision stream.
///
/// - *Durability.* A batch that was answered for survives a restart of this machine, as long as the bound holds it.
/// - *Repeats.* A batch may come to readers more than once. Node, incarnation and number tell that it is the same.
/// - *Order.* Readers see all batches in one order, the same for all, and those of an incarnation in the order of their numbers.
/// - *Concurrency.* Everything may be called from any number of tasks at once.
#[async_trait]
pub trait DecisionStream: Send + Sync {
    /// Appends a batch. On stable storage before the answer.
    async fn append(&self, batch: &DecisionBatch) -> Result<(), DecisionAppendError>;

    /// Reads from a sequence on, or from the first after it: what is there, then what comes, for ever. The stream waits out what may pass,
    /// and ends with its first error.
    fn read(&self, from: Sequence) -> DecisionBatches;

    /// The last sequence, 0 if nothing was ever appended.
    async fn head(&self) -> Result<Sequence, ReadError>;

    /// What lies on this machine.
    fn held(&self) -> DecisionsHeld;

    /// Finishes what is queued and refuses further batches. Readers that wait for more are told.
    async fn close(&self);
}

/// The bytes of a batch, if a message can carry them.
fn encode(batch: &DecisionBatch) -> Result<Vec<u8>, DecisionAppendError> {
    let bytes = batch.encode();
    if bytes.len() > BATCH_BYTES_MAX { Err(DecisionAppendError::TooLarge { bytes: bytes.len() }) } else { Ok(bytes) }
}

/// What tells that the stream has begun to hold something new.
type Head = watch::Receiver<Sequence>;
