//! Rotation by schedule: what a body says of it, and giving out the secret that it left in the vault.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use schemas::key::{Key, KeyCommand, RotationSchedule};
use schemas::{Command, DurationText, KeyId, Stream, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{IssuedKey, issued, load, parse_id};
use crate::http::app::App;
use crate::http::conventions::{Mutation, Nothing};
use crate::http::error::{ApiError, MutationProblems};
use crate::secrets;

/// The overlap of a schedule that names none: seven days, or as long as it takes to the next rotation.
const OVERLAP_SECONDS_DEFAULT: u64 = 7 * 24 * 3600;

/// How long the read models may take to come level with the log where only that tells what became of a secret.
const LEVEL_WAIT: Duration = Duration::from_secs(2);

/// When a key gets a new secret by itself.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Schedule {
    /// The age of a secret at which the next one takes its place, such as `30d`.
    every: DurationText,
    /// How long the secret before the new one stays good: at most 30 days and no longer than `every`. `7d` if not given, or `every` where that is less.
    #[serde(default)]
    overlap: Option<DurationText>,
}

/// A schedule, and when it is due next.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ScheduleView {
    every: DurationText,
    overlap: DurationText,
    /// Null while the key is out of use, or its current secret waits to be collected.
    due_at: Option<Timestamp>,
}

impl Schedule {
    pub(in crate::http) fn schedule(&self) -> RotationSchedule {
        schedule_of(self.every, self.overlap)
    }
}

/// A schedule as bodies give it.
pub(in crate::http) fn schedule_of(every: DurationText, overlap: Option<DurationText>) -> RotationSchedule {
    let every_seconds = every.as_seconds();
    let overlap_seconds = overlap.map_or(OVERLAP_SECONDS_DEFAULT.min(every_seconds), |overlap| overlap.as_seconds());
    RotationSchedule { every_seconds, overlap_seconds }
}

pub(super) fn schedule_view(key: &Key, schedule: RotationSchedule) -> ScheduleView {
    ScheduleView {
        every: DurationText::from_seconds(schedule.every_seconds),
        overlap: DurationText::from_seconds(schedule.overlap_seconds),
        due_at: key.rotation_due_at(schedule),
    }
}

/// Collect the secret that a rotation by schedule left for the key, once. It has been the current one since that rotation.
#[utoipa::path(post, path = "/keys/{id}/successor", tag = "keys", operation_id = "collect_key_successor", request_body = Nothing,
    params(("id" = KeyId, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a retry give the same answer, secret included, for 24 hours")),
    responses((status = 200, body = IssuedKey), MutationProblems))]
pub(in crate::http) async fn collect(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<IssuedKey>, ApiError> {
    let (id, tenant) = (parse_id(&id)?, mutation.caller.tenant.clone());
    let number = load(&app, &tenant, id)?.value.successor;
    let waiting = match number {
        Some(number) => waiting(&app, &mutation, &tenant, id, number).await?,
        None => None,
    };
    if let (Some(number), None) = (number, &waiting) {
        check_collected(&app, &mutation, &tenant, id, number).await?;
    }
    let number = number.filter(|_| waiting.is_some());
    // Where nothing waits it is refused, or the repetition of a command that was done.
    let command = KeyCommand::CollectSuccessor { number: number.unwrap_or_default() };
    let receipt = app.commands.execute(mutation.request(Stream::key(tenant.clone(), id), Command::Key(command))).await?;
    let secret = if receipt.repeated {
        let (tenant, record) = (tenant.clone(), mutation.command_id.record_id());
        app.vault(move |vault| secrets::sealed_client_key(vault, &tenant, record)).await??
    } else {
        waiting
    };
    if let Some(number) = number.filter(|_| !receipt.repeated) {
        // What is not destroyed now the vault's sweep destroys a day later.
        if let Err(error) = app.vault(move |vault| secrets::erase_successor(vault, &tenant, id, number)).await? {
            tracing::warn!(key.id = %id, error = &error as &dyn std::error::Error, "a secret that was collected is not destroyed yet");
        }
    }
    issued(&app, receipt, secret).await.map(Json)
}

/// Refuses to collect a secret that the key store has lost: nobody would get it, and the key would be taken for one whose secret is in use. One
/// that is not there may have been collected meanwhile, which only the log's head tells.
async fn check_collected(app: &App, mutation: &Mutation<Nothing>, tenant: &TenantId, id: KeyId, number: u32) -> Result<(), ApiError> {
    let head = app.log.head().await?;
    if !app.models.wait_for(head, LEVEL_WAIT).await {
        return Err(ApiError::NotApplied(head.0));
    }
    let is_waiting = load(app, tenant, id)?.value.successor == Some(number);
    if is_waiting && app.models.command(&mutation.command_id)?.is_none() { Err(ApiError::SuccessorGone) } else { Ok(()) }
}

/// The secret that waits; kept for a retry as well, where one may come.
async fn waiting(
    app: &App,
    mutation: &Mutation<Nothing>,
    tenant: &TenantId,
    id: KeyId,
    number: u32,
) -> Result<Option<Zeroizing<String>>, ApiError> {
    let (tenant, record, now) = (tenant.clone(), mutation.repeatable.then(|| mutation.command_id.record_id()), app.now());
    Ok(app.vault(move |vault| secrets::waiting_successor(vault, &tenant, id, number, record, now)).await??)
}
