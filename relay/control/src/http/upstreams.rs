//! `/upstreams`: accounts at providers, with their sealed credentials.
//!
//! A new credential is sealed and durable before its record is appended, and its record stands before the upstream's that names it: so
//! a request never meets a reference to a secret that is not there. A secret that went out of use is revoked in the log, then destroyed.

pub(super) mod rotations;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use projector::Route;
use schemas::credential::{Credential, CredentialAdded, CredentialCommand, CredentialReplaced};
use schemas::upstream::{self, Dialect, Upstream, UpstreamCommand, UpstreamDetails, UpstreamLabels, UpstreamPatch, origin};
use schemas::{Aggregate, Command, Context, CredentialId, Sequence, Stream, TenantId, Timestamp, UpstreamId, Version, decide};
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;
use utoipa::ToSchema;
use vault::{Lifetime, Sealing, SecretAddress};
use zeroize::Zeroizing;

use super::app::App;
use super::conventions::{Caller, Mutation, Nothing, Page, Params, Reason, named_pool, pool_text, present};
use super::error::{ApiError, MutationProblems, ReadProblems};
use super::grants::{Entered, GrantView, NewGrant, entered, grant_view};
use super::keys::{FactView, fact_view, seal_text};
use crate::session_cookie::{self, is_session_cookie};
use crate::upstream_tests::TestHistory;
use crate::{ExecuteError, Receipt};

const PRIORITY_DEFAULT: u32 = 50;
const WEIGHT_DEFAULT: u32 = 1;
/// The most bytes of a credential.
const CREDENTIAL_BYTES_MAX: usize = 8192;

/// A provider's secret on its way in. Its `Debug` hides it, and its memory is wiped.
#[derive(Clone, ToSchema)]
#[schema(value_type = String, format = Password)]
pub(super) struct SecretText(pub(super) Zeroizing<String>);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        if is_session_cookie(&text) {
            return Err(serde::de::Error::custom(session_cookie::REFUSED));
        }
        let fits = (1..=CREDENTIAL_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err(serde::de::Error::custom("a credential is 1 to 8192 visible ASCII characters")) }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUpstream {
    name: String,
    dialect: Dialect,
    /// An OpenAI one ends in `/v1`, an Anthropic one has no version.
    base_url: String,
    #[serde(default)]
    credential: Option<SecretText>,
    /// A provider's grant in the place of a credential.
    #[serde(default)]
    grant: Option<NewGrant>,
    /// Name or id.
    #[serde(default = "default_pool")]
    #[schema(default = "default")]
    pool: String,
    /// Lower is tried first.
    #[serde(default)]
    #[schema(default = 50, maximum = 10000)]
    priority: Option<u32>,
    /// Share of the requests among upstreams of one priority.
    #[serde(default)]
    #[schema(default = 1, maximum = 10000)]
    weight: Option<u32>,
    /// Patterns of the models it serves; empty is all.
    #[serde(default)]
    models: Vec<String>,
    /// Where it is, in your own words; policies may route by it.
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

impl NewUpstream {
    fn details(&self, app: &App, tenant: &TenantId, id: UpstreamId) -> Result<UpstreamDetails, ApiError> {
        refuse_taken_name(app, tenant, &self.name, id)?;
        Ok(UpstreamDetails {
            name: self.name.clone(),
            dialect: self.dialect,
            base_url: canonical_base_url(&self.base_url)?,
            pool: named_pool(app, tenant, &self.pool)?,
            priority: self.priority.unwrap_or(PRIORITY_DEFAULT),
            weight: self.weight.unwrap_or(WEIGHT_DEFAULT),
            models: self.models.clone(),
        })
    }

    fn labels(&self) -> UpstreamLabels {
        UpstreamLabels { region: self.region.clone(), tags: self.tags.clone() }
    }

    /// What a login makes: as here, but that the credential comes from the login.
    pub(super) fn without_credential(
        &self,
        app: &App,
        tenant: &TenantId,
        id: UpstreamId,
    ) -> Result<(UpstreamDetails, UpstreamLabels), ApiError> {
        if self.credential.is_some() || self.grant.is_some() {
            return Err(ApiError::BadRequest("the login gives the credential; leave it out".to_owned()));
        }
        let details = self.details(app, tenant, id)?;
        upstream::check(&details, &self.labels()).map_err(|error| ExecuteError::Rejected(error.into()))?;
        Ok((details, self.labels()))
    }
}

fn default_pool() -> String {
    "default".to_owned()
}

/// A change; a member that is not there stays as it is. Another `base_url` drops the credential unless one comes along.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamChange {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    base_url: Option<String>,
    /// Another secret; `null` takes the credential away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<SecretText>)]
    credential: Option<Option<SecretText>>,
    /// Another grant, or one in the place of a credential.
    #[serde(default)]
    grant: Option<NewGrant>,
    #[serde(default)]
    pool: Option<String>,
    #[serde(default)]
    priority: Option<u32>,
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    models: Option<Vec<String>>,
    /// `null` takes the region away.
    #[serde(default, deserialize_with = "present")]
    region: Option<Option<String>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// An upstream, without any secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UpstreamView {
    id: UpstreamId,
    name: String,
    dialect: Dialect,
    base_url: String,
    pool: String,
    priority: u32,
    weight: u32,
    models: Vec<String>,
    region: Option<String>,
    tags: Vec<String>,
    /// Null where none is entered, or a changed base URL dropped it: no request is sent then.
    credential: Option<CredentialView>,
    disabled: Option<FactView>,
    created_at: Timestamp,
    version: Version,
}

