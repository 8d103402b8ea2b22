//! `/root-key`: which root keys there are, and how one follows on another. A root key itself never passes here: nodes are given it in files, and
//! what is named is its commitment.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use coordination::LIVE_WAIT;
use schemas::cluster::{Cluster, ClusterCommand};
use schemas::root_key::{RootKeyCommand, RootKeyState};
use schemas::{Aggregate, Command, Digest, Sequence, Stream, Timestamp, WriterId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;
use vault::RootKeyVersion;

use super::app::App;
use super::conventions::{Caller, Mutation};
use super::error::{ApiError, MutationProblems, ReadProblems};
use crate::fence::{Applied, FENCE_WAIT, FencePosts};
use crate::root_key::RewrappingState;

/// How long it is waited for nodes that were just told of a root key and may have it.
const NODES_WAIT: Duration = Duration::from_secs(8);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A root key is not taken into use without a copy made within this time: 1 day.
const BACKUP_SECONDS_MAX: u64 = 24 * 3600;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RootKeyStateView {
    /// To follow on the active one; nodes are being given it.
    Announced,
    /// Data keys are wrapped under it.
    Active,
    /// Data keys may still lie under it.
    DecryptOnly,
    /// Nothing lies under it, and it is not used again.
    Destroyed,
}

/// A root key, as the log knows it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RootKeyView {
    commitment: Digest,
    #[schema(inline)]
    state: RootKeyStateView,
    /// Since when it is in this state; null for one that is destroyed.
    since: Option<Timestamp>,
    /// When the last copy of it was made that was reported.
    backed_up_at: Option<Timestamp>,
    /// Live nodes that have not told that they have it. Of one that is destroyed nobody needs it.
    missing_on: Vec<WriterId>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RewrapStateView {
    /// There was nothing to do since the answering node started.
    Idle,
    /// Another node does it.
    Elsewhere,
    Rewrapping,
    /// Every data key is opened once more.
    Verifying,
    /// All data keys lie under the active root key.
    Done,
    /// `reason` says why; it is tried again.
    Failed,
}

/// How the re-wrap of data keys goes, on the answering node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RewrapView {
    #[schema(inline)]
    state: RewrapStateView,
    /// The root key that data keys come to lie under.
    root_key: Option<Digest>,
    total: u64,
    /// Looked at in the pass that is under way.
    seen: u64,
    rewrapped: u64,
    /// Data keys that do not open: changed from outside.
    damaged: u64,
    /// Data keys under a root key that the node does not have.
    unheld: u64,
    at_fault: Vec<String>,
    reason: Option<String>,
    elapsed_ms: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RootKeysView {
    root_keys: Vec<RootKeyView>,
    #[schema(inline)]
    rewrap: RewrapView,
    as_of: Sequence,
}

/// The root keys after a change, and the record of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RootKeysAnswer {
    #[serde(flatten)]
    root_keys: RootKeysView,
    sequence: Sequence,
    applied: bool,
}

/// What a change of the root key would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RootKeyForecast {
    /// Data keys there are, and those of them that would be wrapped again.
    data_keys: u64,
    to_rewrap: u64,
    /// Whether the answering node has the new root key. Of the others it is known once the root key is announced.
    is_here: bool,
    /// Whether a copy of the new root key was reported within a day.
    is_backed_up: bool,
    as_of: Sequence,
}

/// Which root key follows on which.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewChange {
    /// The commitment of the root key in use. Without it `to` must be in use, and what does not lie under it is wrapped again.
    #[serde(default)]
    from: Option<Digest>,
    /// The commitment of the root key that is to be in use.
    to: Digest,
    /// Go on though no copy of the new root key was reported within a day.
    #[serde(default)]
    without_backup: bool,
}

/// One root key.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedRootKey {
    commitment: Digest,
}

/// Show the root keys: which is in use, which nodes have it, and how far data keys are wrapped under it.
#[utoipa::path(get, path = "/root-key", tag = "nodes", operation_id = "show_root_key",
    responses((status = 200, body = RootKeysView), ReadProblems))]
pub(super) async fn show(State(app): State<App>, _caller: Caller) -> Result<Json<RootKeysView>, ApiError> {
    Ok(Json(view(&app, &cluster(&app)?)))
}

