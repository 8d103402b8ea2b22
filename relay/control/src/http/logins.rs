//! `/logins`: accounts at providers, opened by a login instead of a pasted secret.
//!
//! Whoever starts a login opens an address in a browser, wherever that runs, and brings back what the browser ends on: by a listener on the
//! same machine, or by pasting the address. The account it was is shown, and used once it is confirmed. Session cookies of a provider's web
//! site are refused on purpose: they cannot be limited, handed back, or told from the person.

mod view;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use schemas::login::LoginFlow;
use schemas::upstream::{UpstreamDetails, UpstreamLabels};
use schemas::{Aggregate, LoginId, Sequence, Stream, UpstreamId};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::app::App;
use super::conventions::{Caller, Mutation, Nothing};
use super::error::{ApiError, MutationProblems, ReadProblems};
use super::upstreams::{self, NewUpstream, UpstreamAnswer};
use crate::Commands;
use crate::commands::Request;
use crate::oauth::{Begun, LoginProblem, NewLogin, placeholder};
use view::{DeviceView, LoginView, ProviderView};

/// What an answer says when an account is in use from now on.
const SAVED: &str = "Authentication successful! Token has been saved.";

/// How the provider's answer comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FlowKind {
    /// By a browser.
    #[default]
    Code,
    /// By a code that is typed in at the provider's page.
    Device,
}

/// A login that makes an upstream.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartLogin {
    /// One of `GET /providers`.
    provider: String,
    /// The upstream to make once the account is confirmed; without a `credential`.
    upstream: NewUpstream,
    #[serde(default)]
    flow: FlowKind,
    /// Where somebody listens for the browser on its own machine; left out where its address will be pasted.
    #[serde(default)]
    redirect_port: Option<u16>,
}

/// A login for an upstream that is there.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RenewLogin {
    /// One of `GET /providers`; if not given, the one that the upstream's account is at.
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    flow: FlowKind,
    /// Where somebody listens for the browser on its own machine; left out where its address will be pasted.
    #[serde(default)]
    redirect_port: Option<u16>,
}

/// What a person pastes. Its `Debug` hides it, and its memory is wiped.
#[derive(ToSchema)]
#[schema(value_type = String, format = Password)]
struct PastedText(Zeroizing<String>);

impl std::fmt::Debug for PastedText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PastedText")
    }
}

impl<'de> Deserialize<'de> for PastedText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new).map(Self)
    }
}

/// What the browser brought back. Never paste an address that did not begin with a login of your own.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Callback {
    /// The whole address that the browser ended on, its query, or a provider's `code#state`; at most 8 KiB. It is parsed and never fetched. A
    /// bare code is refused. Left out for a device code: then the provider is asked whether the user has agreed.
    #[serde(default)]
    callback_url: Option<PastedText>,
}

/// A login and where to go on with it.
#[derive(Serialize, ToSchema)]
pub(super) struct StartedLogin {
    login: LoginView,
    /// What to open in a browser, wherever it runs. It holds the state: whoever has it could bring an answer of their own.
    authorize_url: Option<String>,
    /// What to type in where, with a device code.
    device: Option<DeviceView>,
    sequence: Sequence,
    applied: bool,
}

/// A login after a step.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LoginAnswer {
    login: LoginView,
    sequence: Sequence,
    applied: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownLogin {
    login: LoginView,
    as_of: Sequence,
}

/// A login that made or renewed an account, and the upstream that uses it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConfirmedLogin {
    login: LoginView,
    #[serde(flatten)]
    answer: UpstreamAnswer,
    /// For people.
    detail: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProviderList {
    providers: Vec<ProviderView>,
}

/// What a login step may be refused with, beside what any mutation may.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive only")]
pub(super) enum LoginProblems {
    /// The login's ten minutes are over (`oauth_state_expired`).
    #[response(status = 410, content_type = "application/problem+json")]
    Expired(super::error::Problem),
    /// Too many open logins (`oauth_too_many_logins`) or wrong pastes (`oauth_too_many_pastes`).
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(super::error::Problem),
    /// The provider's answer makes no sense (`oauth_upstream_invalid`), or nobody knows what it did (`oauth_outcome_unknown`).
    #[response(status = 502, content_type = "application/problem+json")]
    BadGateway(super::error::Problem),
}