#[derive(Debug, Serialize, ToSchema)]
struct CredentialView {
    id: CredentialId,
    /// Equal fingerprints are equal secrets; nothing else can be told from one.
    fingerprint: String,
    /// 1 for the first secret, more for each one after it.
    secret_version: u32,
    changed_at: Timestamp,
    /// How the secret stands with its age, and the last rotation.
    rotation: rotations::StandingView,
    /// Null where the secret is one that an operator entered.
    grant: Option<GrantView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UpstreamAnswer {
    upstream: UpstreamView,
    sequence: Sequence,
    applied: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UpstreamPage {
    upstreams: Vec<UpstreamView>,
    next: Option<UpstreamId>,
    as_of: Sequence,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownUpstream {
    upstream: UpstreamView,
    as_of: Sequence,
}

/// What a test call came to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TestResult {
    ok: bool,
    /// The upstream's HTTP status; null where it could not be reached.
    status: Option<u16>,
    elapsed_ms: u64,
    error: Option<String>,
}

/// Add an upstream. The credential is sealed and never comes back.
#[utoipa::path(post, path = "/upstreams", tag = "upstreams", operation_id = "add_upstream", request_body = NewUpstream,
    responses((status = 201, body = UpstreamAnswer), MutationProblems))]
pub(super) async fn add(State(app): State<App>, mutation: Mutation<NewUpstream>) -> Result<(StatusCode, Json<UpstreamAnswer>), ApiError> {
    let (body, tenant) = (&mutation.body, &mutation.caller.tenant);
    let id = mutation.command_id.new_upstream_id();
    let details = body.details(&app, tenant, id)?;
    let credential = match entered(&app, body.credential.as_ref(), body.grant.as_ref())? {
        Some(entered) => Some(add_credential(&app, &mutation, id, &details.base_url, entered).await?),
        None => None,
    };
    let labels = body.labels();
    let command = UpstreamCommand::Add { details: Box::new(details), labels, credential };
    let receipt = app.commands.execute(mutation.request(Stream::upstream(tenant.clone(), id), Command::Upstream(command))).await?;
    Ok((StatusCode::CREATED, Json(answer(&app, receipt).await?)))
}

/// List upstreams, by id.
#[utoipa::path(get, path = "/upstreams", tag = "upstreams", operation_id = "list_upstreams", params(Page),
    responses((status = 200, body = UpstreamPage), ReadProblems))]
