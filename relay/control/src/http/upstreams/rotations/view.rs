//! Rotations as answers show them.

use projector::Route;
use schemas::credential::Credential;
use schemas::credential::order::{Order, ProviderKeyNoted};
use schemas::credential::rotation::{EndCause, ReplacedSecret, Rotation, RotationStep, StepCause};
use schemas::upstream::RiskClass;
use schemas::{Actor, DurationText, RotationId, Timestamp, WriterId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::keys::unseal_text;

/// One rotation.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct RotationView {
    id: RotationId,
    status: RotationStep,
    /// The secret that it leads to.
    new: RotationSecretView,
    /// The secret that it leads away from.
    previous: RotationSecretView,
    compromise: bool,
    grace: DurationText,
    window: DurationText,
    unused_after: Option<DurationText>,
    reason: Option<String>,
    began_at: Timestamp,
    began_by: Actor,
    /// Since when it stands at its status, and who brought it there.
    status_at: Timestamp,
    status_by: Actor,
    tested: Option<TestView>,
    promoted_at: Option<Timestamp>,
    /// When the old secret is destroyed at the latest; null before the new one is in use, and after the end.
    finishes_at: Option<Timestamp>,
    /// Requests for which the provider refused the new secret and took the old one.
    previous_uses: u64,
    previous_last_used_at: Option<Timestamp>,
    /// Why it went on to where it stands, where that was a choice.
    cause: Option<StepCause>,
    /// Why it was aborted or rolled back.
    ended_because: Option<EndCause>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct RotationSecretView {
    secret_version: u32,
    /// Equal fingerprints are equal secrets; nothing else can be told from one.
    fingerprint: String,
    /// From when on it was the one in use; null for one that never was.
    since: Option<Timestamp>,
}

/// The real call that the provider answered with the new secret.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TestView {
    node: WriterId,
    status: u16,
    /// Whether both secrets belong to one account; null where the provider does not say.
    same_account: Option<bool>,
}

/// An order for the next secret, which has not come yet.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct OrderView {
    /// The rotation that it will be.
    id: RotationId,
    /// The provider, as the configuration names it.
    provider: String,
    compromise: bool,
    ordered_at: Timestamp,
    ordered_by: Actor,
    /// How often the provider was asked, and when last; never where people bring the secret.
    asked: u32,
    asked_at: Option<Timestamp>,
}

/// How a credential stands with rotation.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct StandingView {
    /// The step of a rotation that is under way, `ordered` while its secret has not come, else `idle`.
    status: &'static str,
    /// The rotation that is under way.
    id: Option<RotationId>,
    current: RotationSecretView,
    /// The secret before the current one, as long as it is there.
    previous: Option<RotationSecretView>,
    /// When the secret in use took the place of another one; null for the first.
    last_rotated_at: Option<Timestamp>,
    /// From a tag of the upstream: `risk:metered`, `risk:internal` or `risk:privileged`.
    risk: Option<RiskClass>,
    /// When the secret in use is as old as its schedule, or its risk class, allows.
    due_at: Option<Timestamp>,
    /// The schedule that says so; `risk` for the class by itself.
    schedule: Option<String>,
    /// Who makes its keys, as the configuration names it.
    provider: Option<String>,
    order: Option<OrderView>,
    /// Keys that the provider has, by its ids, as far as that is known; those of secrets out of use are being taken away.
    provider_keys: Vec<ProviderKeyView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ProviderKeyView {
    secret_version: u32,
    key: String,
}

/// Blocks on the key store.
pub(super) fn view(app: &App, rotation: &Rotation) -> Result<RotationView, ApiError> {
    Ok(RotationView {
        id: rotation.id,
        status: rotation.step,
        new: RotationSecretView {
            secret_version: rotation.secret_version,
            fingerprint: rotation.fingerprint.clone(),
            since: rotation.promoted_at,
        },
        previous: replaced(&rotation.previous),
        compromise: rotation.compromise,
        grace: DurationText::from_seconds(rotation.grace_seconds),
        window: DurationText::from_seconds(rotation.window_seconds),
        unused_after: rotation.unused_seconds.map(DurationText::from_seconds),
        reason: unseal_text(app, rotation.reason.as_ref())?,
        began_at: rotation.staged_at,
        began_by: rotation.staged_by,
        status_at: rotation.step_at,
        status_by: rotation.step_by,
        tested: rotation.tested.as_ref().map(|tested| TestView {
            node: tested.node,
            status: tested.status,
            same_account: tested.account.as_ref().zip(tested.previous_account.as_ref()).map(|(new, old)| new == old),
        }),
        promoted_at: rotation.promoted_at,
        finishes_at: rotation.promoted_at.filter(|_| rotation.step.is_promoted()).map(|at| at.plus_seconds(rotation.grace_seconds)),
        previous_uses: rotation.fallback.uses,
        previous_last_used_at: rotation.fallback.last_used_at,
        cause: rotation.cause,
        ended_because: rotation.end,
    })
}

fn replaced(secret: &ReplacedSecret) -> RotationSecretView {
    RotationSecretView { secret_version: secret.version, fingerprint: secret.fingerprint.clone(), since: Some(secret.since) }
}

pub(super) fn order_view(order: &Order) -> OrderView {
    OrderView {
        id: order.rotation,
        provider: order.provider.clone(),
        compromise: order.compromise,
        ordered_at: order.ordered_at,
        ordered_by: order.ordered_by,
        asked: order.claim.map_or(0, |claim| claim.number),
        asked_at: order.claim.map(|claim| claim.at),
    }
}

pub(in crate::http) fn standing(app: &App, route: &Route, credential: &Credential) -> StandingView {
    let (open, risk, side) = (credential.open_rotation(), route.upstream.risk(), &credential.provider_side);
    let schedule = app.rotations.schedule_of(&app.models.routes(), route);
    let idle = if side.order.is_some() { "ordered" } else { "idle" };
    let key = |key: &ProviderKeyNoted| ProviderKeyView { secret_version: key.secret_version, key: key.key.clone() };
    StandingView {
        status: open.map_or(idle, |rotation| rotation.step.as_str()),
        id: open.map(|rotation| rotation.id).or(side.order.as_ref().map(|order| order.rotation)),
        current: RotationSecretView {
            secret_version: credential.secret_version,
            fingerprint: credential.fingerprint.clone(),
            since: Some(credential.changed_at),
        },
        previous: open.filter(|rotation| rotation.step.is_promoted()).map(|rotation| replaced(&rotation.previous)),
        last_rotated_at: (credential.secret_version > 1).then_some(credential.changed_at),
        risk,
        due_at: schedule.as_ref().map(|schedule| schedule.due_at(credential)),
        schedule: schedule.map(|schedule| schedule.name.clone()),
        provider: app.rotations.providers.of(&route.upstream).map(|provider| provider.name.clone()),
        order: side.order.as_ref().map(order_view),
        provider_keys: side.keys.iter().map(key).collect(),
    }
}
