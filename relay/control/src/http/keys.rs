//! `/keys`: client keys and their whole life.

pub(super) mod batch;
pub(crate) mod brought;
mod choices;
pub(super) mod life;
pub(super) mod listing;
pub(super) mod rotation;
mod view;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use projector::Versioned;
use schemas::key::{Endpoint, Key, KeyCommand, KeyDetails, KeyPatch, KeyState, Limits, NewSecret, SecretScheme};
use schemas::{Aggregate, Command, DurationText, KeyId, Sealed, Sequence, Stream, TenantId, Timestamp, client_key};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use tokio::time::Instant;
use utoipa::ToSchema;
use zeroize::Zeroizing;

pub(super) use brought::LENGTH as LENGTH_OF_BROUGHT;
pub(super) use view::{FactView, fact_view};
use view::{KeyView, shown, view};

use super::app::App;
use super::conventions::{Caller, Fenced, Mutation, NeverText, Nothing, Params, Reason, named_pool, present, term, term_or_default};
use super::error::{ApiError, MutationProblems, ReadProblems};
use super::usage::UsageRows;
use crate::Receipt;
use crate::fence::{Applied, Fence};
use crate::secrets::{self, RepeatError, is_away};

/// The most characters of a description or a reason.
pub(crate) const FREE_TEXT_LENGTH_MAX: usize = 1000;
/// The overlap of a rotation that names none: 24 hours.
const OVERLAP_DEFAULT: DurationText = DurationText::from_seconds(24 * 3600);

/// A new client key. Exactly one of `expires_in`, `expires_at`, `expires_after_first_use` and `expires` is given; none has the tenant's default,
/// where it has one.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    name: String,
    /// Free text; it is sealed and can be erased.
    #[serde(default)]
    description: Option<String>,
    /// A plain label or a user's id.
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    /// From now, such as `30d`, `24h`, `15m` or `2s`.
    #[serde(default)]
    expires_in: Option<DurationText>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
    #[serde(default)]
    expires: Option<NeverText>,
    /// From its first accepted request on, such as `30d` or `12h`.
    #[serde(default)]
    expires_after_first_use: Option<DurationText>,
    /// Names or ids of the pools it may use, in order of preference.
    #[serde(default = "default_pools")]
    #[schema(default = json!(["default"]))]
    pools: Vec<String>,
    /// Patterns of model names, such as `gpt-*`; empty allows all.
    #[serde(default)]
    models: Vec<String>,
    /// Empty allows all.
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    #[serde(default)]
    limits: Limits,
    /// Any members, for policies; at most 4 KiB.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// Name or id of the one upstream that the key's requests go to, whether or not it stands in one of the pools.
    #[serde(default)]
    upstream: Option<String>,
    /// Whether the pools follow when that upstream cannot answer.
    #[serde(default)]
    upstream_fallback: bool,
    /// The key gets a new secret by itself.
    #[serde(default)]
    rotation: Option<rotation::Schedule>,
    /// A secret that a client has already, 16 to 512 visible characters; without it one is issued. Only its hash is kept, and it is not shown again.
    #[serde(default)]
    secret: Option<brought::BroughtSecret>,
    /// Takes a `secret` that would be cheap to guess: fewer than 80 bits by a rough count of its characters.
    #[serde(default)]
    allow_weak: bool,
}

fn default_pools() -> Vec<String> {
    vec!["default".to_owned()]
}

/// A change; a member that is not there stays as it is, `null` clears. Lists and `limits` are replaced whole.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyChange {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    owner: Option<Option<String>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    pools: Option<Vec<String>>,
    #[serde(default)]
    models: Option<Vec<String>>,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    limits: Option<Limits>,
    /// Replaced whole.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Option<Map<String, Value>>>,
    /// Name or id of the one upstream that the key's requests go to; `null` makes it use its pools again.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    upstream: Option<Option<String>>,
    #[serde(default)]
    upstream_fallback: Option<bool>,
    /// From now on the key gets a new secret by itself; `null` ends that.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<rotation::Schedule>)]
    rotation: Option<Option<rotation::Schedule>>,
}

