//! Holds requests off until the node has caught up with the log that it found at start: until then a revoked key might still look good.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

/// What is answered at any time, so that others can see how a start goes.
const ALWAYS: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// A router that answers 503 until `caught_up`.
pub(super) fn until(caught_up: watch::Receiver<bool>, router: Router) -> Router {
    router.layer(from_fn_with_state(caught_up, admit))
}

async fn admit(State(caught_up): State<watch::Receiver<bool>>, request: Request, next: Next) -> Response {
    if *caught_up.borrow() || ALWAYS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let body = r#"{"error":{"message":"the node is catching up with its log","type":"server_error","param":null,"code":"starting"},"code":"starting"}"#;
    let headers = [(header::RETRY_AFTER, "1"), (header::CONTENT_TYPE, "application/json")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response()
}
