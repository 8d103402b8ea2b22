//! Which tenant a request acts in: the one that its header `Keyrelay-Tenant` names, `default` without one.
//!
//! What belongs to a tenant is looked up by tenant and id, so that a request never meets what is another's. What is about the cluster as a
//! whole is the owner's, whatever tenant a request names; so is the log, which is one for all.

use axum::extract::MatchedPath;
use axum::http::request::Parts;
use schemas::TenantId;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{OpenApi, PathItem, RefOr, Required};

use super::app::App;
use super::error::ApiError;

/// The header that names the tenant.
const HEADER: &str = "Keyrelay-Tenant";
const API: &str = "/api/v1/";
/// Whatever lies below these is about the cluster as a whole.
const CLUSTER_WIDE: [&str; 10] = [
    "/api/v1/audit",
    "/api/v1/backup",
    "/api/v1/export",
    "/api/v1/import",
    "/api/v1/leaks",
    "/api/v1/log",
    "/api/v1/nodes",
    "/api/v1/notices",
    "/api/v1/root-key",
    "/api/v1/tenants",
];

/// The tenant that a request acts in. It need not be there where the route is about the cluster as a whole.
pub(super) fn tenant(parts: &Parts, app: &App) -> Result<TenantId, ApiError> {
    let mut named = parts.headers.get_all(HEADER).iter();
    let is_cluster_wide = parts.extensions.get::<MatchedPath>().is_some_and(|path| is_cluster_wide(path.as_str()));
    let (Some(name), false) = (named.next(), is_cluster_wide) else { return Ok(TenantId::default_tenant()) };
    if named.next().is_some() {
        return Err(ApiError::BadRequest(format!("{HEADER} is given twice")));
    }
    let tenant = name.to_str().ok().and_then(|text| text.parse::<TenantId>().ok());
    // The tenant that every cluster has needs no look-up.
    let is_there = |tenant: &TenantId| *tenant == TenantId::default_tenant() || app.models.routes().tenant(tenant).is_some();
    tenant.filter(is_there).ok_or_else(|| ApiError::TenantNotFound(String::from_utf8_lossy(name.as_bytes()).into_owned()))
}

fn is_cluster_wide(path: &str) -> bool {
    CLUSTER_WIDE.iter().any(|prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Tells of the header at every operation that acts in a tenant.
pub(super) fn describe(document: &mut OpenApi) {
    let scoped = document.paths.paths.iter_mut().filter(|(path, _)| path.starts_with(API) && !is_cluster_wide(path));
    for operation in scoped.flat_map(|(_, item)| operations(item)) {
        operation.parameters.get_or_insert_default().push(RefOr::T(parameter()));
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn parameter() -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z0-9-]{1,32}$"));
    ParameterBuilder::new()
        .name(HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("The tenant that the request acts in; `default` if not given"))
        .schema(Some(text))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_cluster_wide_path_is_and_what_only_begins_like_one_is_not() {
        for path in [
            "/api/v1/log",
            "/api/v1/log/rebuild",
            "/api/v1/nodes/{id}",
            "/api/v1/tenants/{id}/suspend",
            "/api/v1/audit/export",
            "/api/v1/backup",
            "/api/v1/root-key/change",
        ] {
            assert!(is_cluster_wide(path), "{path}");
        }
        for path in ["/api/v1/logins", "/api/v1/keys/{id}", "/api/v1/events", "/livez"] {
            assert!(!is_cluster_wide(path), "{path}");
        }
    }
}
