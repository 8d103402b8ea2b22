//! Orders, filled: a due secret is ordered, its provider is asked, what it made is sealed and delivered, and keys that are out of use are taken
//! away there.
//!
//! What is to be done follows from the state of the credential and the time, so that it goes on after a crash of any node. The claim in the log
//! comes before a provider hears of anything; a claim that was not used at once is not used at all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use projector::{Route, Routes};
use schemas::credential::order::{Order, OrderCommand, ProviderKeyNoted, ProviderKeyRetired, RotationOrdered};
use schemas::credential::rotation::{RotationStaged, RotationStep};
use schemas::credential::{Credential, CredentialCommand};
use schemas::{Actor, Aggregate, Command, CommandId, CredentialId, Digest, RotationId, Stream, Timestamp};
use thiserror::Error;
use tokio::time::Instant;
use vault::{Lifetime, SealError, Sealing, UnsealError};
use zeroize::Zeroizing;

use super::CredentialRotations;
use crate::Receipt;
use crate::commands::{Commands, ExecuteError, Request};
use crate::http::secret_address;
use crate::key_providers::{KeyProvider, KeyRequest, Made, ProviderError, Schedule};

/// How long after its claim a node may begin to ask.
const CLAIM_USE_MAX: Duration = Duration::from_secs(5);
/// For all that one claim asks of a provider: together below the time after which another claim may be made.
const ASK_MAX: Duration = Duration::from_secs(20);
/// The pause after a provider failed, doubled each time.
const PAUSE_MIN: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(900);
/// How often it is asked which key a secret belongs to, where the provider knows none.
const IDENTIFY_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// How long after a rotation that came to nothing the next one is ordered by itself.
const AGAIN_SECONDS: u64 = 6 * 3600;
/// Numbers that are tried for a new secret where others lie that no record names.
const NUMBERS_MAX: u32 = 8;
/// Things of which a pause is remembered.
const PAUSES_MAX: usize = 16_384;

/// One thing to do.
pub(super) enum Errand {
    Place(Arc<Schedule>, Arc<KeyProvider>),
    Fill(Order, Arc<KeyProvider>),
    Identify(u32, Arc<KeyProvider>),
    Retire(ProviderKeyNoted, Arc<KeyProvider>),
}

