//! `/policies`: WebAssembly modules that may be bound. A module is its bytes: it never changes, and the same bytes are the same policy.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts as _, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use event_log::artefacts::ArtefactKind;
use policy_host::limits::Limits;
use policy_host::{Admitted, Manifest};
use projector::Versioned;
use schemas::policy::{Policy, PolicyClass, PolicyCommand, PolicyKind, PolicyUploaded};
use schemas::{Actor, Aggregate, Command, Digest, Sequence, Stream, TenantId, Timestamp, Version};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::{IntoParams, ToSchema};

use super::app::App;
use super::conventions::{Caller, Mutation, Page, Params};
use super::error::{ApiError, MutationProblems, ReadProblems};
use crate::policies::ModuleError;

/// The most bytes of an upload: what the larger class allows.
const UPLOAD_BYTES_MAX: usize = Limits::of(PolicyClass::Slow).component_bytes_max;
/// How long an upload waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// The fewest characters of a digest that may stand for it.
const PREFIX_LENGTH_MIN: usize = 8;
const DIGEST_LENGTH: usize = 64;

/// What is uploaded, beside its bytes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPolicy {
    /// What it decides on.
    kind: PolicyKind,
    /// Absent: the name in its manifest.
    #[serde(default)]
    name: Option<String>,
    /// The limits that it runs under: `slow` is for JavaScript and Python.
    #[serde(default = "fast")]
    #[param(default = "fast")]
    class: PolicyClass,
}

const fn fast() -> PolicyClass {
    PolicyClass::Fast
}

/// An uploaded policy.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyView {
    /// Of the component that is kept, BLAKE3.
    digest: Digest,
    name: String,
    kind: PolicyKind,
    class: PolicyClass,
    /// The component's size.
    bytes: u64,
    /// Of the bytes that were uploaded; another one where a core module was made a component.
    uploaded_digest: Digest,
    uploaded_at: Timestamp,
    uploaded_by: Actor,
    /// How many bindings name it now.
    bindings: usize,
    version: Version,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyAnswer {
    policy: PolicyView,
    /// What the policy says of itself.
    #[schema(value_type = Object)]
    manifest: Value,
    /// The name that was asked for, where these bytes are here already under another: a policy keeps the name that it was uploaded under first.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_not_taken: Option<String>,
    sequence: Sequence,
    applied: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyPage {
    policies: Vec<PolicyView>,
    next: Option<Digest>,
    as_of: Sequence,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownPolicy {
    policy: PolicyView,
    /// What the policy says of itself: reasons, obligations, meters, and the JSON Schema of its settings.
    #[schema(value_type = Object)]
    manifest: Value,
    as_of: Sequence,
}

/// An upload as it came in, with its place among those that are held in memory.
pub(super) struct Upload {
    mutation: Mutation<Bytes>,
    turn: OwnedSemaphorePermit,
}

impl FromRequest<App> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        // Asked for before a byte is read; a request without the token never comes so far.
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, app).await?;
        let turn = app.modules.upload_turn(TURN_WAIT).await.ok_or(ApiError::Busy("uploads"))?;
        let mutation = Mutation::of_bytes(parts, body, caller, UPLOAD_BYTES_MAX, app).await?;
        Ok(Self { mutation, turn })
    }
}

/// Upload a policy: a WebAssembly component, or a core module that describes its world. It is checked, compiled and asked for its manifest
/// before it is recorded, which takes a second for a `fast` one and may take minutes for a `slow` one. The same bytes again answer 200,
/// under the name that they have (`name_not_taken` tells of another that was asked for).
#[utoipa::path(post, path = "/policies", tag = "policies", operation_id = "upload_policy", params(NewPolicy),
    request_body(content = String, content_type = "application/wasm", description = "The module's bytes, at most 24 MiB"),
    responses((status = 201, body = PolicyAnswer), (status = 200, body = PolicyAnswer), MutationProblems))]
pub(super) async fn upload(
    State(app): State<App>,
    _caller: Caller,
    Params(new): Params<NewPolicy>,
    upload: Upload,
) -> Result<(StatusCode, Json<PolicyAnswer>), ApiError> {
    let Upload { mut mutation, turn } = upload;
    let (tenant, bytes) = (mutation.caller.tenant.clone(), std::mem::take(&mut mutation.body));
    let (host, kind, class) = (app.modules.host().clone(), new.kind, new.class);
    // The place goes with the work: a client that leaves does not make room for another compiler.
    let admit = move || (host.admit(&bytes, kind, class), turn);
    let (admitted, _turn) = tokio::task::spawn_blocking(admit).await?;
    let Admitted { component, digest, uploaded_digest, manifest, module: _ } = admitted?;
    let size = component.len() as u64;
    // In the log a policy is only ever named once its bytes are where every node finds them.
    let kept = app.modules.artefacts().put(ArtefactKind::PolicyModule, component.into()).await?;
    if kept != digest {
        return Err(ApiError::Module(ModuleError::Missing { digest }));
    }
    app.modules.tell_mended();
    let is_there = app.models.policies().policy(&tenant, &digest).is_some();
    let name = new.name.clone().unwrap_or_else(|| manifest.name.clone());
    let uploaded = PolicyUploaded { name, digest, uploaded_digest, kind, class, bytes: size, manifest: Manifest::canonical(&manifest) };
    let command = Command::Policy(PolicyCommand::Upload(Box::new(uploaded)));
    // What was done so far took the time it took; from here on it is a command like any other.
    mutation.begin_now();
    let receipt = app.commands.execute(mutation.request(Stream::policy(tenant, &digest), command)).await?;
    let (sequence, applied) = (receipt.sequence, receipt.applied);
    let status = if is_there && !receipt.repeated { StatusCode::OK } else { StatusCode::CREATED };
    let Aggregate::Policy(policy) = receipt.aggregate else { return Err(ApiError::NotFound("such policy")) };
    let policy = Versioned { value: *policy, version: receipt.version };
    let name_not_taken = new.name.filter(|name| *name != policy.value.uploaded.name);
    let (policy, manifest) = (view(&app, &policy), manifest_of(&policy.value));
    Ok((status, Json(PolicyAnswer { policy, manifest, name_not_taken, sequence, applied })))
}

