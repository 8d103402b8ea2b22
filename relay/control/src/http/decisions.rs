//! `/decisions`: what policies were asked and what they answered, newest first.

use std::io;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use policy_host::{Input, Output};
use projector::decisions::{Decision, DecisionPage, DecisionPlace, DecisionQuery};
use schemas::decision::{DecisionAnswer, DecisionEffect, DecisionMode};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::{BindingId, Digest, KeyId, RequestId, Sequence, TenantId, Timestamp, WriterId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::app::App;
use super::conventions::{Caller, LIMIT_MAX, Params, limit};
use super::error::{ApiError, ReadProblems};
use crate::decisions::{DecisionFault, ExportedDecision, id_of};

/// The most decisions of one request that are shown with it: a chain has at most a few dozen.
const OF_REQUEST_MAX: usize = 100;

/// Which decisions; all that is given must fit.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionParams {
    #[serde(default)]
    request: Option<RequestId>,
    #[serde(default)]
    key: Option<KeyId>,
    #[serde(default)]
    binding: Option<BindingId>,
    /// The digest of a policy.
    #[serde(default)]
    policy: Option<Digest>,
    #[serde(default)]
    #[param(inline)]
    kind: Option<PolicyKind>,
    #[serde(default)]
    #[param(inline)]
    effect: Option<DecisionEffect>,
    #[serde(default)]
    #[param(inline)]
    mode: Option<DecisionMode>,
    /// The earliest moment.
    #[serde(default)]
    from: Option<Timestamp>,
    /// The latest moment.
    #[serde(default)]
    to: Option<Timestamp>,
    /// The `next` of the page before.
    #[serde(default)]
    cursor: Option<String>,
    /// Decisions of a page, at most 1000. An export has all of them unless it says how many.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

impl DecisionParams {
    fn query(self, tenant: TenantId, limit: usize) -> Result<DecisionQuery, ApiError> {
        let Self { request, key, binding, policy, kind, effect, mode, from, to, cursor, limit: _ } = self;
        let parse =
            |cursor: String| cursor.parse().map_err(|()| ApiError::BadRequest("the cursor is not one that this list gave".to_owned()));
        let after = cursor.map(parse).transpose()?;
        Ok(DecisionQuery { tenant, request, key, binding, policy, kind, effect, mode, from, to, after, limit })
    }
}

/// One evaluation of one policy.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DecisionView {
    /// The place in the decision stream, the same on every node.
    id: String,
    request: RequestId,
    at: Timestamp,
    key: KeyId,
    kind: PolicyKind,
    binding: BindingId,
    policy: Digest,
    /// The limits that it ran under; null if its module was not loaded.
    class: Option<PolicyClass>,
    settings_digest: Digest,
    mode: DecisionMode,
    /// What the policy said; `fault` is the host's word for a policy that failed.
    effect: DecisionEffect,
    /// The codes of its reasons.
    reasons: Vec<String>,
    /// What the stage came to with all its policies together.
    combined: DecisionEffect,
    /// What the policy was given, under its kind. It holds no prompt and no secret. Null for bytes that this release does not read.
    #[schema(value_type = Option<Object>)]
    input: Option<Value>,
    input_digest: Digest,
    /// What it answered, under its kind; null with a fault.
    #[schema(value_type = Option<Object>)]
    output: Option<Value>,
    output_digest: Option<Digest>,
    fault: Option<DecisionFault>,
    /// The most that the request could cost; null without a price.
    cost_max_microusd: Option<u64>,
    fuel: u64,
    elapsed_ns: u64,
    engine: String,
    node: WriterId,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Decisions {
    /// Newest first.
    decisions: Vec<DecisionView>,
    /// The cursor of the next page, which may be there although this page is short; null at the end.
    next: Option<String>,
    /// The place in the decision stream up to which decisions are known here.
    as_of: Sequence,
}

/// List decisions of policies: denials and faults, and a sample of the rest. The oldest are dropped.
#[utoipa::path(get, path = "/decisions", tag = "policies", operation_id = "list_decisions", params(DecisionParams),
    responses((status = 200, body = Decisions), ReadProblems))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<DecisionParams>,
) -> Result<Json<Decisions>, ApiError> {
    let limit = limit(params.limit)?;
    let (as_of, query) = (app.decisions.position(), params.query(caller.tenant, limit)?);
    let DecisionPage { decisions, next } = page(&app, query).await?;
    let next = next.map(|place| place.to_string());
    Ok(Json(Decisions { decisions: decisions.into_iter().map(view).collect(), next, as_of }))
}

