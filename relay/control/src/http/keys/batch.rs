//! `POST /keys/batch`: one command on many keys, as many records.
//!
//! Each item is a command of its own whose id derives from the batch's and from what the item is about. So a batch that broke off is sent
//! again as it was: what is done is answered from its record and not done twice. What an item came to is a line of the answer, written when
//! it is in the log; a client that leaves ends the batch behind the items in hand, which are finished.

mod item;
mod pattern;
mod rehearsal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use schemas::Sequence;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::listing::KeyChoice;
use super::{KeyChange, NewKey, Renewal, secret_text};
use crate::commands::ExecuteError;
use crate::http::app::App;
use crate::http::conventions::{Mutation, Nothing, Reason, idempotency_key};
use crate::http::error::{ApiError, MutationProblems};
use crate::secrets;
use item::{Item, Plan};

/// The most keys that one batch creates, or names by id. A filter may find more.
pub(super) const ITEMS_MAX: usize = 10_000;
/// The most bytes of a batch: all the ids it may name, and a change.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How many items are under way at once: enough to fill the log's synced batches.
const ITEMS_AT_ONCE: usize = 512;
/// Lines that are written together at most; a line must not wait for the ones behind it.
const LINES_AT_ONCE: usize = 64;

/// One command on many keys: exactly one of the commands, and but for `create` either `keys` or `filter`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Batch {
    #[serde(default)]
    create: Option<NewKeys>,
    #[serde(default)]
    change: Option<KeyChange>,
    #[serde(default)]
    renew: Option<Renewal>,
    #[serde(default)]
    disable: Option<Reason>,
    #[serde(default)]
    enable: Option<Nothing>,
    #[serde(default)]
    revoke: Option<Reason>,
    #[serde(default)]
    archive: Option<Reason>,
    #[serde(default)]
    restore: Option<Nothing>,
    /// Archived keys only; any other fails by itself.
    #[serde(default)]
    purge: Option<Nothing>,
    /// Ids, at most 10,000.
    #[serde(default)]
    keys: Option<Vec<String>>,
    /// As the list of keys takes it: all keys that it would list now, in its order, or as many of them as its `limit` says.
    #[serde(default)]
    filter: Option<KeyChoice>,
    /// Answer what would change, key by key, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Keys that differ in their names.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKeys {
    #[schema(minimum = 1, maximum = 10_000)]
    count: usize,
    /// The number of the first one.
    #[serde(default = "first")]
    #[schema(default = 1)]
    first: u64,
    /// What each is like. Its `name` is a pattern: `ci-{n}`, or `ci-{n:04}` for at least four digits.
    key: NewKey,
}

const fn first() -> u64 {
    1
}

/// One line of the answer: one `begin`, an `item` for each key in the order of the items, one `end`. An answer without `end` was cut off.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(in crate::http) enum BatchLine {
    Begin {
        /// Send the same batch again under this `Idempotency-Key` if the answer breaks off: nothing is done twice.
        idempotency_key: String,
        items: usize,
        dry_run: bool,
        /// The position at which a filter was resolved.
        as_of: Sequence,
    },
    Item(ItemLine),
    End {
        counts: Counts,
        /// False where the log or the node went away: the items that are not begun are had by sending the batch again.
        done: bool,
    },
}

/// What one item came to.
#[derive(Default, Serialize)]
pub(in crate::http) struct ItemLine {
    /// Place among the items, from 0.
    index: usize,
    /// Of the key; of a text that is no key's id, the text as it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The key's name after the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// As the command alone would have been answered.
    status: u16,
    outcome: Outcome,
    /// Of a failure, as in a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(flatten)]
    after: Option<item::After>,
    /// Of a key that was created: `sk-kr-…`, shown to whoever sends this batch under its `Idempotency-Key` within 24 hours.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "secret_text")]
    secret: Option<Zeroizing<String>>,
    /// Of a purge: whether the key's texts are destroyed already. Where false, the key store was away, and a node destroys them once it is back.
    #[serde(skip_serializing_if = "Option::is_none")]
    erased: Option<bool>,
    /// Of a dry run: what would change, member by member.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<rehearsal::Difference>,
}

/// How an item ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Outcome {
    /// It has a record; with `dry_run`, it would have one.
    Changed,
    /// It had one already, from this batch when it was sent before.
    Repeated,
    /// The key was as asked.
    Unchanged,
    #[default]
    Failed,
}

/// Items by how they ended.
#[derive(Debug, Default, Serialize)]
pub(in crate::http) struct Counts {
    changed: u64,
    repeated: u64,
    unchanged: u64,
    failed: u64,
    not_begun: u64,
}

