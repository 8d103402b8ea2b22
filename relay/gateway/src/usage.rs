//! The way of a usage record from a settled request into the usage stream.
//!
//! Nothing is lost and nothing waits at the end of a request: a request takes its place in the queue ([`Slot`]) before it is sent to
//! an upstream, and settling fills the place, which cannot fail or block. So the queue and the requests in flight share one bound;
//! when the usage stream is slow, or has no room, it is new requests that are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use event_log::usage::{UsageAppendError, UsageAppended, UsageStream};
use schemas::usage::{UsageBatch, UsageRecord};
use schemas::{IncarnationId, WriterId};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Metrics;
use crate::meters::{Amounts, Meters, Reservation};
use crate::refusal::Refusal;

/// The most requests that are in flight or settled and not yet written.
pub(crate) const SLOTS_MAX: usize = 65_536;
/// The most records of a batch: far below the usage stream's bound in bytes.
pub(crate) const BATCH_RECORDS_MAX: usize = 256;
/// How long the first record of a batch waits for others.
pub(crate) const BATCH_DELAY: Duration = Duration::from_millis(50);
/// How long a batch that found no room waits before it is tried again.
const ROOM_PAUSE: Duration = Duration::from_millis(250);

/// Where settled requests go. Cheap to clone.
#[derive(Clone)]
pub struct UsageSink {
    sender: mpsc::Sender<Settled>,
    meters: Meters,
    /// Whether the usage stream has no room; written by the writer.
    is_full: Arc<AtomicBool>,
    metrics: Metrics,
}

/// A settled request, and what the meters were told of it.
struct Settled {
    record: UsageRecord,
    amounts: Amounts,
}

/// A place in the queue for one record. Dropping it gives the place back.
pub(crate) struct Slot {
    permit: mpsc::OwnedPermit<Settled>,
    meters: Meters,
    metrics: Metrics,
}

impl Slot {
    /// Settles a request: the meters count it in place of what it held, and its record goes its way.
    pub(crate) fn fill(self, record: UsageRecord, reservation: Option<Reservation>) {
        self.metrics.usage_queued().inc();
        // First, so that the writer never numbers what the meters do not know.
        let amounts = self.meters.settle(&record, reservation);
        self.permit.send(Settled { record, amounts });
    }
}

/// Writes what settles into the usage stream, in numbered batches. The composition root runs it as a task.
pub struct UsageWriter {
    receiver: mpsc::Receiver<Settled>,
    stream: Arc<dyn UsageStream>,
    meters: Meters,
    /// What goes into the batch.
    settled: Vec<Settled>,
    batch: UsageBatch,
    is_full: Arc<AtomicBool>,
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
    pub(crate) fn new(
        stream: Arc<dyn UsageStream>,
        (node, incarnation): (WriterId, IncarnationId),
        meters: Meters,
        metrics: &Metrics,
    ) -> (Self, UsageWriter) {
        let (sender, receiver) = mpsc::channel(SLOTS_MAX);
        let batch = UsageBatch { node, incarnation, number: 1, records: Vec::with_capacity(BATCH_RECORDS_MAX) };
        let is_full = Arc::new(AtomicBool::new(false));
        let writer = UsageWriter {
            receiver,
            stream,
            meters: meters.clone(),
            settled: Vec::with_capacity(BATCH_RECORDS_MAX),
            batch,
            is_full: Arc::clone(&is_full),
            metrics: metrics.clone(),
        };
        (Self { sender, meters, is_full, metrics: metrics.clone() }, writer)
    }

    /// A place for the record of a request that is about to be sent. There is none while the usage stream has no room, if all are taken,
    /// or if the writer is gone.
    pub(crate) fn reserve(&self) -> Result<Slot, Refusal> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(Refusal::UsageSpoolFull);
        }
        let permit = self.sender.clone().try_reserve_owned().map_err(|_| Refusal::Overloaded)?;
        Ok(Slot { permit, meters: self.meters.clone(), metrics: self.metrics.clone() })
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
                    Some(settled) => {
                        self.settled.push(settled);
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
        while self.settled.len() < BATCH_RECORDS_MAX {
            let room = BATCH_RECORDS_MAX - self.settled.len();
            match timeout_at(deadline, self.receiver.recv_many(&mut self.settled, room)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Appends the batch. One that finds no room is kept until there is some: requests in flight still settle, new ones are refused.
    async fn append(&mut self) -> Result<(), UsageWriteError> {
        let number = self.batch.number;
        self.meters.number(number, self.settled.iter().map(|settled| (&settled.record, &settled.amounts)));
        self.batch.records.extend(self.settled.drain(..).map(|settled| settled.record));
        loop {
            match self.stream.append(&self.batch).await {
                Ok(UsageAppended::Appended | UsageAppended::AlreadyAppended) => break,
                Ok(UsageAppended::Unknown) => return Err(UsageWriteError::Unknown { number }),
                Err(error @ UsageAppendError::SpoolFull { .. }) => {
                    if !self.is_full.swap(true, Ordering::Relaxed) {
                        tracing::error!(error = &error as &dyn std::error::Error, "requests are refused until usage can be written");
                    }
                    sleep(ROOM_PAUSE).await;
                }
                Err(source) => return Err(UsageWriteError::Append { number, source }),
            }
        }
        if self.is_full.swap(false, Ordering::Relaxed) {
            tracing::info!("usage is written again, requests are let in");
        }
        self.metrics.usage_queued().dec_by(i64::try_from(self.batch.records.len()).unwrap_or(i64::MAX));
        self.batch.number += 1;
        self.batch.records.clear();
        Ok(())
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
