//! OpenAI's Chat Completions.

use axum::extract::{Request, State};
use axum::response::Response;
use schemas::key::Endpoint;
use schemas::upstream::Dialect;

use crate::exchange;
use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// Relays a chat completion, plain or streamed. Bodies are the provider's and pass as they are.
#[utoipa::path(post, path = "/v1/chat/completions", operation_id = "chat_completions", tag = "openai", security(("client_key" = [])),
    request_body = serde_json::Value, responses((status = 200, description = "The upstream's answer", body = serde_json::Value), Refusal))]
pub(super) async fn root(State(gateway): State<Gateway>, request: Request) -> Response {
    exchange::serve(gateway.state(), Dialect::Openai, Endpoint::ChatCompletions, request).await
}

/// Relays a chat completion, plain or streamed. Bodies are the provider's and pass as they are.
#[utoipa::path(post, path = "/v1/chat/completions", operation_id = "openai_chat_completions", tag = "openai", security(("client_key" = [])),
    request_body = serde_json::Value, responses((status = 200, description = "The upstream's answer", body = serde_json::Value), Refusal))]
pub(super) async fn openai(state: State<Gateway>, request: Request) -> Response {
    root(state, request).await
}
