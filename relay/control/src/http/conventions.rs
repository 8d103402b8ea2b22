//! What all routes share: who calls, idempotency, `If-Match`, paging, expiries and names in bodies.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::Response;
use schemas::key::Term;
use schemas::{Actor, Command, CommandId, Digest, DurationText, PoolId, Sequence, Stream, TenantId, Timestamp, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use zeroize::Zeroizing;

use super::app::App;
use super::error::ApiError;
use super::scope;
use crate::commands;
use crate::fence::{Applied, FENCE_WAIT, Fence, FencePosts};
use crate::health::STALE_FROM;

/// The most bytes of a request body on the admin listener.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The most characters of an `Idempotency-Key`.
const IDEMPOTENCY_KEY_LENGTH_MAX: usize = 255;
/// How long a read with `Keyrelay-Wait-For` waits.
const WAIT_FOR_MAX: Duration = Duration::from_secs(2);
/// The most entries of a page.
pub(super) const LIMIT_MAX: usize = 1000;
const LIMIT_DEFAULT: usize = 100;
/// How long ago this node was last level with the log, from ten seconds on.
const STALE_SECONDS: HeaderName = HeaderName::from_static("x-keyrelay-stale-seconds");

/// Whoever sent an authenticated request.
pub(super) struct Caller {
    pub(super) actor: Actor,
    /// Whose things the request is about, see [`scope`].
    pub(super) tenant: TenantId,
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let token = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let hash = schemas::client_key::owner_token_hash(token.map(|(_, token)| token.trim()).unwrap_or_default());
        if bool::from(hash.as_bytes().ct_eq(app.owner_token_hash.as_bytes())) {
            Ok(Self { actor: Actor::Owner, tenant: scope::tenant(parts, app)? })
        } else {
            Err(ApiError::Unauthorized)
        }
    }
}

/// A mutation: its caller, its body, and the identity that makes a retry harmless.
pub(super) struct Mutation<T> {
    pub(super) caller: Caller,
    pub(super) body: T,
    pub(super) command_id: CommandId,
    /// The caller sent an `Idempotency-Key`, so a secret in the answer must be there for a retry.
    pub(super) repeatable: bool,
    pub(super) request_digest: Digest,
    pub(super) if_version: Option<Version>,
    /// When the caller's patience ends, for all commands of the request together.
    deadline: Instant,
}

impl<T> Mutation<T> {
    /// A mutation whose request has this canonical form.
    fn new(app: &App, headers: &HeaderMap, caller: Caller, body: T, canonical: &[u8], deadline: Instant) -> Result<Self, ApiError> {
        let (idempotency_key, if_version) = (idempotency_key(headers)?, if_match(headers)?);
        let request_digest = app.vault.keyed_digest(canonical);
        let (command_id, repeatable) = match idempotency_key {
            Some(key) => (CommandId::of(&caller.tenant, &caller.actor, &key), true),
            None => (CommandId::from_bytes(crate::secrets::random_bytes()), false),
        };
        Ok(Self { caller, body, command_id, repeatable, request_digest, if_version, deadline })
    }

    /// Lets the caller's patience begin now, where what came before takes a time of its own.
    pub(super) fn begin_now(&mut self) {
        self.deadline = commands::Commands::deadline();
    }

    /// The request for one command on one aggregate.
    pub(super) fn request(&self, stream: Stream, command: Command) -> commands::Request {
        commands::Request {
            stream,
            command,
            actor: self.caller.actor,
            command_id: self.command_id,
            request_digest: self.request_digest,
            if_version: self.if_version,
            deadline: self.deadline,
        }
    }

    /// The request for one step of a command that touches several aggregates. `If-Match` is about the main one, not about a step's.
    pub(super) fn step(&self, step: &str, stream: Stream, command: Command) -> commands::Request {
        commands::Request { command_id: self.command_id.step(step), if_version: None, ..self.request(stream, command) }
    }
}

impl Mutation<Bytes> {
    /// A mutation whose body is bytes, and whose parameters stand in the query.
    pub(super) async fn of_bytes(parts: Parts, body: Body, caller: Caller, bytes_max: usize, app: &App) -> Result<Self, ApiError> {
        let bytes = read_body(body, bytes_max).await?;
        let target = parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |target| target.as_str());
        let canonical = serde_json::to_vec(&(parts.method.as_str(), target, Digest::blake3(&bytes))).unwrap_or_default();
        Self::new(app, &parts.headers, caller, bytes, &canonical, commands::Commands::deadline())
    }
}

impl<T: DeserializeOwned> FromRequest<App> for Mutation<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        Self::of_json(request, BODY_BYTES_MAX, app).await
    }
}

