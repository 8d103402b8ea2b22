//! The REST API of the admin listener: one file per resource, one table of routes, one document.

mod app;
mod audit;
mod backup;
mod bindings;
mod commands;
mod conventions;
mod decisions;
mod error;
mod events;
mod export;
mod grants;
mod health;
mod import;
mod keys;
mod leaks;
mod log;
mod logins;
mod nodes;
mod notices;
mod outpour;
mod policies;
mod pools;
mod prices;
mod rebuild;
mod root_key;
mod scope;
mod tenants;
mod upstreams;
mod usage;

use axum::Router;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use app::{App, AppParts, Probe, ProbeOutcome, ProbeSecret, Stop};
pub(crate) use conventions::named_pool;
pub(crate) use error::{ApiError, rejection_code};
pub(crate) use keys::{FREE_TEXT_LENGTH_MAX, brought};
pub(crate) use nodes::enrolled as enrolled_nodes;
pub(crate) use upstreams::{canonical_base_url, secret_address};

/// What the document says about the API as a whole.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Keyrelay",
        description = "A relay for LLM APIs in which every credential decision is on the record. This document covers both \
                       listeners: `/api/v1` and the health routes stand on the admin listener, the dialects' routes on the relay listener. \
                       While the log is away, reads go on from what the node knows: an answer that may be ten seconds old or older has the \
                       header `x-keyrelay-stale-seconds`. Writes are answered 503 with `Retry-After` then, within 16 seconds.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(error::Problem)),
    modifiers(&OwnerToken),
    security(("owner_token" = [])),
    tags(
        (name = "keys", description = "Client keys: what clients show the relay."),
        (name = "tenants", description = "Whom keys, upstreams, pools, policies and bindings belong to. Every request about these acts in one tenant, \
                                          named by the header `Keyrelay-Tenant`."),
        (name = "upstreams", description = "Accounts at providers, with their sealed credentials."),
        (name = "logins", description = "Accounts that are opened by a login at their provider: started here, agreed to in a browser anywhere, confirmed here. \
                                         Session cookies of a provider's web site are not taken as credentials."),
        (name = "pools", description = "Groups of upstreams."),
        (name = "policies", description = "WebAssembly modules that decide on requests, where they apply, and what they decided."),
        (name = "usage", description = "What was used, by whom."),
        (name = "log", description = "The event log: every credential decision."),
        (name = "data", description = "Export and import of everything but the log."),
        (name = "nodes", description = "The nodes of the cluster: who is there, how one leaves, and the root key that they share."),
        (name = "notices", description = "What an operator hears of without asking: the channels of the settings, and what was sent to them."),
        (name = "health", description = "Liveness, readiness, metrics."),
    ),
)]
struct Document;

/// The one way to authenticate: `Authorization: Bearer` with the owner token.
struct OwnerToken;

impl utoipa::Modify for OwnerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("owner_token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

fn routes() -> OpenApiRouter<App> {
    let api = OpenApiRouter::new()
        .routes(routes!(keys::create, keys::listing::list))
        .routes(routes!(keys::batch::run))
        .routes(routes!(keys::show, keys::update))
        .routes(routes!(keys::renew))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::disable))
        .routes(routes!(keys::enable))
        .routes(routes!(keys::revoke))
        .routes(routes!(keys::life::finish_rotation))
        .routes(routes!(keys::rotation::collect))
        .routes(routes!(keys::life::archive))
        .routes(routes!(keys::life::restore))
        .routes(routes!(keys::life::purge))
        .routes(routes!(keys::usage))
        .routes(routes!(leaks::report))
        .routes(routes!(tenants::create, tenants::list))
        .routes(routes!(tenants::show, tenants::update))
        .routes(routes!(tenants::suspend))
        .routes(routes!(tenants::resume))
        .routes(routes!(upstreams::add, upstreams::list))
        .routes(routes!(upstreams::show, upstreams::update, upstreams::remove))
        .routes(routes!(upstreams::disable))
        .routes(routes!(upstreams::enable))
        .routes(routes!(upstreams::test))
        .routes(routes!(upstreams::tests))
        .routes(routes!(upstreams::rotations::rotate, upstreams::rotations::list))
        .routes(routes!(upstreams::rotations::show))
        .routes(routes!(upstreams::rotations::advance))
        .routes(routes!(upstreams::rotations::abort))
        .routes(routes!(upstreams::rotations::roll_back))
        .routes(routes!(logins::start))
        .routes(routes!(logins::renew))
        .routes(routes!(logins::show, logins::cancel))
        .routes(routes!(logins::callback))
        .routes(routes!(logins::confirm))
        .routes(routes!(logins::providers))
        .routes(routes!(pools::create, pools::list))
        .routes(routes!(pools::show, pools::update, pools::remove))
        .routes(routes!(policies::upload, policies::list))
        .routes(routes!(policies::show))
        .routes(routes!(policies::module))
        .routes(routes!(bindings::create, bindings::list))
        .routes(routes!(bindings::show, bindings::update, bindings::remove))
        .routes(routes!(bindings::roll_back))
        .routes(routes!(prices::show, prices::set))
        .routes(routes!(prices::list))
        .routes(routes!(usage::usage))
        .routes(routes!(usage::request))
        .routes(routes!(decisions::list))
        .routes(routes!(decisions::export))
        .routes(routes!(log::show))
        .routes(routes!(rebuild::start, rebuild::show))
        .routes(routes!(audit::export))
        .routes(routes!(backup::backup))
        .routes(routes!(export::export))
        .routes(routes!(import::import))
        .routes(routes!(events::list))
        .routes(routes!(commands::show))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::retire))
        .routes(routes!(nodes::leave))
        .routes(routes!(notices::list))
        .routes(routes!(notices::test))
        .routes(routes!(root_key::show))
        .routes(routes!(root_key::announce))
        .routes(routes!(root_key::withdraw))
        .routes(routes!(root_key::backed_up))
        .routes(routes!(root_key::forecast))
        .routes(routes!(root_key::change))
        .routes(routes!(root_key::destroy));
    OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/v1", api)
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(health::openapi))
}

/// The OpenAPI document of these routes; it needs no running state.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    scope::describe(&mut document);
    document
}

/// The routes over a running node.
pub fn router(app: App) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .fallback(conventions::not_found)
        .method_not_allowed_fallback(conventions::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(app.clone(), conventions::wait_for))
        .layer(axum::middleware::from_fn_with_state(app.clone(), conventions::tell_staleness))
        .with_state(app)
}
