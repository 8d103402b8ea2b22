//! The way of a usage record from a settled request into the usage log.
//!
//! Nothing is lost and nothing waits at the end of a request: a request takes its place in the queue ([`Slot`]) before it is sent to
//! an upstream, and settling fills the place, which cannot fail or block. So the queue and the requests in flight share one bound;
//! when the usage log is slow, it is new requests that are refused.

use std::sync::Arc;
use std::time::Duration;

use event_log::usage::{UsageAppendError, UsageAppended, UsageLog};
use schemas::usage::{UsageBatch, UsageRecord};
use schemas::{IncarnationId, WriterId};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Metrics;

/// The most requests that are in flight or settled and not yet written.
pub(crate) const SLOTS_MAX: usize = 65_536;
/// The most records of a batch: far below the usage log's bound in bytes.
pub(crate) const BATCH_RECORDS_MAX: usize = 256;
/// How long the first record of a batch waits for others.
pub(crate) const BATCH_DELAY: Duration = Duration::from_millis(50);

/// Where settled requests go. Cheap to clone.
#[derive(Clone)]
pub struct UsageSink {
    sender: mpsc::Sender<UsageRecord>,
    metrics: Metrics,
}

/// A place in the queue for one record. Dropping it gives the place back.
pub(crate) struct Slot {
    permit: mpsc::OwnedPermit<UsageRecord>,
    metrics: Metrics,
}

impl Slot {
    pub(crate) fn fill(self, record: UsageRecord) {
        self.metrics.usage_queued().inc();
        self.permit.send(record);
    }
}

/// Writes what settles into the usage log, in numbered batches. The composition root runs it as a task.
pub struct UsageWriter {
    receiver: mpsc::Receiver<UsageRecord>,
    log: Arc<UsageLog>,
    batch: UsageBatch,
    metrics: Metrics,
}

/// Why the writer gave up. The process must stop: what is queued cannot be accounted for.
#[derive(Debug, Error)]
pub enum UsageWriteError {
    #[error("usage batch {number} could not be appended")]
    Append { number: u64, source: UsageAppendError },
    #[error("whether usage batch {number} was appended is unknown")]
    Unknown { number: u64 },
}

impl UsageSink {
    /// A sink and its writer. `incarnation` is new at each start of the node, so that batches are numbered from 1.
    pub fn new(log: Arc<UsageLog>, node: WriterId, incarnation: IncarnationId, metrics: &Metrics) -> (Self, UsageWriter) {
        let (sender, receiver) = mpsc::channel(SLOTS_MAX);
        let batch = UsageBatch { node, incarnation, number: 1, records: Vec::with_capacity(BATCH_RECORDS_MAX) };
        (Self { sender, metrics: metrics.clone() }, UsageWriter { receiver, log, batch, metrics: metrics.clone() })
    }

    /// A place for the record of a request that is about to be sent; none if all are taken or the writer is gone.
    pub(crate) fn reserve(&self) -> Option<Slot> {
        let permit = self.sender.clone().try_reserve_owned().ok()?;
        Some(Slot { permit, metrics: self.metrics.clone() })
    }
}

impl UsageWriter {
    /// Writes until `finish` is cancelled, then refuses new requests their place, writes what is queued and what the requests in
    /// flight still settle, and ends. An error is the end of the process.
    pub async fn run(mut self, finish: CancellationToken) -> Result<(), UsageWriteError> {
        loop {
            tokio::select! {
                biased;
                () = finish.cancelled(), if !self.receiver.is_closed() => self.receiver.close(),
                received = self.receiver.recv() => match received {
                    None => return Ok(()),
                    Some(record) => {
                        self.batch.records.push(record);
                        self.collect().await;
                        self.append().await?;
                    }
                },
            }
        }
    }

    /// Fills the batch with what settles within [`BATCH_DELAY`].
    async fn collect(&mut self) {
        let deadline = Instant::now() + BATCH_DELAY;
        while self.batch.records.len() < BATCH_RECORDS_MAX {
            let room = BATCH_RECORDS_MAX - self.batch.records.len();
            match timeout_at(deadline, self.receiver.recv_many(&mut self.batch.records, room)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    async fn append(&mut self) -> Result<(), UsageWriteError> {
        let number = self.batch.number;
        match self.log.append(&self.batch).await {
            Ok(UsageAppended::Appended(_) | UsageAppended::AlreadyAppended(_)) => {}
            Ok(UsageAppended::Unknown) => return Err(UsageWriteError::Unknown { number }),
            Err(source) => return Err(UsageWriteError::Append { number, source }),
        }
        self.metrics.usage_queued().dec_by(i64::try_from(self.batch.records.len()).unwrap_or(i64::MAX));
        self.batch.number += 1;
        self.batch.records.clear();
        Ok(())
    }
}
