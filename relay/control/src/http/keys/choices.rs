//! What of a key's choices needs more than a copy from body to command: metadata and a dedicated upstream.

use policy_host::canonical_json;
use schemas::key::{Dedicated, METADATA_EMPTY};
use schemas::{KeyId, Stream, TenantId, UpstreamId};
use serde_json::{Map, Value};

use super::load;
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::upstreams;

/// Metadata in its one spelling.
pub(super) fn metadata(metadata: Option<&Map<String, Value>>) -> String {
    metadata.map_or_else(|| METADATA_EMPTY.to_owned(), |map| canonical_json(&Value::Object(map.clone())))
}

/// Metadata as an answer shows it.
pub(super) fn shown_metadata(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The upstream that a body dedicates the key to.
pub(super) fn dedicated(app: &App, tenant: &TenantId, upstream: Option<&str>, fallback: bool) -> Result<Option<Dedicated>, ApiError> {
    match upstream {
        Some(text) => Ok(Some(Dedicated { upstream: upstreams::named(app, tenant, text)?, fallback })),
        None if fallback => Err(ApiError::BadRequest("upstream_fallback is about an upstream; give one".to_owned())),
        None => Ok(None),
    }
}

/// The same for a change, in which either member may be absent.
pub(super) fn changed(
    app: &App,
    stream: &Stream,
    upstream: Option<Option<&str>>,
    fallback: Option<bool>,
) -> Result<Option<Option<Dedicated>>, ApiError> {
    match (upstream, fallback) {
        (None, None) => Ok(None),
        (Some(upstream), fallback) => dedicated(app, stream.tenant(), upstream, fallback.unwrap_or_default()).map(Some),
        (None, Some(fallback)) => match load(app, stream.tenant(), KeyId::from_bytes(*stream.id()))?.value.dedicated {
            Some(dedicated) => Ok(Some(Some(Dedicated { fallback, ..dedicated }))),
            None => Err(ApiError::BadRequest("upstream_fallback is about an upstream, and the key is dedicated to none".to_owned())),
        },
    }
}

/// How an answer names an upstream: by its name where that is unambiguous, else by its id.
pub(super) fn upstream_text(app: &App, tenant: &TenantId, id: UpstreamId) -> String {
    let routes = app.models.routes();
    let of_tenant = || routes.upstreams.iter().map(|route| &route.upstream).filter(|upstream| upstream.tenant == *tenant);
    match of_tenant().find(|upstream| upstream.id == id) {
        Some(found) if of_tenant().filter(|other| other.details.name == found.details.name).count() == 1 => found.details.name.clone(),
        _ => id.to_string(),
    }
}