/// List the providers at which accounts can be opened.
#[utoipa::path(get, path = "/providers", tag = "logins", operation_id = "list_providers",
    responses((status = 200, body = ProviderList), ReadProblems))]
pub(super) async fn providers(State(app): State<App>, _caller: Caller) -> Result<Json<ProviderList>, ApiError> {
    Ok(Json(ProviderList { providers: app.logins.providers().iter().map(|provider| view::provider(provider)).collect() }))
}

/// Start a login whose account becomes a new upstream once it is confirmed.
#[utoipa::path(post, path = "/logins", tag = "logins", operation_id = "start_login", request_body = StartLogin,
    responses((status = 201, body = StartedLogin), MutationProblems, LoginProblems))]
pub(super) async fn start(
    State(app): State<App>,
    mut mutation: Mutation<StartLogin>,
) -> Result<(StatusCode, Json<StartedLogin>), ApiError> {
    // No upstream has this id: the login's comes from the login's own. A name that is taken later is ambiguous, as after any race.
    let id = mutation.command_id.new_upstream_id();
    let made = mutation.body.upstream.without_credential(&app, &mutation.caller.tenant, id)?;
    let (provider, flow, port) = (mutation.body.provider.clone(), mutation.body.flow, mutation.body.redirect_port);
    mutation.begin_now();
    begin(&app, &mutation, provider, flow, port, None, Some(made)).await
}

/// Log in again for an upstream, or give it an account instead of a pasted secret. Where it has an account, it must be the same.
#[utoipa::path(post, path = "/upstreams/{id}/logins", tag = "logins", operation_id = "renew_login", request_body = RenewLogin,
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 201, body = StartedLogin), MutationProblems, LoginProblems))]
pub(super) async fn renew(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<RenewLogin>,
) -> Result<(StatusCode, Json<StartedLogin>), ApiError> {
    let route = upstreams::find(&app, &mutation.caller.tenant, &id)?;
    let current = || route.credential.as_ref()?.grant.as_ref().map(|grant| grant.provider.clone());
    let provider = mutation.body.provider.clone().or_else(current);
    let provider = provider.ok_or_else(|| ApiError::BadRequest("the upstream has no account yet; name a provider".to_owned()))?;
    let (flow, port) = (mutation.body.flow, mutation.body.redirect_port);
    begin(&app, &mutation, provider, flow, port, Some(route.upstream.id), None).await
}

async fn begin<T>(
    app: &App,
    mutation: &Mutation<T>,
    provider: String,
    flow: FlowKind,
    port: Option<u16>,
    upstream: Option<UpstreamId>,
    made: Option<(UpstreamDetails, UpstreamLabels)>,
) -> Result<(StatusCode, Json<StartedLogin>), ApiError> {
    let id = mutation.command_id.new_login_id();
    let (creates, labels) = made.map_or((None, UpstreamLabels::default()), |(details, labels)| (Some(details), labels));
    let new = NewLogin { provider, is_device: flow == FlowKind::Device, port, upstream, creates, labels };
    let Begun { receipt, authorize_url, device } = app.logins.start(request(mutation, id), new).await?;
    let (sequence, applied) = (receipt.sequence, receipt.applied);
    let answer = answer(app, receipt).await?;
    let device = device.as_ref().map(DeviceView::of);
    let started = StartedLogin { login: answer.login, authorize_url: authorize_url.map(Into::into), device, sequence, applied };
    Ok((StatusCode::CREATED, Json(started)))
}

