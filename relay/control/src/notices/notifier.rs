//! Tells each channel what stands and what is over, one node of the cluster at a time, by a lease for each channel.
//!
//! What stands is compared with what was told, so nothing is queued: a channel that is down holds up nobody, and hears later what stands then.
//! A notice counts as told once its receiver took it, so it is told at least once, and twice only with the same id.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coordination::Coordination;
use futures_util::future::join_all;
use projector::ReadModels;
use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::delivery::{self, Delivery, Outcome};
use super::notice::{Kind, Notice};
use super::standing::{recovered, standing};
use super::told::{self, AllTold, Told};
use crate::Clock;
use crate::oauth::TokenClient;
use crate::upstream_tests;

/// How often it is looked what there is to tell.
const INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause after failures in a row; it doubles from [`INTERVAL`].
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How soon another node tells after the one that did died.
const LEASE_TTL: Duration = Duration::from_secs(30);
/// Attempts that a node remembers for each channel.
const RECENT_MAX: usize = 50;

/// What a [`Notifier`] stands on.
pub struct NotifierParts {
    pub channels: Vec<Channel>,
    pub models: ReadModels,
    pub coordination: Arc<dyn Coordination>,
    pub clock: Clock,
    /// Whether channels may be on private addresses.
    pub allow_private: bool,
    /// The node's data directory.
    pub data: PathBuf,
}

/// A channel and the attempts of this node.
pub struct ChannelState {
    pub channel: Channel,
    /// Oldest first. Written by the channel's loop and by tests of the channel.
    recent: Mutex<VecDeque<Delivery>>,
}

impl ChannelState {
    /// The last attempts of this node, newest first.
    pub fn recent(&self) -> Vec<Delivery> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

/// Tells operators what they should hear of.
pub struct Notifier {
    channels: Vec<ChannelState>,
    models: ReadModels,
    coordination: Arc<dyn Coordination>,
    clock: Clock,
    data: PathBuf,
    client: TokenClient,
}

impl Notifier {
    /// Fails where the system has no root certificates.
    pub fn new(parts: NotifierParts) -> std::io::Result<Arc<Self>> {
        let NotifierParts { channels, models, coordination, clock, allow_private, data } = parts;
        let channels = channels.into_iter().map(|channel| ChannelState { channel, recent: Mutex::default() }).collect();
        Ok(Arc::new(Self { channels, models, coordination, clock, data, client: TokenClient::new(allow_private)? }))
    }

    pub fn channels(&self) -> &[ChannelState] {
        &self.channels
    }

    /// Sends a notice that only says that it is a test. None if there is no such channel.
    pub async fn test(&self, channel: &str) -> Option<Delivery> {
        let state = self.channels.iter().find(|state| state.channel.name == channel)?;
        let notice = Notice::new(Kind::Test, None, channel.to_owned(), "This is a test of a channel for notices.", (self.clock)());
        Some(self.tell(state, &notice).await)
    }

    /// Tells until the node stops.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(join_all(self.channels.iter().map(|state| self.follow(state)))).await;
    }

    async fn follow(&self, state: &ChannelState) {
        let (mut told, mut failures) = (None, 0_u32);
        loop {
            let pause = INTERVAL.saturating_mul(2_u32.saturating_pow(failures)).min(PAUSE_MAX);
            tokio::time::sleep(pause.mul_f64(jitter())).await;
            let is_well = self.look(state, &mut told).await;
            failures = if is_well { 0 } else { failures.saturating_add(1) };
        }
    }

    /// Tells what is new and what is over, unless another node does; says whether the channel took all of it.
    async fn look(&self, state: &ChannelState, known: &mut Option<(u64, AllTold)>) -> bool {
        let status = self.models.status();
        if !status.is_ready() || status.lag > 0 {
            return true;
        }
        let (channel, coordination) = (&state.channel, &*self.coordination);
        let Ok(Some(lease)) = coordination.lease(&told::name_of(&channel.name), LEASE_TTL).await else { return true };
        // Another node may have told since, unless this one had the lease all the time.
        if known.as_ref().is_none_or(|(term, _)| *term != lease.term) {
            *known = told::load(coordination, &self.data, &channel.name).await.map(|told| (lease.term, told));
        }
        let Some((_, told)) = known else { return true };
        // Where nobody knows which credentials are rejected, those that were told stand.
        let rejected = upstream_tests::rejected(coordination).await;
        let standing = standing(&self.models.routes(), rejected.as_deref().unwrap_or_default(), channel, (self.clock)());
        let is_over = |id: &String, told: &Told| {
            let is_unknown = told.kind == Kind::CredentialRejected && rejected.is_none();
            !is_unknown && !standing.contains_key(id)
        };
        let over: Vec<_> = told.iter().filter(|(id, told)| is_over(id, told)).map(|(id, told)| (id.clone(), told.clone())).collect();
        let new: Vec<_> = standing.into_iter().filter(|(id, _)| !told.contains_key(id)).collect();
        let mut is_well = true;
        for (id, found) in new {
            match self.tell(state, &found.notice).await.outcome {
                Outcome::Delivered => drop(told.insert(id, found.told)),
                // What is refused may be this one only; the others are tried.
                Outcome::Refused => is_well = false,
                Outcome::Unreachable | Outcome::RateLimited | Outcome::Unsafe => return false,
            }
            told::keep(coordination, &self.data, &channel.name, told).await;
        }
        for (id, before) in over {
            let is_wanted = channel.takes(Kind::Recovered, before.tenant.as_ref());
            if is_wanted && self.tell(state, &recovered(&before)).await.outcome != Outcome::Delivered {
                return false;
            }
            told.remove(&id);
            told::keep(coordination, &self.data, &channel.name, told).await;
        }
        is_well
    }

    async fn tell(&self, state: &ChannelState, notice: &Notice) -> Delivery {
        let (outcome, status) = delivery::send(&self.client, &state.channel, notice, (self.clock)()).await;
        let Notice { id, kind, tenant, subject, text, .. } = notice.clone();
        let delivery = Delivery { id, kind, tenant, subject, text, at: (self.clock)(), outcome, status };
        if outcome != Outcome::Delivered {
            tracing::warn!(channel = state.channel.name, notice.id = delivery.id, ?outcome, status, "a notice was not taken");
        }
        let mut recent = state.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(delivery.clone());
        delivery
    }
}

/// From 0.8 to 1.2, so that channels do not fall into step.
fn jitter() -> f64 {
    let byte = getrandom::u32().map_or(0, |number| number % 256);
    0.8 + 0.4 * f64::from(byte) / 255.0
}
