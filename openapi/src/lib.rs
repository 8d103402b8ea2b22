//! One OpenAPI 3.1 document for both listeners, put together from the route tables themselves.
//!
//! The committed `openapi.json` beside this crate is what clients are generated from; `openapi check` fails on any difference.

use std::path::PathBuf;

/// The document of the admin and the relay listener.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = control::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.merge(gateway::openapi());
    document
}

/// The document's text, as it is committed: pretty JSON and a final line feed.
pub fn document_text() -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(&document())? + "\n")
}

/// Where the committed document stands.
pub fn committed_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("openapi.json")
}