/// A new expiry; exactly one of `expires_in`, `expires_at`, `expires_after_first_use` and `expires` is given.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Renewal {
    /// From now, such as `90d`.
    #[serde(default)]
    expires_in: Option<DurationText>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
    #[serde(default)]
    expires: Option<NeverText>,
    /// The waiting for a first accepted request begins again, and the key is good so long from that on.
    #[serde(default)]
    expires_after_first_use: Option<DurationText>,
    /// Lifts an operator's `disabled` as well.
    #[serde(default)]
    enable: bool,
}

/// How to rotate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the secret before the new one stays good: 0 to 30 days, `24h` if not given, never past the key's expiry.
    #[serde(default)]
    overlap: Option<DurationText>,
    /// Ends an overlap that is still running instead of refusing.
    #[serde(default)]
    finish_previous: bool,
}

/// A key after a mutation, and the record of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyAnswer {
    key: KeyView,
    sequence: Sequence,
    /// False where this node's read models do not have the record yet.
    applied: bool,
    /// How far the record has come, where the request asked to `wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<Fence>,
}

/// A key after a renewal.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RenewedKey {
    #[serde(flatten)]
    answer: KeyAnswer,
    /// Whether the renewal made a key active that was expired or disabled before.
    reenabled: bool,
}

/// A key with its new secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct IssuedKey {
    key: KeyView,
    /// `sk-kr-…`; null where a retry comes later than 24 hours, and where the secret was brought.
    #[schema(value_type = Option<String>)]
    #[serde(serialize_with = "secret_text")]
    secret: Option<Zeroizing<String>>,
    sequence: Sequence,
    applied: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownKey {
    key: KeyView,
    as_of: Sequence,
}

/// Create a key. The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/keys", tag = "keys", operation_id = "create_key", request_body = NewKey,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a retry give the same answer, secret included, for 24 hours")),
    responses((status = 201, body = IssuedKey), MutationProblems))]
pub(super) async fn create(State(app): State<App>, mutation: Mutation<NewKey>) -> Result<(StatusCode, Json<IssuedKey>), ApiError> {
    let id = mutation.command_id.new_key_id();
    let stream = Stream::key(mutation.caller.tenant.clone(), id);
    let body = &mutation.body;
    // A brought secret does not come back.
    let (secret, issued_secret) = match &body.secret {
        Some(secret) => (brought::admitted(&app, secret, body.allow_weak, id).await?, None),
        None => {
            let secret = issue(&app, &mutation, id).await?;
            (NewSecret { hash: client_key::hash(&secret), scheme: SecretScheme::Issued }, Some(secret))
        }
    };
    let command = creation(&app, &stream, body, secret).await?;
    let receipt = app.commands.execute(mutation.request(stream.clone(), Command::Key(command))).await?;
    if issued_secret.is_none() {
        brought::confirm(&app, &mutation, &receipt, (stream, id), &secret.hash).await?;
    }
    issued(&app, receipt, issued_secret).await.map(|answer| (StatusCode::CREATED, Json(answer)))
}

/// Show a key.
#[utoipa::path(get, path = "/keys/{id}", tag = "keys", operation_id = "show_key", params(("id" = KeyId, Path)),
    responses((status = 200, body = ShownKey), ReadProblems))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<ShownKey>, ApiError> {
    let as_of = app.position();
    let key = load(&app, &caller.tenant, parse_id(&id)?)?;
    Ok(Json(ShownKey { key: shown(&app, key).await?, as_of }))
}

/// Change details and limits.
#[utoipa::path(patch, path = "/keys/{id}", tag = "keys", operation_id = "update_key", request_body = KeyChange,
    params(("id" = KeyId, Path), ("If-Match" = Option<String>, Header, description = "The version that the change is meant for")),
    responses((status = 200, body = KeyAnswer), MutationProblems))]
