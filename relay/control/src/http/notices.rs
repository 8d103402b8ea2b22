//! `/notices`: the channels of the settings, what was sent to them, and a test of one. Addresses and secrets are not shown.

use axum::Json;
use axum::extract::{Path, State};
use schemas::TenantId;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::conventions::Caller;
use super::error::{ApiError, ReadProblems};
use crate::notices::{ChannelState, Delivery, Form, Kind};

/// A channel as the answering node has it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChannelView {
    name: String,
    #[schema(inline)]
    form: Form,
    /// What is told there; empty means all kinds.
    kinds: Vec<Kind>,
    /// Whose notices are told there; empty means those of all tenants.
    #[schema(value_type = Vec<String>)]
    tenants: Vec<TenantId>,
    /// The last attempts of the answering node since it started, newest first, at most 50. One node of the cluster sends; ask that one.
    recent: Vec<Delivery>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NoticesView {
    channels: Vec<ChannelView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NoticeTest {
    delivery: Delivery,
}

/// List the channels for notices, and what the answering node sent to them.
#[utoipa::path(get, path = "/notices", tag = "notices", operation_id = "list_notices",
    responses((status = 200, body = NoticesView), ReadProblems))]
pub(super) async fn list(State(app): State<App>, _caller: Caller) -> Json<NoticesView> {
    Json(NoticesView { channels: app.notifier.channels().iter().map(view).collect() })
}

/// Send a notice of the kind `test` to a channel, whatever kinds it takes, and tell what came of it.
#[utoipa::path(post, path = "/notices/channels/{name}/test", tag = "notices", operation_id = "test_notices",
    params(("name" = String, Path, description = "The channel's name in the settings")),
    responses((status = 200, body = NoticeTest), ReadProblems))]
pub(super) async fn test(State(app): State<App>, _caller: Caller, Path(name): Path<String>) -> Result<Json<NoticeTest>, ApiError> {
    let delivery = app.notifier.test(&name).await.ok_or(ApiError::NotFound("such channel"))?;
    Ok(Json(NoticeTest { delivery }))
}

fn view(state: &ChannelState) -> ChannelView {
    let channel = &state.channel;
    ChannelView {
        name: channel.name.clone(),
        form: channel.form,
        kinds: channel.kinds.iter().copied().collect(),
        tenants: channel.tenants.iter().cloned().collect(),
        recent: state.recent(),
    }
}