/// Announce a root key that is to follow, so that nodes take it as soon as they are given it: in a file of `vault.root_key_files`, or as
/// `root.key.next` in their data directory. Nothing is wrapped under it yet.
#[utoipa::path(post, path = "/root-key/announce", tag = "nodes", operation_id = "announce_root_key", request_body = NamedRootKey,
    responses((status = 200, body = RootKeysAnswer), MutationProblems))]
pub(super) async fn announce(State(app): State<App>, mutation: Mutation<NamedRootKey>) -> Result<Json<RootKeysAnswer>, ApiError> {
    let commitment = mutation.body.commitment;
    execute(&app, &mutation, "announce", RootKeyCommand::Announce { commitment }).await
}

/// Withdraw a root key that was announced and is not to be used after all.
#[utoipa::path(post, path = "/root-key/withdraw", tag = "nodes", operation_id = "withdraw_root_key", request_body = NamedRootKey,
    responses((status = 200, body = RootKeysAnswer), MutationProblems))]
pub(super) async fn withdraw(State(app): State<App>, mutation: Mutation<NamedRootKey>) -> Result<Json<RootKeysAnswer>, ApiError> {
    let commitment = mutation.body.commitment;
    execute(&app, &mutation, "withdraw", RootKeyCommand::Withdraw { commitment }).await
}

/// Record that a copy of a root key was written elsewhere and read back.
#[utoipa::path(post, path = "/root-key/backups", tag = "nodes", operation_id = "record_root_key_backup", request_body = NamedRootKey,
    responses((status = 200, body = RootKeysAnswer), MutationProblems))]
pub(super) async fn backed_up(State(app): State<App>, mutation: Mutation<NamedRootKey>) -> Result<Json<RootKeysAnswer>, ApiError> {
    let commitment = mutation.body.commitment;
    execute(&app, &mutation, "backup", RootKeyCommand::BackUp { commitment }).await
}

/// Tell what a change of the root key would do, and change nothing. A `from` that is not in use is refused (`root_key_not_active`).
#[utoipa::path(post, path = "/root-key/forecast", tag = "nodes", operation_id = "forecast_root_key", request_body = NewChange,
    responses((status = 200, body = RootKeyForecast), MutationProblems))]
pub(super) async fn forecast(State(app): State<App>, mutation: Mutation<NewChange>) -> Result<Json<RootKeyForecast>, ApiError> {
    let NewChange { from, to, .. } = mutation.body;
    let cluster = cluster(&app)?;
    check(&cluster, from, to)?;
    let counts = app.vault(|vault| vault.count_wrapped()).await?.map_err(ApiError::Erase)?;
    let (data_keys, under) = (counts.values().sum(), counts.get(&RootKeyVersion::of(&to)).copied().unwrap_or_default());
    let watch = app.root_keys.clone();
    let is_here = app.blocking(move |_| watch.is_given(&to)).await?;
    let is_backed_up = cluster.root_keys.get(&to).and_then(|key| key.backed_up_at).is_some_and(|at| is_recent(&app, at));
    Ok(Json(RootKeyForecast { data_keys, to_rewrap: data_keys - under, is_here, is_backed_up, as_of: app.position() }))
}

/// Change the root key. It is announced, and taken into use once every live node has it: a node that lacks it blocks the change
/// (`root_key_not_everywhere`), which is then sent again. All data keys are wrapped again in the background while requests go on; ask how far that is
/// with GET. Asked for again it goes on where it was.
#[utoipa::path(post, path = "/root-key/change", tag = "nodes", operation_id = "change_root_key", request_body = NewChange,
    responses((status = 200, body = RootKeysAnswer), MutationProblems))]