pub(super) async fn list(State(app): State<App>, caller: Caller, Params(page): Params<Page>) -> Result<Json<UpstreamPage>, ApiError> {
    let (limit, after) = (page.limit()?, page.after::<UpstreamId>()?);
    let routes = app.models.routes();
    let mut found: Vec<_> = routes
        .upstreams
        .iter()
        .filter(|route| route.upstream.tenant == caller.tenant && after.is_none_or(|after| route.upstream.id > after))
        .cloned()
        .collect();
    found.sort_by_key(|route| route.upstream.id);
    let next = found.get(limit - 1).filter(|_| found.len() > limit).map(|route| route.upstream.id);
    found.truncate(limit);
    let upstreams = app.blocking(move |app| found.iter().map(|route| view(app, route)).collect::<Result<_, _>>()).await??;
    Ok(Json(UpstreamPage { upstreams, next, as_of: routes.as_of }))
}

/// Show an upstream, by id or name.
#[utoipa::path(get, path = "/upstreams/{id}", tag = "upstreams", operation_id = "show_upstream",
    params(("id" = String, Path, description = "Id or name")), responses((status = 200, body = ShownUpstream), ReadProblems))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<ShownUpstream>, ApiError> {
    let as_of = app.position();
    let route = find(&app, &caller.tenant, &id)?;
    Ok(Json(ShownUpstream { upstream: app.blocking(move |app| view(app, &route)).await??, as_of }))
}

/// Change an upstream, its credential included.
#[utoipa::path(patch, path = "/upstreams/{id}", tag = "upstreams", operation_id = "update_upstream", request_body = UpstreamChange,
    params(("id" = String, Path, description = "Id or name"), ("If-Match" = Option<String>, Header, description = "The version that the change is meant for")),
    responses((status = 200, body = UpstreamAnswer), MutationProblems))]
pub(super) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<UpstreamChange>,
) -> Result<Json<UpstreamAnswer>, ApiError> {
    let (body, tenant) = (&mutation.body, &mutation.caller.tenant);
    let route = find(&app, tenant, &id)?;
    let id = route.upstream.id;
    // A change of several records is refused before its first one is written; a retry of one that was made is not.
    let is_new = app.models.command(&mutation.command_id)?.is_none();
    if let Some(expected) = mutation.if_version.filter(|expected| is_new && *expected != route.version) {
        return Err(ExecuteError::VersionMismatch { expected, actual: route.version }.into());
    }
    if let Some(name) = &body.name {
        refuse_taken_name(&app, tenant, name, id)?;
    }
    let base_url = body.base_url.as_deref().map(canonical_base_url).transpose()?;
    let moves = base_url.as_ref().is_some_and(|base_url| *base_url != route.upstream.details.base_url);
    let entered = entered(&app, body.credential.as_ref().and_then(Option::as_ref), body.grant.as_ref())?;
    let credential = match entered {
        None => body.credential.as_ref().map(|_| None),
        Some(entered) => match route.credential.as_ref().filter(|_| !moves) {
            Some(credential) => {
                replace_credential(&app, &mutation, credential, entered).await?;
                Some(Some(credential.id))
            }
            None => {
                let base_url = base_url.as_deref().unwrap_or(&route.upstream.details.base_url);
                Some(Some(add_credential(&app, &mutation, id, base_url, entered).await?))
            }
        },
    };
    let patch = UpstreamPatch {
        name: body.name.clone(),
        base_url,
        pool: body.pool.as_ref().map(|pool| named_pool(&app, tenant, pool)).transpose()?,
        priority: body.priority,
        weight: body.weight,
        models: body.models.clone(),
        region: body.region.clone(),
        tags: body.tags.clone(),
        credential,
    };
    let answer = execute(&app, &mutation, id, UpstreamCommand::Change(Box::new(patch))).await?;
    drop_credential(&app, &mutation, &route, answer.upstream.credential.as_ref().map(|credential| credential.id)).await?;
    Ok(Json(answer))
}

/// Send no more requests to it until it is enabled again.
#[utoipa::path(post, path = "/upstreams/{id}/disable", tag = "upstreams", operation_id = "disable_upstream", request_body = Reason,
    params(("id" = String, Path, description = "Id or name")), responses((status = 200, body = UpstreamAnswer), MutationProblems))]
pub(super) async fn disable(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Reason>,
) -> Result<Json<UpstreamAnswer>, ApiError> {
    let id = find(&app, &mutation.caller.tenant, &id)?.upstream.id;
    let stream = Stream::upstream(mutation.caller.tenant.clone(), id);
    let reason = seal_text(&app, &stream, mutation.body.reason.as_deref()).await?;
    execute(&app, &mutation, id, UpstreamCommand::Disable { reason }).await.map(Json)
}