/// Export decisions for replay, newest first: one JSON object a line, input and output as the recorded bytes.
#[utoipa::path(get, path = "/decisions/export", tag = "policies", operation_id = "export_decisions", params(DecisionParams),
    responses((status = 200, content_type = "application/jsonl", body = ExportedDecision), ReadProblems))]
pub(super) async fn export(State(app): State<App>, caller: Caller, Params(params): Params<DecisionParams>) -> Result<Response, ApiError> {
    let wanted = params.limit.unwrap_or(usize::MAX);
    let query = params.query(caller.tenant, LIMIT_MAX)?;
    let pages = stream::try_unfold(Some((app, query, wanted)), |rest| async move {
        let Some((app, mut query, wanted)) = rest.filter(|(_, _, wanted)| *wanted > 0) else { return Ok(None) };
        query.limit = wanted.min(LIMIT_MAX);
        let DecisionPage { decisions, next } = page(&app, query.clone()).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "an export of decisions broke off");
            // An error in the body cuts the connection, so that a part is never taken for the whole.
            io::Error::other("the export failed")
        })?;
        let left = wanted - decisions.len();
        let mut lines = Vec::new();
        for decision in decisions {
            serde_json::to_writer(&mut lines, &ExportedDecision::from(decision))?;
            lines.push(b'\n');
        }
        let rest = next.map(|next: DecisionPlace| (app, DecisionQuery { after: Some(next), ..query }, left));
        Ok::<_, io::Error>(Some((Bytes::from(lines), rest)))
    });
    let headers = [(header::CONTENT_TYPE, "application/jsonl"), (header::CONTENT_DISPOSITION, "attachment; filename=\"decisions.jsonl\"")];
    Ok((headers, Body::from_stream(pages)).into_response())
}

/// The decisions on one request, in the order in which they were made.
pub(super) async fn of_request(app: &App, tenant: TenantId, request: RequestId) -> Result<Vec<DecisionView>, ApiError> {
    let query = DecisionQuery { request: Some(request), ..DecisionQuery::all(tenant, OF_REQUEST_MAX) };
    let mut decisions = page(app, query).await?.decisions;
    decisions.reverse();
    Ok(decisions.into_iter().map(view).collect())
}

/// Queries off the executor: they scan the disk.
async fn page(app: &App, query: DecisionQuery) -> Result<DecisionPage, ApiError> {
    let decisions = app.decisions.clone();
    Ok(tokio::task::spawn_blocking(move || decisions.page(&query)).await??)
}

fn view(decision: Decision) -> DecisionView {
    let id = id_of(&decision);
    let Decision { node, record, .. } = decision;
    let input = Input::decode(&record.input).and_then(|input| serde_json::to_value(input).ok());
    let (output, output_digest, fault) = match record.answer {
        DecisionAnswer::Output(bytes) => {
            let output = Output::decode(&bytes).and_then(|output| serde_json::to_value(output).ok());
            (output, Some(Digest::blake3(&bytes)), None)
        }
        DecisionAnswer::Fault { code, detail, replayable } => (None, None, Some(DecisionFault { code, detail, replayable })),
    };
    DecisionView {
        id,
        request: record.request,
        at: record.at,
        key: record.key,
        kind: record.kind,
        binding: record.binding,
        policy: record.policy,
        class: record.class,
        settings_digest: record.settings,
        mode: record.mode,
        effect: record.effect,
        reasons: record.reasons,
        combined: record.combined,
        input,
        input_digest: Digest::blake3(&record.input),
        output,
        output_digest,
        fault,
        cost_max_microusd: record.cost_max,
        fuel: record.fuel,
        elapsed_ns: record.elapsed_ns,
        engine: record.engine,
        node,
    }
}
