//! `/upstreams/{id}/rotations`: giving an upstream its next secret while requests go on.
//!
//! The new secret is sealed and durable before the record that stages it. From there on the scheduler takes the rotation forward; whoever is in a
//! hurry takes the next step here.

mod view;

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use projector::Route;
use schemas::credential::order::{OrderCommand, RotationOrdered};
use schemas::credential::rotation::{EndCause, Installer, Rotation, RotationCommand, RotationStaged, RotationStep, StepCause};
use schemas::credential::{Credential, CredentialCommand};
use schemas::{Aggregate, Command, DurationText, RotationId, Sequence, Stream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{SecretText, find, refuse_early, seal, secret_address};
use crate::credential_rotations::{RotationStepError, StillGood, TrialOutcome};
use crate::http::app::App;
use crate::http::conventions::{Caller, Mutation, Nothing};
use crate::http::error::{ApiError, MutationProblems, ReadProblems};
use crate::http::keys::seal_text;
use crate::key_providers::{GRACE_SECONDS_DEFAULT, window_default};
use crate::{ExecuteError, Receipt};

use view::{OrderView, RotationView, order_view, view};
pub(in crate::http) use view::{StandingView, standing};

/// How long a step that was asked for waits for live nodes that are behind.
const FENCE_WAIT: Duration = Duration::from_secs(5);
/// Numbers that are tried for a new secret where others lie that no record names: what is left of commands that died.
const NUMBERS_MAX: u32 = 8;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NewRotation {
    /// The new secret, which the provider knows already. Without one it is ordered, where the configuration names a provider for the upstream's
    /// keys; where not, it is needed unless nothing is due.
    #[serde(default)]
    credential: Option<SecretText>,
    /// Do nothing unless the secret in use is at least this old, such as `7d`: for a job that runs every night.
    #[serde(default)]
    if_older_than: Option<DurationText>,
    /// Do nothing unless the secret in use is as old as the upstream's schedule allows: the shortest that fits it in the configuration, or by its risk
    /// class: `risk:metered` 7 days, `risk:internal` 30 days, `risk:privileged` one day, as a tag of the upstream. Without either nothing is due.
    #[serde(default)]
    if_due: bool,
    /// The old secret is known to others: it is no fall-back, and is destroyed as soon as the new one is tested and all nodes know it.
    #[serde(default)]
    compromise: bool,
    /// How long the old secret is kept after the new one is in use, for a rollback; at most `90d`.
    #[serde(default)]
    #[schema(value_type = Option<String>, default = "48h")]
    grace: Option<DurationText>,
    /// The first part of that, in which the old secret is the fall-back; at most `7d`. Half of `grace`, and a day at most, if not given.
    #[serde(default)]
    window: Option<DurationText>,
    /// End window and grace early once the old secret was not needed for this long.
    #[serde(default)]
    unused_after: Option<DurationText>,
    /// The same id with the same secret is the same rotation, however often it is sent.
    #[serde(default)]
    rotation_id: Option<RotationId>,
    /// Free text, at most 1,000 characters; it is sealed.
    #[serde(default)]
    reason: Option<String>,
}

/// Which step to take.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Advance {
    /// Do nothing if the rotation has come to this step or a later one, so that a retry does not take one too many.
    #[serde(default)]
    to: Option<RotationStep>,
    /// Take a step that uses or destroys a secret although a live node does not know of the one before, or the new secret does not pass a test.
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct RotationAnswer {
    /// Whether there was anything to do. Where not, nothing was done.
    due: bool,
    /// The rotation; where nothing was due the newest one, if there is any.
    rotation: Option<RotationView>,
    /// The order for the next secret, while that has not come.
    order: Option<OrderView>,
    sequence: Sequence,
    applied: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct RotationPage {
    /// The newest 16, newest first; the log has all.
    rotations: Vec<RotationView>,
    /// The order for the next secret, if one is open.
    order: Option<OrderView>,
    as_of: Sequence,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ShownRotation {
    rotation: RotationView,
    as_of: Sequence,
}

/// Begin a rotation to a new secret, if one is due. What follows happens by itself: a test with a real call, the change to the new secret with the old
/// one as the fall-back, and the end of the old one.
#[utoipa::path(post, path = "/upstreams/{id}/rotations", tag = "upstreams", operation_id = "rotate_upstream", request_body = NewRotation,
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 201, body = RotationAnswer), (status = 200, description = "Nothing is due", body = RotationAnswer), MutationProblems))]
pub(in crate::http) async fn rotate(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<NewRotation>,
) -> Result<(StatusCode, Json<RotationAnswer>), ApiError> {
    let (body, tenant) = (&mutation.body, &mutation.caller.tenant);
    let route = find(&app, tenant, &id)?;
    let credential = route.credential.as_ref().ok_or(ApiError::NoCredential)?;
    let stream = Stream::credential(tenant.clone(), credential.id);
    let ordered = credential.provider_side.order.as_ref();
    // Whoever brings a secret while one is ordered brings that one.
    let awaited = ordered.filter(|_| body.credential.is_some()).map(|order| order.rotation);
    let rotation = body.rotation_id.or(awaited).unwrap_or_else(|| mutation.command_id.new_rotation_id());
    let is_retry = credential.rotation(rotation).is_some() || app.models.command(&mutation.command_id)?.is_some();
    if !is_retry && !is_due(&app, &route, credential, body) {
        let newest = credential.rotations.last().cloned();
        let order = ordered.map(order_view);
        return Ok((StatusCode::OK, Json(RotationAnswer { order, ..unchanged(&app, newest).await? })));
    }
    let Some(secret) = &body.credential else { return place(&app, &mutation, &route, credential, rotation).await };
    let fingerprint = app.vault.fingerprint(secret.0.as_bytes());
    let (window_seconds, grace_seconds) = times(body);
    let mut staged = RotationStaged {
        rotation,
        secret_version: credential.rotation(rotation).map_or_else(|| credential.next_secret_version(), |known| known.secret_version),
        fingerprint,
        compromise: body.compromise,
        window_seconds,
        grace_seconds,
        unused_seconds: body.unused_after.map(|unused| unused.as_seconds()),
        reason: seal_text(&app, &stream, body.reason.as_deref()).await?,
    };
    let stage = |staged: &RotationStaged| RotationCommand::Stage { staged: Box::new(staged.clone()), installed: Some(Installer::Operator) };
    // A retry is answered from the record that is there; there is nothing to seal.
    if !is_retry {
        refuse_early(&app, &mutation, credential, CredentialCommand::Rotate(stage(&staged)))?;
        staged.secret_version = seal_next(&app, credential, &Zeroizing::new(secret.0.as_bytes().to_vec())).await?;
    }
    let command = stage(&staged);
    let receipt = execute(&app, &mutation, &stream, command).await?;
    Ok((StatusCode::CREATED, Json(answer(&app, receipt, rotation).await?)))
}

