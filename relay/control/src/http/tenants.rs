//! `/tenants`: whom everything else belongs to. They are the owner's to make, change and suspend, whatever tenant a request names.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use projector::Versioned;
use schemas::key::RotationSchedule;
use schemas::tenant::{TagRotation, Tenant, TenantChanged, TenantCommand, TenantPatch};
use schemas::{Aggregate, Command, Context, DurationText, Sequence, Stream, TenantId, Timestamp, Version, decide};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::app::App;
use super::conventions::{Caller, Fenced, Mutation, Nothing, Page, Params, Reason, present};
use super::error::{ApiError, MutationProblems, ReadProblems};
use super::keys::rotation::schedule_of;
use super::keys::{FactView, fact_view, seal_text};
use crate::fence::{Applied, Fence};
use crate::{ExecuteError, Receipt};

/// A new tenant. One of `id` and `name` is enough.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTenant {
    /// What requests name it by: 1 to 32 characters of `a-z`, `0-9` and `-`. It never changes. Absent: the name, which must be one then.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[a-z0-9-]{1,32}$")]
    id: Option<String>,
    /// For people. Absent: the id.
    #[serde(default)]
    name: Option<String>,
    /// How long a key is good whose creation says nothing about it. Absent: each creation must say.
    #[serde(default)]
    default_expiry: Option<DurationText>,
    /// The longest that a key may be given, at its creation and at each renewal; with one, no key is for ever.
    #[serde(default)]
    expiry_max: Option<DurationText>,
}

/// A change; a member that is not there stays as it is, `null` clears. Keys that are there keep the expiry that they have.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantChange {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DurationText>)]
    default_expiry: Option<Option<DurationText>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DurationText>)]
    expiry_max: Option<Option<DurationText>>,
    /// How often keys with certain tags get a new secret by themselves; replaced whole. A key's own schedule comes before these, and of these the
    /// one with the shortest time.
    #[serde(default)]
    rotations: Option<Vec<TagSchedule>>,
}

/// The rotation schedule of a tenant's keys with a tag.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TagSchedule {
    tag: String,
    /// The age of a secret at which the next one takes its place, such as `30d`.
    every: DurationText,
    /// As for a key's own schedule.
    #[serde(default)]
    overlap: Option<DurationText>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TagScheduleView {
    tag: String,
    every: DurationText,
    overlap: DurationText,
}

/// Whether a tenant's keys are served.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum TenantState {
    Active,
    Suspended,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TenantView {
    id: TenantId,
    name: String,
    state: TenantState,
    default_expiry: Option<DurationText>,
    expiry_max: Option<DurationText>,
    suspended: Option<FactView>,
    rotations: Vec<TagScheduleView>,
    created_at: Timestamp,
    version: Version,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TenantAnswer {
    tenant: TenantView,
    sequence: Sequence,
    applied: bool,
    /// How far the record has come, where the request asked to `wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<Fence>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TenantPage {
    tenants: Vec<TenantView>,
    next: Option<TenantId>,
    as_of: Sequence,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownTenant {
    tenant: TenantView,
    as_of: Sequence,
}

/// Create a tenant and its pool `default`.
#[utoipa::path(post, path = "/tenants", tag = "tenants", operation_id = "create_tenant", request_body = NewTenant,
    responses((status = 201, body = TenantAnswer), MutationProblems))]
