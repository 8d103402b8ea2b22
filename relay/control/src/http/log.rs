//! `/log`: where the log stands.

use axum::Json;
use axum::extract::State;
use event_log::ReadError;
use schemas::{ClusterId, Digest, Sequence, WriterId};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::conventions::Caller;
use super::error::{ApiError, ReadProblems};

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogView {
    cluster: ClusterId,
    /// The node that answers, and signs what it writes under this id.
    node: WriterId,
    /// The last record of the log; while it is away, the last that this node heard of.
    head: Sequence,
    /// The last record that this node has applied, and the RFC 6962 root of the log's Merkle tree there.
    position: Sequence,
    root: Digest,
    /// Void records up to the position.
    void: u64,
    /// How durable an append is.
    sync: &'static str,
}

/// Show the log's head and root.
#[utoipa::path(get, path = "/log", tag = "log", operation_id = "show_log", responses((status = 200, body = LogView), ReadProblems))]
pub(super) async fn show(State(app): State<App>, _caller: Caller) -> Result<Json<LogView>, ApiError> {
    let status = app.models.status();
    let head = match app.log.head().await {
        // Where the log is away, the head is the last that was heard of.
        Err(ReadError::Unavailable { .. }) => status.head.max(status.position.sequence),
        head => head?,
    };
    Ok(Json(LogView {
        cluster: app.cluster_id,
        node: app.node(),
        head,
        position: status.position.sequence,
        root: status.position.root,
        void: status.counts.void,
        sync: app.log.sync().as_str(),
    }))
}