pub(super) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<KeyChange>,
) -> Result<Json<KeyAnswer>, ApiError> {
    let stream = Stream::key(mutation.caller.tenant.clone(), parse_id(&id)?);
    let command = change(&app, &stream, &mutation.body).await?;
    execute(&app, &mutation, &id, command).await
}

/// Move the expiry. A renewal lifts a recorded expiry, and an operator's `disabled` only where `enable` asks for it.
#[utoipa::path(post, path = "/keys/{id}/renew", tag = "keys", operation_id = "renew_key", request_body = Renewal, params(("id" = KeyId, Path)),
    responses((status = 200, body = RenewedKey), MutationProblems))]
pub(super) async fn renew(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Renewal>,
) -> Result<Json<RenewedKey>, ApiError> {
    let body = &mutation.body;
    let term = term(app.now(), body.expires_in, body.expires_at, body.expires, body.expires_after_first_use)?;
    let stream = Stream::key(mutation.caller.tenant.clone(), parse_id(&id)?);
    let command = KeyCommand::Renew { term, enable: body.enable };
    let receipt = app.commands.execute(mutation.request(stream, Command::Key(command))).await?;
    let reenabled = is_reenabled(&receipt, app.now());
    Ok(Json(RenewedKey { answer: answer(&app, receipt).await?, reenabled }))
}

/// Whether a key that was refused when it was renewed was not after that.
fn is_reenabled(receipt: &Receipt, now: Timestamp) -> bool {
    let (Some(Aggregate::Key(before)), Aggregate::Key(after)) = (&receipt.before, &receipt.aggregate) else { return false };
    let at = if receipt.repeated { after.renewed_at.unwrap_or(now) } else { now };
    before != after && before.state(at) != KeyState::Active && after.state(at) == KeyState::Active
}

/// Give the key a new secret; the one before stays good for the overlap. Id, limits and usage stay.
#[utoipa::path(post, path = "/keys/{id}/rotate", tag = "keys", operation_id = "rotate_key", request_body = Rotation,
    params(("id" = KeyId, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a retry give the same answer, secret included, for 24 hours")),
    responses((status = 200, body = IssuedKey), MutationProblems))]
pub(super) async fn rotate(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Rotation>,
) -> Result<Json<IssuedKey>, ApiError> {
    let id = parse_id(&id)?;
    let stream = Stream::key(mutation.caller.tenant.clone(), id);
    let secret = issue(&app, &mutation, id).await?;
    let command = KeyCommand::Rotate {
        hash: client_key::hash(&secret),
        overlap_seconds: mutation.body.overlap.unwrap_or(OVERLAP_DEFAULT).as_seconds(),
        finish_previous: mutation.body.finish_previous,
    };
    let receipt = app.commands.execute(mutation.request(stream, Command::Key(command))).await?;
    issued(&app, receipt, Some(secret)).await.map(Json)
}

/// Refuse the key until it is enabled again.
#[utoipa::path(post, path = "/keys/{id}/disable", tag = "keys", operation_id = "disable_key", request_body = Reason, params(("id" = KeyId, Path)),
    responses((status = 200, body = KeyAnswer), MutationProblems))]
pub(super) async fn disable(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Reason>,
) -> Result<Json<KeyAnswer>, ApiError> {
    let reason = seal_reason(&app, &mutation, &id).await?;
    execute(&app, &mutation, &id, KeyCommand::Disable { reason }).await
}

/// Lift an operator's `disabled`.
#[utoipa::path(post, path = "/keys/{id}/enable", tag = "keys", operation_id = "enable_key", request_body = Nothing, params(("id" = KeyId, Path)),
    responses((status = 200, body = KeyAnswer), MutationProblems))]
pub(super) async fn enable(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<KeyAnswer>, ApiError> {
    execute(&app, &mutation, &id, KeyCommand::Enable).await
}

/// Refuse the key for ever. With `wait=true` the answer comes when every live node refuses it; if one did not in time, that is no failure: the
/// revocation is in the log, and `fence` names the node.
#[utoipa::path(post, path = "/keys/{id}/revoke", tag = "keys", operation_id = "revoke_key", request_body = Reason,
    params(("id" = KeyId, Path), Fenced),
    responses((status = 200, body = KeyAnswer), MutationProblems))]
