//! What stands and should be heard of, as the read models have it at a time.

use std::collections::BTreeMap;

use projector::{Route, Routes};
use schemas::Timestamp;
use schemas::credential::grant::{GrantStatus, LoginReason, Refresh};
use schemas::credential::rotation::{EndCause, Rotation, RotationStep};

use super::channel::Channel;
use super::notice::{Kind, Notice};
use super::told::Told;
use crate::upstream_tests::Rejected;

/// The most that is told of at once through a channel; the rest waits until some of it is over.
pub(super) const STANDING_MAX: usize = 150;
/// How long a step of a rotation may take that needs nobody but nodes and a provider. The trial of a secret gives up after ten minutes.
const STEP_SECONDS_MAX: u64 = 15 * 60;
/// How long a secret may be staged without anybody telling that the provider knows it: a day.
const STAGED_SECONDS_MAX: u64 = 24 * 3600;

/// What stands that a channel takes, by the ids of its notices.
pub(super) fn standing(routes: &Routes, rejected: &[Rejected], channel: &Channel, now: Timestamp) -> BTreeMap<String, Standing> {
    let enabled = routes.upstreams.iter().filter(|route| route.upstream.is_enabled());
    let found = enabled
        .flat_map(|route| [login_required(route), expiring(route, now), credential_rejected(route, rejected), rotation_stuck(route, now)])
        .flatten();
    let taken = found.filter(|standing| channel.takes(standing.notice.kind, standing.notice.tenant.as_ref()));
    taken.map(|standing| (standing.notice.id.clone(), standing)).take(STANDING_MAX).collect()
}

/// Something to tell, and what is kept of it for telling that it is over.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) notice: Notice,
    pub(super) told: Told,
}

/// Something about an upstream, whose text goes on from its name.
fn of(route: &Route, kind: Kind, text: &str, at: Timestamp) -> Standing {
    let upstream = &route.upstream;
    let (name, tenant, subject) = (upstream.details.name.as_str(), upstream.tenant.clone(), upstream.id.to_string());
    let notice = Notice::new(kind, Some(tenant.clone()), subject.clone(), &format!("Upstream {name} of tenant {tenant}: {text}"), at);
    Standing { notice, told: Told { kind, tenant: Some(tenant), subject, name: name.to_owned(), at } }
}

fn login_required(route: &Route) -> Option<Standing> {
    let Refresh::LoginRequired { reason, at } = route.credential.as_ref()?.grant.as_deref()?.refresh else { return None };
    let because = match reason {
        LoginReason::InvalidGrant => "it says that the refresh token is good no more",
        LoginReason::OutcomeUnknown => "the answer to the last refresh was lost",
        LoginReason::SecretLost => "the vault does not give the refresh token back",
    };
    let text = format!("its provider wants a login, because {because}. Its token is refreshed no more.");
    Some(of(route, Kind::LoginRequired, &text, at))
}

/// A token that ends within a day and that nothing renews.
fn expiring(route: &Route, now: Timestamp) -> Option<Standing> {
    let grant = route.credential.as_ref()?.grant.as_deref()?;
    let ends = grant.expires_at?;
    let is_ending = matches!(grant.status(now), GrantStatus::Expiring | GrantStatus::Expired);
    let text = format!("its token ends at {ends} and cannot be refreshed. Log in again, or enter another.");
    (is_ending && !grant.is_refreshable).then(|| of(route, Kind::CredentialExpiring, &text, ends))
}

/// A credential that the provider does not take. A grant that needs a login is told as that.
fn credential_rejected(route: &Route, rejected: &[Rejected]) -> Option<Standing> {
    let found = rejected.iter().find(|found| found.upstream == route.upstream.id && found.tenant == route.upstream.tenant)?;
    let text = format!("its provider rejects its credential in test calls since {}.", found.since);
    login_required(route).is_none().then(|| of(route, Kind::CredentialRejected, &text, found.since))
}

/// A rotation that does not go on, or that ended without its new secret.
fn rotation_stuck(route: &Route, now: Timestamp) -> Option<Standing> {
    let rotation = route.credential.as_ref()?.rotations.last()?;
    let text = match failed(rotation) {
        Some(because) => format!("its rotation was given up, because {because}. The old credential is in use."),
        None if is_late(rotation, now) => format!("its rotation stands at {} since {}.", rotation.step.as_str(), rotation.step_at),
        None => return None,
    };
    Some(of(route, Kind::RotationStuck, &text, rotation.step_at))
}

fn failed(rotation: &Rotation) -> Option<&'static str> {
    let is_given_up = matches!(rotation.step, RotationStep::Aborted | RotationStep::RolledBack);
    match rotation.end.filter(|_| is_given_up)? {
        EndCause::Asked => None,
        EndCause::Refused => Some("the provider refused the new credential"),
        EndCause::OtherAccount => Some("the new credential is another account's"),
        EndCause::Untestable => Some("the new credential could not be tested"),
    }
}

fn is_late(rotation: &Rotation, now: Timestamp) -> bool {
    let is_older = |seconds: u64| rotation.step_at.plus_seconds(seconds) <= now;
    match rotation.step {
        RotationStep::Staged => is_older(STAGED_SECONDS_MAX),
        RotationStep::Installed | RotationStep::Tested => is_older(STEP_SECONDS_MAX),
        // These last as long as they are meant to; only what should have followed long ago is late.
        RotationStep::Dual | RotationStep::Draining => {
            let before = Timestamp::from_micros(now.as_micros().saturating_sub(STEP_SECONDS_MAX * 1_000_000));
            is_older(STEP_SECONDS_MAX) && rotation.due(before).is_some()
        }
        RotationStep::Finished | RotationStep::Aborted | RotationStep::RolledBack => false,
    }
}

/// The notice that something is over. Its id comes from the time of the cause, so that it is the same at each attempt.
pub(super) fn recovered(told: &Told) -> Notice {
    let Told { tenant, subject, name, at, kind } = told;
    let of = tenant.as_ref().map(|tenant| format!(" of tenant {tenant}")).unwrap_or_default();
    // Two things may have begun at one time, so what is over is a part of the subject that the id is made of.
    let mut notice = Notice::new(Kind::Recovered, tenant.clone(), format!("{subject}/{}", kind.name()), "", *at);
    notice.text =
        Notice::new(Kind::Recovered, None, String::new(), &format!("Upstream {name}{of}: {} stands no more.", kind.name()), *at).text;
    notice.subject.clone_from(subject);
    notice
}
