//! Refresh of grants: each refresh token is shown to its provider once, whatever crashes.
//!
//! One node of the cluster looks for what is due, by lease; the lease only keeps nodes from doing the same work. What keeps a token from being
//! shown twice is the credential's own stream: the right is claimed there before the provider is called, and that the token is about to be sent
//! is appended on the claim's head. The times that hold between nodes are counted by each one's monotonic clock, see
//! [`schemas::credential::grant`]. The one way left to a second redemption is a process that is suspended between its last look at that clock
//! and the write to the socket, for longer than a takeover waits; and then the other node has not sent either, unless the suspended one's mark
//! that it is about to send was never appended, which is what it looks at first.
//!
//! An answer is sealed into a file of this node, then into the key store, then recorded, and only then used. A node that dies in between finds the
//! file when it starts again; another node finds the secret in the key store.

mod flight;
mod kept;
mod oauth;
mod pace;
mod provider;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordination::Coordination;
use projector::ReadModels;
use schemas::credential::Credential;
use schemas::credential::grant::{ATTEMPT_INTERVAL_SECONDS, EXCHANGE_MAX, Grant, Refresh, SEND_WITHIN, TAKEOVER_AFTER};
use schemas::{CredentialId, Timestamp, WriterId};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use vault::Vault;

use crate::{Clock, Commands, Metrics, secrets};
use flight::{Flight, Landing};
use kept::Kept;
use pace::Pauses;

pub use kept::KeptError;
pub use oauth::OauthProviders;
pub use provider::{GrantProvider, Renewal, RenewalError};

const LEASE: &str = "grant-refresh";
const LEASE_TTL: Duration = Duration::from_secs(15);
/// How often the lease is taken or extended.
const LEASE_INTERVAL: Duration = Duration::from_secs(5);
/// How often kept answers are looked for beyond the first look.
const KEPT_INTERVAL: Duration = Duration::from_secs(1);
/// Refreshes under way at once.
const FLIGHTS_MAX: usize = 64;
/// The folder of kept answers in the data directory.
const FOLDER: &str = "refresh";

/// How long what takes. Tests count faster; a node takes the default.
#[derive(Debug, Clone, Copy)]
pub struct RefreshTimes {
    pub send_within: Duration,
    pub exchange_max: Duration,
    pub takeover_after: Duration,
    /// Between two looks. One refresh for a provider begins at each, so that this is its pace: at most 5 a second.
    pub look_interval: Duration,
    /// How long a node waits until it tries to record again what could not be recorded.
    pub record_again: Duration,
}

impl Default for RefreshTimes {
    fn default() -> Self {
        Self {
            send_within: SEND_WITHIN,
            exchange_max: EXCHANGE_MAX,
            takeover_after: TAKEOVER_AFTER,
            look_interval: Duration::from_millis(200),
            record_again: Duration::from_secs(1),
        }
    }
}

/// What a refresher is made of.
pub struct RefresherParts {
    pub commands: Commands,
    pub models: ReadModels,
    pub vault: Arc<Vault>,
    pub coordination: Arc<dyn Coordination>,
    pub provider: Arc<dyn GrantProvider>,
    pub clock: Clock,
    pub metrics: Metrics,
    /// The node's data directory.
    pub data: PathBuf,
    pub times: RefreshTimes,
}

/// Refreshes the cluster's grants.
pub struct Refresher {
    parts: Arc<Shared>,
    flights: JoinSet<(CredentialId, Landing)>,
    in_flight: HashSet<CredentialId>,
    pauses: Pauses,
    /// The claims that stand, by number, and when they were first seen applied here.
    claims: HashMap<CredentialId, (u32, Instant)>,
    lease_checked: Option<Instant>,
    holds_lease: bool,
    kept_checked: Option<Instant>,
}

/// What flights share.
struct Shared {
    commands: Commands,
    models: ReadModels,
    vault: Arc<Vault>,
    coordination: Arc<dyn Coordination>,
    provider: Arc<dyn GrantProvider>,
    clock: Clock,
    metrics: Metrics,
    kept: Kept,
    times: RefreshTimes,
    stop: CancellationToken,
}

impl Shared {
    fn node(&self) -> WriterId {
        self.commands.writer().id()
    }
}

impl Refresher {
    /// Fails where the folder for answers cannot be made. `stop` ends it.
    pub fn open(parts: RefresherParts, stop: CancellationToken) -> Result<Self, KeptError> {
        let RefresherParts { commands, models, vault, coordination, provider, clock, metrics, data, times } = parts;
        let kept = Kept::open(data.join(FOLDER), Arc::clone(&vault))?;
        let shared = Shared { commands, models, vault, coordination, provider, clock, metrics, kept, times, stop };
        Ok(Self {
            parts: Arc::new(shared),
            flights: JoinSet::new(),
            in_flight: HashSet::new(),
            pauses: Pauses::default(),
            claims: HashMap::new(),
            lease_checked: None,
            holds_lease: false,
            kept_checked: None,
        })
    }

