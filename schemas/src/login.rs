//! Logins: accounts at a provider that an operator opens with a browser or a device code.
//!
//! A login belongs to whoever started it, is good for ten minutes and is used once: of two nodes that are shown the same answer of the
//! provider, one appends [`LoginConsumed`] and the other finds it there. The state that the browser brings back stands here as a digest; the
//! verifier, and later the tokens, lie in the vault until the login ends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::actor::Actor;
use crate::aggregate::{At, Context};
use crate::event::Event;
use crate::id::{Digest, LoginId, TenantId, UpstreamId};
use crate::sealed::Sealed;
use crate::stream::Stream;
use crate::time::Timestamp;
use crate::upstream::{UpstreamDetails, UpstreamLabels};

/// How long a login may take, and then how long its confirmation may: ten minutes each, in seconds.
pub const LOGIN_SECONDS: u64 = 600;
/// How often a login is opened again because nothing was sent to the provider.
pub const REOPENED_MAX: u32 = 3;
/// How many misuses of one login are recorded.
pub const MISUSES_MAX: u32 = 3;

/// How the provider's answer comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoginFlow {
    /// By the browser, to an address of ours or by paste.
    Code {
        redirect_uri: String,
        /// Of the text that the browser must bring back.
        state_hash: Digest,
    },
    /// By asking the provider, while the user types a code in elsewhere (RFC 8628).
    Device,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoginStarted {
    /// The provider's name in the settings.
    pub provider: String,
    pub flow: LoginFlow,
    /// Whose credential this is to be.
    pub upstream: UpstreamId,
    /// The upstream is made at the confirmation; absent where it is there.
    pub creates: Option<UpstreamDetails>,
    /// Of the upstream that is made.
    pub labels: UpstreamLabels,
    /// The fingerprint of the account that it must be, where a login of the upstream is renewed.
    pub account: Option<String>,
    pub expires_at: Timestamp,
}

/// The provider's answer is taken, by this node and no other. Whatever comes of it, the same answer is not taken again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoginConsumed {}

/// Nothing was sent to the provider, or it asked to come again: the same answer may be brought again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoginReopened {
    /// The provider asked to come again, which does not count.
    pub is_rate_limited: bool,
}

/// The provider gave tokens; they are sealed, and wait for somebody who knows the account to say that it is the right one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoginExchanged {
    /// What people know the account by; absent where the provider does not tell.
    pub identity: Option<Sealed>,
    /// A keyed digest of the provider's account; empty where the provider does not tell.
    pub account: String,
    pub scopes: Vec<String>,
    /// When the access token ends; absent where the provider does not say.
    pub token_expires_at: Option<Timestamp>,
    pub is_refreshable: bool,
    pub confirm_by: Timestamp,
}

/// The account is the right one. The credential, and the upstream where one is made, follow under ids derived from the login's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoginConfirmed {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoginFailed {
    pub code: LoginFailure,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoginCancelled {}

/// Somebody tried what an attacker would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoginMisused {
    pub misuse: LoginMisuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoginMisuse {
    /// The state was brought by somebody who had not started the login; the record names them.
    ForeignActor,
    /// The answer came from another provider.
    ForeignIssuer,
}

/// Why a login ended without an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoginFailure {
    /// Nobody brought the provider's answer in time.
    Expired,
    /// Nobody confirmed the account in time.
    Unconfirmed,
    RedirectMismatch,
    IssuerMismatch,
    /// The provider says that the user refused, or that it does.
    Denied,
    CodeRejected,
    UpstreamInvalid,
    /// Nothing could be sent, more often than a login is opened again.
    Unreachable,
    OutcomeUnknown,
    /// No refresh token, or less than was asked for.
    GrantIncomplete,
    AccountMismatch,
    /// Too many answers were brought that could not be the provider's.
    TooManyPastes,
}

/// Where a login is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoginState {
    Open,
    Consumed,
    Exchanged(LoginExchanged),
    Confirmed(LoginExchanged),
    Failed(LoginFailure),
    Cancelled,
}

