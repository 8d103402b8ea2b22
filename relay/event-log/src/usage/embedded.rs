//! The usage stream on one machine: a RocksDB of its own, one thread that writes, and a full check at the start.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use schemas::Sequence;
use schemas::usage::UsageBatch;
use tokio::sync::{oneshot, watch};

use super::store::Store;
use super::writer::{Append, Writer};
use super::{BATCH_BYTES_MAX, StoredBatch, UsageAppendError, UsageAppended, UsageBatches, UsageStream, encode};
use crate::contract::{RUN_RECORDS_MAX, ReadError};
use crate::directory::{Directory, Kind, OpenError};
use crate::reader::Reader;
use crate::tail::tail;
use crate::worker::{RunLimits, Worker};

const KIND: Kind = Kind { name: "embedded usage log", format: 1 };
/// Batches are written one by one.
pub(super) const RUN_LIMITS: RunLimits = RunLimits { requests: 1, bytes: BATCH_BYTES_MAX };

/// A [`UsageStream`] in a directory of this machine. After a write that failed it takes no more batches until it is opened again.
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
}

#[async_trait]
impl UsageStream for UsageLog {
    async fn append(&self, batch: &UsageBatch) -> Result<UsageAppended, UsageAppendError> {
        let bytes = encode(batch)?;
        let (answer, outcome) = oneshot::channel();
        let append = Append { origin: (batch.node, batch.incarnation), number: batch.number, bytes, answer };
        self.writer.send(append).await.map_err(|_| UsageAppendError::Closed)?;
        // No answer: the thread has died with the batch in its hands.
        outcome.await.unwrap_or(Ok(UsageAppended::Unknown))
    }

    fn read(&self, from: Sequence) -> UsageBatches {
        let reader = self.reader.clone();
        tail(self.reader.watch(), from, move |from| {
            let reader = reader.clone();
            async move { reader.run(move |store, head| store.range(from, head, RUN_RECORDS_MAX)).await }
        })
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<StoredBatch>, ReadError> {
        self.reader.run(move |store, head| store.range(from, head, limit)).await
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        Ok(self.reader.head())
    }

    fn watch(&self) -> watch::Receiver<Sequence> {
        self.reader.watch()
    }

    /// Also ends the writer thread, see [`EmbeddedLog::close`](crate::EmbeddedLog::close).
    async fn close(&self) {
        self.writer.close().await;
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