/// Use it again.
#[utoipa::path(post, path = "/upstreams/{id}/enable", tag = "upstreams", operation_id = "enable_upstream", request_body = Nothing,
    params(("id" = String, Path, description = "Id or name")), responses((status = 200, body = UpstreamAnswer), MutationProblems))]
pub(super) async fn enable(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<UpstreamAnswer>, ApiError> {
    let id = find(&app, &mutation.caller.tenant, &id)?.upstream.id;
    execute(&app, &mutation, id, UpstreamCommand::Enable).await.map(Json)
}

/// Remove an upstream and destroy its credential.
#[utoipa::path(delete, path = "/upstreams/{id}", tag = "upstreams", operation_id = "remove_upstream",
    params(("id" = String, Path, description = "Id or name")), responses((status = 200, body = UpstreamAnswer), MutationProblems))]
pub(super) async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<UpstreamAnswer>, ApiError> {
    if let Some(row) = app.models.command(&mutation.command_id)? {
        // A retry of a removal that was made: the upstream is no longer among those that can be found.
        let id = UpstreamId::from_bytes(*row.stream.id());
        return execute(&app, &mutation, id, UpstreamCommand::Remove).await.map(Json);
    }
    let route = find(&app, &mutation.caller.tenant, &id)?;
    let answer = execute(&app, &mutation, route.upstream.id, UpstreamCommand::Remove).await?;
    drop_credential(&app, &mutation, &route, None).await?;
    Ok(Json(answer))
}

/// Ask the upstream for its models with its credential.
#[utoipa::path(post, path = "/upstreams/{id}/test", tag = "upstreams", operation_id = "test_upstream",
    params(("id" = String, Path, description = "Id or name")), responses((status = 200, body = TestResult), ReadProblems))]
pub(super) async fn test(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<TestResult>, ApiError> {
    let id = find(&app, &caller.tenant, &id)?.upstream.id;
    let outcome = app.tests.test(id).await;
    let ok = outcome.status.is_some_and(|status| (200..300).contains(&status));
    Ok(Json(TestResult { ok, status: outcome.status, elapsed_ms: outcome.elapsed_ms, error: outcome.error }))
}

/// What the last test calls of an upstream came to: by the clock, see `accounts.test_interval`, and by hand. It is soft state, which a single machine
/// forgets with its process.
#[utoipa::path(get, path = "/upstreams/{id}/tests", tag = "upstreams", operation_id = "show_upstream_tests",
    params(("id" = String, Path, description = "Id or name")), responses((status = 200, body = TestHistory), ReadProblems))]
