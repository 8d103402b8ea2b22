//! How a provider's grant is shown: without any token, with what an operator must know of it.

use schemas::Timestamp;
use schemas::credential::grant::{Grant, GrantStatus, LoginReason, Refresh};
use serde::Serialize;
use utoipa::ToSchema;

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
