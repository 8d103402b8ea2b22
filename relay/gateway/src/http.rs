//! The relay's listener: its routes, and the document made of the same table.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, Method, Uri, header};
use schemas::upstream::Dialect;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::exchange::{Arrival, refuse};
use crate::gateway::Gateway;
use crate::headers::{ANTHROPIC_VERSION, X_API_KEY};
use crate::refusal::Refusal;

mod chat_completions;
mod messages;
mod models;
mod refusals;
mod root;

/// The most of an unknown path that is repeated to the caller.
const PATH_CHARS_SHOWN: usize = 200;

/// The router of the relay's listener.
pub fn router(gateway: Gateway) -> Router {
    let (router, _) = table().split_for_parts();
    router.fallback(unknown_endpoint).method_not_allowed_fallback(wrong_method).with_state(gateway)
}

/// The document of the relay's listener. Needs no running state.
pub fn openapi() -> OpenApi {
    let (_, mut document) = table().split_for_parts();
    document.info = InfoBuilder::new().title("Keyrelay relay").version(env!("CARGO_PKG_VERSION")).build();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A client key of the relay.")).build();
    document.components.get_or_insert_default().add_security_scheme("client_key", SecurityScheme::Http(scheme));
    // A wildcard is the router's business; for a client it is a path parameter that may hold slashes.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

/// Each dialect at the root, where SDKs look for it, and under its name.
fn table() -> OpenApiRouter<Gateway> {
    let openai = OpenApiRouter::new()
        .routes(routes!(root::openai))
        .routes(routes!(chat_completions::openai))
        .routes(routes!(models::openai_list))
        .routes(routes!(models::openai_one));
    let anthropic = OpenApiRouter::new()
        .routes(routes!(root::anthropic))
        .routes(routes!(messages::anthropic))
        .routes(routes!(models::anthropic_list))
        .routes(routes!(models::anthropic_one));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().build())
        .routes(routes!(root::root))
        .routes(routes!(chat_completions::root))
        .routes(routes!(messages::root))
        .routes(routes!(models::list))
        .routes(routes!(models::one))
        .nest("/openai", openai)
        .nest("/anthropic", anthropic)
}

/// Of a path that both dialects have, Anthropic's clients name a version, and show their key in a way that no OpenAI client does.
fn dialect_of(headers: &HeaderMap) -> Dialect {
    let is_anthropic =
        headers.contains_key(ANTHROPIC_VERSION) || (headers.contains_key(X_API_KEY) && !headers.contains_key(header::AUTHORIZATION));
    if is_anthropic { Dialect::Anthropic } else { Dialect::Openai }
}

/// The dialect in which someone who asks for what is not there is answered.
fn dialect_of_unknown(uri: &Uri, headers: &HeaderMap) -> Dialect {
    match uri.path() {
        path if path.starts_with("/anthropic") || path.contains("/messages") => Dialect::Anthropic,
        path if path.starts_with("/openai") || path.contains("/chat/completions") => Dialect::Openai,
        _ => dialect_of(headers),
    }
}

async fn unknown_endpoint(State(gateway): State<Gateway>, request: Request) -> Response {
    let refusal = Refusal::EndpointUnknown(describe(request.method(), request.uri().path()));
    refuse_unknown(&gateway, &request, &refusal)
}

async fn wrong_method(State(gateway): State<Gateway>, request: Request) -> Response {
    refuse_unknown(&gateway, &request, &Refusal::MethodNotAllowed)
}

fn refuse_unknown(gateway: &Gateway, request: &Request, refusal: &Refusal) -> Response {
    let dialect = dialect_of_unknown(request.uri(), request.headers());
    refuse(gateway.state(), dialect, Arrival::new(gateway.state()), refusal)
}

/// The path, without its query, and what is probably wrong with it.
fn describe(method: &Method, path: &str) -> String {
    let shown: String = path.chars().take(PATH_CHARS_SHOWN).collect();
    let hint = if path.contains("/v1/v1") {
        "; the client adds `/v1` itself, so leave it out of the base URL"
    } else if path.len() > 1 && path.ends_with('/') {
        "; leave out the slash at the end"
    } else {
        ""
    };
    format!("{method} {shown}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_an_id_of_its_own_and_a_refusal() {
        let document = openapi();
        let json = serde_json::to_value(&document).unwrap_or_default();
        let mut ids = Vec::new();
        for (path, item) in json["paths"].as_object().into_iter().flatten() {
            assert!(!path.contains('*'), "{path}");
            for operation in item.as_object().into_iter().flatten().map(|(_, operation)| operation) {
                ids.push(operation["operationId"].to_string());
                if path.contains("/v1/") {
                    assert!(operation["responses"]["401"].is_object(), "{path}");
                }
            }
        }
        assert_eq!(ids.len(), 13, "{ids:?}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 13, "{ids:?}");
    }

    #[test]
    fn the_dialect_is_told_from_path_and_headers() {
        let headers = |names: &[&'static str]| -> HeaderMap {
            names.iter().map(|name| (http::HeaderName::from_static(name), http::HeaderValue::from_static("x"))).collect()
        };
        assert_eq!(dialect_of(&headers(&["authorization"])), Dialect::Openai);
        assert_eq!(dialect_of(&headers(&["authorization", "anthropic-version"])), Dialect::Anthropic);
        assert_eq!(dialect_of(&headers(&["x-api-key"])), Dialect::Anthropic);
        for (path, expected) in [
            ("/v1/v1/messages", Dialect::Anthropic),
            ("/anthropic/v2", Dialect::Anthropic),
            ("/v1/chat/completions/", Dialect::Openai),
            ("/v1/v1/models", Dialect::Openai),
        ] {
            assert_eq!(dialect_of_unknown(&Uri::from_static(path), &HeaderMap::new()), expected, "{path}");
        }
    }
}