pub(super) async fn revoke(
    State(app): State<App>,
    Path(id): Path<String>,
    Params(fenced): Params<Fenced>,
    mutation: Mutation<Reason>,
) -> Result<Json<KeyAnswer>, ApiError> {
    let began = Instant::now();
    let reason = seal_reason(&app, &mutation, &id).await?;
    let Json(mut answer) = execute(&app, &mutation, &id, KeyCommand::Revoke { reason }).await?;
    answer.fence = fenced.fence(&app, answer.sequence, Applied::Record, began).await?;
    Ok(Json(answer))
}

/// What one key used, by day.
#[utoipa::path(get, path = "/keys/{id}/usage", tag = "usage", operation_id = "key_usage", params(("id" = KeyId, Path)),
    responses((status = 200, body = UsageRows), ReadProblems))]
pub(super) async fn usage(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<UsageRows>, ApiError> {
    let key = load(&app, &caller.tenant, parse_id(&id)?)?;
    super::usage::of_key(&app, &caller.tenant, key.value.id).await
}

/// The command that creates a key.
async fn creation(app: &App, stream: &Stream, body: &NewKey, secret: NewSecret) -> Result<KeyCommand, ApiError> {
    let term = term_or_default(app, stream, body.expires_in, body.expires_at, body.expires, body.expires_after_first_use)?;
    let details = KeyDetails {
        name: body.name.clone(),
        description: seal_text(app, stream, body.description.as_deref()).await?,
        owner: body.owner.clone(),
        tags: body.tags.clone(),
        pools: body.pools.iter().map(|pool| named_pool(app, stream.tenant(), pool)).collect::<Result<_, _>>()?,
        models: body.models.clone(),
        endpoints: body.endpoints.clone(),
        limits: body.limits.clone(),
    };
    let metadata = choices::metadata(body.metadata.as_ref());
    let dedicated = choices::dedicated(app, stream.tenant(), body.upstream.as_deref(), body.upstream_fallback)?;
    let rotation = body.rotation.as_ref().map(rotation::Schedule::schedule);
    let new = schemas::key::NewKey { details, secret, term, metadata, dedicated, rotation };
    Ok(KeyCommand::Create(Box::new(new)))
}

/// The command that changes a key.
async fn change(app: &App, stream: &Stream, body: &KeyChange) -> Result<KeyCommand, ApiError> {
    let pools = body.pools.as_ref().map(|pools| pools.iter().map(|pool| named_pool(app, stream.tenant(), pool)).collect::<Result<_, _>>());
    let patch = KeyPatch {
        name: body.name.clone(),
        description: match &body.description {
            Some(text) => Some(seal_text(app, stream, text.as_deref()).await?),
            None => None,
        },
        owner: body.owner.clone(),
        tags: body.tags.clone(),
        pools: pools.transpose()?,
        models: body.models.clone(),
        endpoints: body.endpoints.clone(),
        limits: body.limits.clone(),
        metadata: body.metadata.as_ref().map(|metadata| choices::metadata(metadata.as_ref())),
        dedicated: choices::changed(app, stream, body.upstream.as_ref().map(Option::as_deref), body.upstream_fallback)?,
        rotation: body.rotation.as_ref().map(|rotation| rotation.as_ref().map(rotation::Schedule::schedule)),
    };
    Ok(KeyCommand::Change(Box::new(patch)))
}

fn parse_id(text: &str) -> Result<KeyId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("such key"))
}

fn load(app: &App, tenant: &TenantId, id: KeyId) -> Result<Versioned<Key>, ApiError> {
    app.models.key(tenant, id)?.ok_or(ApiError::NotFound("such key"))
}

