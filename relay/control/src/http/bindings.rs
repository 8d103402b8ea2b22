//! `/bindings`: where a policy applies, and how much of what it says counts.
//!
//! Settings are asked of the module itself before a record names them, so that a policy never meets settings which it refused.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use policy_host::{ConfigureError, canonical_json};
use projector::Versioned;
use schemas::binding::{Binding, BindingCommand, BindingCreated, BindingPatch, Bound, Mode, OnFault, SETTINGS_BYTES_MAX, Scope};
use schemas::policy::{Policy, PolicyKind};
use schemas::{Aggregate, BindingId, Command, Digest, KeyId, Sequence, Stream, TenantId, Timestamp, Version};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::app::App;
use super::conventions::{Caller, Fenced, Mutation, Nothing, Page, Params, named_pool, pool_text};
use super::error::{ApiError, MutationProblems, ReadProblems};
use super::policies;
use crate::Receipt;
use crate::fence::{Applied, Fence};
use crate::policies::{ModuleError, ModuleKey};

/// How long a request waits for a module that this node has not loaded yet. The loading goes on behind it.
const LOAD_WAIT: Duration = Duration::from_secs(10);
/// How long an answer waits until this node applies the binding.
const EFFECT_WAIT: Duration = Duration::from_secs(2);

/// The requests that a binding is for: exactly one member.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScopeText {
    /// All of the tenant.
    Tenant(String),
    /// Those that may go to the pool's upstreams, by the pool's id or name. What the policy decides holds for that pool alone.
    Pool(String),
    /// Those of one key, by its id.
    Key(String),
}

/// How much of what a policy says counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModeText {
    Enforce,
    /// For `canary_percent` of the keys, chosen by a hash of the key; for the others what was enforced before, if anything.
    Canary,
    /// Evaluated and recorded; nothing it says counts.
    Shadow,
    /// Not evaluated.
    Off,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBinding {
    /// The policy's digest, or a unique beginning of it.
    policy: String,
    scope: ScopeText,
    #[serde(default = "enforce")]
    #[schema(default = "enforce")]
    mode: ModeText,
    /// With the mode `canary`, and only then.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 99)]
    canary_percent: Option<u8>,
    /// What a fault of the policy counts as. Absent: `deny` for an expiry policy, `baseline` for others.
    #[serde(default)]
    on_fault: Option<OnFault>,
    /// As the policy's manifest describes them. Absent: none.
    #[serde(default = "no_settings")]
    #[schema(value_type = Object)]
    settings: Value,
}

const fn enforce() -> ModeText {
    ModeText::Enforce
}

fn no_settings() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A change; a member that is not there stays as it is. A policy must be of the binding's kind.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BindingChange {
    /// The policy's digest, or a unique beginning of it.
    #[serde(default)]
    policy: Option<String>,
    /// All settings after the change.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    settings: Option<Value>,
    #[serde(default)]
    mode: Option<ModeText>,
    /// With the mode `canary` in the same body, and only then.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 99)]
    canary_percent: Option<u8>,
    #[serde(default)]
    on_fault: Option<OnFault>,
}

/// What is bound.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BoundView {
    policy: Digest,
    /// The policy's name; null where the policy is not known.
    policy_name: Option<String>,
    mode: ModeText,
    /// Null but with the mode `canary`.
    canary_percent: Option<u8>,
    on_fault: OnFault,
    #[schema(value_type = Object)]
    settings: Value,
    /// Whether this node has the policy's module loaded. Without it, `on_fault` applies.
    loaded: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BindingView {
    id: BindingId,
    kind: PolicyKind,
    scope: ScopeText,
    #[serde(flatten)]
    bound: BoundView,
    /// What was enforced before: what a rollback returns to.
    previous: Option<BoundView>,
    /// Whether a canary's other keys have that, and nodes that cannot run what is bound: not where it was turned off or rolled back.
    falls_back: bool,
    created_at: Timestamp,
    changed_at: Timestamp,
    version: Version,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BindingAnswer {
    binding: BindingView,
    sequence: Sequence,
    /// Whether this node applies it already. Others do as soon as they have the record and the module.
    applied: bool,
    /// With `wait=true` only: how it stands with the other nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<Fence>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BindingPage {
    bindings: Vec<BindingView>,
    next: Option<BindingId>,
    as_of: Sequence,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownBinding {
    binding: BindingView,
    as_of: Sequence,
}

/// Bind a policy. The policy is asked whether it takes the settings, and says everything that is wrong with them. With `wait=true` the answer
/// comes when it decides on every live node; if it did not in time, that is no failure: the binding is in the log, and `fence` names the node.
#[utoipa::path(post, path = "/bindings", tag = "policies", operation_id = "create_binding", request_body = NewBinding, params(Fenced),
    responses((status = 201, body = BindingAnswer), MutationProblems))]
