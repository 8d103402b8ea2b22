//! `/pools/{id}/prices` and `/prices`: what models cost in a pool. Usage is priced with them when it is asked for, so that a corrected price
//! corrects the past as well.

use axum::Json;
use axum::extract::{Path, State};
use projector::Versioned;
use schemas::pool::{ModelPrice, Pool, PoolCommand};
use schemas::{Aggregate, Command, PoolId, Sequence, Stream, Version};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::App;
use super::conventions::{Caller, Mutation};
use super::error::{ApiError, MutationProblems, ReadProblems};
use super::pools::find;

/// All prices of a pool, in place of those it has.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPrices {
    /// At most 200, in micro-dollars per million tokens. The first whose pattern matches a model is the model's.
    prices: Vec<ModelPrice>,
}

/// The prices of a pool, in micro-dollars per million tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PriceList {
    pool: PoolId,
    name: String,
    /// The first whose pattern matches a model is the model's.
    prices: Vec<ModelPrice>,
    /// Of the pool: a new name is a new version too.
    version: Version,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PricesAnswer {
    #[serde(flatten)]
    list: PriceList,
    sequence: Sequence,
    applied: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownPrices {
    #[serde(flatten)]
    list: PriceList,
    as_of: Sequence,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AllPrices {
    pools: Vec<PriceList>,
    as_of: Sequence,
}

/// Set all prices of a pool.
#[utoipa::path(put, path = "/pools/{id}/prices", tag = "pools", operation_id = "set_prices", request_body = NewPrices,
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = PricesAnswer), MutationProblems))]
pub(super) async fn set(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<NewPrices>,
) -> Result<Json<PricesAnswer>, ApiError> {
    let tenant = mutation.caller.tenant.clone();
    let id = find(&app, &tenant, &id)?;
    let command = PoolCommand::Price { prices: mutation.body.prices.clone() };
    let receipt = app.commands.execute(mutation.request(Stream::pool(tenant, id), Command::Pool(command))).await?;
    let Aggregate::Pool(pool) = receipt.aggregate else { return Err(ApiError::NotFound("such pool")) };
    let list = view(&Versioned { value: pool, version: receipt.version });
    Ok(Json(PricesAnswer { list, sequence: receipt.sequence, applied: receipt.applied }))
}

/// Show the prices of a pool, by id or name.
#[utoipa::path(get, path = "/pools/{id}/prices", tag = "pools", operation_id = "show_prices",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = ShownPrices), ReadProblems))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<ShownPrices>, ApiError> {
    let id = find(&app, &caller.tenant, &id)?;
    let routes = app.models.routes();
    let pool = routes
        .pools
        .iter()
        .find(|pool| pool.value.id == id && pool.value.tenant == caller.tenant)
        .ok_or(ApiError::NotFound("such pool"))?;
    Ok(Json(ShownPrices { list: view(pool), as_of: routes.as_of }))
}

/// List the prices of all pools.
#[utoipa::path(get, path = "/prices", tag = "pools", operation_id = "list_prices", responses((status = 200, body = AllPrices), ReadProblems))]
pub(super) async fn list(State(app): State<App>, caller: Caller) -> Json<AllPrices> {
    let routes = app.models.routes();
    let pools = routes.pools.iter().filter(|pool| pool.value.tenant == caller.tenant).map(view).collect();
    Json(AllPrices { pools, as_of: routes.as_of })
}

fn view(pool: &Versioned<Pool>) -> PriceList {
    let Versioned { value: pool, version } = pool;
    PriceList { pool: pool.id, name: pool.name.clone(), prices: pool.prices.clone(), version: *version }
}
