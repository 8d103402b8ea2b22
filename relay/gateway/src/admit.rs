//! Whether a request may come in: whose key it shows, and what that key allows now.

use std::sync::Arc;

use http::request::Parts;
use schemas::client_key;
use schemas::key::{Endpoint, Key, KeyRefusal};

use crate::exchange::Arrival;
use crate::gateway::State;
use crate::limits::{Allowed, Exceeded};
use crate::refusal::Refusal;
use crate::staleness::Staleness;

/// A request that was let in, and what it holds of the key's limits.
pub(crate) struct Admitted {
    pub(crate) key: Arc<Key>,
    /// Which of the key's secrets was shown.
    pub(crate) secret_number: u32,
    pub(crate) allowed: Allowed,
    pub(crate) staleness: Staleness,
}

/// Lets a request in, or not. It is counted against the key's rate only if everything else allows it.
pub(crate) fn admit(state: &State, parts: &Parts, endpoint: Endpoint, arrival: Arrival) -> Result<Admitted, Refusal> {
    if state.is_draining() {
        return Err(Refusal::Draining);
    }
    // Before the key is looked up: neither that it is good nor that it is unknown can be told from rows that are too old.
    let staleness = Staleness::judge(state.staleness(), state.config.staleness_max)?;
    let now = arrival.at;
    let text = crate::client_key::find(&parts.headers, parts.uri.query())?;
    let hash = client_key::hash(&text);
    let key = match state.models.key_by_hash(&hash) {
        Ok(key) => key.ok_or(Refusal::KeyUnknown)?,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "key could not be looked up");
            return Err(Refusal::Unavailable);
        }
    };
    // Whoever shows a secret that is good no more learns nothing else about the key than that it is past its time.
    let secret = key.secret(&hash, now);
    match key.refusal(now) {
        Some(KeyRefusal::Archived) => return Err(Refusal::KeyArchived),
        Some(KeyRefusal::Revoked) => return Err(Refusal::KeyRevoked),
        Some(KeyRefusal::Expired) => return Err(Refusal::KeyExpired),
        Some(KeyRefusal::Disabled) if secret.is_some() => return Err(Refusal::KeyDisabled),
        Some(KeyRefusal::Disabled) | None => {}
    }
    let secret_number = secret.ok_or(Refusal::KeySuperseded)?.number;
    if state.models.is_suspended(&key.tenant) {
        return Err(Refusal::TenantSuspended);
    }
    let details = &key.details;
    if !details.endpoints.is_empty() && !details.endpoints.contains(&endpoint) {
        return Err(Refusal::EndpointNotAllowed);
    }
    let allowed = state.allowances.admit(key.id, &details.limits, now).map_err(|exceeded| match exceeded {
        Exceeded::Rate(rate) => Refusal::RateLimited(rate),
        Exceeded::Concurrency(limit) => Refusal::ConcurrencyLimited(limit),
    })?;
    Ok(Admitted { key, secret_number, allowed, staleness })
}
