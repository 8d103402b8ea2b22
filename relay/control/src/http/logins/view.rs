//! How logins and providers are shown.

use schemas::login::{Login, LoginExchanged, LoginFailure, LoginFlow, LoginState};
use schemas::{LoginId, Timestamp, UpstreamId, Version};
use serde::Serialize;
use utoipa::ToSchema;
use vault::UnsealFieldError;

use super::FlowKind;
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::oauth::provider::Redirect;
use crate::oauth::{DeviceSecret, Provider};

/// Where a login is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LoginStateText {
    /// The provider's answer may be brought.
    Open,
    /// The provider's answer is being exchanged.
    Consumed,
    /// The account is known; `POST …/confirm` uses it.
    AwaitingConfirmation,
    Confirmed,
    Failed,
    Cancelled,
}

/// A login, without any secret.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct LoginView {
    id: LoginId,
    provider: String,
    flow: FlowKind,
    state: LoginStateText,
    /// With `failed`.
    failure: Option<LoginFailure>,
    /// The upstream that this is for; one that the login makes is there once it is confirmed.
    upstream: UpstreamId,
    creates_upstream: bool,
    /// Where the provider sends the browser.
    redirect_uri: Option<String>,
    /// Whose account it is, while it waits to be confirmed; null where the provider does not tell.
    identity: Option<String>,
    /// Equal texts are the same account.
    account_fingerprint: Option<String>,
    scopes: Option<Vec<String>>,
    token_expires_at: Option<Timestamp>,
    refreshable: Option<bool>,
    started_at: Timestamp,
    /// Until when the provider's answer is taken: ten minutes after the start.
    expires_at: Timestamp,
    /// Until when the account can be confirmed: ten minutes after it is known.
    confirm_by: Option<Timestamp>,
    version: Version,
}

/// What a person does with a device code.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct DeviceView {
    /// To be typed in at `verification_uri`. Type it in only if you have started the login yourself.
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    /// How long to wait between two asks, in seconds.
    interval: u64,
}

impl DeviceView {
    pub(super) fn of(device: &DeviceSecret) -> Self {
        Self {
            user_code: device.user_code.clone(),
            verification_uri: device.verification_uri.clone(),
            verification_uri_complete: device.verification_uri_complete.clone(),
            interval: device.interval_seconds,
        }
    }
}

/// A provider, as far as a login needs to know it.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ProviderView {
    name: String,
    /// Whether a login can be started; without a client it is only half defined.
    configured: bool,
    flows: Vec<FlowKind>,
    /// The host that a listener's address has; null where the provider sends browsers to one fixed address only.
    redirect_host: Option<String>,
    redirect_path: Option<String>,
    /// The ports that a listener may take; empty is any.
    redirect_ports: Vec<u16>,
    scopes: Vec<String>,
}

pub(super) fn provider(provider: &Provider) -> ProviderView {
    let (redirect_host, redirect_path, redirect_ports) = match &provider.redirect {
        Redirect::Loopback { host, ports, path } => (Some(host.clone()), Some(path.clone()), ports.clone()),
        Redirect::Fixed(_) => (None, None, Vec::new()),
    };
    let by_code = provider.authorize_url.is_some().then_some(FlowKind::Code);
    let by_device = provider.device_url.is_some().then_some(FlowKind::Device);
    ProviderView {
        name: provider.name.clone(),
        configured: provider.client.is_some() || provider.registration_url.is_some(),
        flows: by_code.into_iter().chain(by_device).collect(),
        redirect_host,
        redirect_path,
        redirect_ports,
        scopes: provider.scopes.clone(),
    }
}

pub(super) fn login(app: &App, login: &Login, version: Version) -> Result<LoginView, ApiError> {
    let overdue = login.overdue(app.now());
    let (state, failure, exchanged) = match &login.state {
        _ if overdue.is_some() => (LoginStateText::Failed, overdue, None),
        LoginState::Open => (LoginStateText::Open, None, None),
        LoginState::Consumed => (LoginStateText::Consumed, None, None),
        LoginState::Exchanged(exchanged) => (LoginStateText::AwaitingConfirmation, None, Some(exchanged)),
        LoginState::Confirmed(exchanged) => (LoginStateText::Confirmed, None, Some(exchanged)),
        LoginState::Failed(failure) => (LoginStateText::Failed, Some(*failure), None),
        LoginState::Cancelled => (LoginStateText::Cancelled, None, None),
    };
    let redirect_uri = match &login.started.flow {
        LoginFlow::Code { redirect_uri, .. } => Some(redirect_uri.clone()),
        LoginFlow::Device => None,
    };
    Ok(LoginView {
        id: login.id,
        provider: login.started.provider.clone(),
        flow: if redirect_uri.is_some() { FlowKind::Code } else { FlowKind::Device },
        state,
        failure,
        upstream: login.started.upstream,
        creates_upstream: login.started.creates.is_some(),
        redirect_uri,
        identity: exchanged.map_or(Ok(None), |exchanged| identity(app, exchanged))?,
        account_fingerprint: exchanged.map(|exchanged| exchanged.account.clone()).filter(|account| !account.is_empty()),
        scopes: exchanged.map(|exchanged| exchanged.scopes.clone()),
        token_expires_at: exchanged.and_then(|exchanged| exchanged.token_expires_at),
        refreshable: exchanged.map(|exchanged| exchanged.is_refreshable),
        started_at: login.started_at,
        expires_at: login.started.expires_at,
        confirm_by: exchanged.map(|exchanged| exchanged.confirm_by),
        version,
    })
}

/// Whose account it is; nothing once the login has ended, for then it is destroyed.
fn identity(app: &App, exchanged: &LoginExchanged) -> Result<Option<String>, ApiError> {
    let Some(sealed) = &exchanged.identity else { return Ok(None) };
    match app.vault.unseal_field(sealed) {
        Ok(text) => Ok(Some(text.to_string())),
        Err(UnsealFieldError::Erased) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
