//! Holds requests off until the node has caught up with the log that it found at start: until then a revoked key might still look good.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

/// What is answered at any time, so that others can see how a start goes.
const ALWAYS: [&str; 3] = ["/livez", "/readyz", "/metrics"];
const MESSAGE: &str = "the node is catching up with its log";

/// Whom a listener speaks to, which decides what a refusal looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Face {
    Relay,
    Admin,
}

/// A router that answers 503 until `caught_up`.
pub(super) fn until(caught_up: watch::Receiver<bool>, face: Face, router: Router) -> Router {
    router.layer(from_fn_with_state((caught_up, face), admit))
}

async fn admit(State((caught_up, face)): State<(watch::Receiver<bool>, Face)>, request: Request, next: Next) -> Response {
    let is_open = *caught_up.borrow() || (matches!(face, Face::Admin) && ALWAYS.contains(&request.uri().path()));
    if is_open { next.run(request).await } else { refusal(face, request.uri().path(), request.headers()) }
}

/// The refusal in the caller's dialect, as clients of the SDKs and of the REST API read it.
fn refusal(face: Face, path: &str, headers: &HeaderMap) -> Response {
    let is_anthropic = path.starts_with("/anthropic/") || path.contains("/messages") || headers.contains_key("anthropic-version");
    let (content_type, body) = match face {
        Face::Admin => (
            "application/problem+json",
            serde_json::json!({
                "type": "about:blank", "title": "Service Unavailable", "status": 503, "code": "starting", "detail": MESSAGE,
            }),
        ),
        Face::Relay if is_anthropic => {
            ("application/json", serde_json::json!({ "type": "error", "error": { "type": "api_error", "message": MESSAGE } }))
        }
        Face::Relay => (
            "application/json",
            serde_json::json!({ "error": { "message": MESSAGE, "type": "server_error", "param": null, "code": "starting" } }),
        ),
    };
    let headers = [(header::RETRY_AFTER.as_str(), "1"), (header::CONTENT_TYPE.as_str(), content_type), ("x-keyrelay-reason", "starting")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, body.to_string()).into_response()
}
