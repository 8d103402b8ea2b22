//! Liveness, readiness, metrics and the document itself. No token: the admin listener is loopback by default, and nothing here is secret.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use projector::State as ProjectorState;
use schemas::{Sequence, WriterId};
use serde::Serialize;
use utoipa::ToSchema;

use super::app::App;
use super::error::ApiError;
use crate::health::{Degradation, NodeHealth, Signs, Standing, Trust, UpstreamHealth};
use crate::metrics::{RotationLabels, UpstreamLabels};
use crate::policies::PolicyHealth;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Live {
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
    /// Something is wrong, though the node may serve; `reasons` says what.
    degraded: bool,
    #[schema(inline)]
    reasons: Vec<Degradation>,
    node: WriterId,
    /// The last sequence that the read models have, and how many of the log's they have not.
    position: Sequence,
    lag: u64,
    /// `rebuilding`, `following`, `waiting` (the log cannot be reached) or `stopped`.
    read_models: &'static str,
    /// Why the read models wait or stopped, if they do.
    reason: Option<String>,
    /// How durable an append is: `embedded` means that this process syncs its own log.
    sync: &'static str,
    /// How long ago the read models were last known to be level with the log, null if never, and from when on the node refuses to serve.
    stale_seconds: Option<u64>,
    staleness_max_seconds: u64,
    #[serde(flatten)]
    health: NodeHealth,
    policies: PolicyHealth,
    upstreams: UpstreamHealth,
}

/// The process answers.
#[utoipa::path(get, path = "/livez", tag = "health", operation_id = "livez", security(()), responses((status = 200, body = Live)))]
pub(super) async fn livez() -> Json<Live> {
    Json(Live { status: "ok" })
}

/// The node serves: it has caught up with the log as far as it can, what it knows is not too old, and it is not stopping. A node whose log is
/// away serves on inside the staleness bound, `degraded`.
#[utoipa::path(get, path = "/readyz", tag = "health", operation_id = "readyz", security(()),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(super) async fn readyz(State(app): State<App>) -> (StatusCode, Json<Readiness>) {
    let status = app.models.status();
    let (read_models, reason) = match &status.state {
        ProjectorState::Rebuilding => ("rebuilding", None),
        ProjectorState::Following => ("following", None),
        ProjectorState::Waiting { reason } => ("waiting", Some(reason.to_string())),
        ProjectorState::Stopped { reason, .. } => ("stopped", Some(reason.to_string())),
    };
    let (health, staleness, staleness_max) = ((app.health)(), app.staleness(), app.staleness_max);
    let (is_serving, sync, policies) = (*app.ready.borrow(), app.log.sync(), app.modules.health().borrow().clone());
    let usage_follows = app.usage.status().following;
    let upstreams = UpstreamHealth::of(&app.models.routes(), app.now());
    let signs = Signs {
        is_serving,
        read_models: &status.state,
        staleness,
        staleness_max,
        sync,
        health: &health,
        policies: &policies,
        usage_follows,
        upstreams: &upstreams,
    };
    let Standing { is_ready: ready, degradations: reasons } = Standing::judge(&signs);
    let body = Readiness {
        ready,
        degraded: !reasons.is_empty(),
        reasons,
        node: app.node(),
        position: status.position.sequence,
        lag: status.lag,
        read_models,
        reason,
        sync: sync.as_str(),
        stale_seconds: (staleness != Duration::MAX).then_some(staleness.as_secs()),
        staleness_max_seconds: staleness_max.as_secs(),
        health,
        policies,
        upstreams,
    };
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

/// Metrics in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "health", operation_id = "metrics", security(()),
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(app): State<App>) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    let status = app.models.status();
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    app.metrics.position.set(gauge(status.position.sequence.0));
    app.metrics.lag.set(gauge(status.lag));
    app.metrics.voids.set(gauge(status.counts.void));
    app.metrics.stale_seconds.set(gauge(app.staleness().as_secs()));
    app.metrics.nodes_live.set(gauge(app.coordination.nodes().borrow().iter().filter(|entry| entry.live).count() as u64));
    let NodeHealth { log, spool, key_store } = (app.health)();
    app.metrics.log_connected.set(log.connected.into());
    app.metrics.log_trusted.set((log.trust == Trust::Trusted).into());
    app.metrics.key_store_level.set(key_store.is_none_or(|store| store.level).into());
    app.metrics.spool_batches.set(gauge(spool.map_or(0, |spool| spool.batches)));
    app.metrics.spool_bytes.set(gauge(spool.map_or(0, |spool| spool.bytes)));
    let policies = app.modules.health().borrow().clone();
    app.metrics.policy_bindings.set(gauge(policies.bindings as u64));
    app.metrics.policies_loaded.set(gauge(policies.loaded as u64));
    app.metrics.policies_missing.set(gauge(policies.missing.len() as u64));
    write_credentials(&app);
    let upstreams = UpstreamHealth::of(&app.models.routes(), app.now());
    app.metrics.upstreams_usable.set(gauge(upstreams.usable as u64));
    app.metrics.logins_required.set(gauge(upstreams.logins_required as u64));
    let mut text = String::new();
    // Writing to a string fails only if a metric's own formatting does, which none here can.
    prometheus_client::encoding::text::encode(&mut text, &app.registry).expect("every metric formats itself to a string");
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

/// The OpenAPI document of both listeners.
#[utoipa::path(get, path = "/openapi.json", tag = "health", operation_id = "openapi", security(()), responses((status = 200, body = Object)))]
pub(super) async fn openapi(State(app): State<App>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi_json.to_string())
}

/// Age, rotation and use of the previous secret, for the credential of each upstream.
fn write_credentials(app: &App) {
    let (metrics, now) = (&app.metrics.credentials, app.now().as_seconds());
    metrics.clear();
    let routes = app.models.routes();
    for route in &routes.upstreams {
        let Some(credential) = &route.credential else { continue };
        let since = credential.changed_at.as_seconds();
        let open = credential.open_rotation();
        let (tenant, upstream) = (route.upstream.tenant.to_string(), route.upstream.id.to_string());
        let idle = if credential.provider_side.order.is_some() { "ordered" } else { "idle" };
        let status = open.map_or(idle, |rotation| rotation.step.as_str());
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.rotation.get_or_create(&RotationLabels { tenant: tenant.clone(), upstream: upstream.clone(), status }).set(1);
        let labels = UpstreamLabels { tenant, upstream };
        metrics.age_seconds.get_or_create(&labels).set(gauge(now.saturating_sub(since)));
        if let Some(schedule) = app.rotations.schedule_of(&routes, route) {
            let due = schedule.due_at(credential).as_seconds();
            metrics.overdue_seconds.get_or_create(&labels).set(gauge(now).saturating_sub(gauge(due)));
        }
        if let Some(rotation) = open {
            metrics.previous_uses.get_or_create(&labels).set(gauge(rotation.fallback.uses));
        }
    }
}
