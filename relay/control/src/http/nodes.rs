//! `/nodes`: who writes this log, who of them is there, and how one leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use coordination::{LIVE_WAIT, NodeEntry};
use ed25519_dalek::SigningKey;
use projector::ReadModels;
use schemas::writer::{WriterCommand, WriterRetired};
use schemas::{Aggregate, Command, Sequence, Stream, Timestamp, WriterId, judge};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::conventions::{Caller, Mutation, Nothing, Page, Params};
use super::error::{ApiError, MutationProblems, ReadProblems};
use crate::Receipt;

/// Rows of one look at the writers.
const WRITERS_RUN: usize = 1000;
/// How long the registry is asked to forget a node. It forgets by itself, only later.
const FORGET_WAIT: Duration = Duration::from_secs(2);

/// What the log says of a node's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Membership {
    /// Heard of, and not enrolled up to `as_of`: it has just come.
    Joining,
    Enrolled,
    /// What it signs from there on is void.
    Retired,
}

/// A node, as the log and the registry know it. What only the node tells of itself is null where nobody has heard of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeView {
    id: WriterId,
    /// Whether it is the node that answers.
    this: bool,
    #[schema(inline)]
    membership: Membership,
    /// Heard of recently enough to count on it.
    live: bool,
    /// As it says itself.
    ready: Option<bool>,
    /// The release it runs, and the highest format of the log that it reads.
    release: Option<String>,
    format_level: Option<u32>,
    /// Where its listeners are reached.
    relay: Option<String>,
    admin: Option<String>,
    started_at: Option<Timestamp>,
    heard_at: Option<Timestamp>,
    /// The last sequence that it has applied, and how far that is behind the head that the answering node knows.
    applied: Option<Sequence>,
    lag: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodePage {
    nodes: Vec<NodeView>,
    next: Option<WriterId>,
    /// The head of the log as the answering node last heard of it.
    head: Sequence,
    as_of: Sequence,
}

/// A node that is retired, and the record of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeAnswer {
    node: NodeView,
    sequence: Sequence,
    applied: bool,
}

/// List nodes, by id: those that are enrolled, heard of or not, those that were retired, and those that have just come.
#[utoipa::path(get, path = "/nodes", tag = "nodes", operation_id = "list_nodes", params(Page),
    responses((status = 200, body = NodePage), ReadProblems))]
pub(super) async fn list(State(app): State<App>, _caller: Caller, Params(page): Params<Page>) -> Result<Json<NodePage>, ApiError> {
    let (limit, after, as_of) = (page.limit()?, page.after::<WriterId>()?, app.position());
    let mut memberships = memberships(&app.models)?;
    let registry = app.coordination.nodes().borrow().clone();
    let heard: BTreeMap<WriterId, &NodeEntry> = registry.iter().map(|entry| (entry.status.node, entry)).collect();
    for id in heard.keys().copied().chain([app.node()]) {
        memberships.entry(id).or_insert(Membership::Joining);
    }
    let head = app.models.status().head.max(as_of);
    let mut nodes: Vec<NodeView> = memberships
        .into_iter()
        .filter(|(id, _)| after.is_none_or(|after| *id > after))
        .take(limit + 1)
        .map(|(id, membership)| view(&app, id, membership, heard.get(&id).copied(), head))
        .collect();
    let next = nodes.get(limit).and_then(|_| nodes.get(limit - 1)).map(|node| node.id);
    nodes.truncate(limit);
    Ok(Json(NodePage { nodes, next, head, as_of }))
}

/// Retire a node that is gone for good. It must have stopped: one that is live is refused (`node_live`); stop it first, or let it leave. The
/// answer takes some seconds, in which the node is listened for.
#[utoipa::path(delete, path = "/nodes/{id}", tag = "nodes", operation_id = "retire_node", params(("id" = WriterId, Path)),
    responses((status = 200, body = NodeAnswer), MutationProblems))]
pub(super) async fn retire(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<NodeAnswer>, ApiError> {
    let node: WriterId = id.parse().map_err(|_| ApiError::NotFound("such node"))?;
    // A retry of a retirement that was made is answered whatever became of the registry since.
    if app.models.command(&mutation.command_id)?.is_none() {
        refuse_live(&app, node).await?;
    }
    let cluster = app.cluster_id;
    let cluster_key = app.vault(move |vault| vault.cluster_key(&cluster)).await??;
    let signature = judge::sign_retirement(cluster, node, &SigningKey::from_bytes(&cluster_key));
    let command = WriterCommand::Retire(WriterRetired { cluster_signature: Some(signature) });
    let receipt = app.commands.execute(mutation.request(Stream::writer(node), Command::Writer(command))).await?;
    forget(&app, node).await;
    answer(&app, receipt)
}

/// Let the answering node leave for good: it retires itself with its own signature, as its last record, and stops. A node that only stops
/// stays enrolled and comes back as it was.
#[utoipa::path(post, path = "/nodes/leave", tag = "nodes", operation_id = "leave", request_body = Nothing,
    responses((status = 200, body = NodeAnswer), MutationProblems))]