#[derive(Debug, Error)]
pub(super) enum ErrandError {
    #[error("the record could not be written")]
    Execute(#[from] ExecuteError),
    #[error("the provider did not do it")]
    Provider(#[from] ProviderError),
    #[error("the provider did not answer in time")]
    Late,
    #[error("the secret that the provider made could not be sealed; it is made again")]
    Seal(#[from] SealError),
    #[error("a secret cannot be opened")]
    Unseal(#[from] UnsealError),
    #[error("no number is free for the secret that the provider made; it is made again")]
    Numbers,
    #[error("a task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// Until when things that failed are left alone, by credential and number of the secret; 0 is its order. May be lost.
#[derive(Default)]
pub(super) struct Pauses(Mutex<HashMap<(CredentialId, u32), (Instant, Duration)>>);

impl Pauses {
    fn is_over(&self, of: (CredentialId, u32)) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&of).is_none_or(|(until, _)| *until <= Instant::now())
    }

    fn begin(&self, of: (CredentialId, u32), least: Duration) {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pauses.len() >= PAUSES_MAX {
            pauses.clear();
        }
        let pause = pauses.get(&of).map_or(least, |(_, last)| (*last * 2).clamp(least, PAUSE_MAX.max(least)));
        pauses.insert(of, (Instant::now() + pause, pause));
    }

    fn end(&self, of: (CredentialId, u32)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&of);
    }
}

impl Errand {
    const fn number(&self) -> u32 {
        match self {
            Self::Place(..) | Self::Fill(..) => 0,
            Self::Identify(version, _) => *version,
            Self::Retire(noted, _) => noted.secret_version,
        }
    }

    const fn least_pause(&self) -> Duration {
        match self {
            Self::Identify(..) => IDENTIFY_PAUSE,
            Self::Place(..) | Self::Fill(..) | Self::Retire(..) => PAUSE_MIN,
        }
    }
}

impl CredentialRotations {
    /// The schedule that an upstream's secret is on.
    pub(crate) fn schedule_of(&self, routes: &Routes, route: &Route) -> Option<Arc<Schedule>> {
        let upstream = &route.upstream;
        let mut pools = routes.pools.iter().map(|pool| &pool.value);
        let pool = pools.find(|pool| pool.id == upstream.details.pool && pool.tenant == upstream.tenant);
        self.providers.schedule_of(upstream, pool.map(|pool| pool.name.as_str()))
    }

    /// What there is to do for a credential beside the steps of its rotation.
    pub(super) fn errand(&self, routes: &Routes, route: &Route, now: Timestamp) -> Option<Errand> {
        let credential = route.credential.as_ref().filter(|credential| !credential.revoked)?;
        let errand = self.errand_of(routes, route, credential, now)?;
        self.notes.pauses.is_over((credential.id, errand.number())).then_some(errand)
    }

    fn errand_of(&self, routes: &Routes, route: &Route, credential: &Credential, now: Timestamp) -> Option<Errand> {
        let side = &credential.provider_side;
        let versions = credential.secret_versions();
        if let Some(key) = side
            .keys
            .iter()
            .find(|key| !versions.contains(&key.secret_version) && self.notes.pauses.is_over((credential.id, key.secret_version)))
            && let Some(provider) = self.providers.named(&key.provider)
        {
            return Some(Errand::Retire(key.clone(), Arc::clone(provider)));
        }
        if let Some(order) = &side.order {
            let provider = self.providers.named(&order.provider)?;
            return (!provider.is_by_hand() && order.is_free(now)).then(|| Errand::Fill(order.clone(), Arc::clone(provider)));
        }
        let provider = self.providers.of(&route.upstream)?;
        if let Some(open) = credential.open_rotation() {
            let old = open.previous.version;
            let is_unknown = provider.identifies() && open.step.is_promoted() && side.key(old).is_none();
            return is_unknown.then(|| Errand::Identify(old, Arc::clone(provider)));
        }
        if credential.grant.is_some() || !route.upstream.is_enabled() {
            return None;
        }
        // One that came to nothing is not begun again at once: the reason is still there.
        let failed = credential.rotations.last().filter(|last| last.step != RotationStep::Finished).map(|last| last.step_at);
        let is_soon = |at: &Timestamp| at.plus_seconds(AGAIN_SECONDS) > now;
        if failed.iter().chain(&side.dropped_at).any(is_soon) {
            return None;
        }
        let schedule = self.schedule_of(routes, route).filter(|schedule| schedule.is_time(credential, now))?;
        Some(Errand::Place(schedule, Arc::clone(provider)))
    }

    /// Asks for the name of a key that is about to be destroyed here, if that was not asked yet: afterwards nobody could tell.
    pub(super) async fn identify_first(&self, route: &Route, credential: &Credential, version: u32) {
        let is_known = credential.provider_side.key(version).is_some() || !self.notes.pauses.is_over((credential.id, version));
        if let Some(provider) = self.providers.of(&route.upstream).filter(|provider| provider.identifies() && !is_known) {
            self.run_errand(route, Errand::Identify(version, Arc::clone(provider))).await;
        }
    }

    /// Does it. What fails is tried again after a pause.
    pub(super) async fn run_errand(&self, route: &Route, errand: Errand) {
        let Some(credential) = &route.credential else { return };
        let (of, least) = ((credential.id, errand.number()), errand.least_pause());
        let outcome = match errand {
            Errand::Place(schedule, provider) => self.place_by_schedule(credential, &schedule, &provider).await,
            Errand::Fill(order, provider) => self.fill(route, credential, &order, &provider).await,
            Errand::Identify(version, provider) => self.identify(credential, version, &provider).await,
            Errand::Retire(noted, provider) => self.retire(route, credential, &noted, &provider).await,
        };
        match outcome {
            Ok(true) => self.notes.pauses.end(of),
            Ok(false) => self.notes.pauses.begin(of, least),
            Err(error) => {
                self.notes.pauses.begin(of, least);
                let (name, error) = (&route.upstream.details.name, &error as &dyn std::error::Error);
                tracing::warn!(upstream.name = name, error, "the provider's side of a credential is not done yet; it is tried again");
            }
        }
    }

    async fn place_by_schedule(&self, credential: &Credential, schedule: &Schedule, provider: &KeyProvider) -> Result<bool, ErrandError> {
        let last = credential.rotations.last().map(|last| last.id.to_string()).unwrap_or_default();
        let dropped = credential.provider_side.dropped_at.map_or(0, |at| at.as_micros());
        // Two nodes at once order the same one.
        let name = format!("order for {} after {} {last} {dropped}", credential.id, credential.secret_version);
        let id = CommandId::of(&credential.tenant, &Actor::Scheduler, &name);
        let ordered = RotationOrdered {
            rotation: id.new_rotation_id(),
            provider: provider.name.clone(),
            compromise: false,
            window_seconds: schedule.window_seconds,
            grace_seconds: schedule.grace_seconds,
            unused_seconds: schedule.unused_seconds,
        };
        let rotation = ordered.rotation;
        self.order_command(credential, id, OrderCommand::Place(ordered)).await?;
        tracing::info!(credential.id = %credential.id, rotation.id = %rotation, schedule = schedule.name, "the next credential is ordered");
        Ok(true)
    }

    /// Asks the provider, and delivers. False where another node is at it, or the key comes later.
    async fn fill(&self, route: &Route, credential: &Credential, order: &Order, provider: &KeyProvider) -> Result<bool, ErrandError> {
        let (node, rotation) = (self.commands.writer().id(), order.rotation);
        let number = order.claim.map_or(0, |claim| claim.number).saturating_add(1);
        let name = format!("order {rotation} of {} claim {number} by {node}", credential.id);
        let id = CommandId::of(&credential.tenant, &Actor::Scheduler, &name);
        let claimed = match self.order_command(credential, id, OrderCommand::Claim { rotation, node }).await {
            Err(ExecuteError::Rejected(_)) => return Ok(false),
            claimed => claimed?,
        };
        let began = Instant::now();
        let Aggregate::Credential(now_is) = &claimed.aggregate else { return Ok(false) };
        let is_ours = now_is
            .provider_side
            .order_of(rotation)
            .and_then(|order| order.claim)
            .is_some_and(|claim| claim.number == number && claim.node == node);
        if !is_ours || claimed.repeated || began.elapsed() > CLAIM_USE_MAX {
            return Ok(false);
        }
        let request = KeyRequest { rotation, upstream: &route.upstream, now: (self.clock)().as_seconds() };
        let made = tokio::time::timeout(ASK_MAX, provider.make(&self.client, &request)).await.map_err(|_| ErrandError::Late)??;
        let Made::Key { secret, key } = made else { return Ok(false) };
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("dies-with-a-key-of-the-provider") {
            std::process::abort();
        }
        self.deliver(now_is, order, secret, key, number).await?;
        tracing::info!(upstream.name = route.upstream.details.name, rotation.id = %rotation, "the provider has made the next credential");
        Ok(true)
    }

    async fn deliver(
        &self,
        credential: &Credential,
        order: &Order,
        secret: Zeroizing<String>,
        key: Option<String>,
        number: u32,
    ) -> Result<(), ErrandError> {
        let fingerprint = self.vault.fingerprint(secret.as_bytes());
        let staged = RotationStaged {
            rotation: order.rotation,
            secret_version: self.seal_next(credential, secret).await?,
            fingerprint,
            compromise: order.compromise,
            window_seconds: order.window_seconds,
            grace_seconds: order.grace_seconds,
            unused_seconds: order.unused_seconds,
            reason: None,
        };
        let name = format!("order {} of {} delivery {number}", order.rotation, credential.id);
        let id = CommandId::of(&credential.tenant, &Actor::Scheduler, &name);
        self.order_command(credential, id, OrderCommand::Deliver { staged: Box::new(staged), key }).await?;
        Ok(())
    }

    async fn seal_next(&self, credential: &Credential, secret: Zeroizing<String>) -> Result<u32, ErrandError> {
        let (vault, now, credential) = (Arc::clone(&self.vault), (self.clock)(), credential.clone());
        let sealed = tokio::task::spawn_blocking(move || {
            let first = credential.next_secret_version();
            for version in first..first.saturating_add(NUMBERS_MAX) {
                let address = secret_address(&credential.tenant, credential.id, version, &credential.origin);
                if matches!(vault.seal(&address, secret.as_bytes(), Lifetime::lasting(now))?, Sealing::Sealed) {
                    return Ok(version);
                }
            }
            Err(ErrandError::Numbers)
        });
        sealed.await?
    }

    /// Asks which key the old secret belongs to, while it is still there to be compared.
    async fn identify(&self, credential: &Credential, version: u32, provider: &KeyProvider) -> Result<bool, ErrandError> {
        let address = secret_address(&credential.tenant, credential.id, version, &credential.origin);
        let vault = Arc::clone(&self.vault);
        let secret = tokio::task::spawn_blocking(move || vault.unseal(&address)).await??;
        let Ok(secret) = std::str::from_utf8(&secret) else { return Ok(false) };
        let found = tokio::time::timeout(ASK_MAX, provider.identify(&self.client, secret)).await.map_err(|_| ErrandError::Late)??;
        let Some(key) = found else {
            tracing::warn!(credential.id = %credential.id, "the provider shows no key, or several, that the old credential can be; end it there by hand");
            return Ok(false);
        };
        let id = CommandId::of(&credential.tenant, &Actor::Scheduler, &format!("key of {} secret {version}: {key}", credential.id));
        let noted = ProviderKeyNoted { secret_version: version, provider: provider.name.clone(), key };
        self.order_command(credential, id, OrderCommand::Note(noted)).await?;
        Ok(true)
    }

    async fn retire(
        &self,
        route: &Route,
        credential: &Credential,
        noted: &ProviderKeyNoted,
        provider: &KeyProvider,
    ) -> Result<bool, ErrandError> {
        let rotation = RotationId::from_bytes([0; 16]);
        let request = KeyRequest { rotation, upstream: &route.upstream, now: (self.clock)().as_seconds() };
        tokio::time::timeout(ASK_MAX, provider.retire(&self.client, &noted.key, &request)).await.map_err(|_| ErrandError::Late)??;
        let name = format!("key of {} secret {} gone: {}", credential.id, noted.secret_version, noted.key);
        let id = CommandId::of(&credential.tenant, &Actor::Scheduler, &name);
        let retired = ProviderKeyRetired { secret_version: noted.secret_version, key: noted.key.clone() };
        self.order_command(credential, id, OrderCommand::Retire(retired)).await?;
        tracing::info!(
            upstream.name = route.upstream.details.name,
            key = noted.key,
            "a key that is out of use is taken away at the provider"
        );
        Ok(true)
    }

    async fn order_command(&self, credential: &Credential, command_id: CommandId, command: OrderCommand) -> Result<Receipt, ExecuteError> {
        let request = Request {
            command_id,
            command: Command::Credential(CredentialCommand::Order(command)),
            actor: Actor::Scheduler,
            request_digest: Digest::blake3(b"keyrelay credential order"),
            if_version: None,
            deadline: Commands::deadline(),
            stream: Stream::credential(credential.tenant.clone(), credential.id),
        };
        self.commands.execute(request).await
    }
}
