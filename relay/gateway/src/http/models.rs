//! The models a key may use: the union of what its upstreams list, in their order, in the shape of the caller's dialect.

use std::collections::HashSet;

use axum::body::Body;
use axum::extract::{Path, Request, State as Shared};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use http::request::Parts;
use http::{HeaderValue, header};
use schemas::key::Endpoint;
use schemas::upstream::Dialect;
use serde::Serialize;
use serde_json::value::RawValue;
use url::form_urlencoded;

use super::dialect_of;
use crate::admit::admit;
use crate::catalogue::{self, Model};
use crate::choose::Selection;
use crate::exchange::{Arrival, refuse};
use crate::gateway::{Gateway, InFlight, State};
use crate::headers::{self, ANTHROPIC_VERSION, REQUEST_ID};
use crate::meter::short;
use crate::refusal::Refusal;
use crate::staleness::Staleness;
use crate::targets::allows;

/// How many upstreams are asked at once.
const CONCURRENCY: usize = 8;
/// Anthropic's own bounds of a page.
const PAGE_DEFAULT: usize = 20;
const PAGE_MAX: usize = 1000;

/// Lists the models, in Anthropic's shape for a caller that names an `anthropic-version`, else in OpenAI's.
#[utoipa::path(get, path = "/v1/models", operation_id = "list_models", security(("client_key" = [])),
    responses((status = 200, description = "The models the key may use", body = serde_json::Value), Refusal))]
pub(super) async fn list(Shared(gateway): Shared<Gateway>, request: Request) -> Response {
    let dialect = dialect_of(request.headers());
    answer(gateway.state(), dialect, None, request).await
}

/// Describes one model; its id may hold slashes.
#[utoipa::path(get, path = "/v1/models/{*id}", operation_id = "get_model", security(("client_key" = [])),
    params(("id" = String, Path, description = "The model's id, which may hold slashes")),
    responses((status = 200, description = "The model", body = serde_json::Value), Refusal))]
pub(super) async fn one(Shared(gateway): Shared<Gateway>, Path(id): Path<String>, request: Request) -> Response {
    let dialect = dialect_of(request.headers());
    answer(gateway.state(), dialect, Some(id), request).await
}

/// Lists the models in OpenAI's shape.
#[utoipa::path(get, path = "/v1/models", operation_id = "openai_list_models", tag = "openai", security(("client_key" = [])),
    responses((status = 200, description = "The models the key may use", body = serde_json::Value), Refusal))]
pub(super) async fn openai_list(Shared(gateway): Shared<Gateway>, request: Request) -> Response {
    answer(gateway.state(), Dialect::Openai, None, request).await
}

/// Describes one model; its id may hold slashes.
#[utoipa::path(get, path = "/v1/models/{*id}", operation_id = "openai_get_model", tag = "openai", security(("client_key" = [])),
    params(("id" = String, Path, description = "The model's id, which may hold slashes")),
    responses((status = 200, description = "The model", body = serde_json::Value), Refusal))]
pub(super) async fn openai_one(Shared(gateway): Shared<Gateway>, Path(id): Path<String>, request: Request) -> Response {
    answer(gateway.state(), Dialect::Openai, Some(id), request).await
}

/// Lists the models in Anthropic's shape.
#[utoipa::path(get, path = "/v1/models", operation_id = "anthropic_list_models", tag = "anthropic", security(("client_key" = [])),
    responses((status = 200, description = "The models the key may use", body = serde_json::Value), Refusal))]
pub(super) async fn anthropic_list(Shared(gateway): Shared<Gateway>, request: Request) -> Response {
    answer(gateway.state(), Dialect::Anthropic, None, request).await
}

/// Describes one model; its id may hold slashes.
#[utoipa::path(get, path = "/v1/models/{*id}", operation_id = "anthropic_get_model", tag = "anthropic", security(("client_key" = [])),
    params(("id" = String, Path, description = "The model's id, which may hold slashes")),
    responses((status = 200, description = "The model", body = serde_json::Value), Refusal))]
pub(super) async fn anthropic_one(Shared(gateway): Shared<Gateway>, Path(id): Path<String>, request: Request) -> Response {
    answer(gateway.state(), Dialect::Anthropic, Some(id), request).await
}

/// Policies are not asked: a list names what could be asked for, and uses nothing.
async fn answer(state: &State, dialect: Dialect, id: Option<String>, request: Request) -> Response {
    let arrival = Arrival::new(state);
    let _in_flight = InFlight::new(&state.metrics);
    let (parts, _) = request.into_parts();
    let rendered = match models(state, dialect, arrival, &parts).await {
        Ok((models, staleness)) => render(dialect, models, id, parts.uri.query()).map(|json| (json, staleness)),
        Err(refusal) => Err(refusal),
    };
    match rendered {
        Ok((json, staleness)) => {
            let mut response = Response::new(Body::from(json));
            staleness.write(response.headers_mut());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response.headers_mut().insert(REQUEST_ID, headers::text(arrival.request));
            response
        }
        Err(refusal) => refuse(state, dialect, arrival, &refusal),
    }
}

