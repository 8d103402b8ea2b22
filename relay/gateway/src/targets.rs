//! The routing snapshot, made ready for use: addresses parsed, credentials at hand.
//!
//! Built anew when the projector swaps its routes, never per request. A credential is unsealed on first use and shared with the next
//! snapshot as long as it is the same secret; with the last snapshot that names it, it is wiped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::uri::{Authority, Builder, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Uri, header};
use parking_lot::Mutex;
use policy_host::contract::{Price, route};
use projector::{ReadModels, Route, Routes};
use schemas::credential::Credential;
use schemas::credential::grant::Grant;
use schemas::key::{Dedicated, Endpoint, Key};
use schemas::pool::Pool;
use schemas::upstream::{Dialect, Upstream};
use schemas::{CredentialId, PoolId, RotationId, Stream, TenantId, UpstreamId, name};
use thiserror::Error;
use tokio::sync::OnceCell;
use vault::{GrantSecret, SecretAddress, UnsealError, Vault};
use zeroize::Zeroizing;

use crate::address;
use crate::cooling::Standing;
use crate::fallback::{Fallback, Tally};
use crate::headers::credential_name;
use crate::pulse::Pulse;

/// How long a credential that the key store does not show may be on its way to this node.
const CREDENTIAL_WAIT: Duration = Duration::from_secs(5);
/// For how long after that a request that needs it looks once and does not wait: it goes with the fall-back, or to another upstream.
const MISSED_FOR: Duration = Duration::from_secs(30);

/// What a credential header may look like; an unsealed secret that is no header value is unusable.
#[derive(Debug, Error)]
pub(crate) enum CredentialError {
    #[error("the credential could not be unsealed")]
    Unseal(#[from] UnsealError),
    #[error("the credential cannot be a header value")]
    Value,
    #[error("the unsealing task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// A credential as an upstream is shown it.
pub(crate) type Shown = (HeaderName, HeaderValue);

/// Makes snapshots and keeps the last one.
pub(crate) struct Targets {
    models: ReadModels,
    vault: Arc<Vault>,
    allow_private: bool,
    last: ArcSwap<Snapshot>,
}

/// All upstreams that a request can be sent to, in the projector's order.
pub(crate) struct Snapshot {
    routes: Arc<Routes>,
    pub(crate) targets: Vec<Arc<Target>>,
}

/// One upstream with all it takes to send it a request.
pub(crate) struct Target {
    pub(crate) route: Arc<Route>,
    /// Whether clients' requests may be sent to it: it is enabled, and in a pool that there is.
    is_open: bool,
    /// The upstream's name as a header.
    pub(crate) name: HeaderValue,
    credential: Credential,
    /// The one in use, shared among snapshots.
    pub(crate) secret: Arc<Secret>,
    /// The one to try where that is refused.
    pub(crate) fallback: Option<Fallback>,
    /// Shared among snapshots.
    pub(crate) pulse: Arc<Pulse>,
    /// What policies are told of it, but for what changes from request to request.
    pub(crate) facts: route::Candidate,
    chat_completions: Uri,
    messages: Uri,
    models: Uri,
}

/// One secret of a credential, as the header that shows it once it was needed.
pub(crate) struct Secret {
    id: CredentialId,
    version: u32,
    header: OnceCell<Shown>,
    /// Since when it is known not to be there. Written by requests.
    missed_at: Mutex<Option<Instant>>,
}

impl Targets {
    pub(crate) fn new(models: ReadModels, vault: Arc<Vault>, allow_private: bool) -> Self {
        let last = ArcSwap::from_pointee(Snapshot { routes: Arc::default(), targets: Vec::new() });
        Self { models, vault, allow_private, last }
    }

    /// The present snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        let routes = self.models.routes();
        let last = self.last.load_full();
        if Arc::ptr_eq(&last.routes, &routes) {
            return last;
        }
        let snapshot = Arc::new(Snapshot::new(routes, &last, self.allow_private));
        self.last.store(Arc::clone(&snapshot));
        snapshot
    }

    /// The header that shows a secret of the target's credential. The vault is asked once per secret.
    pub(crate) async fn header(&self, target: &Target, secret: &Secret) -> Result<Shown, CredentialError> {
        let header = secret.header.get_or_try_init(|| async {
            let (vault, address) = (Arc::clone(&self.vault), secret_address(&target.credential, secret.version));
            let wait = secret.wait();
            let opened = tokio::task::spawn_blocking(move || vault.unseal_within(&address, wait)).await?;
            secret.note(opened.is_ok());
            let plaintext = opened?;
            let shown = match target.grant() {
                Some(_) => bearer(&plaintext),
                None => header(target.route.upstream.details.dialect, &plaintext),
            };
            shown.ok_or(CredentialError::Value)
        });
        header.await.cloned()
    }
}

impl Snapshot {
    fn new(routes: Arc<Routes>, last: &Self, allow_private: bool) -> Self {
        let target = |route: &Arc<Route>| {
            let pool = pool(&routes, &route.upstream.tenant, route.upstream.details.pool);
            Target::new(route, pool, last, allow_private).map(Arc::new)
        };
        let targets = routes.upstreams.iter().filter_map(target).collect();
        Self { routes, targets }
    }

