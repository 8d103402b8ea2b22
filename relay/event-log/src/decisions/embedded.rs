//! The decision stream on one machine: a RocksDB of its own, one thread that writes, and a bound in bytes.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream;
use schemas::Sequence;
use schemas::decision::DecisionBatch;
use tokio::sync::{oneshot, watch};

use super::ring::Ring;
use super::writer::{Request, Writer};
use super::{BATCH_BYTES_MAX, DecisionAppendError, DecisionBatches, DecisionStream, DecisionsHeld, Head, STREAM_BYTES_MAX, encode};
use crate::contract::ReadError;
use crate::directory::{Directory, Kind, OpenError};
use crate::reader::Reader;
use crate::worker::{RunLimits, Worker};

const KIND: Kind = Kind { name: "decision log", format: 1 };
/// Batches are written one by one: whoever gathers records has done so already.
const RUN_LIMITS: RunLimits = RunLimits { requests: 1, bytes: BATCH_BYTES_MAX };

/// A [`DecisionStream`] in a directory of this machine. After a write that failed it takes no more batches until it is opened again.
pub struct DecisionLog {
    writer: Worker<Request>,
    reader: Reader<Ring>,
    held: Arc<watch::Sender<DecisionsHeld>>,
}

impl DecisionLog {
    /// Opens the log in a directory, which is made if it is not there. Blocks while it reads every batch once.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_bounded(path, STREAM_BYTES_MAX)
    }

    /// As [`DecisionLog::open`], with another bound on the bytes of batches.
    pub fn open_bounded(path: &Path, bytes_max: u64) -> Result<Self, OpenError> {
        let (ring, found) = Ring::open(Directory::open(path, KIND)?)?;
        let ring = Arc::new(ring);
        let (publish, head) = watch::channel(found.head);
        let held = DecisionsHeld { batches: found.batches, bytes: found.bytes, ..DecisionsHeld::default() };
        let held = Arc::new(watch::Sender::new(held));
        let reader = Reader::new(Arc::clone(&ring), head);
        let mut writer = Writer::new(ring, publish, Arc::clone(&held), bytes_max);
        let writer = Worker::spawn("decision-log", RUN_LIMITS, move |requests| writer.commit(requests))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { writer, reader, held })
    }

    async fn ask(&self, request: impl FnOnce(super::writer::Answer) -> Request) -> Result<(), DecisionAppendError> {
        let (answer, outcome) = oneshot::channel();
        self.writer.send(request(answer)).await.map_err(|_| DecisionAppendError::Closed)?;
        // No answer: the thread has died, and its log with it.
        outcome.await.unwrap_or(Err(DecisionAppendError::Closed))
    }
}

/// What a spool asks of its log beside the contract.
impl DecisionLog {
    /// The oldest batch, as soon as there is one.
    pub(super) async fn oldest(&self) -> Result<(Sequence, Vec<u8>), ReadError> {
        let mut head: Head = self.reader.watch();
        loop {
            head.borrow_and_update();
            if let Some(oldest) = self.reader.run(|ring, _| ring.oldest()).await? {
                return Ok(oldest);
            }
            // The sender is gone when the log was closed: nothing will ever come.
            head.changed().await.map_err(|_| ReadError::Closed)?;
        }
    }

    /// Lets go of everything up to a sequence.
    pub(super) async fn trim(&self, to: Sequence) -> Result<(), DecisionAppendError> {
        self.ask(|answer| Request::Trim { to, answer }).await
    }

    /// Counts samples that were not taken.
    pub(super) fn count_shed(&self, records: usize) {
        self.held.send_modify(|held| held.shed += records as u64);
    }
}

#[async_trait]
impl DecisionStream for DecisionLog {
    async fn append(&self, batch: &DecisionBatch) -> Result<(), DecisionAppendError> {
        let bytes = encode(batch)?;
        self.ask(|answer| Request::Append { bytes, answer }).await
    }

    fn read(&self, from: Sequence) -> DecisionBatches {
        let start = (self.reader.clone(), self.reader.watch(), from.max(Sequence(1)));
        stream::try_unfold(start, |(reader, mut head, next)| async move {
            if head.wait_for(|head| *head >= next).await.is_err() {
                return Err(ReadError::Closed);
            }
            let run = reader.run(move |ring, head| ring.range(next, head)).await?;
            // The newest batch is never dropped, so that there is one.
            let next = run.last().map_or(next, |last| last.sequence.next());
            Ok(Some((run, (reader, head, next))))
        })
        .boxed()
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        Ok(self.reader.head())
    }

    fn held(&self) -> DecisionsHeld {
        *self.held.borrow()
    }

    /// Also ends the writer thread.
    async fn close(&self) {
        self.writer.close().await;
    }
}
