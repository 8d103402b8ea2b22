//! What the refresher asks of a provider.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;
use vault::GrantSecret;
use zeroize::Zeroizing;

/// What a provider gave for a refresh token. Its `Debug` hides the tokens.
pub struct Renewal {
    pub access_token: Zeroizing<String>,
    /// Another refresh token, in the place of the one that was shown.
    pub refresh_token: Option<Zeroizing<String>>,
    pub token_type: String,
    /// None where the provider does not say.
    pub expires_in: Option<Duration>,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// Why a provider gave none.
#[derive(Debug, Error)]
pub enum RenewalError {
    #[error("nothing was sent to the provider")]
    NotSent(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It may have redeemed the token.
    #[error("the provider's answer is not known")]
    NoAnswer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the provider asks to come again later")]
    RateLimited { retry_after: Option<Duration> },
    #[error("the provider says that the refresh token is good no more")]
    InvalidGrant,
    #[error("the provider refused the request, or is not known")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Speaks to token endpoints.
///
/// *Once*: the refresh token is sent at most once in a call, and no call is repeated by the implementation.
///
/// *Last word*: `may_send` is asked right before the first byte goes out; where it says no, nothing is sent and that is
/// [`RenewalError::NotSent`]. A process that is suspended between that question and the write sends late all the same.
///
/// *Cancelling*: a call that is dropped may have sent the token or not.
#[async_trait]
pub trait GrantProvider: Send + Sync + 'static {
    /// Redeems the grant's refresh token at the provider of this name.
    async fn renew(
        &self,
        provider: &str,
        grant: &GrantSecret,
        may_send: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Renewal, RenewalError>;
}