/// Orders the next secret from the provider of the upstream's keys.
async fn place(
    app: &App,
    mutation: &Mutation<NewRotation>,
    route: &Route,
    credential: &Credential,
    rotation: RotationId,
) -> Result<(StatusCode, Json<RotationAnswer>), ApiError> {
    let provider = app.rotations.providers.of(&route.upstream).ok_or(ApiError::CredentialRequired)?;
    let body = &mutation.body;
    if body.reason.is_some() {
        return Err(ApiError::BadRequest("a reason goes with a secret; an order has none".to_owned()));
    }
    let (window_seconds, grace_seconds) = times(body);
    let ordered = RotationOrdered {
        rotation,
        provider: provider.name.clone(),
        compromise: body.compromise,
        window_seconds,
        grace_seconds,
        unused_seconds: body.unused_after.map(|unused| unused.as_seconds()),
    };
    let command = Command::Credential(CredentialCommand::Order(OrderCommand::Place(ordered)));
    let stream = Stream::credential(credential.tenant.clone(), credential.id);
    let request = crate::Request { if_version: None, ..mutation.request(stream, command) };
    let receipt = app.commands.execute(request).await?;
    Ok((StatusCode::CREATED, Json(answer(app, receipt, rotation).await?)))
}

/// The window and the grace that a body asks for, in seconds.
fn times(body: &NewRotation) -> (u64, u64) {
    let grace_seconds = body.grace.map_or(GRACE_SECONDS_DEFAULT, |grace| grace.as_seconds());
    (body.window.map_or_else(|| window_default(grace_seconds), |window| window.as_seconds()), grace_seconds)
}

