//! The origin itself, which some clients probe at start.

use http::StatusCode;

/// Answers a client that looks whether someone is there.
#[utoipa::path(get, path = "/", operation_id = "probe", responses((status = 200, description = "Someone is there")))]
pub(super) async fn root() -> StatusCode {
    StatusCode::OK
}

/// Answers a client that looks whether someone is there.
#[utoipa::path(get, path = "/", operation_id = "openai_probe", responses((status = 200, description = "Someone is there")))]
pub(super) async fn openai() -> StatusCode {
    StatusCode::OK
}

/// Answers a client that looks whether someone is there.
#[utoipa::path(get, path = "/", operation_id = "anthropic_probe", responses((status = 200, description = "Someone is there")))]
pub(super) async fn anthropic() -> StatusCode {
    StatusCode::OK
}