pub(super) async fn leave(State(app): State<App>, mutation: Mutation<Nothing>) -> Result<Json<NodeAnswer>, ApiError> {
    let node = app.node();
    let command = WriterCommand::Retire(WriterRetired { cluster_signature: None });
    let receipt = app.commands.execute_last(mutation.request(Stream::writer(node), Command::Writer(command))).await?;
    tracing::warn!(node.id = %node, "this node leaves the cluster");
    (app.stop)();
    forget(&app, node).await;
    answer(&app, receipt)
}

/// Only a node that stopped is retired by others: what it signs before it hears of it would be void. This node listens for as long as a live
/// one may be silent, on one connection, because what it did not hear before may be its own fault.
async fn refuse_live(app: &App, node: WriterId) -> Result<(), ApiError> {
    if node == app.node() {
        return Err(ApiError::NodeLive(node));
    }
    let connection = || Some((app.health)().log).filter(|log| log.connected).map(|log| log.epoch);
    let epoch = connection().ok_or(ApiError::RegistryAway)?;
    let mut nodes = app.coordination.nodes();
    let heard = nodes.wait_for(|nodes| nodes.iter().any(|entry| entry.status.node == node && entry.live));
    match tokio::time::timeout(LIVE_WAIT, heard).await {
        Ok(Ok(_)) => Err(ApiError::NodeLive(node)),
        Err(_) if connection() == Some(epoch) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(ApiError::RegistryAway),
    }
}

async fn forget(app: &App, node: WriterId) {
    let forgotten = tokio::time::timeout(FORGET_WAIT, app.coordination.forget(node)).await;
    if !matches!(forgotten, Ok(Ok(()))) {
        tracing::info!(node.id = %node, "the registry keeps a retired node for a while");
    }
}

/// Writers that are enrolled and not retired.
pub(crate) fn enrolled(models: &ReadModels) -> Result<BTreeSet<WriterId>, projector::ReadError> {
    let all = memberships(models)?.into_iter();
    Ok(all.filter(|(_, membership)| *membership == Membership::Enrolled).map(|(id, _)| id).collect())
}

fn memberships(models: &ReadModels) -> Result<BTreeMap<WriterId, Membership>, projector::ReadError> {
    let (mut found, mut after) = (BTreeMap::new(), None);
    loop {
        let writers = models.writers(after, WRITERS_RUN)?;
        let membership = |retired: bool| if retired { Membership::Retired } else { Membership::Enrolled };
        found.extend(writers.iter().map(|writer| (writer.value.id, membership(writer.value.retired))));
        after = writers.last().filter(|_| writers.len() == WRITERS_RUN).map(|writer| writer.value.id);
        if after.is_none() {
            return Ok(found);
        }
    }
}

fn view(app: &App, id: WriterId, membership: Membership, entry: Option<&NodeEntry>, head: Sequence) -> NodeView {
    let this = id == app.node();
    let status = entry.map(|entry| &entry.status);
    let applied = if this { Some(app.position()) } else { status.map(|status| status.applied) };
    NodeView {
        id,
        this,
        membership,
        live: this || entry.is_some_and(|entry| entry.live),
        ready: status.map(|status| status.ready),
        release: status.map(|status| status.release.clone()),
        format_level: status.map(|status| status.format_level),
        relay: status.map(|status| status.relay.clone()),
        admin: status.map(|status| status.admin.clone()),
        started_at: status.map(|status| status.started_at),
        heard_at: entry.map(|entry| entry.heard_at),
        applied,
        lag: applied.map(|applied| head.0.saturating_sub(applied.0)),
    }
}

fn answer(app: &App, receipt: Receipt) -> Result<Json<NodeAnswer>, ApiError> {
    let Aggregate::Writer(writer) = receipt.aggregate else { return Err(ApiError::NotFound("such node")) };
    let registry = app.coordination.nodes().borrow().clone();
    let entry = registry.iter().find(|entry| entry.status.node == writer.id);
    let membership = if writer.retired { Membership::Retired } else { Membership::Enrolled };
    let head = app.models.status().head.max(receipt.sequence);
    let node = view(app, writer.id, membership, entry, head);
    Ok(Json(NodeAnswer { node, sequence: receipt.sequence, applied: receipt.applied }))
}
