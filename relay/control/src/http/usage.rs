//! `/usage` and `/requests`: what was used, by whom.

use axum::Json;
use axum::extract::{Path, State};
use projector::usage::{GroupBy, OutcomeCounts, PricedUsage, Totals, UsageGroup, UsageQuery};
use projector::{Prices, ReadError};
use schemas::time::day_text;
use schemas::upstream::Dialect;
use schemas::usage::{Outcome, TokenParts, UsageRecord, UsageSource};
use schemas::{KeyId, RequestId, Sequence, TenantId, Timestamp, UpstreamId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::App;
use super::conventions::{Caller, Params};
use super::decisions::{self, DecisionView};
use super::error::{ApiError, ReadProblems};

/// What usage is summed up by.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Grouping {
    #[default]
    Key,
    /// As the client asked for it.
    Model,
    Upstream,
    Day,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageParams {
    #[serde(default)]
    #[param(inline)]
    group_by: Grouping,
    /// The first day in UTC, such as `2026-11-22`.
    #[serde(default)]
    from: Option<String>,
    /// The last day in UTC.
    #[serde(default)]
    to: Option<String>,
}

/// The sums of one group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<UpstreamId>,
    /// `YYYY-MM-DD`, in UTC, by when a request was settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    requests: u64,
    input_tokens: u64,
    output_tokens: u64,
    /// What the tokens cost by the present prices of the pools whose upstreams served them: the exact sum in micro-dollars, rounded up once.
    /// Null if none of them has a price.
    cost_microusd: Option<u64>,
    /// Requests with tokens that have no price, and so are not in the cost.
    unpriced: u64,
    /// Disjoint parts of the tokens; a part that no provider reported is null.
    tokens: TokenParts,
    /// Requests of whose prompt or answer tokens nothing is known.
    input_unknown: u64,
    output_unknown: u64,
    /// Requests whose figures are estimates, in whole or in part.
    estimated: u64,
    #[schema(inline)]
    outcomes: Outcomes,
    last_used: Timestamp,
}

/// Requests by how they ended.
#[derive(Debug, Serialize, ToSchema)]
struct Outcomes {
    completed: u64,
    upstream_error: u64,
    upstream_failed: u64,
    client_left: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageRows {
    usage: Vec<UsageRow>,
    /// The place in the usage stream up to which requests are counted.
    as_of: Sequence,
}

/// One settled request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RequestView {
    id: RequestId,
    key: KeyId,
    /// Which of the key's secrets was shown.
    secret_number: u32,
    upstream: UpstreamId,
    dialect: Dialect,
    model_requested: String,
    model_billed: Option<String>,
    streamed: bool,
    attempts: u32,
    status: u16,
    outcome: Outcome,
    /// Where the figures come from.
    source: UsageSource,
    tokens: TokenParts,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    /// By the present prices of the upstream's pool, rounded up; null without a price, and where no token is known.
    cost_microusd: Option<u64>,
    started_at: Timestamp,
    settled_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownRequest {
    /// Null for a request of which only decisions are known: it was refused, or is not settled yet.
    request: Option<RequestView>,
    /// What policies decided on it, in order, as far as it was written down.
    decisions: Vec<DecisionView>,
    as_of: Sequence,
}

/// Sum usage up by key, model, upstream or day.
#[utoipa::path(get, path = "/usage", tag = "usage", operation_id = "usage", params(UsageParams),
    responses((status = 200, body = UsageRows), ReadProblems))]
pub(super) async fn usage(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<UsageParams>,
) -> Result<Json<UsageRows>, ApiError> {
    let first = params.from.as_deref().map(parse_day).transpose()?;
    let last = params.to.as_deref().map(parse_day).transpose()?;
    let days = (first.is_some() || last.is_some()).then(|| first.unwrap_or(0)..=last.unwrap_or(u32::MAX));
    let group_by = match params.group_by {
        Grouping::Key => GroupBy::Key,
        Grouping::Model => GroupBy::Model,
        Grouping::Upstream => GroupBy::Upstream,
        Grouping::Day => GroupBy::Day,
    };
    let query = UsageQuery { tenant: caller.tenant, group_by, days };
    rows(&app, move |usage, prices| usage.priced_usage(&query, prices)).await
}

