//! One OpenAPI 3.1 document for both listeners, put together from the route tables themselves.
//!
//! The committed `openapi.json` beside this crate is what clients are generated from; `openapi check` fails on any difference.

use std::path::PathBuf;

use utoipa::openapi::RefOr;

/// The document of the admin and the relay listener.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = control::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.merge(gateway::openapi());
    describe_responses(&mut document);
    document
}

/// A response must have a description (OpenAPI 3.1, section 4.8.17); where a route gives none, it is the status's own phrase.
fn describe_responses(document: &mut utoipa::openapi::OpenApi) {
    for path in document.paths.paths.values_mut() {
        let operations = [
            &mut path.get,
            &mut path.put,
            &mut path.post,
            &mut path.delete,
            &mut path.options,
            &mut path.head,
            &mut path.patch,
            &mut path.trace,
        ];
        for operation in operations.into_iter().flatten() {
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    let phrase = status.parse().ok().and_then(|code: http::StatusCode| code.canonical_reason());
                    response.description = phrase.unwrap_or("Response").to_owned();
                }
            }
        }
    }
}

/// The document's text, as it is committed: pretty JSON and a final line feed.
pub fn document_text() -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(&document())? + "\n")
}

/// Where the committed document stands.
pub fn committed_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("openapi.json")
}