/// Create, change, renew, disable, enable, revoke, archive, restore or purge many keys. The answer is a stream of lines, each one JSON object. What fails, fails by
/// itself: its line says why, and the others are done.
#[utoipa::path(post, path = "/keys/batch", tag = "keys", operation_id = "batch_keys", request_body = Batch,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the batch resumable; one is drawn and told if none is sent")),
    responses((status = 200, content_type = "application/x-ndjson", body = String,
        description = "One JSON object a line, told apart by `type`: one `begin` (with the `idempotency_key`), an `item` for each key in the order \
            of the items (`index`, `id`, `status`, `outcome`, its `secret` where one was made, `code` and `detail` of a failure), one `end` (`counts`, `done`). \
            An answer without `end` was cut off"),
        MutationProblems))]
pub(in crate::http) async fn run(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let idempotency_key = idempotency_key(request.headers())?;
    let mut mutation = Mutation::<Batch>::of_json(request, BODY_BYTES_MAX, &app).await?;
    let idempotency_key = idempotency_key.unwrap_or_else(|| mutation.draw_idempotency_key());
    let dry_run = mutation.body.dry_run;
    let as_of = app.position();
    let plan = Arc::new(Plan::of(&app, mutation).await?);
    let items = plan.items(&app).await?;
    if !dry_run {
        refuse_reuse(&app, &plan, &items).await?;
    }
    let begin = BatchLine::Begin { idempotency_key, items: items.len(), dry_run, as_of };
    let tally = Arc::new(Tally::default());
    let end_tally = Arc::clone(&tally);
    let lines = stream::iter(items).map(move |item| {
        let (app, plan, tally) = (app.clone(), Arc::clone(&plan), Arc::clone(&tally));
        async move {
            if tally.is_stopped.load(Ordering::Relaxed) {
                tally.not_begun.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            let line = if dry_run { rehearsal::rehearse(&app, &plan, item).await } else { item::execute(&app, &plan, item).await };
            tally.count(&line);
            Some(BatchLine::Item(line))
        }
    });
    let lines = lines.buffered(ITEMS_AT_ONCE).filter_map(std::future::ready);
    let end = stream::once(async move { end_tally.end() });
    let lines = stream::once(std::future::ready(begin)).chain(lines).chain(end);
    let chunks =
        lines.map(|line| text(&line)).ready_chunks(LINES_AT_ONCE).map(|lines| Ok::<Bytes, std::convert::Infallible>(lines.concat().into()));
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// Refuses another batch under an idempotency key that was used: part of it would be done, and part be taken for what was done.
async fn refuse_reuse(app: &App, plan: &Arc<Plan>, items: &[Item]) -> Result<(), ApiError> {
    let ids: Vec<_> = items.iter().map(|item| plan.command_id(item)).collect();
    let digest = plan.request_digest;
    let is_reused = app.blocking(move |app| -> Result<bool, ApiError> {
        for id in &ids {
            if app.models.command(id)?.is_some_and(|row| row.request_digest != digest) {
                return Ok(true);
            }
        }
        Ok(false)
    });
    if is_reused.await?? { Err(ExecuteError::CommandReused.into()) } else { Ok(()) }
}

impl Mutation<Batch> {
    /// Makes the batch one that was sent under an idempotency key of its own.
    fn draw_idempotency_key(&mut self) -> String {
        let key: String = secrets::random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        (self.command_id, self.repeatable) = (schemas::CommandId::of(&self.caller.tenant, &self.caller.actor, &key), true);
        key
    }
}

fn text(line: &BatchLine) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("a line is plain data; encoding to memory cannot fail");
    text.push(b'\n');
    text
}

/// Written by the items as they end.
#[derive(Default)]
struct Tally {
    changed: AtomicU64,
    repeated: AtomicU64,
    unchanged: AtomicU64,
    failed: AtomicU64,
    not_begun: AtomicU64,
    /// The node or what it depends on went away: what is left would wait in vain.
    is_stopped: AtomicBool,
}

impl Tally {
    fn count(&self, line: &ItemLine) {
        let count = match line.outcome {
            Outcome::Changed => &self.changed,
            Outcome::Repeated => &self.repeated,
            Outcome::Unchanged => &self.unchanged,
            Outcome::Failed => &self.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if line.status >= 500 {
            self.is_stopped.store(true, Ordering::Relaxed);
        }
    }

    fn end(&self) -> BatchLine {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = Counts {
            changed: of(&self.changed),
            repeated: of(&self.repeated),
            unchanged: of(&self.unchanged),
            failed: of(&self.failed),
            not_begun: of(&self.not_begun),
        };
        let done = !self.is_stopped.load(Ordering::Relaxed);
        BatchLine::End { counts, done }
    }
}
