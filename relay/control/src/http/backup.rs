//! `/backup`: everything of this node that cannot be worked out again, in one stream.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::runtime::Handle;

use super::app::App;
use super::conventions::Caller;
use super::error::{ApiError, ReadProblems};
use super::outpour;
use crate::backup::source::Taking;

/// Back up the running node, up to its position: log, sealed secrets, policy modules, usage and decisions, for `keyrelay restore`.
#[utoipa::path(get, path = "/backup", tag = "log", operation_id = "backup",
    responses((status = 200, content_type = "application/octet-stream", body = String,
        description = "A backup in its own framing. It ends with a digest over all of it: one that lacks it broke off"), ReadProblems))]
pub(super) async fn backup(State(app): State<App>, _caller: Caller) -> Result<Response, ApiError> {
    // Asked before the answer begins, so that a log that is away is told as such.
    app.log.head().await?;
    let runtime = Handle::current();
    let body = outpour::body("backup", move |out| {
        let (log, models, sources) = (&*app.log, &app.models, &app.backup);
        let taking = Taking { log, models, sources, runtime: &runtime, writer: app.commands.writer(), now: app.now() };
        taking.write(out).map(drop)
    });
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream"), (header::CONTENT_DISPOSITION, "attachment; filename=\"keyrelay.backup\"")];
    Ok((headers, body).into_response())
}