/// List the rotations of an upstream's credential, newest first.
#[utoipa::path(get, path = "/upstreams/{id}/rotations", tag = "upstreams", operation_id = "list_upstream_rotations",
    params(("id" = String, Path, description = "Id or name")), responses((status = 200, body = RotationPage), ReadProblems))]
pub(in crate::http) async fn list(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<RotationPage>, ApiError> {
    let as_of = app.position();
    let route = find(&app, &caller.tenant, &id)?;
    let rotations = route.credential.as_ref().map(|credential| credential.rotations.clone()).unwrap_or_default();
    let rotations = app.blocking(move |app| rotations.iter().rev().map(|rotation| view(app, rotation)).collect::<Result<_, _>>()).await??;
    let order = route.credential.as_ref().and_then(|credential| credential.provider_side.order.as_ref()).map(order_view);
    Ok(Json(RotationPage { rotations, order, as_of }))
}

/// Show a rotation.
#[utoipa::path(get, path = "/upstreams/{id}/rotations/{rotation}", tag = "upstreams", operation_id = "show_upstream_rotation",
    params(("id" = String, Path, description = "Id or name"), ("rotation" = RotationId, Path)),
    responses((status = 200, body = ShownRotation), ReadProblems))]
pub(in crate::http) async fn show(
    State(app): State<App>,
    caller: Caller,
    Path((id, rotation)): Path<(String, String)>,
) -> Result<Json<ShownRotation>, ApiError> {
    let as_of = app.position();
    let route = find(&app, &caller.tenant, &id)?;
    let rotation = known(&route, &rotation)?.1.clone();
    Ok(Json(ShownRotation { rotation: app.blocking(move |app| view(app, &rotation)).await??, as_of }))
}

/// Take the next step of a rotation now: test the new secret, use it, stop using the old one as the fall-back, or destroy the old one.
#[utoipa::path(post, path = "/upstreams/{id}/rotations/{rotation}/advance", tag = "upstreams", operation_id = "advance_upstream_rotation",
    request_body = Advance, params(("id" = String, Path, description = "Id or name"), ("rotation" = RotationId, Path)),
    responses((status = 200, body = RotationAnswer), MutationProblems))]
pub(in crate::http) async fn advance(
    State(app): State<App>,
    Path((id, rotation)): Path<(String, String)>,
    mutation: Mutation<Advance>,
) -> Result<Json<RotationAnswer>, ApiError> {
    let route = find(&app, &mutation.caller.tenant, &id)?;
    let (credential, rotation) = known(&route, &rotation)?;
    let (stream, id) = (Stream::credential(credential.tenant.clone(), credential.id), rotation.id);
    let is_there = !rotation.step.is_open() || mutation.body.to.is_some_and(|to| rotation.step >= to);
    let is_retry = app.models.command(&mutation.command_id)?.is_some();
    let command = match rotation.step {
        // A retry is answered from its record, and what is there stays as it is: promoting what is promoted changes nothing.
        _ if is_retry => RotationCommand::Promote { rotation: id },
        _ if is_there => return unchanged(&app, Some(rotation.clone())).await.map(Json),
        RotationStep::Staged => RotationCommand::Install { rotation: id, by: Installer::Operator },
        RotationStep::Installed => match app.rotations.trial(&route, credential, rotation).await {
            TrialOutcome::Passed(tested) => RotationCommand::Pass(Box::new(tested)),
            TrialOutcome::Ended(cause) => RotationCommand::Abort { rotation: id, cause },
            TrialOutcome::Again(trial) => {
                let status = trial.status.map(|status| format!("the provider answered {status}"));
                return Err(ApiError::TrialFailed(status.or(trial.error).unwrap_or_default()));
            }
        },
        RotationStep::Tested => {
            all_know(&app, &mutation, credential).await?;
            RotationCommand::Promote { rotation: id }
        }
        RotationStep::Dual => RotationCommand::Drain { rotation: id, cause: StepCause::Asked },
        _ => {
            all_know(&app, &mutation, credential).await?;
            if !mutation.body.force && !matches!(app.rotations.still_good(&route, credential, rotation).await, StillGood::Yes) {
                return Err(ApiError::TrialFailed("the old one is kept; force the step, or roll the rotation back".to_owned()));
            }
            RotationCommand::Finish { rotation: id, cause: StepCause::Asked }
        }
    };
    carry_out(&app, &mutation, &stream, command, id).await.map(Json)
}

