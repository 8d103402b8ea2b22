//! Providers' grants: how one is entered, and how it is shown: without any token, with what an operator must know of it.

use schemas::credential::grant::{CredentialAuthorized, Grant, GrantStatus, LoginReason, Refresh};
use schemas::{Timestamp, name};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault::GrantSecret;
use zeroize::Zeroizing;

use super::app::App;
use super::error::ApiError;
use super::upstreams::SecretText;

/// The most scopes of a grant, and the most characters of one.
const SCOPES_MAX: usize = 64;
const SCOPE_LENGTH_MAX: usize = 256;

/// A grant that was obtained elsewhere: a provider's long-lived set-up token, or the tokens of another program's login.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewGrant {
    /// The provider's name in the settings. Its token endpoint is where the grant is refreshed.
    provider: String,
    /// Shown to the upstream as `Authorization: Bearer`.
    access_token: SecretText,
    /// Whoever else has it must use it no more: most are good once. Without one the grant ends with its access token.
    #[serde(default)]
    refresh_token: Option<SecretText>,
    /// Whom the provider gave the tokens to; needed with a refresh token.
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    client_secret: Option<SecretText>,
    /// When the access token ends; without it, it is good until it is refused.
    #[serde(default)]
    expires_at: Option<Timestamp>,
    #[serde(default)]
    scopes: Vec<String>,
}

/// What an operator entered, ready to be sealed.
pub(super) struct Entered {
    pub(super) plaintext: Zeroizing<Vec<u8>>,
    pub(super) fingerprint: String,
    pub(super) authorized: Option<CredentialAuthorized>,
}

/// A credential or a grant, if there is one.
pub(super) fn entered(app: &App, credential: Option<&SecretText>, grant: Option<&NewGrant>) -> Result<Option<Entered>, ApiError> {
    match (credential, grant) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(ApiError::BadRequest("an upstream has a credential or a grant, not both".to_owned())),
        (Some(secret), None) => {
            let bytes = secret.0.as_bytes();
            let fingerprint = app.vault.fingerprint(bytes);
            Ok(Some(Entered { plaintext: Zeroizing::new(bytes.to_vec()), fingerprint, authorized: None }))
        }
        (None, Some(grant)) => grant.entered(app).map(Some),
    }
}

impl NewGrant {
    fn entered(&self, app: &App) -> Result<Entered, ApiError> {
        let refusal = |text: &str| ApiError::BadRequest(text.to_owned());
        name::check("provider", &self.provider).map_err(|error| refusal(&error.to_string()))?;
        if self.scopes.len() > SCOPES_MAX || self.scopes.iter().any(|scope| scope.is_empty() || scope.len() > SCOPE_LENGTH_MAX) {
            return Err(refusal("a grant has at most 64 scopes of 1 to 256 characters"));
        }
        if self.refresh_token.is_some() && self.client_id.as_ref().is_none_or(String::is_empty) {
            return Err(refusal("a refresh token is of use only with the client_id that it was given to"));
        }
        let text = |secret: &SecretText| secret.0.as_str().to_owned();
        let mut secret = GrantSecret::default();
        secret.access_token = text(&self.access_token);
        secret.refresh_token = self.refresh_token.as_ref().map(text);
        secret.token_type = "Bearer".to_owned();
        secret.client_id = self.client_id.clone().unwrap_or_default();
        secret.client_secret = self.client_secret.as_ref().map(text);
        secret.expires_at = self.expires_at;
        let authorized = CredentialAuthorized {
            provider: self.provider.clone(),
            // Whose account it is was not asked; the lasting token tells one login from another.
            account: app.vault.fingerprint(self.refresh_token.as_ref().unwrap_or(&self.access_token).0.as_bytes()),
            scopes: self.scopes.clone(),
            expires_at: self.expires_at,
            is_refreshable: self.refresh_token.is_some(),
        };
        let fingerprint = app.vault.fingerprint(secret.access_token.as_bytes());
        Ok(Entered { plaintext: secret.to_bytes(), fingerprint, authorized: Some(authorized) })
    }
}

/// The grant behind a credential.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantView {
    provider: String,
    /// Equal texts are the same account at the provider; nothing else can be told from one.
    account: String,
    scopes: Vec<String>,
    #[schema(inline)]
    status: Status,
    /// Why a login is required, if it is: `invalid_grant`, `outcome_unknown` (the node that had sent the refresh token died before it had kept
    /// the answer) or `secret_lost`.
    #[schema(value_type = Option<String>)]
    login_required: Option<LoginReason>,
    authorized_at: Timestamp,
    /// When the present access token was recorded.
    issued_at: Timestamp,
    /// Null where the provider does not say.
    expires_at: Option<Timestamp>,
    /// Whether there is a refresh token.
    refreshable: bool,
    /// The latest moment at which the next refresh begins; null while one is under way, or none will.
    refresh_at: Option<Timestamp>,
    /// Whether a refresh is under way.
    refreshing: bool,
    /// Attempts since the last refresh that came to nothing.
    failures: u32,
}

/// `expiring` is less than 24 hours before the end, whether it will be refreshed or not.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    Valid,
    Expiring,
    Expired,
    LoginRequired,
}

pub(super) fn grant_view(grant: &Grant, now: Timestamp) -> GrantView {
    GrantView {
        provider: grant.provider.clone(),
        account: grant.account.clone(),
        scopes: grant.scopes.clone(),
        status: match grant.status(now) {
            GrantStatus::Valid => Status::Valid,
            GrantStatus::Expiring => Status::Expiring,
            GrantStatus::Expired => Status::Expired,
            GrantStatus::LoginRequired => Status::LoginRequired,
        },
        login_required: match grant.refresh {
            Refresh::LoginRequired { reason, .. } => Some(reason),
            Refresh::Idle | Refresh::Asked { .. } | Refresh::Claimed { .. } => None,
        },
        authorized_at: grant.authorized_at,
        issued_at: grant.issued_at,
        expires_at: grant.expires_at,
        refreshable: grant.is_refreshable,
        refresh_at: grant.refresh_at(0),
        refreshing: matches!(grant.refresh, Refresh::Claimed { .. }),
        failures: grant.failures,
    }
}