pub(super) async fn create(
    State(app): State<App>,
    Params(fenced): Params<Fenced>,
    mutation: Mutation<NewBinding>,
) -> Result<(StatusCode, Json<BindingAnswer>), ApiError> {
    let began = Instant::now();
    let id = mutation.command_id.new_binding_id();
    let (body, tenant) = (&mutation.body, &mutation.caller.tenant);
    let mode = mode(body.mode, body.canary_percent)?;
    let (policy, scope) = (named_policy(&app, tenant, &body.policy)?, scope(&app, tenant, &body.scope)?);
    let (kind, digest) = (policy.value.uploaded.kind, policy.value.uploaded.digest);
    let settings = settings(&body.settings)?;
    // A retry of a binding that was made is answered as it was, whatever the policy says by now.
    let _module = if is_new(&app, &mutation)? { Some(configured(&app, &policy.value, &settings).await?) } else { None };
    let on_fault = body.on_fault.unwrap_or_else(|| OnFault::default_for(kind));
    let created = BindingCreated { kind, scope, bound: Bound { policy: digest, settings, mode, on_fault } };
    let answer = execute(&app, &mutation, id, BindingCommand::Create(Box::new(created)), mutation.if_version).await?;
    Ok((StatusCode::CREATED, fence(&app, &fenced, answer, began).await?))
}

/// List bindings, by id.
#[utoipa::path(get, path = "/bindings", tag = "policies", operation_id = "list_bindings", params(Page),
    responses((status = 200, body = BindingPage), ReadProblems))]
pub(super) async fn list(State(app): State<App>, caller: Caller, Params(page): Params<Page>) -> Result<Json<BindingPage>, ApiError> {
    let (limit, after) = (page.limit()?, page.after::<BindingId>()?);
    let policies = app.models.policies();
    let all = policies.bindings(&caller.tenant);
    let rest = &all[all.partition_point(|binding| after.is_some_and(|after| binding.value.id <= after))..];
    let shown = &rest[..limit.min(rest.len())];
    let next = shown.last().filter(|_| rest.len() > limit).map(|binding| binding.value.id);
    let bindings = shown.iter().map(|binding| view(&app, binding)).collect();
    Ok(Json(BindingPage { bindings, next, as_of: policies.as_of }))
}

/// Show a binding.
#[utoipa::path(get, path = "/bindings/{id}", tag = "policies", operation_id = "show_binding", params(("id" = String, Path, description = "Id")),
    responses((status = 200, body = ShownBinding), ReadProblems))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Json<ShownBinding>, ApiError> {
    let as_of = app.models.policies().as_of;
    let binding = find(&app, &caller.tenant, parse_id(&id)?)?;
    Ok(Json(ShownBinding { binding: view(&app, &binding), as_of }))
}

/// Change a binding: its policy, settings, mode, or what a fault counts as.
#[utoipa::path(patch, path = "/bindings/{id}", tag = "policies", operation_id = "update_binding", request_body = BindingChange,
    params(("id" = String, Path, description = "Id"), ("If-Match" = Option<String>, Header, description = "The version that the change is meant for"), Fenced),
    responses((status = 200, body = BindingAnswer), MutationProblems))]
pub(super) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    Params(fenced): Params<Fenced>,
    mutation: Mutation<BindingChange>,
) -> Result<Json<BindingAnswer>, ApiError> {
    let began = Instant::now();
    let (body, tenant, id) = (&mutation.body, &mutation.caller.tenant, parse_id(&id)?);
    let mode = match (body.mode, body.canary_percent) {
        (None, None) => None,
        (None, Some(_)) => return Err(ApiError::BadRequest(CANARY_PERCENT.to_owned())),
        (Some(text), percent) => Some(mode(text, percent)?),
    };
    let policy = body.policy.as_ref().map(|policy| named_policy(&app, tenant, policy)).transpose()?;
    let settings = body.settings.as_ref().map(settings).transpose()?;
    let patch = BindingPatch {
        policy: policy.as_ref().map(|policy| (policy.value.uploaded.digest, policy.value.uploaded.kind)),
        settings: settings.clone(),
        mode,
        on_fault: body.on_fault,
    };
    if !is_new(&app, &mutation)? || (policy.is_none() && settings.is_none()) {
        let answer = execute(&app, &mutation, id, BindingCommand::Change(Box::new(patch)), mutation.if_version).await?;
        return fence(&app, &fenced, answer, began).await;
    }
    let binding = find(&app, tenant, id)?;
    let Versioned { value: Binding { kind, bound, .. }, version } = &*binding;
    let policy = match policy {
        Some(policy) => policy,
        None => app.models.policies().policy(tenant, &bound.policy).cloned().ok_or(ApiError::NotFound("such policy"))?,
    };
    // A policy of another kind is refused by the command; it would not know these settings.
    let _module = if policy.value.uploaded.kind == *kind {
        Some(configured(&app, &policy.value, settings.as_ref().unwrap_or(&bound.settings)).await?)
    } else {
        None
    };
    // Policy and settings were found to go together as the binding stands now: as nothing else it is changed.
    let if_version = mutation.if_version.unwrap_or(*version);
    let answer = execute(&app, &mutation, id, BindingCommand::Change(Box::new(patch)), Some(if_version)).await?;
    fence(&app, &fenced, answer, began).await
}