/// Show a login of yours.
#[utoipa::path(get, path = "/logins/{id}", tag = "logins", operation_id = "show_login",
    params(("id" = LoginId, Path)), responses((status = 200, body = ShownLogin), ReadProblems))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<ShownLogin>, ApiError> {
    let stream = Stream::login(caller.tenant.clone(), parse_id(&id)?);
    let request = Request {
        stream: stream.clone(),
        command: placeholder(),
        actor: caller.actor,
        command_id: schemas::CommandId::from_bytes([0; 16]),
        request_digest: schemas::Digest::from_bytes([0; 32]),
        if_version: None,
        deadline: Commands::deadline(),
    };
    let login = app.logins.show(&request).await?;
    let (version, as_of) = (app.models.load(&stream)?.1.version, app.position());
    Ok(Json(ShownLogin { login: app.blocking(move |app| view::login(app, &login, version)).await??, as_of }))
}

/// End a login of yours. Tokens that it has are given back to the provider and destroyed.
#[utoipa::path(delete, path = "/logins/{id}", tag = "logins", operation_id = "cancel_login",
    params(("id" = LoginId, Path)), responses((status = 200, body = LoginAnswer), MutationProblems))]
pub(super) async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<LoginAnswer>, ApiError> {
    let receipt = app.logins.cancel(request(&mutation, parse_id(&id)?)).await?;
    answer(&app, receipt).await.map(Json)
}

/// Bring the provider's answer, or ask after a device code. It is good for ten minutes and once, on any node; only whoever started the login
/// can bring it. The account that answers waits for `confirm`.
#[utoipa::path(post, path = "/logins/{id}/callback", tag = "logins", operation_id = "bring_callback", request_body = Callback,
    params(("id" = LoginId, Path)), responses((status = 200, body = LoginAnswer), MutationProblems, LoginProblems))]
pub(super) async fn callback(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Callback>,
) -> Result<Json<LoginAnswer>, ApiError> {
    // An id that is none is as unknown as any other.
    let id = id.parse().map_err(|_| LoginProblem::StateUnknown)?;
    let stream = Stream::login(mutation.caller.tenant.clone(), id);
    let Some(pasted) = &mutation.body.callback_url else {
        let shown = app.logins.show(&request(&mutation, id)).await?;
        if matches!(shown.started.flow, LoginFlow::Code { .. }) {
            return Err(ApiError::BadRequest("a login by browser wants the callback_url".to_owned()));
        }
        let login = app.logins.poll(request(&mutation, id)).await?;
        let (_, head) = app.models.load(&stream)?;
        let view = app.blocking(move |app| view::login(app, &login, head.version)).await??;
        return Ok(Json(LoginAnswer { login: view, sequence: head.sequence, applied: true }));
    };
    let receipt = app.logins.bring(request(&mutation, id), pasted.0.clone()).await?;
    answer(&app, receipt).await.map(Json)
}

/// Say that the account is the right one. The upstream uses it from now on.
#[utoipa::path(post, path = "/logins/{id}/confirm", tag = "logins", operation_id = "confirm_login", request_body = Nothing,
    params(("id" = LoginId, Path)), responses((status = 200, body = ConfirmedLogin), MutationProblems, LoginProblems))]
pub(super) async fn confirm(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<ConfirmedLogin>, ApiError> {
    let id = parse_id(&id)?;
    let (login, receipt) = app.logins.confirm(request(&mutation, id)).await?;
    let version = app.models.load(&Stream::login(mutation.caller.tenant.clone(), id))?.1.version;
    let view = app.blocking(move |app| view::login(app, &login, version)).await??;
    Ok(Json(ConfirmedLogin { login: view, answer: upstreams::answer(&app, receipt).await?, detail: SAVED }))
}

/// The request for a command on this login.
fn request<T>(mutation: &Mutation<T>, id: LoginId) -> Request {
    mutation.request(Stream::login(mutation.caller.tenant.clone(), id), placeholder())
}

fn parse_id(text: &str) -> Result<LoginId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("such login"))
}

async fn answer(app: &App, receipt: crate::Receipt) -> Result<LoginAnswer, ApiError> {
    let Aggregate::Login(login) = receipt.aggregate else { return Err(ApiError::NotFound("such login")) };
    let view = app.blocking(move |app| view::login(app, &login, receipt.version)).await??;
    Ok(LoginAnswer { login: view, sequence: receipt.sequence, applied: receipt.applied })
}
