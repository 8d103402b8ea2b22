//! Providers as the settings describe them, over their token endpoints.

use async_trait::async_trait;
use thiserror::Error;
use vault::GrantSecret;
use zeroize::Zeroizing;

use super::provider::{GrantProvider, Renewal, RenewalError};
use crate::oauth::{OauthClient, Providers, TokenClient, TokenError};

/// Renews grants at the providers of the settings.
pub struct OauthProviders {
    pub providers: Providers,
    pub client: TokenClient,
}

/// Why a grant is not even asked for.
#[derive(Debug, Error)]
enum NoRequest {
    #[error("provider {name:?} is not in the settings any more")]
    NoProvider { name: String },
    #[error("the grant has no refresh token")]
    NoRefreshToken,
}

#[async_trait]
impl GrantProvider for OauthProviders {
    async fn renew(
        &self,
        provider: &str,
        grant: &GrantSecret,
        may_send: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Renewal, RenewalError> {
        let not_sent = |reason: NoRequest| RenewalError::NotSent(reason.into());
        let provider = self.providers.get(provider).ok_or_else(|| not_sent(NoRequest::NoProvider { name: provider.to_owned() }))?;
        let refresh_token = grant.refresh_token.as_deref().ok_or_else(|| not_sent(NoRequest::NoRefreshToken))?;
        // The client that the grant was given to: a provider may know us by another one meanwhile.
        let client = OauthClient { id: grant.client_id.clone(), secret: grant.client_secret.clone().map(Zeroizing::new) };
        match self.client.refresh(&provider, &client, refresh_token, may_send).await {
            Ok(tokens) => Ok(Renewal {
                access_token: tokens.access_token.clone(),
                refresh_token: tokens.refresh_token.clone(),
                token_type: tokens.token_type.clone(),
                expires_in: tokens.expires_in,
            }),
            Err(TokenError::NotSent(source)) => Err(RenewalError::NotSent(source)),
            Err(TokenError::Unknown(source)) => Err(RenewalError::NoAnswer(source)),
            Err(TokenError::RateLimited { retry_after }) => Err(RenewalError::RateLimited { retry_after }),
            Err(TokenError::InvalidGrant) => Err(RenewalError::InvalidGrant),
            Err(error @ (TokenError::InvalidClient | TokenError::Invalid(_))) => Err(RenewalError::Refused(error.into())),
        }
    }
}