/// The union by id, in the order in which the upstreams would be tried. An upstream that fails is left out unless all do.
async fn models(state: &State, dialect: Dialect, arrival: Arrival, parts: &Parts) -> Result<(Vec<Model>, Staleness), Refusal> {
    let admitted = admit(state, parts, Endpoint::Models, arrival).await?;
    let snapshot = state.targets.snapshot();
    let selection = Selection::new(&snapshot, &state.cooling, &admitted.key, dialect, None, arrival.at);
    let targets = selection.into_order(&state.random);
    if targets.is_empty() {
        return Err(Refusal::NoUpstream);
    }
    let version = parts.headers.get(ANTHROPIC_VERSION);
    let lists = stream::iter(targets).map(|target| async move {
        let listed = catalogue::models(state, &target, version).await;
        (target, listed)
    });
    let mut lists = lists.buffered(CONCURRENCY);
    let (mut union, mut seen, mut any_listed) = (Vec::new(), HashSet::new(), false);
    while let Some((target, listed)) = lists.next().await {
        match listed {
            Ok(models) => {
                any_listed = true;
                let usable = models.into_iter().filter(|model| target.serves(&model.id) && allows(&admitted.key.details.models, &model.id));
                union.extend(usable.filter(|model| seen.insert(model.id.clone())));
            }
            Err(error) => {
                let upstream = &target.route.upstream.details.name;
                tracing::warn!(upstream.name = upstream, error = &error as &dyn std::error::Error, "models could not be listed");
            }
        }
    }
    if any_listed { Ok((union, admitted.staleness)) } else { Err(Refusal::UpstreamFailed) }
}

#[derive(Serialize)]
struct OpenaiList<'a> {
    object: &'static str,
    data: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct AnthropicPage<'a> {
    data: Vec<&'a RawValue>,
    has_more: bool,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
}

fn render(dialect: Dialect, models: Vec<Model>, id: Option<String>, query: Option<&str>) -> Result<Vec<u8>, Refusal> {
    if let Some(id) = id {
        let found = models.into_iter().find(|model| model.id == id).ok_or_else(|| Refusal::ModelUnknown(short(id.clone())))?;
        return Ok(found.description.get().as_bytes().to_vec());
    }
    let encoded = match dialect {
        Dialect::Openai => {
            serde_json::to_vec(&OpenaiList { object: "list", data: models.iter().map(|model| model.description.as_ref()).collect() })
        }
        Dialect::Anthropic => {
            let (page, has_more) = page(&models, query.unwrap_or_default());
            serde_json::to_vec(&AnthropicPage {
                data: page.iter().map(|model| model.description.as_ref()).collect(),
                has_more,
                first_id: page.first().map(|model| model.id.as_str()),
                last_id: page.last().map(|model| model.id.as_str()),
            })
        }
    };
    Ok(encoded.expect("raw JSON and texts; encoding to memory cannot fail"))
}

/// Anthropic's paging: `limit`, `after_id`, `before_id`. An id that is not listed begins at the nearest end.
fn page<'a>(models: &'a [Model], query: &str) -> (&'a [Model], bool) {
    let (mut limit, mut range, mut is_backward) = (PAGE_DEFAULT, 0..models.len(), false);
    let place = |id: &str| models.iter().position(|model| model.id == id);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "limit" => limit = value.parse().unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX),
            "after_id" => range.start = place(&value).map_or(0, |place| place + 1),
            "before_id" => (range.end, is_backward) = (place(&value).unwrap_or(models.len()), true),
            _ => {}
        }
    }
    let all = models.get(range).unwrap_or_default();
    let page = if is_backward { &all[all.len().saturating_sub(limit)..] } else { &all[..all.len().min(limit)] };
    (page, page.len() < all.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn models(ids: &[&str]) -> Vec<Model> {
        let model = |id: &&str| Model {
            id: (*id).to_owned(),
            description: RawValue::from_string(format!("{{\"id\":\"{id}\", \"x\":1}}")).unwrap(),
        };
        ids.iter().map(model).collect()
    }

    fn rendered(dialect: Dialect, id: Option<&str>, query: &str) -> Result<String, Refusal> {
        let json = render(dialect, models(&["a/1", "b", "c"]), id.map(str::to_owned), Some(query))?;
        Ok(String::from_utf8(json).unwrap())
    }

    #[test]
    fn lists_have_the_shape_of_their_dialect() {
        assert_eq!(
            rendered(Dialect::Openai, None, "").unwrap(),
            r#"{"object":"list","data":[{"id":"a/1", "x":1},{"id":"b", "x":1},{"id":"c", "x":1}]}"#
        );
        assert_eq!(
            rendered(Dialect::Anthropic, None, "limit=2").unwrap(),
            r#"{"data":[{"id":"a/1", "x":1},{"id":"b", "x":1}],"has_more":true,"first_id":"a/1","last_id":"b"}"#
        );
        assert_eq!(
            rendered(Dialect::Anthropic, None, "limit=2&after_id=c").unwrap(),
            r#"{"data":[],"has_more":false,"first_id":null,"last_id":null}"#
        );
    }

    #[test]
    fn one_model_is_found_by_an_id_with_slashes() {
        assert_eq!(rendered(Dialect::Openai, Some("a/1"), "").unwrap(), r#"{"id":"a/1", "x":1}"#);
        assert_eq!(rendered(Dialect::Openai, Some("nope"), ""), Err(Refusal::ModelUnknown("nope".into())));
    }

    #[test]
    fn pages_follow_on_each_other() {
        let models = models(&["a", "b", "c", "d", "e"]);
        let ids = |query: &str| {
            let (page, has_more) = page(&models, query);
            (page.iter().map(|model| model.id.as_str()).collect::<String>(), has_more)
        };
        assert_eq!(ids("limit=2"), ("ab".into(), true));
        assert_eq!(ids("limit=2&after_id=b"), ("cd".into(), true));
        assert_eq!(ids("limit=2&after_id=d"), ("e".into(), false));
        assert_eq!(ids("limit=2&before_id=d"), ("bc".into(), true));
        assert_eq!(ids("limit=0"), ("a".into(), true));
        assert_eq!(ids("after_id=d&before_id=b"), (String::new(), false));
        assert_eq!(ids(""), ("abcde".into(), false));
    }
}
