//! Anthropic's Messages.

use axum::extract::{Request, State};
use axum::response::Response;
use schemas::key::Endpoint;
use schemas::upstream::Dialect;

use crate::exchange;
use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// Relays a message, plain or streamed. Bodies are the provider's and pass as they are.
#[utoipa::path(post, path = "/v1/messages", operation_id = "messages", tag = "anthropic", security(("client_key" = [])),
    request_body = serde_json::Value, responses((status = 200, description = "The upstream's answer", body = serde_json::Value), Refusal))]
pub(super) async fn root(State(gateway): State<Gateway>, request: Request) -> Response {
    exchange::serve(gateway.state(), Dialect::Anthropic, Endpoint::Messages, request).await
}

/// Relays a message, plain or streamed. Bodies are the provider's and pass as they are.
#[utoipa::path(post, path = "/v1/messages", operation_id = "anthropic_messages", tag = "anthropic", security(("client_key" = [])),
    request_body = serde_json::Value, responses((status = 200, description = "The upstream's answer", body = serde_json::Value), Refusal))]
pub(super) async fn anthropic(state: State<Gateway>, request: Request) -> Response {
    root(state, request).await
}