/// The state of a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub id: LoginId,
    pub tenant: TenantId,
    /// Whose login it is; nobody else can go on with it.
    pub by: Actor,
    pub started_at: Timestamp,
    pub started: LoginStarted,
    pub state: LoginState,
    /// How often it was opened again because nothing was sent.
    pub reopened: u32,
    pub misuses: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginCommand {
    Start(Box<LoginStarted>),
    Consume,
    Reopen { is_rate_limited: bool },
    Exchange(Box<LoginExchanged>),
    Confirm,
    Fail(LoginFailure),
    Cancel,
    ReportMisuse(LoginMisuse),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoginError {
    #[error("the login exists already")]
    Exists,
    #[error("there is no such login")]
    NotFound,
    /// Told like one that is not there.
    #[error("there is no such login")]
    Foreign,
    #[error("the login's ten minutes are over; start another")]
    Expired,
    #[error("the provider's answer was used already")]
    Used,
    #[error("the login is not that far: the provider has not answered yet")]
    NotExchanged,
    #[error("the login has ended")]
    Ended,
}

impl Login {
    /// Whether nothing more can come of it.
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, LoginState::Confirmed(_) | LoginState::Failed(_) | LoginState::Cancelled)
    }

    /// How a login ends that nobody goes on with; none where it is not overdue or has ended.
    pub fn overdue(&self, now: Timestamp) -> Option<LoginFailure> {
        match &self.state {
            LoginState::Open => (now >= self.started.expires_at).then_some(LoginFailure::Expired),
            // An exchange takes seconds; a node that has died in one leaves it like this.
            LoginState::Consumed => (now >= self.started.expires_at.plus_seconds(60)).then_some(LoginFailure::OutcomeUnknown),
            LoginState::Exchanged(exchanged) => (now >= exchanged.confirm_by).then_some(LoginFailure::Unconfirmed),
            LoginState::Confirmed(_) | LoginState::Failed(_) | LoginState::Cancelled => None,
        }
    }

    pub(crate) fn decide(state: Option<&Self>, command: &LoginCommand, context: &Context) -> Result<Vec<Event>, LoginError> {
        let login = match (state, command) {
            (None, LoginCommand::Start(started)) => return Ok(vec![Event::LoginStarted((**started).clone())]),
            (Some(_), LoginCommand::Start(_)) => return Err(LoginError::Exists),
            (None, _) => return Err(LoginError::NotFound),
            (Some(login), _) => login,
        };
        match command {
            LoginCommand::Start(_) => Err(LoginError::Exists),
            LoginCommand::ReportMisuse(_) if login.misuses >= MISUSES_MAX => Ok(vec![]),
            LoginCommand::ReportMisuse(misuse) => Ok(vec![Event::LoginMisused(LoginMisused { misuse: *misuse })]),
            // Time ends what its owner leaves.
            LoginCommand::Fail(code) if context.actor == Actor::Scheduler && login.overdue(context.now) != Some(*code) => Ok(vec![]),
            LoginCommand::Fail(_) if context.actor != login.by && context.actor != Actor::Scheduler => Err(LoginError::Foreign),
            LoginCommand::Fail(_) if login.has_ended() => Ok(vec![]),
            LoginCommand::Fail(code) => {
                let misused = Event::LoginMisused(LoginMisused { misuse: LoginMisuse::ForeignIssuer });
                let misused = (*code == LoginFailure::IssuerMismatch).then_some(misused);
                Ok(misused.into_iter().chain([failed(*code)]).collect())
            }
            _ if context.actor != login.by => Err(LoginError::Foreign),
            LoginCommand::Consume => match login.state {
                LoginState::Open if context.now >= login.started.expires_at => Err(LoginError::Expired),
                LoginState::Open => Ok(vec![Event::LoginConsumed(LoginConsumed {})]),
                LoginState::Failed(LoginFailure::Expired) => Err(LoginError::Expired),
                _ => Err(LoginError::Used),
            },
            LoginCommand::Reopen { is_rate_limited } => match login.state {
                LoginState::Consumed if !is_rate_limited && login.reopened >= REOPENED_MAX => Ok(vec![failed(LoginFailure::Unreachable)]),
                LoginState::Consumed => Ok(vec![Event::LoginReopened(LoginReopened { is_rate_limited: *is_rate_limited })]),
                _ => Err(LoginError::Ended),
            },
            LoginCommand::Exchange(exchanged) => match (&login.state, &login.started.flow) {
                // A provider gives the tokens of a device code once, so that there is nothing to take first.
                (LoginState::Consumed, _) | (LoginState::Open, LoginFlow::Device) => Ok(vec![Event::LoginExchanged((**exchanged).clone())]),
                (LoginState::Open, LoginFlow::Code { .. }) => Err(LoginError::NotExchanged),
                (LoginState::Exchanged(_), _) => Err(LoginError::Used),
                _ => Err(LoginError::Ended),
            },
            LoginCommand::Confirm => match &login.state {
                LoginState::Confirmed(_) => Ok(vec![]),
                LoginState::Exchanged(exchanged) if context.now >= exchanged.confirm_by => Err(LoginError::Expired),
                LoginState::Exchanged(_) => Ok(vec![Event::LoginConfirmed(LoginConfirmed {})]),
                LoginState::Open | LoginState::Consumed => Err(LoginError::NotExchanged),
                LoginState::Failed(_) | LoginState::Cancelled => Err(LoginError::Ended),
            },
            LoginCommand::Cancel => match login.state {
                LoginState::Cancelled => Ok(vec![]),
                LoginState::Open | LoginState::Consumed | LoginState::Exchanged(_) => Ok(vec![Event::LoginCancelled(LoginCancelled {})]),
                LoginState::Confirmed(_) | LoginState::Failed(_) => Err(LoginError::Ended),
            },
        }
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        let Some(login) = state else {
            let Event::LoginStarted(started) = event else { return None };
            return Some(Self {
                id: LoginId::from_bytes(*stream.id()),
                tenant: stream.tenant().clone(),
                by: at.actor,
                started_at: at.time,
                started: started.clone(),
                state: LoginState::Open,
                reopened: 0,
                misuses: 0,
            });
        };
        if matches!(event, Event::LoginMisused(_)) {
            return Some(Self { misuses: login.misuses + 1, ..login });
        }
        let (state, reopened) = match (&login.state, event) {
            (LoginState::Open, Event::LoginConsumed(_)) => (LoginState::Consumed, login.reopened),
            (LoginState::Consumed, Event::LoginReopened(reopened)) => {
                (LoginState::Open, login.reopened + u32::from(!reopened.is_rate_limited))
            }
            (LoginState::Open | LoginState::Consumed, Event::LoginExchanged(exchanged)) => {
                (LoginState::Exchanged(exchanged.clone()), login.reopened)
            }
            (LoginState::Exchanged(exchanged), Event::LoginConfirmed(_)) => (LoginState::Confirmed(exchanged.clone()), login.reopened),
            (_, Event::LoginFailed(failed)) if !login.has_ended() => (LoginState::Failed(failed.code), login.reopened),
            (_, Event::LoginCancelled(_)) if !login.has_ended() => (LoginState::Cancelled, login.reopened),
            _ => return None,
        };
        Some(Self { state, reopened, ..login })
    }
}

fn failed(code: LoginFailure) -> Event {
    Event::LoginFailed(LoginFailed { code })
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
