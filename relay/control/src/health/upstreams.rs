//! How many upstreams can be asked, as far as their credentials tell.

use projector::{Route, Routes};
use schemas::Timestamp;
use schemas::credential::grant::{Grant, LoginReason, Refresh};
use schemas::{CredentialId, UpstreamId};
use serde::Serialize;
use utoipa::ToSchema;

/// The most upstreams that are named; the numbers count all.
const NAMED_MAX: usize = 20;

/// The enabled upstreams of all tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct UpstreamHealth {
    pub enabled: usize,
    /// Those that requests are sent to: with a credential for their origin, whose access token has not ended.
    pub usable: usize,
    /// Those whose provider wants a login. They stay usable until their access token ends.
    pub logins_required: usize,
    /// Some of those, by id.
    #[schema(inline)]
    pub need_login: Vec<NeedsLogin>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NeedsLogin {
    #[schema(value_type = String)]
    pub upstream: UpstreamId,
    #[schema(value_type = String)]
    pub credential: CredentialId,
    #[schema(value_type = String, example = "invalid_grant")]
    pub reason: LoginReason,
    pub since: Timestamp,
}

impl UpstreamHealth {
    pub(crate) fn of(routes: &Routes, now: Timestamp) -> Self {
        let mut health = Self::default();
        for route in routes.upstreams.iter().filter(|route| route.upstream.is_enabled()) {
            health.enabled += 1;
            health.usable += usize::from(is_usable(route, now));
            let Some((credential, grant)) = granted(route) else { continue };
            if let Refresh::LoginRequired { reason, at } = grant.refresh {
                health.logins_required += 1;
                if health.need_login.len() < NAMED_MAX {
                    health.need_login.push(NeedsLogin { upstream: route.upstream.id, credential, reason, since: at });
                }
            }
        }
        health
    }
}

fn granted(route: &Route) -> Option<(CredentialId, &Grant)> {
    let credential = route.credential.as_ref()?;
    Some((credential.id, credential.grant.as_deref()?))
}

fn is_usable(route: &Route, now: Timestamp) -> bool {
    let is_expired = |grant: &Grant| grant.is_expired(now);
    route.credential.as_ref().is_some_and(|credential| !credential.grant.as_deref().is_some_and(is_expired))
}