pub(super) async fn change(State(app): State<App>, mutation: Mutation<NewChange>) -> Result<Json<RootKeysAnswer>, ApiError> {
    let NewChange { from, to, without_backup } = mutation.body;
    let before = cluster(&app)?;
    check(&before, from, to)?;
    let Some(previous) = from.filter(|_| before.root_keys.active().commitment != to) else {
        app.root_keys.rewrap_again();
        let sequence = app.models.load(&Stream::CLUSTER)?.1.sequence;
        return Ok(Json(RootKeysAnswer { root_keys: view(&app, &before), sequence, applied: true }));
    };
    let announce = Command::Cluster(ClusterCommand::RootKey(RootKeyCommand::Announce { commitment: to }));
    app.commands.execute(mutation.step("announce", Stream::CLUSTER, announce)).await?;
    everywhere(&app, &to).await?;
    let key = cluster(&app)?.root_keys.get(&to).cloned();
    if !without_backup && !key.and_then(|key| key.backed_up_at).is_some_and(|at| is_recent(&app, at)) {
        return Err(ApiError::RootKeyNotBackedUp(to));
    }
    execute(&app, &mutation, "change", RootKeyCommand::Change { previous, commitment: to }).await
}

/// Destroy a root key: the last step of a change. Every data key is opened before, and every live node must have followed the change; while a data
/// key lies under it, it is refused (`root_key_in_use`). Backups that were taken before the change still need it: keep a copy for as long as they.
#[utoipa::path(post, path = "/root-key/destroy", tag = "nodes", operation_id = "destroy_root_key", request_body = NamedRootKey,
    responses((status = 200, body = RootKeysAnswer), MutationProblems))]
pub(super) async fn destroy(State(app): State<App>, mut mutation: Mutation<NamedRootKey>) -> Result<Json<RootKeysAnswer>, ApiError> {
    let commitment = mutation.body.commitment;
    let state = cluster(&app)?.root_keys.get(&commitment).map(|key| key.state);
    let mut data_keys = 0;
    if state == Some(RootKeyState::DecryptOnly) {
        let (coordination, enrolled) = (&*app.coordination, super::nodes::enrolled(&app.models)?);
        let began = Instant::now();
        let posts = FencePosts { coordination, models: &app.models, this: app.node(), enrolled, applied: Applied::Record, began };
        let fence = posts.wait(app.models.load(&Stream::CLUSTER)?.1.sequence, FENCE_WAIT).await;
        if !fence.reached {
            return Err(ApiError::RootKeyNotEverywhere(fence.missing));
        }
        let version = RootKeyVersion::of(&commitment);
        let scanned = app.vault(move |vault| scan(vault, version)).await?;
        let (seen, under) = scanned.map_err(ApiError::Erase)?;
        if under > 0 {
            app.root_keys.rewrap_again();
            return Err(ApiError::RootKeyInUse { data_keys: under });
        }
        data_keys = seen;
        // The scan took a time of its own.
        mutation.begin_now();
    }
    execute(&app, &mutation, "destroy", RootKeyCommand::Destroy { commitment, data_keys }).await
}