    /// What the model costs in an upstream's pool; none if the pool has no price for it.
    pub(crate) fn price(&self, upstream: &Upstream, model: &str) -> Option<Price> {
        let price = pool(&self.routes, &upstream.tenant, upstream.details.pool)?.price(model)?;
        let cached = |price: Option<u64>, input| price.unwrap_or(input);
        let (cache_read, cache_write) = (cached(price.cache_read, price.input), cached(price.cache_write, price.input));
        Some(Price { input: price.input, output: price.output, cache_read, cache_write })
    }

    /// The target of an upstream.
    pub(crate) fn of(&self, upstream: UpstreamId) -> Option<&Arc<Target>> {
        self.targets.iter().find(|target| target.route.upstream.id == upstream)
    }

    fn pulse(&self, upstream: UpstreamId) -> Option<Arc<Pulse>> {
        self.targets.iter().find(|target| target.route.upstream.id == upstream).map(|target| Arc::clone(&target.pulse))
    }

    /// The secret of this number, as this snapshot has it or anew.
    fn secret(&self, id: CredentialId, version: u32) -> Arc<Secret> {
        let secrets = |target: &'_ Arc<Target>| {
            let fallback = target.fallback.as_ref().map(|fallback| Arc::clone(&fallback.secret));
            std::iter::once(Arc::clone(&target.secret)).chain(fallback)
        };
        let mut all = self.targets.iter().flat_map(secrets);
        all.find(|secret| secret.id == id && secret.version == version).unwrap_or_else(|| Arc::new(Secret::new(id, version)))
    }

    fn tally(&self, credential: CredentialId, rotation: RotationId) -> Arc<Tally> {
        let of_it = self.targets.iter().filter(|target| target.credential.id == credential);
        let mut fallbacks = of_it.filter_map(|target| target.fallback.as_ref());
        fallbacks.find(|fallback| fallback.rotation == rotation).map(|fallback| Arc::clone(&fallback.tally)).unwrap_or_default()
    }
}

impl Secret {
    const fn new(id: CredentialId, version: u32) -> Self {
        Self { id, version, header: OnceCell::const_new(), missed_at: Mutex::new(None) }
    }

    /// How long a request may wait for the secret: requests wait for it one after another, so only the first of them waits in full.
    fn wait(&self) -> Duration {
        let was_missed = self.missed_at.lock().is_some_and(|at| at.elapsed() < MISSED_FOR);
        if was_missed { Duration::ZERO } else { CREDENTIAL_WAIT }
    }

    fn note(&self, is_there: bool) {
        *self.missed_at.lock() = (!is_there).then(Instant::now);
    }
}

impl Target {
    /// None for an upstream that nothing can be sent to: without a credential for its origin, or on an address that is not allowed.
    fn new(route: &Arc<Route>, pool: Option<&Pool>, last: &Snapshot, allow_private: bool) -> Option<Self> {
        let details = &route.upstream.details;
        let credential = route.credential.as_ref().filter(|credential| credential.origin == route.upstream.origin())?;
        let base: Uri = details.base_url.parse().ok()?;
        if !allow_private && address::forbids_literal(base.host()?) {
            tracing::warn!(upstream.name = details.name, "upstream is not used: its address is private");
            return None;
        }
        let (chat_completions, messages, models) = match details.dialect {
            Dialect::Openai => ("/chat/completions", "/messages", "/models"),
            Dialect::Anthropic => ("/v1/chat/completions", "/v1/messages", "/v1/models"),
        };
        let fallback = credential.fallback_secret().map(|(rotation, previous)| Fallback {
            rotation: rotation.id,
            secret: last.secret(credential.id, previous.version),
            tally: last.tally(credential.id, rotation.id),
        });
        Some(Self {
            route: Arc::clone(route),
            is_open: route.upstream.is_enabled() && pool.is_some(),
            name: HeaderValue::from_bytes(details.name.as_bytes()).ok()?,
            credential: credential.clone(),
            pulse: last.pulse(route.upstream.id).unwrap_or_default(),
            facts: facts(&route.upstream, pool),
            secret: last.secret(credential.id, credential.secret_version),
            fallback,
            chat_completions: below(&base, chat_completions)?,
            messages: below(&base, messages)?,
            models: below(&base, models)?,
        })
    }

