//! The way of a decision record from the policy chain into the decision stream.
//!
//! A request never waits for it and never fails of it: [`DecisionSink::offer`] takes a record if there is room, and counts it if there is none.
//! Samples may take half of the room, so that a burst of them leaves place for denials and faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use event_log::decisions::{DecisionStream, DecisionsHeld};
use schemas::decision::{DecisionBatch, DecisionRecord};
use schemas::{IncarnationId, WriterId};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Metrics;
use crate::metrics::DecisionFate;

/// The most records that wait to be written, and the most bytes that they take. The writer needs a few milliseconds for a batch.
const QUEUE_RECORDS_MAX: usize = 8192;
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most records of a batch.
const BATCH_RECORDS_MAX: usize = 256;
/// A batch of so many bytes takes no more records: with the largest record it stays below the stream's bound.
const BATCH_BYTES_ENOUGH: usize = 512 * 1024;
/// How long the first record of a batch waits for others.
const BATCH_DELAY: Duration = Duration::from_millis(100);

/// Where decisions go. Cheap to clone.
#[derive(Clone)]
pub struct DecisionSink {
    sender: mpsc::Sender<DecisionRecord>,
    /// Of the records that wait.
    bytes: Arc<AtomicUsize>,
    metrics: Metrics,
}

/// Writes what was taken into the decision stream, in numbered batches. The composition root runs it as a task.
pub struct DecisionWriter {
    receiver: mpsc::Receiver<DecisionRecord>,
    bytes: Arc<AtomicUsize>,
    stream: Arc<dyn DecisionStream>,
    batch: DecisionBatch,
    /// What the stream has said of its losses before.
    held: DecisionsHeld,
    /// Whether the last batch could not be written, which was told.
    is_failing: bool,
    metrics: Metrics,
}

impl DecisionSink {
    /// A sink and its writer. `incarnation` is new at each start of the node, so that batches are numbered from 1.
    pub fn new(stream: Arc<dyn DecisionStream>, node: WriterId, incarnation: IncarnationId, metrics: &Metrics) -> (Self, DecisionWriter) {
        let (sender, receiver) = mpsc::channel(QUEUE_RECORDS_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        let batch = DecisionBatch { node, incarnation, number: 1, records: Vec::with_capacity(BATCH_RECORDS_MAX) };
        let held = stream.held();
        let writer =
            DecisionWriter { receiver, bytes: Arc::clone(&bytes), stream, batch, held, is_failing: false, metrics: metrics.clone() };
        (Self { sender, bytes, metrics: metrics.clone() }, writer)
    }

    /// A sink that keeps nothing, and counts it.
    pub fn discarding(metrics: &Metrics) -> Self {
        let (sender, _) = mpsc::channel(1);
        Self { sender, bytes: Arc::default(), metrics: metrics.clone() }
    }

    /// Takes a record if there is room for it.
    pub fn offer(&self, record: DecisionRecord) {
        if self.take(record).is_none() {
            self.metrics.decided(DecisionFate::Dropped, 1);
        }
    }

    fn take(&self, record: DecisionRecord) -> Option<()> {
        let (records_left, bytes_max) =
            if record.is_sample() { (QUEUE_RECORDS_MAX / 2, QUEUE_BYTES_MAX / 2) } else { (0, QUEUE_BYTES_MAX) };
        if self.sender.capacity() <= records_left {
            return None;
        }
        let bytes = record.bytes();
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let taken = if before + bytes <= bytes_max { self.sender.try_send(record).ok() } else { None };
        if taken.is_none() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }
}

impl DecisionWriter {
    /// Writes until `finish` is cancelled, then writes what is queued and ends. A batch that cannot be written is counted and let go.
    pub async fn run(mut self, finish: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = finish.cancelled(), if !self.receiver.is_closed() => self.receiver.close(),
                received = self.receiver.recv() => match received {
                    None => return,
                    Some(record) => {
                        let bytes = self.collect(record).await;
                        self.append().await;
                        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                    }
                },
            }
        }
    }

    /// Fills the batch with what comes within [`BATCH_DELAY`]; gives the bytes of its records.
    async fn collect(&mut self, first: DecisionRecord) -> usize {
        let mut bytes = first.bytes();
        self.batch.records.push(first);
        let deadline = Instant::now() + BATCH_DELAY;
        while self.batch.records.len() < BATCH_RECORDS_MAX && bytes < BATCH_BYTES_ENOUGH {
            let Ok(Some(record)) = timeout_at(deadline, self.receiver.recv()).await else { break };
            bytes += record.bytes();
            self.batch.records.push(record);
        }
        bytes
    }

    async fn append(&mut self) {
        let count = self.batch.records.len() as u64;
        match self.stream.append(&self.batch).await {
            Ok(()) => {
                self.metrics.decided(DecisionFate::Written, count);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("decisions are written again");
                }
            }
            Err(error) => {
                self.metrics.decided(DecisionFate::Dropped, count);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(error = &error as &dyn std::error::Error, "decisions cannot be written and are lost");
                }
            }
        }
        let held = self.stream.held();
        self.metrics.decided(DecisionFate::Expired, held.dropped - self.held.dropped);
        self.metrics.decided(DecisionFate::Shed, held.shed - self.held.shed);
        self.held = held;
        // A number that is missing tells readers of the loss.
        self.batch.number += 1;
        self.batch.records.clear();
    }
}

#[cfg(test)]
#[path = "decisions_tests.rs"]
mod tests;