pub(super) async fn create(State(app): State<App>, mutation: Mutation<NewTenant>) -> Result<(StatusCode, Json<TenantAnswer>), ApiError> {
    let NewTenant { id, name, default_expiry, expiry_max } = &mutation.body;
    let text = id.as_ref().or(name.as_ref()).ok_or_else(|| ApiError::BadRequest("a tenant needs an id".to_owned()))?;
    let id = parse_id(text)
        .ok_or_else(|| ApiError::BadRequest(format!("{text:?} is no tenant's id: 1 to 32 characters of a-z, 0-9 and '-'")))?;
    let details = TenantChanged {
        name: name.clone().unwrap_or_else(|| text.clone()),
        default_expiry_seconds: default_expiry.map(|expiry| expiry.as_seconds()),
        expiry_seconds_max: expiry_max.map(|expiry| expiry.as_seconds()),
    };
    let request = mutation.request(Stream::tenant_of(id.clone()), Command::Tenant(TenantCommand::Create(details)));
    // What is refused is refused before the first of its records is written; a retry of what was done is answered from its record.
    if app.models.command(&mutation.command_id)?.is_none() {
        let context = Context { now: app.now(), actor: mutation.caller.actor };
        decide(app.models.load(&request.stream)?.0.as_ref(), &request.command, &context).map_err(ExecuteError::Rejected)?;
        crate::tenants::furnish(&app.commands, &app.models, app.cluster_id, &id, request.clone()).await?;
    }
    let receipt = app.commands.execute(request).await?;
    Ok((StatusCode::CREATED, Json(answer(&app, receipt).await?)))
}

/// List tenants, by id.
#[utoipa::path(get, path = "/tenants", tag = "tenants", operation_id = "list_tenants", params(Page),
    responses((status = 200, body = TenantPage), ReadProblems))]
pub(super) async fn list(State(app): State<App>, _caller: Caller, Params(page): Params<Page>) -> Result<Json<TenantPage>, ApiError> {
    let (limit, after) = (page.limit()?, page.after::<TenantId>()?);
    let routes = app.models.routes();
    let rest = &routes.tenants[routes.tenants.partition_point(|tenant| after.as_ref().is_some_and(|after| tenant.value.id <= *after))..];
    let shown = rest[..limit.min(rest.len())].to_vec();
    let next = shown.last().filter(|_| rest.len() > limit).map(|tenant| tenant.value.id.clone());
    let tenants = app.blocking(move |app| shown.iter().map(|tenant| view(app, tenant)).collect::<Result<_, _>>()).await??;
    Ok(Json(TenantPage { tenants, next, as_of: routes.as_of }))
}

/// Show a tenant.
#[utoipa::path(get, path = "/tenants/{id}", tag = "tenants", operation_id = "show_tenant", params(("id" = String, Path)),
    responses((status = 200, body = ShownTenant), ReadProblems))]
pub(super) async fn show(State(app): State<App>, _caller: Caller, Path(id): Path<String>) -> Result<Json<ShownTenant>, ApiError> {
    let routes = app.models.routes();
    let tenant = parse_id(&id).and_then(|id| routes.tenant(&id).cloned()).ok_or(ApiError::TenantNotFound(id))?;
    let tenant = app.blocking(move |app| view(app, &tenant)).await??;
    Ok(Json(ShownTenant { tenant, as_of: routes.as_of }))
}

/// Change a tenant's name, or what it says about the expiry of keys.
#[utoipa::path(patch, path = "/tenants/{id}", tag = "tenants", operation_id = "update_tenant", request_body = TenantChange,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The version that the change is meant for")),
    responses((status = 200, body = TenantAnswer), MutationProblems))]
pub(super) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<TenantChange>,
) -> Result<Json<TenantAnswer>, ApiError> {
    let TenantChange { name, default_expiry, expiry_max, rotations } = &mutation.body;
    let seconds = |expiry: &Option<DurationText>| expiry.map(|expiry| expiry.as_seconds());
    let patch = TenantPatch {
        name: name.clone(),
        default_expiry_seconds: default_expiry.as_ref().map(seconds),
        expiry_seconds_max: expiry_max.as_ref().map(seconds),
        rotations: rotations.as_ref().map(|rotations| rotations.iter().map(TagSchedule::rotation).collect()),
    };
    execute(&app, &mutation, stream(id)?, TenantCommand::Change(patch)).await.map(Json)
}