    /// What is known of its credential where a provider granted it.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.credential.grant.as_deref()
    }

    /// The stream of its credential.
    pub(crate) fn credential_stream(&self) -> Stream {
        Stream::credential(self.credential.tenant.clone(), self.credential.id)
    }

    /// What a failure is about: it says nothing of the upstream once that was changed, or has another secret.
    pub(crate) fn standing(&self) -> Standing {
        Standing { upstream: self.route.version, secret: self.credential.secret_version }
    }

    pub(crate) fn tenant(&self) -> &TenantId {
        &self.credential.tenant
    }

    pub(crate) fn credential_id(&self) -> CredentialId {
        self.credential.id
    }

    /// One of the credential's secrets, whether or not it is in use; none of a number that has no secret.
    pub(crate) fn secret_of(&self, version: u32) -> Option<Secret> {
        self.credential.secret_versions().contains(&version).then(|| Secret::new(self.credential.id, version))
    }

    /// Where a request for the endpoint goes, with a query if there is one.
    pub(crate) fn uri(&self, endpoint: Endpoint, query: Option<&str>) -> Option<Uri> {
        let uri = match endpoint {
            Endpoint::ChatCompletions => &self.chat_completions,
            Endpoint::Messages => &self.messages,
            Endpoint::Models => &self.models,
        };
        let Some(query) = query else { return Some(uri.clone()) };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(format!("{}?{query}", uri.path())).ok()?);
        Uri::from_parts(parts).ok()
    }

    /// The place of the target for the key, lower is tried first: an upstream that the key is dedicated to, then the key's pools in their
    /// order. None if the key's requests may not be sent to it.
    pub(crate) fn pool_rank(&self, key: &Key) -> Option<usize> {
        let upstream = &self.route.upstream;
        if !self.is_open || upstream.tenant != key.tenant {
            return None;
        }
        match key.dedicated {
            Some(dedicated) if dedicated.upstream == upstream.id => return Some(0),
            Some(Dedicated { fallback: false, .. }) => return None,
            Some(Dedicated { fallback: true, .. }) | None => {}
        }
        key.details.pools.iter().position(|pool| *pool == upstream.details.pool).map(|rank| rank + 1)
    }

    /// Whether the upstream serves the model, as far as its patterns say.
    pub(crate) fn serves(&self, model: &str) -> bool {
        allows(&self.route.upstream.details.models, model)
    }
}

fn pool<'a>(routes: &'a Routes, tenant: &TenantId, id: PoolId) -> Option<&'a Pool> {
    routes.pools.iter().map(|pool| &pool.value).find(|pool| pool.id == id && pool.tenant == *tenant)
}

fn facts(upstream: &Upstream, pool: Option<&Pool>) -> route::Candidate {
    let Upstream { id, details, labels, .. } = upstream;
    route::Candidate {
        id: id.to_string(),
        name: details.name.clone(),
        pool: details.pool.to_string(),
        pool_name: pool.map(|pool| pool.name.clone()).unwrap_or_default(),
        region: labels.region.clone(),
        tags: labels.tags.clone(),
        priority: details.priority,
        weight: details.weight,
        is_cooling: false,
        in_flight: 0,
        latency_ms: None,
        price: None,
        more: Vec::new(),
    }
}

/// Whether a list of patterns, of which an empty one allows all, allows a model.
pub(crate) fn allows(patterns: &[String], model: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| name::matches(pattern, model))
}

fn below(base: &Uri, path: &str) -> Option<Uri> {
    let authority: &Authority = base.authority()?;
    let scheme: &Scheme = base.scheme()?;
    let path = format!("{}{path}", base.path().trim_end_matches('/'));
    Builder::new().scheme(scheme.clone()).authority(authority.clone()).path_and_query(path).build().ok()
}

fn secret_address(credential: &Credential, version: u32) -> SecretAddress {
    SecretAddress {
        tenant: credential.tenant.clone(),
        owner_kind: "credential",
        owner_id: *credential.id.as_bytes(),
        field: "secret",
        version,
        origin: credential.origin.clone(),
    }
}

/// The credential as the dialect shows it.
fn header(dialect: Dialect, plaintext: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let prefix: &[u8] = match dialect {
        Dialect::Openai => b"Bearer ",
        Dialect::Anthropic => b"",
    };
    Some((credential_name(dialect), header_value(prefix, plaintext)?))
}

/// A grant's access token, which every provider takes in one way.
fn bearer(plaintext: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let grant = GrantSecret::from_bytes(plaintext).ok()?;
    Some((header::AUTHORIZATION, header_value(b"Bearer ", grant.access_token.as_bytes())?))
}

/// The value shares one buffer, which is wiped when its last holder lets go.
fn header_value(prefix: &[u8], secret: &[u8]) -> Option<HeaderValue> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(prefix.len() + secret.len()));
    bytes.extend_from_slice(prefix);
    bytes.extend_from_slice(secret);
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_request_waits_for_a_secret_that_is_not_there() {
        let secret = Secret::new(CredentialId::from_bytes([1; 16]), 2);
        assert_eq!(secret.wait(), CREDENTIAL_WAIT);
        secret.note(false);
        assert_eq!(secret.wait(), Duration::ZERO);
        *secret.missed_at.lock() = Instant::now().checked_sub(MISSED_FOR);
        assert_eq!(secret.wait(), CREDENTIAL_WAIT, "it is never waited for again");
        secret.note(false);
        secret.note(true);
        assert_eq!(secret.wait(), CREDENTIAL_WAIT);
    }
}