/// Give up the new secret before it is in use, and destroy it; or an order for one, by its id.
#[utoipa::path(post, path = "/upstreams/{id}/rotations/{rotation}/abort", tag = "upstreams", operation_id = "abort_upstream_rotation",
    request_body = Nothing, params(("id" = String, Path, description = "Id or name"), ("rotation" = RotationId, Path)),
    responses((status = 200, body = RotationAnswer), MutationProblems))]
pub(in crate::http) async fn abort(
    State(app): State<App>,
    Path((id, rotation)): Path<(String, String)>,
    mutation: Mutation<Nothing>,
) -> Result<Json<RotationAnswer>, ApiError> {
    let route = find(&app, &mutation.caller.tenant, &id)?;
    let order = route.credential.as_ref().zip(rotation.parse::<RotationId>().ok());
    if let Some((credential, rotation)) = order.filter(|(credential, rotation)| credential.provider_side.order_of(*rotation).is_some()) {
        let command = Command::Credential(CredentialCommand::Order(OrderCommand::Drop { rotation, cause: EndCause::Asked }));
        let stream = Stream::credential(credential.tenant.clone(), credential.id);
        let receipt = app.commands.execute(crate::Request { if_version: None, ..mutation.request(stream, command) }).await?;
        return answer(&app, receipt, rotation).await.map(Json);
    }
    end(&app, &mutation, &id, &rotation, |rotation| RotationCommand::Abort { rotation, cause: EndCause::Asked }).await
}

/// Use the old secret again, and destroy the new one. There is no way back to the old one once the rotation is finished.
#[utoipa::path(post, path = "/upstreams/{id}/rotations/{rotation}/rollback", tag = "upstreams", operation_id = "roll_back_upstream_rotation",
    request_body = Nothing, params(("id" = String, Path, description = "Id or name"), ("rotation" = RotationId, Path)),
    responses((status = 200, body = RotationAnswer), MutationProblems))]
pub(in crate::http) async fn roll_back(
    State(app): State<App>,
    Path((id, rotation)): Path<(String, String)>,
    mutation: Mutation<Nothing>,
) -> Result<Json<RotationAnswer>, ApiError> {
    let route = find(&app, &mutation.caller.tenant, &id)?;
    let (credential, known) = known(&route, &rotation)?;
    // The new one is destroyed after this; without the old one there would be none.
    if known.step.is_promoted() && !app.rotations.opens(credential, known.previous.version).await? {
        return Err(ApiError::PreviousGone);
    }
    end(&app, &mutation, &id, &rotation, |rotation| RotationCommand::RollBack { rotation, cause: EndCause::Asked }).await
}

/// Refuses a step that live nodes could not follow, unless it is forced.
async fn all_know(app: &App, mutation: &Mutation<Advance>, credential: &Credential) -> Result<(), ApiError> {
    if mutation.body.force {
        return Ok(());
    }
    let behind = app.rotations.behind(credential, FENCE_WAIT).await?;
    if behind.is_empty() { Ok(()) } else { Err(ApiError::NodesBehind(behind)) }
}

async fn end(
    app: &App,
    mutation: &Mutation<Nothing>,
    id: &str,
    rotation: &str,
    command: impl FnOnce(RotationId) -> RotationCommand,
) -> Result<Json<RotationAnswer>, ApiError> {
    let route = find(app, &mutation.caller.tenant, id)?;
    let (credential, rotation) = known(&route, rotation)?;
    let (stream, id) = (Stream::credential(credential.tenant.clone(), credential.id), rotation.id);
    carry_out(app, mutation, &stream, command(id), id).await.map(Json)
}