/// Return to the policy, settings, mode and fault rule that were enforced before. Once more returns from there.
#[utoipa::path(post, path = "/bindings/{id}/rollback", tag = "policies", operation_id = "roll_back_binding", request_body = Nothing,
    params(("id" = String, Path, description = "Id"), ("If-Match" = Option<String>, Header, description = "The version that the change is meant for"), Fenced),
    responses((status = 200, body = BindingAnswer), MutationProblems))]
pub(super) async fn roll_back(
    State(app): State<App>,
    Path(id): Path<String>,
    Params(fenced): Params<Fenced>,
    mutation: Mutation<Nothing>,
) -> Result<Json<BindingAnswer>, ApiError> {
    let began = Instant::now();
    let answer = execute(&app, &mutation, parse_id(&id)?, BindingCommand::RollBack, mutation.if_version).await?;
    fence(&app, &fenced, answer, began).await
}

/// Remove a binding.
#[utoipa::path(delete, path = "/bindings/{id}", tag = "policies", operation_id = "remove_binding",
    params(("id" = String, Path, description = "Id"), ("If-Match" = Option<String>, Header, description = "The version that the change is meant for"), Fenced),
    responses((status = 200, body = BindingAnswer), MutationProblems))]
pub(super) async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    Params(fenced): Params<Fenced>,
    mutation: Mutation<Nothing>,
) -> Result<Json<BindingAnswer>, ApiError> {
    let began = Instant::now();
    let answer = execute(&app, &mutation, parse_id(&id)?, BindingCommand::Remove, mutation.if_version).await?;
    fence(&app, &fenced, answer, began).await
}

async fn execute<T>(
    app: &App,
    mutation: &Mutation<T>,
    id: BindingId,
    command: BindingCommand,
    if_version: Option<Version>,
) -> Result<BindingAnswer, ApiError> {
    let stream = Stream::binding(mutation.caller.tenant.clone(), id);
    let request = mutation.request(stream, Command::Binding(command));
    let Receipt { aggregate, version, sequence, applied, .. } = app.commands.execute(crate::Request { if_version, ..request }).await?;
    let Aggregate::Binding(binding) = aggregate else { return Err(ApiError::NotFound("such binding")) };
    let applied = applied && app.modules.wait_for(sequence, EFFECT_WAIT).await;
    Ok(BindingAnswer { binding: view(app, &Versioned { value: *binding, version }), sequence, applied, fence: None })
}

/// The answer, once the other nodes apply what was changed, where that is waited for.
async fn fence(app: &App, fenced: &Fenced, mut answer: BindingAnswer, began: Instant) -> Result<Json<BindingAnswer>, ApiError> {
    answer.fence = fenced.fence(app, answer.sequence, Applied::Bindings(app.modules.health()), began).await?;
    Ok(Json(answer))
}

/// Whether the command was not executed yet.
fn is_new<T>(app: &App, mutation: &Mutation<T>) -> Result<bool, ApiError> {
    Ok(app.models.command(&mutation.command_id)?.is_none())
}

/// The policy's module, which takes these settings. Whoever holds it keeps it loaded.
async fn configured(app: &App, policy: &Policy, settings: &str) -> Result<Arc<policy_host::Module>, ApiError> {
    let load = app.modules.get(ModuleKey::of(&policy.uploaded));
    let module = match tokio::time::timeout(LOAD_WAIT, load).await {
        Ok(loaded) => loaded?,
        Err(_) => return Err(ApiError::ModuleLoading(policy.uploaded.digest)),
    };
    let (asked, settings) = (module.clone(), settings.to_owned());
    match tokio::task::spawn_blocking(move || asked.configure(&settings)).await? {
        Ok(()) => Ok(module),
        Err(ConfigureError::Refused(faults)) => Err(ApiError::SettingsRefused(faults)),
        Err(ConfigureError::Fault(fault)) => Err(ApiError::PolicyFault(fault)),
    }
}