pub(super) async fn tests(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<TestHistory>, ApiError> {
    let id = find(&app, &caller.tenant, &id)?.upstream.id;
    Ok(Json(app.tests.history(id).await))
}

async fn execute<T>(app: &App, mutation: &Mutation<T>, id: UpstreamId, command: UpstreamCommand) -> Result<UpstreamAnswer, ApiError> {
    let stream = Stream::upstream(mutation.caller.tenant.clone(), id);
    let receipt = app.commands.execute(mutation.request(stream, Command::Upstream(command))).await?;
    answer(app, receipt).await
}

/// Seals a secret under a new credential of this command, then records the credential.
async fn add_credential<T>(
    app: &App,
    mutation: &Mutation<T>,
    upstream: UpstreamId,
    base_url: &str,
    entered: Entered,
) -> Result<CredentialId, ApiError> {
    let tenant = &mutation.caller.tenant;
    let id = mutation.command_id.new_credential_id();
    let origin = origin(base_url).unwrap_or_default().to_owned();
    let Entered { plaintext, fingerprint, authorized } = entered;
    if !seal(app, secret_address(tenant, id, 1, &origin), plaintext).await? {
        return Err(ExecuteError::CommandReused.into());
    }
    let added = CredentialAdded { upstream, origin, fingerprint };
    let command = Command::Credential(match authorized {
        None => CredentialCommand::Add(added),
        Some(authorized) => CredentialCommand::AddGrant(added, authorized),
    });
    app.commands.execute(mutation.step("credential", Stream::credential(tenant.clone(), id), command)).await?;
    Ok(id)
}

/// Seals the next secret of a credential, records it, and destroys the one before. A retry finds the record and leaves all as it is.
async fn replace_credential<T>(app: &App, mutation: &Mutation<T>, credential: &Credential, entered: Entered) -> Result<(), ApiError> {
    if let Some(row) = app.models.command(&mutation.command_id.step("credential"))? {
        let is_same = row.request_digest == mutation.request_digest;
        return if is_same { Ok(()) } else { Err(ExecuteError::CommandReused.into()) };
    }
    let (tenant, origin) = (&mutation.caller.tenant, &credential.origin);
    let Entered { plaintext, fingerprint, authorized } = entered;
    let command = |secret_version| {
        let replaced = CredentialReplaced { secret_version, fingerprint: fingerprint.clone() };
        match authorized.clone() {
            None => CredentialCommand::Replace(replaced),
            Some(authorized) => CredentialCommand::ReplaceGrant(replaced, authorized),
        }
    };
    refuse_early(app, mutation, credential, command(credential.next_secret_version()))?;
    let command = command(rotations::seal_next(app, credential, &plaintext).await?);
    let stream = Stream::credential(tenant.clone(), credential.id);
    app.commands.execute(mutation.step("credential", stream, Command::Credential(command))).await?;
    erase(app, secret_address(tenant, credential.id, credential.secret_version, origin)).await
}

/// Refuses what the rules refuse as far as is known here, before a secret is sealed for it: a sealed one would stay in the next one's place.
fn refuse_early<T>(app: &App, mutation: &Mutation<T>, credential: &Credential, command: CredentialCommand) -> Result<(), ApiError> {
    let (state, context) = (Aggregate::Credential(credential.clone()), Context { now: app.now(), actor: mutation.caller.actor });
    decide(Some(&state), &Command::Credential(command), &context).map_err(ExecuteError::Rejected)?;
    Ok(())
}

/// Seals a secret where none was sealed before; false if another one stands there already.
async fn seal(app: &App, address: SecretAddress, plaintext: Zeroizing<Vec<u8>>) -> Result<bool, ApiError> {
    let now = app.now();
    let outcome = app.vault(move |vault| match vault.seal(&address, &plaintext, Lifetime::lasting(now))? {
        Sealing::Sealed => Ok(true),
        Sealing::Exists => Ok(*vault.unseal(&address)? == *plaintext),
    });
    outcome.await?
}

/// Destroys a secret that went out of use; the log says so already.
async fn erase(app: &App, address: SecretAddress) -> Result<(), ApiError> {
    Ok(app.vault(move |vault| vault.erase(&address)).await??)
}

/// Revokes and destroys the credential that the upstream had before, unless it still has it.
async fn drop_credential<T>(app: &App, mutation: &Mutation<T>, before: &Route, now: Option<CredentialId>) -> Result<(), ApiError> {
    let Some(credential) = before.credential.as_ref().filter(|credential| Some(credential.id) != now) else { return Ok(()) };
    let tenant = &mutation.caller.tenant;
    let stream = Stream::credential(tenant.clone(), credential.id);
    app.commands.execute(mutation.step("revocation", stream, Command::Credential(CredentialCommand::Revoke))).await?;
    // All of them: a rotation may have been under way.
    let (tenant, id) = (tenant.clone(), credential.id);
    Ok(app.vault(move |vault| vault.erase_owner(&tenant, CREDENTIAL, id.as_bytes())).await??)
}

/// The owner of secrets that upstreams are shown: a credential, by its id.
const CREDENTIAL: &str = "credential";

/// Where a credential's secret lies in the vault. The data plane builds the same address.
pub(crate) fn secret_address(tenant: &TenantId, id: CredentialId, version: u32, origin: &str) -> SecretAddress {
    SecretAddress {
        tenant: tenant.clone(),
        owner_kind: CREDENTIAL,
        owner_id: *id.as_bytes(),
        field: "secret",
        version,
        origin: origin.to_owned(),
    }
}

/// The canonical text of a base URL: parsed in full, lower-case host, no default port, no trailing slash.
pub(crate) fn canonical_base_url(text: &str) -> Result<String, ApiError> {
    let refusal = || ApiError::BadRequest("base_url must be http or https with a host, without user, query or fragment".to_owned());
    let url = Url::parse(text).map_err(|_| refusal())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !plain {
        return Err(refusal());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The upstream that a body names; one that is not there is a fault of the body.
pub(super) fn named(app: &App, tenant: &TenantId, text: &str) -> Result<UpstreamId, ApiError> {
    match find(app, tenant, text) {
        Ok(route) => Ok(route.upstream.id),
        Err(ApiError::NotFound(_)) => Err(ApiError::BadRequest(format!("there is no upstream {text:?}"))),
        Err(error) => Err(error),
    }
}

/// The upstream that a text means: an id, or a name that stands for one upstream only.
pub(super) fn find(app: &App, tenant: &TenantId, text: &str) -> Result<std::sync::Arc<Route>, ApiError> {
    let routes = app.models.routes();
    let mut found = routes.upstreams.iter().filter(|route| route.upstream.tenant == *tenant);
    if let Ok(id) = text.parse::<UpstreamId>() {
        return found.find(|route| route.upstream.id == id).cloned().ok_or(ApiError::NotFound("such upstream"));
    }
    let mut named = found.filter(|route| route.upstream.details.name == text);
    match (named.next(), named.next()) {
        (Some(route), None) => Ok(route.clone()),
        (None, _) => Err(ApiError::NotFound("such upstream")),
        (Some(_), Some(_)) => Err(ApiError::AmbiguousName { kind: "upstream", name: text.to_owned() }),
    }
}

/// Uniqueness is checked on the read model; after a race both exist, and the name is ambiguous until one is renamed.
fn refuse_taken_name(app: &App, tenant: &TenantId, name: &str, id: UpstreamId) -> Result<(), ApiError> {
    let routes = app.models.routes();
    let mut others = routes.upstreams.iter().map(|route| &route.upstream).filter(|other| other.tenant == *tenant && other.id != id);
    let is_taken = others.any(|other| other.details.name == name);
    if is_taken { Err(ApiError::NameTaken { kind: "upstream", name: name.to_owned() }) } else { Ok(()) }
}

/// An upstream after a command.
pub(super) async fn answer(app: &App, receipt: Receipt) -> Result<UpstreamAnswer, ApiError> {
    let Aggregate::Upstream(upstream) = receipt.aggregate else { return Err(ApiError::NotFound("such upstream")) };
    let credential = match upstream.credential {
        Some(id) => live_credential(app, &upstream, id)?,
        None => None,
    };
    let route = Route { upstream: *upstream, version: receipt.version, credential };
    Ok(UpstreamAnswer {
        upstream: app.blocking(move |app| view(app, &route)).await??,
        sequence: receipt.sequence,
        applied: receipt.applied,
    })
}

fn live_credential(app: &App, upstream: &Upstream, id: CredentialId) -> Result<Option<Credential>, ApiError> {
    match app.models.load(&Stream::credential(upstream.tenant.clone(), id))?.0 {
        Some(Aggregate::Credential(credential)) if !credential.revoked => Ok(Some(credential)),
        _ => Ok(None),
    }
}

fn view(app: &App, route: &Route) -> Result<UpstreamView, ApiError> {
    let Route { upstream, version, credential } = route;
    let details = &upstream.details;
    Ok(UpstreamView {
        id: upstream.id,
        name: details.name.clone(),
        dialect: details.dialect,
        base_url: details.base_url.clone(),
        pool: pool_text(app, &upstream.tenant, details.pool),
        priority: details.priority,
        weight: details.weight,
        models: details.models.clone(),
        region: upstream.labels.region.clone(),
        tags: upstream.labels.tags.clone(),
        credential: credential.as_ref().map(|credential| CredentialView {
            id: credential.id,
            fingerprint: credential.fingerprint.clone(),
            secret_version: credential.secret_version,
            changed_at: credential.changed_at,
            rotation: rotations::standing(app, route, credential),
            grant: credential.grant.as_deref().map(|grant| grant_view(grant, app.now())),
        }),
        disabled: fact_view(app, upstream.disabled.as_ref())?,
        created_at: upstream.created_at,
        version: *version,
    })
}
