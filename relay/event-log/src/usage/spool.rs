//! The spool: batches of this machine on their way into the cluster's usage stream.
//!
//! It is an embedded usage log whose shipped prefix is dropped. A batch that the spool has taken is on stable storage here, which is the answer
//! to its append; it is dropped when the stream has acknowledged it, and together with that the spool notes where in the stream it stands.
//! The dropping is not synced: a machine that crashes may find the last shipped batches again, and finds them in the stream too.
//!
//! Invariant: the first batch of an incarnation that waits follows on the one that was noted last, and its place is the first on the
//! incarnation's subject after the one noted.

mod store;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use schemas::Timestamp;
use schemas::usage::UsageBatch;
use tokio::sync::{oneshot, watch};

use super::embedded::RUN_LIMITS;
use super::{UsageAppendError, UsageAppended, encode};
use crate::contract::ReadError;
use crate::directory::{Directory, Kind, OpenError};
use crate::reader::Reader;
use crate::worker::Worker;
use store::SpoolStore;
use writer::{Append, Request, Settle, Writer};

pub(super) use store::Waiting;
pub(super) use writer::Settlement;

/// The most bytes of batches that wait in the spool; with more, appends are refused. Hours without NATS for a busy node.
pub const SPOOL_BYTES_MAX: u64 = 1024 * 1024 * 1024;

const KIND: Kind = Kind { name: "usage spool", format: 1 };

/// Plain numbers about a spool at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Batches that wait for the stream's acknowledgement, and their bytes.
    pub batches: u64,
    pub bytes: u64,
    /// When the oldest request that waits was settled; none if nothing waits.
    pub oldest: Option<Timestamp>,
    /// Batches that were found in the stream or brought there since the start.
    pub shipped: u64,
    /// When the last of them was.
    pub last_shipped: Option<Instant>,
    /// Alarming: batches that found another batch in their place of the stream since the start. They are kept aside, not counted.
    pub refused: u64,
    /// Alarming: times that the stream was found to have lost acknowledged batches since the start.
    pub losses: u64,
}

/// The spool in a directory of this machine.
pub(super) struct Spool {
    writer: Worker<Request>,
    reader: Reader<SpoolStore>,
    status: Arc<watch::Sender<SpoolStatus>>,
}

impl Spool {
    /// Opens the spool, which is made if it is not there. Blocks while it reads and checks every batch once.
    pub(super) fn open(path: &Path, bytes_max: u64) -> Result<Self, OpenError> {
        let directory = Directory::open(path, KIND)?;
        let (store, held) = SpoolStore::open(directory)?;
        let store = Arc::new(store);
        let (publish, head) = watch::channel(held.head);
        let reader = Reader::new(Arc::clone(&store), head);
        let status = SpoolStatus { batches: held.batches, bytes: held.bytes, ..SpoolStatus::default() };
        let status = Arc::new(watch::Sender::new(status));
        let mut writer = Writer::new(store, publish, Arc::clone(&status), bytes_max);
        let writer = Worker::spawn("usage-spool-writer", RUN_LIMITS, move |requests| writer.commit(requests))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { writer, reader, status })
    }

    pub(super) async fn append(&self, batch: &UsageBatch) -> Result<UsageAppended, UsageAppendError> {
        let bytes = encode(batch)?;
        let (answer, outcome) = oneshot::channel();
        let append = Append { origin: (batch.node, batch.incarnation), number: batch.number, bytes, answer };
        self.writer.send(Request::Append(append)).await.map_err(|_| UsageAppendError::Closed)?;
        // No answer: the thread has died with the batch in its hands.
        outcome.await.unwrap_or(Ok(UsageAppended::Unknown))
    }

    /// The oldest batch that waits, as soon as there is one.
    pub(super) async fn oldest(&self) -> Result<Waiting, ReadError> {
        let mut head = self.reader.watch();
        loop {
            head.borrow_and_update();
            if let Some(waiting) = self.reader.run(|store, _| store.oldest()).await? {
                let oldest = waiting.batch.records.first().map(|record| record.settled_at);
                self.status.send_modify(|status| status.oldest = oldest);
                return Ok(waiting);
            }
            // The sender is gone when the spool was closed: nothing will ever come.
            head.changed().await.map_err(|_| ReadError::Closed)?;
        }
    }

    /// Drops the oldest batch that waits, as what became of it says.
    pub(super) async fn settle(&self, waiting: Waiting, settlement: Settlement) -> Result<(), UsageAppendError> {
        let (answer, outcome) = oneshot::channel();
        let settle = Settle { waiting, settlement, answer };
        self.writer.send(Request::Settle(settle)).await.map_err(|_| UsageAppendError::Closed)?;
        outcome.await.unwrap_or(Err(UsageAppendError::Closed))
    }

    pub(super) fn status(&self) -> &watch::Sender<SpoolStatus> {
        &self.status
    }

    pub(super) async fn close(&self) {
        self.writer.close().await;
    }
}
