//! The log on one machine: a RocksDB of its own, one thread that writes, and a full check at the start.
//!
//! Appends from any number of tasks meet in one queue. The writer thread takes what is there, decides each append against the log and
//! against those before it in the same run, writes the run as one batch, syncs it, and only then answers: one sync for all who wait.

mod check;
mod store;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use schemas::Sequence;
use tokio::sync::{oneshot, watch};

use crate::contract::{AppendError, Appended, Batches, EventLog, Expect, RUN_RECORDS_MAX, ReadError, Stored, SyncMode, check_append};
use crate::directory::{Directory, Kind, OpenError};
use crate::reader::Reader;
use crate::tail::tail;
use crate::worker::{RunLimits, Worker};
use store::Store;
use writer::{Append, Writer};

const KIND: Kind = Kind { name: "embedded event log", format: 1 };
/// One synced batch at the most. The bytes keep the answer to the first of a run within a few milliseconds on a slow disk.
const RUN_LIMITS: RunLimits = RunLimits { requests: 1024, bytes: 4 * 1024 * 1024 };

/// An [`EventLog`] in a directory of this machine.
///
/// After a write that failed it takes no more records until it is opened again: what the disk holds is then read back, not guessed.
pub struct EmbeddedLog {
    writer: Worker<Append>,
    reader: Reader<Store>,
}

impl EmbeddedLog {
    /// Opens the log in a directory, which is made if it is not there. Blocks while it reads every record once, checking checksums,
    /// density, and that every index agrees; a log that is damaged, cut short, newer or open elsewhere is refused.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let directory = Directory::open(path, KIND)?;
        let (store, head) = Store::open(directory)?;
        let store = Arc::new(store);
        let (publish, head) = watch::channel(head);
        let reader = Reader::new(Arc::clone(&store), head);
        let mut writer = Writer::new(store, publish);
        let writer = Worker::spawn("event-log-writer", RUN_LIMITS, move |appends| writer.commit(appends))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { writer, reader })
    }

    /// Finishes what is queued and ends the writer thread; later appends are refused, and readers that wait for more are told. The directory
    /// is free when the log and every stream that reads from it are dropped.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        check_append(subject, &record)?;
        let (answer, outcome) = oneshot::channel();
        let append = Append { subject: subject.into(), expect, record, answer };
        self.writer.send(append).await.map_err(|_| AppendError::Closed)?;
        // No answer: the thread has died with the append in its hands.
        outcome.await.unwrap_or(Ok(Appended::Unknown))
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        let reader = self.reader.clone();
        Ok(tail(self.reader.watch(), from, move |from| {
            let reader = reader.clone();
            async move { reader.run(move |store, head| store.range(from, head, RUN_RECORDS_MAX)).await }
        }))
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.reader.run(move |store, head| store.range(from, head, limit)).await
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let subject = subject.to_owned();
        self.reader.run(move |store, head| store.on_subject(&subject, after, head, limit)).await
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        let subject = subject.to_owned();
        self.reader.run(move |store, _| store.last(&subject)).await
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        Ok(self.reader.head())
    }

    fn sync(&self) -> SyncMode {
        SyncMode::Embedded
    }
}
