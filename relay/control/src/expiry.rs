//! What is done about keys as time goes by: recording that they have expired, and rotating those whose schedule is due. Requests are refused
//! from the second on at which a key expires, whoever has recorded it; this is what makes the log say so. [`Rotations`] says how a rotation by
//! schedule is done.
//!
//! One node of the cluster does it at a time, by lease, and not more often than the interval says. What expired while no node ran is found by
//! the first sweep after that: the index of the read model holds every expiry that is due and not recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coordination::Coordination;
use futures_util::stream::{self, StreamExt as _};
use projector::ReadModels;
use schemas::key::KeyCommand;
use schemas::{Actor, Command, CommandId, Digest, Stream, Timestamp};
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::commands::{Commands, ExecuteError, Request};
use crate::rotations::{RotationError, Rotations};
use crate::{Clock, secrets};

const LEASE: &str = "key-expiry";
/// Extended with every page.
const LEASE_TTL: Duration = Duration::from_secs(60);
/// Soft state that stands for as long as the next sweep is not due.
const SWEPT: &str = "key-expiry-swept";
/// How often a node looks whether a sweep is due, at the least.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Keys of one read of the index.
const PAGE: usize = 1024;
/// Commands under way at once: enough to fill the log's batches, few enough to leave the cores to requests.
const COMMANDS_AT_ONCE: usize = 64;

/// Records expiries for the cluster.
pub struct ExpirySweeper {
    pub commands: Commands,
    pub models: ReadModels,
    pub coordination: Arc<dyn Coordination>,
    pub clock: Clock,
    /// Between two sweeps.
    pub interval: Duration,
    pub rotations: Arc<Rotations>,
}

