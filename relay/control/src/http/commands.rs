//! `/commands/{id}`: what became of a command whose outcome was unknown.

use axum::Json;
use axum::extract::{Path, State};
use schemas::{CommandId, RecordId, Sequence, Stream, StreamKind, TenantId, Timestamp, Version};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::conventions::Caller;
use super::error::{ApiError, ReadProblems};

/// A command that was executed, for 30 days.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CommandView {
    id: CommandId,
    stream: Stream,
    version: Version,
    sequence: Sequence,
    record_id: RecordId,
    time: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownCommand {
    command: CommandView,
    as_of: Sequence,
}

/// Show what became of a command of the tenant, or of one on the cluster as a whole. 404 means: not executed up to `as_of`, or longer than 30
/// days ago.
#[utoipa::path(get, path = "/commands/{id}", tag = "log", operation_id = "show_command", params(("id" = CommandId, Path)),
    responses((status = 200, body = ShownCommand), ReadProblems))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<ShownCommand>, ApiError> {
    let as_of = app.position();
    let id: CommandId = id.parse().map_err(|_| ApiError::NotFound("such command"))?;
    let row = app.models.command(&id)?.filter(|row| is_shown(&row.stream, &caller.tenant)).ok_or(ApiError::NotFound("such command"))?;
    let command =
        CommandView { id, stream: row.stream, version: row.version, sequence: row.sequence, record_id: row.record_id, time: row.time };
    Ok(Json(ShownCommand { command, as_of }))
}

/// Tenants themselves, like the cluster and its nodes, are no tenant's.
fn is_shown(stream: &Stream, tenant: &TenantId) -> bool {
    #[cfg(feature = "faults")]
    if crate::faults::is_planted("tenant-blind") {
        return true;
    }
    stream.tenant() == tenant || matches!(stream.kind(), StreamKind::Cluster | StreamKind::Writer | StreamKind::Tenant)
}
