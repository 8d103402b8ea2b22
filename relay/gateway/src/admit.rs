//! Whether a request may come in: whose key it shows, and what that key allows now.

use std::sync::Arc;

use http::request::Parts;
use projector::ReadError;
use schemas::key::{Endpoint, Key, KeyRefusal};
use schemas::{Digest, Timestamp, client_key};

use crate::exchange::Arrival;
use crate::gateway::State;
use crate::limits::{Allowed, Exceeded};
use crate::older_key;
use crate::refusal::Refusal;
use crate::staleness::Staleness;

/// A request that was let in, and what it holds of the key's limits.
pub(crate) struct Admitted {
    pub(crate) key: Arc<Key>,
    /// Which of the key's secrets was shown.
    pub(crate) secret_number: u32,
    /// Until when that secret is good, where a newer one took its place.
    pub(crate) secret_until: Option<Timestamp>,
    pub(crate) allowed: Allowed,
    pub(crate) staleness: Staleness,
}

/// A key that a request shows, and the hash of its secret.
struct Shown {
    key: Arc<Key>,
    hash: Digest,
    /// The hash that the secret is to have, and the version of its pepper, where it is known by an older one.
    upgrade: Option<(Digest, u32)>,
}

/// Looks up whose secret a text is. Secrets of our own form have one hash; those that clients had before another, and some of these are known by
/// the hash of the system that they come from.
async fn find(state: &State, text: &str) -> Result<Shown, Refusal> {
    let shown = |key, hash| Shown { key, hash, upgrade: None };
    if text.starts_with(client_key::PREFIX) {
        let hash = client_key::hash(text);
        return look_up(state, &hash)?.map(|key| shown(key, hash)).ok_or(Refusal::KeyUnknown);
    }
    let (hash, pepper) = state.vault.client_key_hash(text);
    let found = look_up(state, &hash)?;
    let is_present = found.as_ref().is_some_and(|key| key.secrets.iter().any(|secret| secret.hash == hash));
    let salts = state.models.salts();
    // A key that had the hash may be known by the older one again: an import set it back.
    if is_present || salts.is_empty() {
        return found.map(|key| shown(key, hash)).ok_or(Refusal::KeyUnknown);
    }
    match Box::pin(older_key::find(state, text, &salts)).await? {
        Some((key, older)) => Ok(Shown { key, hash: older, upgrade: Some((hash, pepper)) }),
        // An upgrade may have taken the old hash away between the two looks.
        None => look_up(state, &hash)?.map(|key| shown(key, hash)).ok_or(Refusal::KeyUnknown),
    }
}

fn look_up(state: &State, hash: &Digest) -> Result<Option<Arc<Key>>, Refusal> {
    state.models.key_by_hash(hash).map_err(|error| unreadable(&error))
}

pub(crate) fn unreadable(error: &ReadError) -> Refusal {
    tracing::error!(error = error as &dyn std::error::Error, "key could not be looked up");
    Refusal::Unavailable
}

/// Lets a request in, or not. It is counted against the key's rate only if everything else allows it.
pub(crate) async fn admit(state: &State, parts: &Parts, endpoint: Endpoint, arrival: Arrival) -> Result<Admitted, Refusal> {
    if state.is_draining() {
        return Err(Refusal::Draining);
    }
    // Before the key is looked up: neither that it is good nor that it is unknown can be told from rows that are too old.
    let staleness = Staleness::judge(state.staleness(), state.config.staleness_max)?;
    let now = arrival.at;
    let text = crate::client_key::find(&parts.headers, parts.uri.query())?;
    let Shown { key, hash, upgrade } = find(state, &text).await?;
    // Whoever shows a secret that is good no more learns nothing else about the key than that it is past its time.
    let secret = key.secret(&hash, now);
    match key.refusal(now) {
        Some(KeyRefusal::Archived) => return Err(Refusal::KeyArchived),
        Some(KeyRefusal::Revoked) => return Err(Refusal::KeyRevoked),
        Some(KeyRefusal::Expired) => return Err(Refusal::KeyExpired),
        Some(KeyRefusal::Disabled) if secret.is_some() => return Err(Refusal::KeyDisabled),
        Some(KeyRefusal::Disabled) | None => {}
    }
    let secret = secret.ok_or(Refusal::KeySuperseded)?;
    let (secret_number, secret_until) = (secret.number, secret.valid_until);
    if state.models.is_suspended(&key.tenant) {
        return Err(Refusal::TenantSuspended);
    }
    if state.activations.is_over(&key, now) {
        return Err(Refusal::KeyExpired);
    }
    let details = &key.details;
    if !details.endpoints.is_empty() && !details.endpoints.contains(&endpoint) {
        return Err(Refusal::EndpointNotAllowed);
    }
    let allowed = state.allowances.admit(key.id, &details.limits, now).map_err(|exceeded| match exceeded {
        Exceeded::Rate(rate) => Refusal::RateLimited(rate),
        Exceeded::Concurrency(limit) => Refusal::ConcurrencyLimited(limit),
    })?;
    if let Some(upgrade) = upgrade {
        older_key::upgrade(&key, secret, upgrade, &state.outbox);
    }
    Ok(Admitted { key, secret_number, secret_until, allowed, staleness })
}