impl<T: DeserializeOwned> Mutation<T> {
    /// A mutation whose body is JSON of at most this many bytes.
    pub(super) async fn of_json(request: Request, bytes_max: usize, app: &App) -> Result<Self, ApiError> {
        let deadline = commands::Commands::deadline();
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, app).await?;
        let bytes = read_body(body, bytes_max).await?;
        // The canonical form sorts members, so that the same request spelt in another order is the same command.
        let value = parse_body(&bytes)?;
        let canonical = serde_json::to_vec(&(parts.method.as_str(), parts.uri.path(), &value)).unwrap_or_default();
        let body = serde_json::from_value(value).map_err(|error| ApiError::BadRequest(error.to_string()))?;
        Self::new(app, &parts.headers, caller, body, &canonical, deadline)
    }
}

async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, bytes_max).await.map_err(|_| ApiError::BodyTooLarge { max: bytes_max })
}

/// An absent body is an empty object, so that commands without arguments need none.
fn parse_body(bytes: &Bytes) -> Result<serde_json::Value, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(serde_json::Value::Object(serde_json::Map::new()));
    }
    serde_json::from_slice(bytes).map_err(|error| ApiError::BadRequest(format!("the body is not JSON: {error}")))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    #[cfg(feature = "faults")]
    if crate::faults::is_planted("ignore-idempotency") {
        return Ok(None);
    }
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=IDEMPOTENCY_KEY_LENGTH_MAX).contains(&key.len()));
    let refusal = || ApiError::BadRequest(format!("an Idempotency-Key is 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} printable characters"));
    key.map(|key| Some(key.to_owned())).ok_or_else(refusal)
}

/// `If-Match: "3"` or `If-Match: 3`, the version as answers give it.
fn if_match(headers: &HeaderMap) -> Result<Option<Version>, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.trim_matches('"').parse().map_err(|_| ApiError::BadRequest("If-Match is a version, such as \"3\"".to_owned()))?;
    Ok(Some(Version(version)))
}

/// Whether an answer waits for the other nodes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Fenced {
    /// Answer when every live node has applied what was changed, after 10 seconds at most; `fence` says how it went.
    #[serde(default)]
    pub(super) wait: bool,
}

impl Fenced {
    /// The fence behind a command that was executed; none where nobody asked for one.
    pub(super) async fn fence(&self, app: &App, sequence: Sequence, applied: Applied, began: Instant) -> Result<Option<Fence>, ApiError> {
        if !self.wait {
            return Ok(None);
        }
        let (coordination, enrolled) = (&*app.coordination, super::nodes::enrolled(&app.models)?);
        let posts = FencePosts { coordination, models: &app.models, this: app.node(), enrolled, applied, began };
        Ok(Some(posts.wait(sequence, FENCE_WAIT).await))
    }
}

/// A body without members.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// A body that may say why.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    /// Free text, at most 1,000 characters; it is sealed and can be erased.
    #[serde(default)]
    pub(super) reason: Option<String>,
}

/// A query's parameters; what does not fit is a problem like any other.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(ApiError::BadRequest(rejection.body_text())),
        }
    }
}

/// A query that pages through a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// The `next` of the page before.
    #[serde(default)]
    pub(super) cursor: Option<String>,
    /// Entries of a page, at most 1000.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub(super) limit: Option<usize>,
}

impl Page {
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        limit(self.limit)
    }

    /// The id after which the page begins: the cursor is the last id of the page before.
    pub(super) fn after<T: std::str::FromStr>(&self) -> Result<Option<T>, ApiError> {
        let parse =
            |cursor: &String| cursor.parse().map_err(|_| ApiError::BadRequest("the cursor is not one that this list gave".to_owned()));
        self.cursor.as_ref().map(parse).transpose()
    }
}

/// A limit within bounds, or the default.
pub(super) fn limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(ApiError::BadRequest(format!("limit is 1 to {LIMIT_MAX}"))),
    }
}

/// The one word that says a key does not expire.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum NeverText {
    Never,
}

/// Until when a key shall be good; exactly one of the three is given.
pub(super) fn term(
    now: Timestamp,
    expires_in: Option<DurationText>,
    expires_at: Option<Timestamp>,
    expires: Option<NeverText>,
    expires_after_first_use: Option<DurationText>,
) -> Result<Term, ApiError> {
    match (expires_in, expires_at, expires, expires_after_first_use) {
        (Some(duration), None, None, None) => Ok(Term::At(now.plus_seconds(duration.as_seconds()))),
        (None, Some(at), None, None) => Ok(Term::At(at)),
        (None, None, Some(NeverText::Never), None) => Ok(Term::Never),
        (None, None, None, Some(duration)) => Ok(Term::AfterFirstUse { seconds: duration.as_seconds() }),
        _ => Err(ApiError::BadRequest(
            "give exactly one of expires_in, expires_at, expires_after_first_use and expires: \"never\"".to_owned(),
        )),
    }
}