/// The policy that a body names; one that is not there is a fault of the body.
fn named_policy(app: &App, tenant: &TenantId, text: &str) -> Result<Arc<Versioned<Policy>>, ApiError> {
    policies::find(app, tenant, text)?.ok_or_else(|| ApiError::BadRequest(format!("there is no policy {text}")))
}

fn scope(app: &App, tenant: &TenantId, text: &ScopeText) -> Result<Scope, ApiError> {
    match text {
        ScopeText::Tenant(name) if name == tenant.as_str() => Ok(Scope::Tenant),
        ScopeText::Tenant(name) => Err(ApiError::BadRequest(format!("there is no tenant {name:?}"))),
        ScopeText::Pool(pool) => named_pool(app, tenant, pool).map(Scope::Pool),
        ScopeText::Key(key) => {
            let found = key.parse::<KeyId>().ok().map(|id| app.models.key(tenant, id)).transpose()?.flatten();
            found.map(|key| Scope::Key(key.value.id)).ok_or_else(|| ApiError::BadRequest(format!("there is no key {key:?}")))
        }
    }
}

const CANARY_PERCENT: &str = "canary_percent, 1 to 99, goes with the mode canary, and only with it";

fn mode(text: ModeText, percent: Option<u8>) -> Result<Mode, ApiError> {
    match (text, percent) {
        (ModeText::Enforce, None) => Ok(Mode::Enforce),
        (ModeText::Shadow, None) => Ok(Mode::Shadow),
        (ModeText::Off, None) => Ok(Mode::Off),
        (ModeText::Canary, Some(percent @ 1..=99)) => Ok(Mode::Canary(percent)),
        _ => Err(ApiError::BadRequest(CANARY_PERCENT.to_owned())),
    }
}

/// Settings in their one spelling.
fn settings(value: &Value) -> Result<String, ApiError> {
    let text = canonical_json(value);
    // Before the module is asked, which is not made for more.
    if text.len() > SETTINGS_BYTES_MAX { Err(ApiError::SettingsTooLarge) } else { Ok(text) }
}

fn parse_id(text: &str) -> Result<BindingId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("such binding"))
}

fn find(app: &App, tenant: &TenantId, id: BindingId) -> Result<Arc<Versioned<Binding>>, ApiError> {
    app.models.policies().binding(tenant, id).cloned().ok_or(ApiError::NotFound("such binding"))
}

fn view(app: &App, binding: &Versioned<Binding>) -> BindingView {
    let Versioned { value: binding, version } = binding;
    BindingView {
        id: binding.id,
        kind: binding.kind,
        scope: match binding.scope {
            Scope::Tenant => ScopeText::Tenant(binding.tenant.to_string()),
            Scope::Pool(pool) => ScopeText::Pool(pool_text(app, &binding.tenant, pool)),
            Scope::Key(key) => ScopeText::Key(key.to_string()),
        },
        bound: bound_view(app, &binding.tenant, &binding.bound),
        previous: binding.previous.as_ref().map(|bound| bound_view(app, &binding.tenant, bound)),
        falls_back: binding.fallback().is_some(),
        created_at: binding.created_at,
        changed_at: binding.changed_at,
        version: *version,
    }
}

fn bound_view(app: &App, tenant: &TenantId, bound: &Bound) -> BoundView {
    let policies = app.models.policies();
    let uploaded = policies.policy(tenant, &bound.policy).map(|policy| &policy.value.uploaded);
    let (mode, canary_percent) = match bound.mode {
        Mode::Enforce => (ModeText::Enforce, None),
        Mode::Canary(percent) => (ModeText::Canary, Some(percent)),
        Mode::Shadow => (ModeText::Shadow, None),
        Mode::Off => (ModeText::Off, None),
    };
    BoundView {
        policy: bound.policy,
        policy_name: uploaded.map(|uploaded| uploaded.name.clone()),
        mode,
        canary_percent,
        on_fault: bound.on_fault,
        settings: serde_json::from_str(&bound.settings).unwrap_or_else(|_| Value::String(bound.settings.clone())),
        loaded: uploaded.is_some_and(|uploaded| app.modules.loaded(&ModuleKey::of(uploaded)).is_some()),
    }
}

impl From<ModuleError> for ApiError {
    fn from(error: ModuleError) -> Self {
        Self::Module(error)
    }
}
