//! What stands and should be heard of, as the read models have it.

use std::collections::BTreeMap;

use projector::{Route, Routes};
use schemas::Timestamp;
use schemas::credential::grant::{LoginReason, Refresh};

use super::channel::Channel;
use super::notice::{Kind, Notice};
use super::told::Told;

/// The most that is told of at once through a channel; the rest waits until some of it is over.
pub(super) const STANDING_MAX: usize = 150;

/// What stands that a channel takes, by the ids of its notices.
pub(super) fn standing(routes: &Routes, channel: &Channel) -> BTreeMap<String, Standing> {
    let found = routes.upstreams.iter().filter_map(|route| login_required(route));
    let taken = found.filter(|standing| channel.takes(standing.notice.kind, standing.notice.tenant.as_ref()));
    taken.map(|standing| (standing.notice.id.clone(), standing)).take(STANDING_MAX).collect()
}

/// Something to tell, and what is kept of it for telling that it is over.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) notice: Notice,
    pub(super) told: Told,
}

fn login_required(route: &Route) -> Option<Standing> {
    let (upstream, credential) = (&route.upstream, route.credential.as_ref()?);
    let Refresh::LoginRequired { reason, at } = credential.grant.as_deref()?.refresh else { return None };
    if !upstream.is_enabled() {
        return None;
    }
    let name = upstream.details.name.as_str();
    let tenant = &upstream.tenant;
    let text = format!(
        "Upstream {name} of tenant {tenant}: its provider wants a login, because {}. Its token is refreshed no more.",
        because(reason)
    );
    let subject = upstream.id.to_string();
    let notice = Notice::new(Kind::LoginRequired, Some(tenant.clone()), subject.clone(), &text, at);
    let told = Told { kind: Kind::LoginRequired, tenant: Some(tenant.clone()), subject, name: name.to_owned(), at };
    Some(Standing { notice, told })
}

const fn because(reason: LoginReason) -> &'static str {
    match reason {
        LoginReason::InvalidGrant => "it says that the refresh token is good no more",
        LoginReason::OutcomeUnknown => "the answer to the last refresh was lost",
        LoginReason::SecretLost => "the vault does not give the refresh token back",
    }
}

/// The notice that something is over. Its id comes from the time of the cause, so that it is the same at each attempt.
pub(super) fn recovered(told: &Told) -> Notice {
    let Told { tenant, subject, name, at, kind } = told;
    let of = tenant.as_ref().map(|tenant| format!(" of tenant {tenant}")).unwrap_or_default();
    let text = format!("Upstream {name}{of}: {} stands no more.", kind.name());
    let cause: Timestamp = *at;
    Notice::new(Kind::Recovered, tenant.clone(), subject.clone(), &text, cause)
}