/// Whether the secret in use is as old as the body asks. A rotation that is under way is nothing to begin for a job that comes every night.
fn is_due(app: &App, route: &Route, credential: &Credential, body: &NewRotation) -> bool {
    let is_older = |seconds: u64| credential.changed_at.plus_seconds(seconds) <= app.now();
    let is_unconditional = body.if_older_than.is_none() && !body.if_due;
    let is_old = body.if_older_than.is_none_or(|age| is_older(age.as_seconds()));
    let schedule = || app.rotations.schedule_of(&app.models.routes(), route);
    let is_due = !body.if_due || schedule().is_some_and(|schedule| schedule.due_at(credential) <= app.now());
    // What was ordered is begun by whoever brings it.
    let is_ordered = credential.provider_side.order.is_some();
    if is_ordered { body.credential.is_some() } else { is_unconditional || (is_old && is_due && credential.open_rotation().is_none()) }
}

/// Seals a new secret under the next number that is free, and gives the number.
pub(super) async fn seal_next(app: &App, credential: &Credential, plaintext: &Zeroizing<Vec<u8>>) -> Result<u32, ApiError> {
    let first = credential.next_secret_version();
    for version in first..first.saturating_add(NUMBERS_MAX) {
        if seal(app, secret_address(&credential.tenant, credential.id, version, &credential.origin), plaintext.clone()).await? {
            return Ok(version);
        }
    }
    Err(ExecuteError::Contention.into())
}

/// The rotation of a path.
fn known<'a>(route: &'a Route, rotation: &str) -> Result<(&'a Credential, &'a Rotation), ApiError> {
    let missing = || ApiError::NotFound("such rotation");
    let id: RotationId = rotation.parse().map_err(|_| missing())?;
    let credential = route.credential.as_ref().ok_or_else(missing)?;
    Ok((credential, credential.rotation(id).ok_or_else(missing)?))
}

async fn execute<T>(app: &App, mutation: &Mutation<T>, stream: &Stream, command: RotationCommand) -> Result<Receipt, ApiError> {
    let command = Command::Credential(CredentialCommand::Rotate(command));
    // `If-Match` is about the upstream, and this is its credential.
    let request = crate::Request { if_version: None, ..mutation.request(stream.clone(), command) };
    Ok(app.commands.execute(request).await?)
}

/// Executes a step and destroys the secret that it took out of use. Where the key store is away for that, the scheduler does it later.
async fn carry_out<T>(
    app: &App,
    mutation: &Mutation<T>,
    stream: &Stream,
    command: RotationCommand,
    id: RotationId,
) -> Result<RotationAnswer, ApiError> {
    let receipt = execute(app, mutation, stream, command).await?;
    if receipt.recorded
        && !receipt.repeated
        && let Err(error) = app.rotations.after(receipt.clone()).await
    {
        told_later(&error);
    }
    answer(app, receipt, id).await
}

fn told_later(error: &RotationStepError) {
    tracing::warn!(error = error as &dyn std::error::Error, "a secret that a rotation took out of use is not destroyed yet");
}

async fn unchanged(app: &App, rotation: Option<Rotation>) -> Result<RotationAnswer, ApiError> {
    let sequence = app.position();
    let rotation = app.blocking(move |app| rotation.map(|rotation| view(app, &rotation)).transpose()).await??;
    Ok(RotationAnswer { due: false, rotation, order: None, sequence, applied: true })
}

async fn answer(app: &App, receipt: Receipt, id: RotationId) -> Result<RotationAnswer, ApiError> {
    let (sequence, applied) = (receipt.sequence, receipt.applied);
    let (rotation, order) = match receipt.aggregate {
        Aggregate::Credential(credential) => {
            let order = credential.provider_side.order.as_ref().map(order_view);
            (credential.rotations.into_iter().find(|rotation| rotation.id == id), order)
        }
        _ => (None, None),
    };
    let rotation = app.blocking(move |app| rotation.map(|rotation| view(app, &rotation)).transpose()).await??;
    Ok(RotationAnswer { due: true, rotation, order, sequence, applied })
}