/// Refuse all keys of a tenant until it is resumed; nothing else of it changes, and no other tenant notices. With `wait=true` the answer comes
/// when every live node refuses them; if one did not in time, that is no failure, and `fence` names the node.
#[utoipa::path(post, path = "/tenants/{id}/suspend", tag = "tenants", operation_id = "suspend_tenant", request_body = Reason,
    params(("id" = String, Path), Fenced),
    responses((status = 200, body = TenantAnswer), MutationProblems))]
pub(super) async fn suspend(
    State(app): State<App>,
    Path(id): Path<String>,
    Params(fenced): Params<Fenced>,
    mutation: Mutation<Reason>,
) -> Result<Json<TenantAnswer>, ApiError> {
    let (began, stream) = (Instant::now(), stream(id)?);
    let reason = seal_text(&app, &stream, mutation.body.reason.as_deref()).await?;
    let mut answer = execute(&app, &mutation, stream, TenantCommand::Suspend { reason }).await?;
    answer.fence = fenced.fence(&app, answer.sequence, Applied::Record, began).await?;
    Ok(Json(answer))
}

/// Let a suspended tenant's keys in again.
#[utoipa::path(post, path = "/tenants/{id}/resume", tag = "tenants", operation_id = "resume_tenant", request_body = Nothing,
    params(("id" = String, Path)),
    responses((status = 200, body = TenantAnswer), MutationProblems))]
pub(super) async fn resume(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<TenantAnswer>, ApiError> {
    execute(&app, &mutation, stream(id)?, TenantCommand::Resume).await.map(Json)
}

/// A tenant's id; `_` is none.
fn parse_id(text: &str) -> Option<TenantId> {
    text.parse().ok().filter(|id| *id != TenantId::none())
}

fn stream(id: String) -> Result<Stream, ApiError> {
    parse_id(&id).map(Stream::tenant_of).ok_or(ApiError::TenantNotFound(id))
}

async fn execute<T>(app: &App, mutation: &Mutation<T>, stream: Stream, command: TenantCommand) -> Result<TenantAnswer, ApiError> {
    let receipt = app.commands.execute(mutation.request(stream, Command::Tenant(command))).await?;
    answer(app, receipt).await
}

async fn answer(app: &App, receipt: Receipt) -> Result<TenantAnswer, ApiError> {
    let Aggregate::Tenant(tenant) = receipt.aggregate else { return Err(ApiError::NotFound("such tenant")) };
    let (tenant, sequence, applied) = (Versioned { value: *tenant, version: receipt.version }, receipt.sequence, receipt.applied);
    let tenant = app.blocking(move |app| view(app, &tenant)).await??;
    Ok(TenantAnswer { tenant, sequence, applied, fence: None })
}

/// Blocks on the key store.
fn view(app: &App, tenant: &Versioned<Tenant>) -> Result<TenantView, ApiError> {
    let Versioned { value: Tenant { id, details, created_at, suspended, rotations }, version } = tenant;
    Ok(TenantView {
        id: id.clone(),
        name: details.name.clone(),
        state: if suspended.is_some() { TenantState::Suspended } else { TenantState::Active },
        default_expiry: details.default_expiry_seconds.map(DurationText::from_seconds),
        expiry_max: details.expiry_seconds_max.map(DurationText::from_seconds),
        suspended: fact_view(app, suspended.as_ref())?,
        rotations: rotations.iter().map(TagScheduleView::of).collect(),
        created_at: *created_at,
        version: *version,
    })
}

impl TagSchedule {
    fn rotation(&self) -> TagRotation {
        let RotationSchedule { every_seconds, overlap_seconds } = schedule_of(self.every, self.overlap);
        TagRotation { tag: self.tag.clone(), every_seconds, overlap_seconds }
    }
}

impl TagScheduleView {
    fn of(rotation: &TagRotation) -> Self {
        let TagRotation { tag, every_seconds, overlap_seconds } = rotation;
        let (every, overlap) = (DurationText::from_seconds(*every_seconds), DurationText::from_seconds(*overlap_seconds));
        Self { tag: tag.clone(), every, overlap }
    }
}