/// As [`term`], but where nothing is given it is the default of the tenant, if it has one.
pub(super) fn term_or_default(
    app: &App,
    key: &Stream,
    expires_in: Option<DurationText>,
    expires_at: Option<Timestamp>,
    expires: Option<NeverText>,
    expires_after_first_use: Option<DurationText>,
) -> Result<Term, ApiError> {
    let is_given = expires_in.is_some() || expires_at.is_some() || expires.is_some() || expires_after_first_use.is_some();
    let default = || app.models.routes().tenant(key.tenant())?.value.details.default_expiry_seconds;
    match default().filter(|_| !is_given) {
        Some(seconds) => Ok(Term::At(app.now().plus_seconds(seconds))),
        // The retry of a command that had a default is answered from its record, whatever the tenant says by now.
        None if !is_given && app.models.load(key)?.0.is_some() => Ok(Term::Never),
        None => term(app.now(), expires_in, expires_at, expires, expires_after_first_use),
    }
}

/// Tells a member that is `null` from one that is not there.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The pool that a text means: an id, or a name that stands for one pool only. None where there is no such pool.
pub(super) fn find_pool(app: &App, tenant: &TenantId, text: &str) -> Result<Option<PoolId>, ApiError> {
    let routes = app.models.routes();
    let mut pools = routes.pools.iter().map(|pool| &pool.value).filter(|pool| pool.tenant == *tenant);
    if let Ok(id) = text.parse::<PoolId>() {
        return Ok(pools.find(|pool| pool.id == id).map(|pool| pool.id));
    }
    let mut named = pools.filter(|pool| pool.name == text);
    match (named.next(), named.next()) {
        (found, None) => Ok(found.map(|pool| pool.id)),
        (_, Some(_)) => Err(ApiError::AmbiguousName { kind: "pool", name: text.to_owned() }),
    }
}

/// The pool that a body names; a pool that is not there is a fault of the body.
pub(crate) fn named_pool(app: &App, tenant: &TenantId, text: &str) -> Result<PoolId, ApiError> {
    find_pool(app, tenant, text)?.ok_or_else(|| ApiError::BadRequest(format!("there is no pool {text:?}")))
}

/// How answers name a pool: by its name where that is unambiguous, else by its id.
pub(super) fn pool_text(app: &App, tenant: &TenantId, id: PoolId) -> String {
    let routes = app.models.routes();
    let of_tenant = || routes.pools.iter().map(|pool| &pool.value).filter(|pool| pool.tenant == *tenant);
    match of_tenant().find(|pool| pool.id == id) {
        Some(pool) if of_tenant().filter(|other| other.name == pool.name).count() == 1 => pool.name.clone(),
        _ => id.to_string(),
    }
}

/// Holds a read back until the read models have what `Keyrelay-Wait-For` names.
pub(super) async fn wait_for(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    if let Some(value) = request.headers().get("keyrelay-wait-for") {
        let sequence = value.to_str().ok().and_then(|text| text.parse().ok());
        let sequence = sequence.ok_or_else(|| ApiError::BadRequest("Keyrelay-Wait-For is a sequence".to_owned()))?;
        if !app.models.wait_for(Sequence(sequence), WAIT_FOR_MAX).await {
            return Err(ApiError::NotApplied(sequence));
        }
    }
    Ok(next.run(request).await)
}

/// Tells in each answer how old what it says may be, once that is worth telling.
pub(super) async fn tell_staleness(State(app): State<App>, request: Request, next: Next) -> Response {
    let staleness = app.staleness();
    let mut response = next.run(request).await;
    if staleness >= STALE_FROM {
        response.headers_mut().insert(STALE_SECONDS, staleness.as_secs().into());
    }
    response
}

pub(super) async fn not_found() -> ApiError {
    ApiError::NotFound("such path")
}

pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}

/// The passphrase that a file's secrets are sealed under: `Keyrelay-Passphrase`, UTF-8.
pub(super) fn passphrase(headers: &HeaderMap) -> Result<Option<Zeroizing<String>>, ApiError> {
    secret_header(headers, "keyrelay-passphrase")
}

/// A secret that a header holds.
pub(super) fn secret_header(headers: &HeaderMap, name: &'static str) -> Result<Option<Zeroizing<String>>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| ApiError::BadRequest(format!("{name} is UTF-8 text")))?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}
