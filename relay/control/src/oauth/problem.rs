//! Every way a login can go wrong, as its users know them.

use std::time::Duration;

use schemas::UpstreamId;
use thiserror::Error;

use super::flow::FlowError;
use super::paste::PasteError;
use super::token_client::TokenError;
use crate::ExecuteError;

/// How long until a provider is asked again that does not say when.
const COME_AGAIN: Duration = Duration::from_secs(5);

/// What an exchange that failed is told as; the code says which way.
const NOT_EXCHANGED: &str = "Failed to exchange code for token";

/// Why a login does not go on.
#[derive(Debug, Error)]
pub(crate) enum LoginProblem {
    #[error("there is no such login")]
    NotFound,
    #[error("{0}")]
    Bad(String),
    #[error(transparent)]
    Paste(#[from] PasteError),
    /// Unknown, or somebody else's: told alike.
    #[error("invalid state")]
    StateUnknown,
    #[error("invalid state")]
    StateExpired,
    #[error("the provider's answer was used already{}", .0.map(|id| format!("; it made the account of {id}")).unwrap_or_default())]
    StateUsed(Option<UpstreamId>),
    #[error("the callback URL is not where the login was sent")]
    RedirectMismatch,
    #[error("the answer is another provider's")]
    IssuerMismatch,
    #[error("the provider refused: {0}")]
    Denied(String),
    #[error("{NOT_EXCHANGED}")]
    CodeRejected,
    #[error("{NOT_EXCHANGED}")]
    UpstreamInvalid(#[source] TokenError),
    #[error("{NOT_EXCHANGED}")]
    Unreachable(#[source] TokenError),
    #[error("{NOT_EXCHANGED}")]
    OutcomeUnknown(#[source] TokenError),
    #[error("{NOT_EXCHANGED}")]
    RateLimited(Duration),
    #[error("the provider granted no refresh token, or less than was asked for: {0}")]
    GrantIncomplete(String),
    #[error("this is another account than the upstream's")]
    AccountMismatch,
    #[error("too many pasted answers were wrong; the open logins are closed, start again in ten minutes")]
    TooManyPastes,
    #[error("there are {max} open logins {of}; finish or cancel one of them")]
    TooManyLogins { max: usize, of: &'static str },
    #[error("the login is not that far: the provider has not answered yet")]
    NotExchanged,
    #[error("the login has ended")]
    Ended,
    #[error("the tokens of this login are gone; log in again")]
    GrantGone,
    #[error(transparent)]
    Execute(ExecuteError),
    #[error("the read models cannot be read")]
    Read(#[from] projector::ReadError),
    #[error(transparent)]
    Flow(#[from] FlowError),
    #[error("a text cannot be sealed")]
    SealField(#[from] vault::SealFieldError),
    #[error("a secret cannot be destroyed")]
    Erase(#[from] vault::StoreError),
    #[error("a task ended early")]
    Task(#[from] tokio::task::JoinError),
}

impl LoginProblem {
    /// When to come again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(wait) => Some(*wait),
            Self::Unreachable(_) => Some(COME_AGAIN),
            Self::TooManyPastes => Some(Duration::from_secs(schemas::login::LOGIN_SECONDS)),
            _ => None,
        }
    }
}

impl From<TokenError> for LoginProblem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::NotSent(_) => Self::Unreachable(error),
            TokenError::Unknown(_) => Self::OutcomeUnknown(error),
            TokenError::RateLimited { retry_after } => Self::RateLimited(retry_after.unwrap_or(COME_AGAIN)),
            TokenError::InvalidGrant => Self::CodeRejected,
            TokenError::InvalidClient | TokenError::Invalid(_) => Self::UpstreamInvalid(error),
        }
    }
}