async fn execute<T>(app: &App, mutation: &Mutation<T>, id: &str, command: KeyCommand) -> Result<Json<KeyAnswer>, ApiError> {
    let stream = Stream::key(mutation.caller.tenant.clone(), parse_id(id)?);
    let receipt = app.commands.execute(mutation.request(stream, Command::Key(command))).await?;
    answer(app, receipt).await.map(Json)
}

async fn answer(app: &App, receipt: Receipt) -> Result<KeyAnswer, ApiError> {
    let (sequence, applied) = (receipt.sequence, receipt.applied);
    Ok(KeyAnswer { key: shown(app, key_of(receipt)?).await?, sequence, applied, fence: None })
}

/// The one place where a secret goes out.
fn secret_text<S: Serializer>(secret: &Option<Zeroizing<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|secret| secret.as_str()).serialize(serializer)
}

/// The key that a command on a key left.
fn key_of(receipt: Receipt) -> Result<Versioned<Key>, ApiError> {
    match receipt.aggregate {
        Aggregate::Key(key) => Ok(Versioned { value: *key, version: receipt.version }),
        _ => Err(ApiError::NotFound("such key")),
    }
}

/// The secret that this command will give out. With an idempotency key it is sealed first, so that a retry finds the same.
async fn issue<T>(app: &App, mutation: &Mutation<T>, id: KeyId) -> Result<Zeroizing<String>, ApiError> {
    if !mutation.repeatable {
        return Ok(secrets::new_client_key(id));
    }
    let (record, tenant, now) = (mutation.command_id.record_id(), mutation.caller.tenant.clone(), app.now());
    Ok(app.vault(move |vault| secrets::repeatable_client_key(vault, &tenant, record, id, now)).await??)
}

/// A repeated answer shows the secret that was sealed. Once its 24 hours are over, `secret` is a fresh one that no key has: not shown.
async fn issued(app: &App, receipt: Receipt, secret: Option<Zeroizing<String>>) -> Result<IssuedKey, ApiError> {
    let is_shown = match &secret {
        Some(secret) => !receipt.repeated || app.models.key_by_hash(&client_key::hash(secret))?.is_some(),
        None => false,
    };
    let (sequence, applied) = (receipt.sequence, receipt.applied);
    Ok(IssuedKey { key: shown(app, key_of(receipt)?).await?, secret: secret.filter(|_| is_shown), sequence, applied })
}

async fn seal_reason(app: &App, mutation: &Mutation<Reason>, id: &str) -> Result<Option<Sealed>, ApiError> {
    let stream = Stream::key(mutation.caller.tenant.clone(), parse_id(id)?);
    seal_text(app, &stream, mutation.body.reason.as_deref()).await
}

/// Seals personal free text under the key of the aggregate that carries it.
pub(super) async fn seal_text(app: &App, stream: &Stream, text: Option<&str>) -> Result<Option<Sealed>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.chars().count() > FREE_TEXT_LENGTH_MAX {
        return Err(ApiError::BadRequest(format!("a description or reason has at most {FREE_TEXT_LENGTH_MAX} characters")));
    }
    let (stream, text) = (stream.clone(), Zeroizing::new(text.to_owned()));
    Ok(Some(app.vault(move |vault| vault.seal_field(&stream, &text)).await??))
}

/// The text of a sealed field; none once it was erased, or while it can be had from nowhere: what was done must be answered as done.
pub(in crate::http) fn unseal_text(app: &App, sealed: Option<&Sealed>) -> Result<Option<String>, ApiError> {
    let Some(sealed) = sealed else { return Ok(None) };
    match app.vault.unseal_field(sealed) {
        Ok(text) => Ok(Some(text.to_string())),
        Err(vault::UnsealFieldError::Erased) => Ok(None),
        Err(vault::UnsealFieldError::Store(error)) if is_away(&error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a text is not shown: it cannot be unsealed now");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

impl From<RepeatError> for ApiError {
    fn from(error: RepeatError) -> Self {
        match error {
            RepeatError::Seal(error) => Self::Seal(error),
            RepeatError::Unseal(error) => Self::Unseal(error),
        }
    }
}