/// Show what became of one request: one of the latest, by the `x-request-id` of its answer.
#[utoipa::path(get, path = "/requests/{id}", tag = "usage", operation_id = "show_request", params(("id" = RequestId, Path)),
    responses((status = 200, body = ShownRequest), ReadProblems))]
pub(super) async fn request(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<ShownRequest>, ApiError> {
    let as_of = app.usage.position();
    let id: RequestId = id.parse().map_err(|_| ApiError::NotFound("such request"))?;
    let record = app.usage.request(&id)?.filter(|record| record.tenant == caller.tenant);
    let decisions = decisions::of_request(&app, caller.tenant, id).await?;
    if record.is_none() && decisions.is_empty() {
        return Err(ApiError::NotFound("such request among those kept"));
    }
    let request = match record {
        Some(record) => {
            let cost_microusd = Prices::new(&app.models).cost(&record)?;
            Some(view(record, cost_microusd))
        }
        None => None,
    };
    Ok(Json(ShownRequest { request, decisions, as_of }))
}

/// What one key used, by day.
pub(super) async fn of_key(app: &App, tenant: &TenantId, id: KeyId) -> Result<Json<UsageRows>, ApiError> {
    let tenant = tenant.clone();
    rows(app, move |usage, prices| usage.priced_key_days(&tenant, id, prices)).await
}

/// Runs a query off the executor: sums are scanned from disk.
async fn rows<Q>(app: &App, query: Q) -> Result<Json<UsageRows>, ApiError>
where
    Q: FnOnce(&projector::UsageModels, &Prices) -> Result<Vec<PricedUsage>, ReadError> + Send + 'static,
{
    let (usage, as_of, prices) = (app.usage.clone(), app.usage.position(), Prices::new(&app.models));
    let groups = tokio::task::spawn_blocking(move || query(&usage, &prices)).await??;
    Ok(Json(UsageRows { usage: groups.into_iter().map(row).collect(), as_of }))
}

fn row(PricedUsage { group, totals, cost }: PricedUsage) -> UsageRow {
    let Totals { requests, tokens, input_unknown, output_unknown, estimated, outcomes, last_used } = totals;
    let OutcomeCounts { completed, upstream_error, upstream_failed, client_left } = outcomes;
    let (mut key, mut model, mut upstream, mut day) = (None, None, None, None);
    match group {
        UsageGroup::Key(id) => key = Some(id),
        UsageGroup::Model(name) => model = Some(name),
        UsageGroup::Upstream(id) => upstream = Some(id),
        UsageGroup::Day(number) => day = Some(day_text(number)),
    }
    UsageRow {
        key,
        model,
        upstream,
        day,
        requests,
        input_tokens: tokens.input().unwrap_or(0),
        output_tokens: tokens.output().unwrap_or(0),
        cost_microusd: cost.micro_usd(),
        unpriced: cost.unpriced,
        tokens,
        input_unknown,
        output_unknown,
        estimated,
        outcomes: Outcomes { completed, upstream_error, upstream_failed, client_left },
        last_used,
    }
}

fn view(record: UsageRecord, cost_microusd: Option<u64>) -> RequestView {
    RequestView {
        id: record.request,
        key: record.key,
        secret_number: record.secret_number,
        upstream: record.upstream,
        dialect: record.dialect,
        model_requested: record.model_requested,
        model_billed: record.model_billed,
        streamed: record.streamed,
        attempts: record.attempts,
        status: record.status,
        outcome: record.outcome,
        source: record.source,
        input_tokens: record.tokens.input(),
        output_tokens: record.tokens.output(),
        tokens: record.tokens,
        cost_microusd,
        started_at: record.started_at,
        settled_at: record.settled_at,
    }
}

fn parse_day(text: &str) -> Result<u32, ApiError> {
    let refusal = |_| ApiError::BadRequest(format!("{text:?} is no day such as 2026-11-22"));
    format!("{text}T00:00:00Z").parse::<Timestamp>().map(|time| time.day()).map_err(refusal)
}
