//! `/log/rebuild`: the read models of the answering node, folded anew from the log beside those in use.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use projector::Verdicts;
use schemas::{Digest, Sequence, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::App;
use super::conventions::{Caller, Mutation};
use super::error::{ApiError, MutationProblems, ReadProblems};
use crate::rebuilds::{Phase, Rebuild};

/// How the read models are rebuilt.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRebuild {
    /// Judge every record anew, signature and all, instead of repeating the verdicts that are known with the log's root. It takes many times
    /// as long, and the rows are the same.
    #[serde(default)]
    judge: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RebuildState {
    /// There was none since the node started.
    None,
    Running,
    /// The rebuilt models are in use.
    Done,
    /// The models in use before were kept; `reason` says why.
    Failed,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum VerdictsView {
    /// Repeated from the models in use, under the same root.
    Known,
    /// Reached anew; also where known ones were found not to be about this log.
    Judged,
}

/// The last rebuild since the node started. What there is none of is null.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RebuildView {
    #[schema(inline)]
    state: RebuildState,
    #[schema(inline)]
    verdicts: Option<VerdictsView>,
    /// The last record that the rebuilt models have, and the one they go to.
    position: Sequence,
    goal: Sequence,
    /// The root at the position when the rebuilt models took over, where both had the same.
    root: Option<Digest>,
    reason: Option<String>,
    started_at: Option<Timestamp>,
    elapsed_ms: u64,
}

/// Rebuild the read models of the answering node from the log's first record on, beside those in use, which are served until the new ones are
/// put in their place whole. Where both differ in their root the old ones are kept. The answer is the beginning: ask for the rest with GET.
/// One at a time: while one runs, another is refused (`rebuild_running`).
#[utoipa::path(post, path = "/log/rebuild", tag = "log", operation_id = "rebuild", request_body = NewRebuild,
    responses((status = 202, body = RebuildView), MutationProblems))]
pub(super) async fn start(State(app): State<App>, mutation: Mutation<NewRebuild>) -> Result<(StatusCode, Json<RebuildView>), ApiError> {
    let verdicts = if mutation.body.judge { Verdicts::Judged } else { Verdicts::Known };
    let started = app.rebuilds.start(verdicts, app.position()).ok_or(ApiError::RebuildRunning)?;
    Ok((StatusCode::ACCEPTED, Json(view(Some(started)))))
}

/// Show how the last rebuild of the answering node goes, or went.
#[utoipa::path(get, path = "/log/rebuild", tag = "log", operation_id = "show_rebuild",
    responses((status = 200, body = RebuildView), ReadProblems))]
pub(super) async fn show(State(app): State<App>, _caller: Caller) -> Json<RebuildView> {
    Json(view(app.rebuilds.last()))
}

fn view(rebuild: Option<Rebuild>) -> RebuildView {
    let Some(rebuild) = rebuild else {
        return RebuildView {
            state: RebuildState::None,
            verdicts: None,
            position: Sequence::ZERO,
            goal: Sequence::ZERO,
            root: None,
            reason: None,
            started_at: None,
            elapsed_ms: 0,
        };
    };
    let elapsed_ms = u64::try_from(rebuild.elapsed().as_millis()).unwrap_or(u64::MAX);
    let verdicts = match rebuild.verdicts {
        Verdicts::Known => VerdictsView::Known,
        Verdicts::Judged => VerdictsView::Judged,
    };
    let (state, root, reason) = match rebuild.phase {
        Phase::Running => (RebuildState::Running, None, None),
        Phase::Switched { root } => (RebuildState::Done, Some(root), None),
        Phase::Failed { reason } => (RebuildState::Failed, None, Some(reason)),
    };
    let (position, goal, started_at) = (rebuild.position, rebuild.goal, Some(rebuild.started_at));
    RebuildView { state, verdicts: Some(verdicts), position, goal, root, reason, started_at, elapsed_ms }
}
