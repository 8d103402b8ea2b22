//! `/pools`: groups of upstreams.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use projector::Versioned;
use schemas::pool::{Pool, PoolCommand};
use schemas::{Aggregate, Command, PoolId, Sequence, Stream, TenantId, Timestamp, Version};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::App;
use super::conventions::{Caller, Mutation, Nothing, Page, Params, find_pool};
use super::error::{ApiError, MutationProblems, ReadProblems};
use crate::Receipt;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPool {
    name: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolChange {
    name: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PoolView {
    id: PoolId,
    name: String,
    /// How many upstreams stand in it.
    upstreams: usize,
    created_at: Timestamp,
    version: Version,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PoolAnswer {
    pool: PoolView,
    sequence: Sequence,
    applied: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PoolPage {
    pools: Vec<PoolView>,
    next: Option<PoolId>,
    as_of: Sequence,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownPool {
    pool: PoolView,
    as_of: Sequence,
}

/// Create a pool.
#[utoipa::path(post, path = "/pools", tag = "pools", operation_id = "create_pool", request_body = NewPool,
    responses((status = 201, body = PoolAnswer), MutationProblems))]
pub(super) async fn create(State(app): State<App>, mutation: Mutation<NewPool>) -> Result<(StatusCode, Json<PoolAnswer>), ApiError> {
    let id = mutation.command_id.new_pool_id();
    refuse_taken_name(&app, &mutation.caller.tenant, &mutation.body.name, id)?;
    let stream = Stream::pool(mutation.caller.tenant.clone(), id);
    let command = PoolCommand::Create { name: mutation.body.name.clone() };
    let receipt = app.commands.execute(mutation.request(stream, Command::Pool(command))).await?;
    Ok((StatusCode::CREATED, Json(answer(&app, receipt)?)))
}

/// List pools, by id.
#[utoipa::path(get, path = "/pools", tag = "pools", operation_id = "list_pools", params(Page),
    responses((status = 200, body = PoolPage), ReadProblems))]
pub(super) async fn list(State(app): State<App>, caller: Caller, Params(page): Params<Page>) -> Result<Json<PoolPage>, ApiError> {
    let (limit, after) = (page.limit()?, page.after::<PoolId>()?);
    let routes = app.models.routes();
    let mut pools: Vec<_> =
        routes.pools.iter().filter(|pool| pool.value.tenant == caller.tenant && after.is_none_or(|after| pool.value.id > after)).collect();
    pools.sort_by_key(|pool| pool.value.id);
    let next = pools.get(limit - 1).filter(|_| pools.len() > limit).map(|pool| pool.value.id);
    let pools = pools.into_iter().take(limit).map(|pool| view(&app, pool)).collect();
    Ok(Json(PoolPage { pools, next, as_of: routes.as_of }))
}

/// Show a pool, by id or name.
#[utoipa::path(get, path = "/pools/{id}", tag = "pools", operation_id = "show_pool", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = ShownPool), ReadProblems))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<ShownPool>, ApiError> {
    let id = find(&app, &caller.tenant, &id)?;
    let routes = app.models.routes();
    let pool = routes
        .pools
        .iter()
        .find(|pool| pool.value.id == id && pool.value.tenant == caller.tenant)
        .ok_or(ApiError::NotFound("such pool"))?;
    Ok(Json(ShownPool { pool: view(&app, pool), as_of: routes.as_of }))
}

/// Give the pool another name.
#[utoipa::path(patch, path = "/pools/{id}", tag = "pools", operation_id = "update_pool", request_body = PoolChange,
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = PoolAnswer), MutationProblems))]
pub(super) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<PoolChange>,
) -> Result<Json<PoolAnswer>, ApiError> {
    let id = find(&app, &mutation.caller.tenant, &id)?;
    refuse_taken_name(&app, &mutation.caller.tenant, &mutation.body.name, id)?;
    execute(&app, &mutation, id, PoolCommand::Change { name: mutation.body.name.clone() }).await
}

/// Remove a pool that has no upstreams.
#[utoipa::path(delete, path = "/pools/{id}", tag = "pools", operation_id = "remove_pool", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = PoolAnswer), MutationProblems))]
pub(super) async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<PoolAnswer>, ApiError> {
    if let Some(row) = app.models.command(&mutation.command_id)? {
        // A retry of a removal that was made: the pool is no longer among those that can be found.
        return execute(&app, &mutation, PoolId::from_bytes(*row.stream.id()), PoolCommand::Remove).await;
    }
    let id = find(&app, &mutation.caller.tenant, &id)?;
    let upstreams = upstreams_in(&app, &mutation.caller.tenant, id);
    if upstreams > 0 {
        return Err(ApiError::PoolInUse { upstreams });
    }
    execute(&app, &mutation, id, PoolCommand::Remove).await
}

async fn execute<T>(app: &App, mutation: &Mutation<T>, id: PoolId, command: PoolCommand) -> Result<Json<PoolAnswer>, ApiError> {
    let stream = Stream::pool(mutation.caller.tenant.clone(), id);
    let receipt = app.commands.execute(mutation.request(stream, Command::Pool(command))).await?;
    answer(app, receipt).map(Json)
}

fn answer(app: &App, receipt: Receipt) -> Result<PoolAnswer, ApiError> {
    let Aggregate::Pool(pool) = receipt.aggregate else { return Err(ApiError::NotFound("such pool")) };
    let pool = Versioned { value: pool, version: receipt.version };
    Ok(PoolAnswer { pool: view(app, &pool), sequence: receipt.sequence, applied: receipt.applied })
}

pub(super) fn find(app: &App, tenant: &TenantId, text: &str) -> Result<PoolId, ApiError> {
    find_pool(app, tenant, text)?.ok_or(ApiError::NotFound("such pool"))
}

/// Uniqueness is checked on the read model; after a race both exist, and the name is ambiguous until one is renamed.
fn refuse_taken_name(app: &App, tenant: &TenantId, name: &str, id: PoolId) -> Result<(), ApiError> {
    let routes = app.models.routes();
    let mut others = routes.pools.iter().map(|pool| &pool.value).filter(|pool| pool.tenant == *tenant && pool.id != id);
    if others.any(|pool| pool.name == name) { Err(ApiError::NameTaken { kind: "pool", name: name.to_owned() }) } else { Ok(()) }
}

fn upstreams_in(app: &App, tenant: &TenantId, id: PoolId) -> usize {
    let routes = app.models.routes();
    routes.upstreams.iter().filter(|route| route.upstream.details.pool == id && route.upstream.tenant == *tenant).count()
}

fn view(app: &App, pool: &Versioned<Pool>) -> PoolView {
    let Versioned { value: pool, version } = pool;
    PoolView {
        id: pool.id,
        name: pool.name.clone(),
        upstreams: upstreams_in(app, &pool.tenant, pool.id),
        created_at: pool.created_at,
        version: *version,
    }
}