    /// Refreshes until the node stops. What was shown to a provider by then still gets its outcome recorded, as far as the log takes it.
    pub async fn run(mut self) {
        let stop = self.parts.stop.clone();
        let mut looks = tokio::time::interval(self.parts.times.look_interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(landed) = self.flights.join_next() => self.land(landed),
                _ = looks.tick() => if stop.run_until_cancelled(self.look()).await.is_none() { break },
            }
        }
        while let Some(landed) = self.flights.join_next().await {
            self.land(landed);
        }
        if self.holds_lease {
            // Another node takes it when its time is over.
            let _ = self.parts.coordination.release(LEASE).await;
        }
    }

    fn land(&mut self, landed: Result<(CredentialId, Landing), tokio::task::JoinError>) {
        match landed {
            Ok((id, landing)) => {
                self.in_flight.remove(&id);
                if let Landing::Failed { failures, asked } = landing {
                    let chance = u64::from_be_bytes(secrets::random_bytes());
                    self.pauses.set(id, Instant::now(), pace::pause(failures, chance, asked));
                }
            }
            // Which one it was is not known; those that are still at it hold their claims.
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a refresh ended early");
                self.in_flight.clear();
            }
        }
    }

    async fn look(&mut self) {
        let routes = self.parts.models.routes();
        let is_kept_known = self.record_kept().await;
        let grants: Vec<(&Credential, &Grant)> = routes
            .upstreams
            .iter()
            .filter_map(|route| route.credential.as_ref())
            .filter_map(|credential| Some((credential, credential.grant.as_deref()?)))
            .collect();
        let now = Instant::now();
        self.observe(&grants, now);
        if grants.is_empty() || !self.parts.models.status().is_ready() {
            return;
        }
        self.take_lease(now).await;
        let (time, mut providers) = ((self.parts.clock)(), HashSet::new());
        for (credential, grant) in grants {
            if self.flights.len() >= FLIGHTS_MAX {
                return;
            }
            if self.in_flight.contains(&credential.id) {
                continue;
            }
            match grant.refresh {
                Refresh::Claimed { node, is_sent, .. } => {
                    // What this node's earlier process has sent may be answered in a file.
                    let is_ours = node == self.parts.node() && is_kept_known;
                    if is_ours || (self.holds_lease && self.is_abandoned(credential.id, now)) {
                        self.take_over(credential, grant.generation, is_sent);
                    }
                }
                Refresh::Idle | Refresh::Asked { .. } if self.holds_lease && self.is_due(credential, grant, time, now) => {
                    if providers.insert(grant.provider.as_str()) {
                        self.begin(credential, Flight::refresh);
                    }
                }
                Refresh::Idle | Refresh::Asked { .. } | Refresh::LoginRequired { .. } => {}
            }
        }
    }

    /// Notes since when each claim is applied here.
    fn observe(&mut self, grants: &[(&Credential, &Grant)], now: Instant) {
        let mut standing = HashMap::new();
        for (credential, grant) in grants {
            if matches!(grant.refresh, Refresh::Claimed { .. }) {
                let before = self.claims.get(&credential.id).filter(|(generation, _)| *generation == grant.generation);
                standing.insert(credential.id, before.copied().unwrap_or((grant.generation, now)));
            }
        }
        self.claims = standing;
    }

    fn is_abandoned(&self, id: CredentialId, now: Instant) -> bool {
        self.claims.get(&id).is_some_and(|(_, since)| now.duration_since(*since) >= self.parts.times.takeover_after)
    }

    fn is_due(&self, credential: &Credential, grant: &Grant, time: Timestamp, now: Instant) -> bool {
        let jitter = pace::jitter(self.parts.node(), credential.id, credential.secret_version);
        let is_too_soon = grant.sent_at.is_some_and(|sent| sent <= time && time < sent.plus_seconds(ATTEMPT_INTERVAL_SECONDS));
        grant.refresh_at(jitter).is_some_and(|at| at <= time) && !is_too_soon && self.pauses.is_over(credential.id, now)
    }

    fn take_over(&mut self, credential: &Credential, generation: u32, is_sent: bool) {
        if is_sent {
            self.begin(credential, move |flight| flight.resolve(generation));
        } else {
            self.begin(credential, move |flight| flight.refresh_after(generation));
        }
    }

    fn begin<F>(&mut self, credential: &Credential, work: impl FnOnce(Flight) -> F)
    where
        F: Future<Output = Landing> + Send + 'static,
    {
        let id = credential.id;
        if self.in_flight.insert(id) {
            let work = work(Flight::new(Arc::clone(&self.parts), credential.clone()));
            self.flights.spawn(async move { (id, work.await) });
        }
    }

    /// Goes on with answers that a file holds. Whether all of them are known, and none is left that is not in flight.
    async fn record_kept(&mut self) -> bool {
        if self.kept_checked.is_some_and(|at| at.elapsed() < KEPT_INTERVAL) {
            return false;
        }
        let kept = self.parts.kept.clone();
        let claims = match tokio::task::spawn_blocking(move || kept.claims()).await {
            Ok(Ok(claims)) => claims,
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "kept answers cannot be looked for");
                return false;
            }
            Err(_) => return false,
        };
        self.kept_checked = Some(Instant::now());
        for claim in claims {
            let id = CredentialId::from_bytes(*claim.stream.id());
            if self.in_flight.insert(id) {
                let work = flight::record_kept(Arc::clone(&self.parts), claim);
                self.flights.spawn(async move { (id, work.await) });
            }
        }
        true
    }

    async fn take_lease(&mut self, now: Instant) {
        if self.lease_checked.is_some_and(|at| now.duration_since(at) < LEASE_INTERVAL) {
            return;
        }
        self.lease_checked = Some(now);
        self.holds_lease = matches!(self.parts.coordination.lease(LEASE, LEASE_TTL).await, Ok(Some(_)));
    }
}