/// Why a sweep did not come to its end. The next one goes on.
#[derive(Debug, Error)]
enum SweepError {
    #[error("the read models cannot be read")]
    Read(#[from] projector::ReadError),
    #[error("another node has taken the sweep over, or cannot be asked")]
    LeaseLost,
    #[error("the log does not take records")]
    Execute(#[source] ExecuteError),
    #[error("keys cannot be rotated")]
    Rotate(#[from] RotationError),
}

impl ExpirySweeper {
    /// Sweeps until the node stops. A node whose read models are behind leaves it to the others.
    pub async fn run(self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(self.interval.min(LOOK_INTERVAL));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if stop.run_until_cancelled(looks.tick()).await.is_none() || stop.run_until_cancelled(self.look()).await.is_none() {
                return;
            }
        }
    }

    /// Sweeps if it is time and no other node does.
    async fn look(&self) {
        let status = self.models.status();
        if !status.is_ready() || status.lag > 0 {
            return;
        }
        let is_due = match self.coordination.get(SWEPT).await {
            Ok(swept) => swept.is_none(),
            Err(_) => return,
        };
        if !is_due || !self.holds_lease().await {
            return;
        }
        let (begun, recorded) = (Instant::now(), AtomicUsize::new(0));
        let rotated = AtomicUsize::new(0);
        let swept = match self.sweep(&recorded).await {
            Ok(()) => self.rotate(&rotated).await,
            failed => failed,
        };
        let (count, rotated) = (recorded.into_inner(), rotated.into_inner());
        if rotated > 0 {
            tracing::info!(count = rotated, "keys were rotated by schedule; their new secrets wait to be collected");
        }
        match swept {
            Ok(()) => {
                // Whether others hear of it or not: sweeping too often costs one look at the index.
                if let Err(error) = self.coordination.put(SWEPT, Bytes::new(), self.interval).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "that expiries were swept could not be told");
                }
                if count > 0 {
                    tracing::info!(count, elapsed_ms = begun.elapsed().as_millis() as u64, "expired keys were recorded");
                }
            }
            Err(error) => {
                tracing::warn!(
                    count,
                    error = &error as &dyn std::error::Error,
                    "expired keys were recorded in part; the next look goes on"
                );
            }
        }
        if let Err(error) = self.coordination.release(LEASE).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a lease ends by its time");
        }
    }

    async fn holds_lease(&self) -> bool {
        matches!(self.coordination.lease(LEASE, LEASE_TTL).await, Ok(Some(_)))
    }

    /// Records all expiries that are due, page by page. One key that cannot be recorded is passed over; a log that is away ends the sweep.
    async fn sweep(&self, recorded: &AtomicUsize) -> Result<(), SweepError> {
        let (now, mut after) = ((self.clock)(), None);
        loop {
            let (models, from) = (self.models.clone(), after.take());
            let page = tokio::task::spawn_blocking(move || models.keys_expired_by(now, from.as_ref(), PAGE)).await;
            let page: Vec<(Timestamp, Stream)> = page.map_err(|_| SweepError::LeaseLost)??;
            let Some(last) = page.last().cloned() else { return Ok(()) };
            if !self.holds_lease().await {
                return Err(SweepError::LeaseLost);
            }
            let mut outcomes = stream::iter(page).map(|(_, stream)| self.record(stream)).buffer_unordered(COMMANDS_AT_ONCE);
            while let Some(outcome) = outcomes.next().await {
                recorded.fetch_add(usize::from(outcome?), Ordering::Relaxed);
            }
            after = Some(last);
        }
    }

    /// Rotates all keys whose schedule is due, page by page.
    async fn rotate(&self, rotated: &AtomicUsize) -> Result<(), SweepError> {
        let (now, mut after) = ((self.clock)(), None);
        loop {
            let (models, from) = (self.models.clone(), after.take());
            let page = tokio::task::spawn_blocking(move || models.keys_to_rotate_by(now, from.as_ref(), PAGE)).await;
            let page: Vec<(Timestamp, Stream)> = page.map_err(|_| SweepError::LeaseLost)??;
            let Some(last) = page.last().cloned() else { break };
            if !self.holds_lease().await {
                return Err(SweepError::LeaseLost);
            }
            self.rotate_all(page.into_iter().map(|(_, stream)| stream), now, rotated).await?;
            after = Some(last);
        }
        self.rotate_by_tag(now, rotated).await
    }

    /// The same for keys that have no schedule of their own, in tenants that have one for their tags.
    async fn rotate_by_tag(&self, now: Timestamp, rotated: &AtomicUsize) -> Result<(), SweepError> {
        for tenant in self.rotations.tenants() {
            let mut after = None;
            loop {
                let (rotations, of) = (Arc::clone(&self.rotations), tenant.clone());
                let page = tokio::task::spawn_blocking(move || rotations.of_tags(&of, after, now)).await;
                let Some((due, last)) = page.map_err(|_| SweepError::LeaseLost)?? else { break };
                if !self.holds_lease().await {
                    return Err(SweepError::LeaseLost);
                }
                self.rotate_all(due.into_iter(), now, rotated).await?;
                after = Some(last);
            }
        }
        Ok(())
    }

    async fn rotate_all(&self, keys: impl Iterator<Item = Stream>, now: Timestamp, rotated: &AtomicUsize) -> Result<(), SweepError> {
        let mut outcomes = stream::iter(keys).map(|stream| self.rotations.rotate(stream, now)).buffer_unordered(COMMANDS_AT_ONCE);
        while let Some(outcome) = outcomes.next().await {
            rotated.fetch_add(usize::from(outcome?), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether the key's expiry was recorded by this.
    async fn record(&self, stream: Stream) -> Result<bool, SweepError> {
        let request = Request {
            stream: stream.clone(),
            command: Command::Key(KeyCommand::Expire),
            actor: Actor::Scheduler,
            command_id: CommandId::from_bytes(secrets::random_bytes()),
            request_digest: Digest::blake3(b"keyrelay expiry"),
            if_version: None,
            deadline: Commands::deadline(),
        };
        match self.commands.execute(request).await {
            Ok(_) => Ok(true),
            // Renewed, revoked or purged since the page was read.
            Err(ExecuteError::Rejected(_)) => Ok(false),
            Err(error @ (ExecuteError::Contention | ExecuteError::RecordVoid { .. } | ExecuteError::HistoryGone { .. })) => {
                tracing::warn!(stream = %stream, error = &error as &dyn std::error::Error, "an expiry could not be recorded; the next sweep tries again");
                Ok(false)
            }
            Err(error) => Err(SweepError::Execute(error)),
        }
    }
}
