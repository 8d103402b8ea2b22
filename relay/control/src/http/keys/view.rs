//! What is shown of a key.

use projector::Versioned;
use schemas::key::{Endpoint, Expiry, Fact, Key, KeyState, Leak, Limits, SecretScheme};
use schemas::usage::AddressClass;
use schemas::{Actor, DurationText, KeyId, Timestamp, Version};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{choices, rotation, unseal_text};
use crate::http::app::App;
use crate::http::conventions::pool_text;
use crate::http::error::ApiError;

/// A client key, without any secret.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct KeyView {
    id: KeyId,
    name: String,
    description: Option<String>,
    owner: Option<String>,
    tags: Vec<String>,
    state: KeyState,
    /// Null where it never expires, or its time has not begun.
    expires_at: Option<Timestamp>,
    /// How long the key is good from its first accepted request on, while that is awaited.
    expires_after_first_use: Option<DurationText>,
    /// When that first request came; null for keys whose time did not begin with it.
    first_used_at: Option<Timestamp>,
    pools: Vec<String>,
    models: Vec<String>,
    endpoints: Vec<Endpoint>,
    limits: Limits,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// The one upstream that its requests go to.
    upstream: Option<String>,
    /// Whether the pools follow when that upstream cannot answer.
    upstream_fallback: bool,
    /// One secret, or two during the overlap of a rotation; the last is current.
    secrets: Vec<SecretView>,
    created_at: Timestamp,
    renewed_at: Option<Timestamp>,
    rotated_at: Option<Timestamp>,
    /// When the expiry was recorded; the key is refused from `expires_at` on in any case.
    expired_at: Option<Timestamp>,
    disabled: Option<FactView>,
    revoked: Option<FactView>,
    archived: Option<FactView>,
    /// When the key gets a new secret by itself.
    rotation: Option<rotation::ScheduleView>,
    /// The number of its current secret while that waits to be collected: nobody has it yet.
    successor: Option<u32>,
    /// Those of its secrets that a scanner found in the open.
    leaks: Vec<LeakView>,
    version: Version,
}

/// One secret of a key: its number, and until when it is good if a newer one took its place.
#[derive(Debug, Serialize, ToSchema)]
struct SecretView {
    number: u32,
    valid_until: Option<Timestamp>,
    /// Whether a client had it before the key was made.
    brought: bool,
    /// Requests that showed it and reached an upstream, and when the last one was settled: who still uses the secret before the current one.
    requests: u64,
    last_used_at: Option<Timestamp>,
    /// The same by where the clients' addresses belong. Requests from before this was noted are in none of them.
    clients: Vec<ClientsView>,
}

/// What clients of one class of address did with a secret. Behind a proxy, the address is the proxy's.
#[derive(Debug, Serialize, ToSchema)]
struct ClientsView {
    address: AddressClass,
    requests: u64,
    last_used_at: Timestamp,
}

/// A secret that was found in the open: the first report of it.
#[derive(Debug, Serialize, ToSchema)]
struct LeakView {
    /// The secret's number.
    number: u32,
    at: Timestamp,
    scanner: String,
    /// What kind of place it was found in, in the scanner's words.
    source: Option<String>,
    url: Option<String>,
}

/// What somebody did, when, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct FactView {
    at: Timestamp,
    by: Actor,
    reason: Option<String>,
}

pub(in crate::http) fn fact_view(app: &App, fact: Option<&Fact>) -> Result<Option<FactView>, ApiError> {
    let Some(fact) = fact else { return Ok(None) };
    Ok(Some(FactView { at: fact.at, by: fact.by, reason: unseal_text(app, fact.reason.as_ref())? }))
}

fn leak_view(app: &App, leak: &Leak) -> Result<LeakView, ApiError> {
    let Leak { number, at, scanner, source, url } = leak;
    Ok(LeakView { number: *number, at: *at, scanner: scanner.clone(), source: source.clone(), url: unseal_text(app, url.as_ref())? })
}

pub(super) async fn shown(app: &App, key: Versioned<Key>) -> Result<KeyView, ApiError> {
    app.blocking(move |app| view(app, &key)).await?
}

/// Blocks on the key store.
pub(super) fn view(app: &App, key: &Versioned<Key>) -> Result<KeyView, ApiError> {
    let (Versioned { value: key, version }, now) = (key, app.now());
    let details = &key.details;
    Ok(KeyView {
        id: key.id,
        name: details.name.clone(),
        description: unseal_text(app, details.description.as_ref())?,
        owner: details.owner.clone(),
        tags: details.tags.clone(),
        state: key.state(now),
        expires_at: match key.expiry {
            Expiry::Never => None,
            Expiry::At(at) => Some(at),
        },
        expires_after_first_use: key.activation.map(|activation| DurationText::from_seconds(activation.seconds)),
        first_used_at: key.first_used_at,
        pools: details.pools.iter().map(|pool| pool_text(app, &key.tenant, *pool)).collect(),
        models: details.models.clone(),
        endpoints: details.endpoints.clone(),
        limits: details.limits.clone(),
        metadata: choices::shown_metadata(&key.metadata),
        upstream: key.dedicated.map(|dedicated| choices::upstream_text(app, &key.tenant, dedicated.upstream)),
        upstream_fallback: key.dedicated.is_some_and(|dedicated| dedicated.fallback),
        secrets: key
            .secrets
            .iter()
            .filter(|secret| secret.is_valid(now))
            .map(|secret| {
                let used = app.usage.key_secret(&key.tenant, key.id, secret.number)?;
                Ok(SecretView {
                    number: secret.number,
                    valid_until: secret.valid_until,
                    brought: secret.scheme != SecretScheme::Issued,
                    requests: used.map_or(0, |used| used.requests),
                    last_used_at: used.map(|used| used.last_used),
                    clients: app
                        .usage
                        .key_secret_clients(&key.tenant, key.id, secret.number)?
                        .into_iter()
                        .map(|(address, totals)| ClientsView { address, requests: totals.requests, last_used_at: totals.last_used })
                        .collect(),
                })
            })
            .collect::<Result<_, ApiError>>()?,
        created_at: key.created_at,
        renewed_at: key.renewed_at,
        rotated_at: key.rotated_at,
        expired_at: key.expired_at,
        disabled: fact_view(app, key.disabled.as_ref())?,
        revoked: fact_view(app, key.revoked.as_ref())?,
        archived: fact_view(app, key.archived.as_ref())?,
        rotation: key.rotation.map(|schedule| rotation::schedule_view(key, schedule)),
        successor: key.successor,
        leaks: key.leaks.iter().map(|leak| leak_view(app, leak)).collect::<Result<_, _>>()?,
        version: *version,
    })
}