/// How many data keys there are, and how many of them would be lost with a root key: those that lie under it, and those that do not open.
fn scan(vault: &vault::Vault, gone: RootKeyVersion) -> Result<(u64, u64), vault::StoreError> {
    const PAGE: usize = 1024;
    let (mut whole, mut after) = (vault::Rewrap::default(), None);
    loop {
        let (part, next) = vault.verify_wrapped(after.as_ref(), PAGE)?;
        whole.add(part);
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let under = vault.count_wrapped()?.get(&gone).copied().unwrap_or_default();
    Ok((whole.seen, under.max(whole.rewrapped)))
}

/// What the log would refuse, before anything is announced.
fn check(cluster: &Cluster, from: Option<Digest>, to: Digest) -> Result<(), ApiError> {
    let active = cluster.root_keys.active().commitment;
    match from {
        None if active == to => Ok(()),
        None => Err(ApiError::RootKeyFromMissing { active }),
        Some(from) if from == to => Err(ApiError::BadRequest("from and to are the same root key".to_owned())),
        Some(from) if from == active => Ok(()),
        // A change that was made is asked for again.
        Some(from) if active == to && cluster.root_keys.decrypt_only().any(|key| key.commitment == from) => Ok(()),
        Some(given) => Err(ApiError::RootKeyNotActive { given, active }),
    }
}

/// Waits until every live node has told that it has a root key. Who is live is only known after listening for a while.
async fn everywhere(app: &App, root_key: &Digest) -> Result<(), ApiError> {
    let deadline = Instant::now() + NODES_WAIT;
    loop {
        let missing = missing_on(app, root_key)?;
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ApiError::RootKeyNotEverywhere(missing.into_iter().collect()));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Nodes that may run and have not told that they have a root key: live ones, and enrolled ones that were not listened for long enough.
fn missing_on(app: &App, root_key: &Digest) -> Result<BTreeSet<WriterId>, ApiError> {
    let has_listened = app.coordination.listening().is_some_and(|listening| listening >= LIVE_WAIT);
    let nodes = app.coordination.nodes().borrow().clone();
    let others = nodes.iter().filter(|entry| entry.status.node != app.node());
    let has = |entry: &&coordination::NodeEntry| entry.status.root_keys.contains(root_key);
    let mut missing: BTreeSet<WriterId> = others.filter(|entry| entry.live && !has(entry)).map(|entry| entry.status.node).collect();
    if !app.vault.holds_root_key(RootKeyVersion::of(root_key)) {
        missing.insert(app.node());
    }
    if !has_listened {
        let heard: BTreeSet<WriterId> = nodes.iter().filter(|entry| entry.live).map(|entry| entry.status.node).collect();
        let enrolled = super::nodes::enrolled(&app.models)?;
        missing.extend(enrolled.into_iter().filter(|node| *node != app.node() && !heard.contains(node)));
    }
    Ok(missing)
}

fn is_recent(app: &App, at: Timestamp) -> bool {
    app.now() <= at.plus_seconds(BACKUP_SECONDS_MAX)
}

fn cluster(app: &App) -> Result<Cluster, ApiError> {
    match app.models.load(&Stream::CLUSTER)?.0 {
        Some(Aggregate::Cluster(cluster)) => Ok(cluster),
        _ => Err(ApiError::NotFound("cluster")),
    }
}

async fn execute<T>(app: &App, mutation: &Mutation<T>, step: &str, command: RootKeyCommand) -> Result<Json<RootKeysAnswer>, ApiError> {
    let command = Command::Cluster(ClusterCommand::RootKey(command));
    let receipt = app.commands.execute(mutation.step(step, Stream::CLUSTER, command)).await?;
    let Aggregate::Cluster(cluster) = &receipt.aggregate else { return Err(ApiError::NotFound("cluster")) };
    Ok(Json(RootKeysAnswer { root_keys: view(app, cluster), sequence: receipt.sequence, applied: receipt.applied }))
}

fn view(app: &App, cluster: &Cluster) -> RootKeysView {
    let held = cluster.root_keys.held.iter().map(|key| RootKeyView {
        commitment: key.commitment,
        state: match key.state {
            RootKeyState::Announced => RootKeyStateView::Announced,
            RootKeyState::Active => RootKeyStateView::Active,
            RootKeyState::DecryptOnly => RootKeyStateView::DecryptOnly,
        },
        since: Some(key.since),
        backed_up_at: key.backed_up_at,
        missing_on: missing_on(app, &key.commitment).unwrap_or_default().into_iter().collect(),
    });
    let destroyed = cluster.root_keys.destroyed.iter().map(|commitment| RootKeyView {
        commitment: *commitment,
        state: RootKeyStateView::Destroyed,
        since: None,
        backed_up_at: None,
        missing_on: Vec::new(),
    });
    let told = app.root_keys.rewrapping().borrow().clone();
    let rewrap = RewrapView {
        state: match told.state {
            RewrappingState::Idle => RewrapStateView::Idle,
            RewrappingState::Elsewhere => RewrapStateView::Elsewhere,
            RewrappingState::Rewrapping => RewrapStateView::Rewrapping,
            RewrappingState::Verifying => RewrapStateView::Verifying,
            RewrappingState::Done => RewrapStateView::Done,
            RewrappingState::Failed => RewrapStateView::Failed,
        },
        root_key: told.root_key,
        total: told.total,
        seen: told.seen,
        rewrapped: told.rewrapped,
        damaged: told.damaged,
        unheld: told.unheld,
        at_fault: told.at_fault,
        reason: told.reason,
        elapsed_ms: u64::try_from(told.elapsed.as_millis()).unwrap_or(u64::MAX),
    };
    RootKeysView { root_keys: destroyed.chain(held).collect(), rewrap, as_of: app.position() }
}