/// List policies, by digest.
#[utoipa::path(get, path = "/policies", tag = "policies", operation_id = "list_policies", params(Page),
    responses((status = 200, body = PolicyPage), ReadProblems))]
pub(super) async fn list(State(app): State<App>, caller: Caller, Params(page): Params<Page>) -> Result<Json<PolicyPage>, ApiError> {
    let (limit, after) = (page.limit()?, page.after::<Digest>()?);
    let policies = app.models.policies();
    let all = policies.policies(&caller.tenant);
    let rest = &all[all.partition_point(|policy| after.is_some_and(|after| policy.value.uploaded.digest <= after))..];
    let shown = &rest[..limit.min(rest.len())];
    let next = shown.last().filter(|_| rest.len() > limit).map(|policy| policy.value.uploaded.digest);
    let shown = shown.iter().map(|policy| view(&app, policy)).collect();
    Ok(Json(PolicyPage { policies: shown, next, as_of: policies.as_of }))
}

/// Show a policy, by its digest or the first 8 or more characters of it.
#[utoipa::path(get, path = "/policies/{digest}", tag = "policies", operation_id = "show_policy",
    params(("digest" = String, Path, description = "Digest, or a unique beginning of it")),
    responses((status = 200, body = ShownPolicy), ReadProblems))]
pub(super) async fn show(State(app): State<App>, caller: Caller, Path(digest): Path<String>) -> Result<Json<ShownPolicy>, ApiError> {
    let as_of = app.models.policies().as_of;
    let policy = find(&app, &caller.tenant, &digest)?.ok_or(ApiError::NotFound("such policy"))?;
    Ok(Json(ShownPolicy { policy: view(&app, &policy), manifest: manifest_of(&policy.value), as_of }))
}

/// The bytes of a policy's component: to run it elsewhere, or to replay what it decided.
#[utoipa::path(get, path = "/policies/{digest}/module", tag = "policies", operation_id = "get_policy_module",
    params(("digest" = String, Path, description = "Digest, or a unique beginning of it")),
    responses((status = 200, body = String, content_type = "application/wasm"), ReadProblems))]
pub(super) async fn module(State(app): State<App>, caller: Caller, Path(digest): Path<String>) -> Result<Response, ApiError> {
    let policy = find(&app, &caller.tenant, &digest)?.ok_or(ApiError::NotFound("such policy"))?;
    let digest = policy.value.uploaded.digest;
    let bytes = app.modules.artefacts().get(ArtefactKind::PolicyModule, &digest).await?.ok_or(ModuleError::Missing { digest })?;
    Ok(([(header::CONTENT_TYPE, "application/wasm")], bytes).into_response())
}

/// The policy that a text names: a digest, or the beginning of one that only one policy has. None where there is no such policy.
pub(super) fn find(app: &App, tenant: &TenantId, text: &str) -> Result<Option<Arc<Versioned<Policy>>>, ApiError> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex || !(PREFIX_LENGTH_MIN..=DIGEST_LENGTH).contains(&text.len()) {
        return Err(ApiError::BadRequest(format!(
            "a policy is named by its digest, {DIGEST_LENGTH} characters of 0-9 and a-f, or by the first {PREFIX_LENGTH_MIN} or more of them"
        )));
    }
    let policies = app.models.policies();
    let mut found = policies.policies(tenant).iter().filter(|policy| policy.value.uploaded.digest.to_string().starts_with(text));
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(ApiError::AmbiguousDigest(text.to_owned())),
        (found, None) => Ok(found.cloned()),
    }
}

fn view(app: &App, policy: &Versioned<Policy>) -> PolicyView {
    let Versioned { value: Policy { tenant, uploaded, uploaded_at, uploaded_by }, version } = policy;
    let policies = app.models.policies();
    let bindings = policies.bindings(tenant).iter().filter(|binding| binding.value.bound.policy == uploaded.digest).count();
    PolicyView {
        digest: uploaded.digest,
        name: uploaded.name.clone(),
        kind: uploaded.kind,
        class: uploaded.class,
        bytes: uploaded.bytes,
        uploaded_digest: uploaded.uploaded_digest,
        uploaded_at: *uploaded_at,
        uploaded_by: *uploaded_by,
        bindings,
        version: *version,
    }
}

/// It was canonical JSON when it was recorded; whatever else a record may hold is shown as text.
fn manifest_of(policy: &Policy) -> Value {
    let manifest = &policy.uploaded.manifest;
    serde_json::from_str(manifest).unwrap_or_else(|_| Value::String(manifest.clone()))
}
