//! Uploading and binding policies, and what is in effect on each node.

use std::time::Duration;

use axum::http::StatusCode;
use policy_host::active::{Active, ActiveBinding};
use schemas::binding::{Mode, OnFault, Scope};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::{BindingId, Digest};
use serde_json::{Value, json};
use tempfile::TempDir;
use vault::RootKey;

use crate::guest::{Guest, choosy, denying, described, expiring, manifest, permitting};
use crate::shelf::Way;
use crate::world::{Answer, Node, World};

const PATIENCE: Duration = Duration::from_secs(20);

async fn one_node() -> (World, Node, TempDir) {
    let world = World::default();
    let (node, data) = world.node(&RootKey::generate().unwrap()).await;
    (world, node, data)
}

async fn two_nodes() -> (World, [(Node, TempDir); 2]) {
    let (world, root) = (World::default(), RootKey::generate().unwrap());
    let nodes = [world.node(&root).await, world.node(&root).await];
    assert!(nodes[0].0.models.wait_for(world.log.true_head().await, PATIENCE).await);
    (world, nodes)
}

async fn upload(node: &Node, query: &str, module: Vec<u8>) -> Answer {
    node.call_with("POST", &format!("/api/v1/policies?{query}"), &[("content-type", "application/wasm")], module).await
}

/// Uploads a module that is admitted, and gives its digest.
async fn uploaded(node: &Node, kind: PolicyKind, module: Vec<u8>) -> String {
    let answer = upload(node, &format!("kind={}", kind.as_str()), module).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    answer.body["policy"]["digest"].as_str().unwrap().to_owned()
}

async fn bind(node: &Node, body: Value) -> Answer {
    node.call("POST", "/api/v1/bindings", body).await
}

/// Binds to the tenant, and gives the binding's id.
async fn bound(node: &Node, policy: &str) -> String {
    let answer = bind(node, json!({ "policy": policy, "scope": { "tenant": "default" } })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    assert_eq!(answer.body["applied"], true);
    answer.body["binding"]["id"].as_str().unwrap().to_owned()
}

async fn update(node: &Node, id: &str, body: Value) -> Answer {
    node.call("PATCH", &format!("/api/v1/bindings/{id}"), body).await
}

fn in_effect(active: &Active, id: &str) -> Option<ActiveBinding> {
    let id: BindingId = id.parse().unwrap();
    active.bindings.iter().find(|binding| binding.id == id).map(|binding| (**binding).clone())
}

/// The digest that a node would run now for a binding, with whether its module is loaded.
fn running(node: &Node, id: &str) -> Option<(String, bool)> {
    in_effect(&node.active.load(), id).map(|binding| (binding.current.digest.to_string(), binding.current.module.is_some()))
}

/// Waits until what is in effect on a node is as it should be.
async fn becomes(node: &Node, what: &str, is_so: impl Fn(&Active) -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so(&node.active.load()) {
        assert!(tokio::time::Instant::now() < deadline, "{what}: {:?}", node.active.load());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn refused(answer: &Answer, status: StatusCode, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_is_uploaded_once_and_can_be_had_again() {
    let (world, node, _data) = one_node().await;
    let module = permitting(PolicyKind::Route, 1);
    let answer = upload(&node, "kind=route&name=cheapest", module.clone()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    let policy = &answer.body["policy"];
    let digest = policy["digest"].as_str().unwrap().to_owned();
    assert_eq!((&policy["name"], &policy["kind"], &policy["class"]), (&json!("cheapest"), &json!("route"), &json!("fast")));
    assert_eq!(policy["uploaded_digest"], json!(Digest::blake3(&module)), "a core module was made a component");
    assert_eq!(answer.body["manifest"]["reasons"][0]["code"], "test.reason");
    let head = world.log.true_head().await;
    assert_eq!(answer.body["sequence"], json!(head.0));

    let again = upload(&node, "kind=route&name=other", module.clone()).await;
    assert_eq!((again.status, &again.body["policy"]["name"]), (StatusCode::OK, &json!("cheapest")), "{}", again.body);
    let as_slow = upload(&node, "kind=route&class=slow", module.clone()).await;
    refused(&as_slow, StatusCode::CONFLICT, "exists");
    assert_eq!(world.log.true_head().await, head, "the same bytes are the same policy");
    assert_eq!(world.shelf.len(), 1);

    let (_, component) = node.exchange("GET", &format!("/api/v1/policies/{}/module", &digest[..8]), &[], vec![]).await;
    assert_eq!(Digest::blake3(&component).to_string(), digest);
    let as_component = upload(&node, "kind=route", component.to_vec()).await;
    assert_eq!((as_component.status, &as_component.body["policy"]["digest"]), (StatusCode::OK, &json!(digest)));
    let shown = node.get(&format!("/api/v1/policies/{digest}")).await;
    assert_eq!((&shown.body["policy"]["version"], &shown.body["manifest"]["kind"]), (&json!(1), &json!("route")));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_paged_and_named_by_the_beginning_of_their_digest() {
    let (_world, node, _data) = one_node().await;
    let mut digests = Vec::new();
    for number in 0..3 {
        digests.push(uploaded(&node, PolicyKind::Quota, permitting(PolicyKind::Quota, number)).await);
    }
    digests.sort();
    let page = node.get("/api/v1/policies?limit=2").await;
    let rest = node.get(&format!("/api/v1/policies?cursor={}", page.body["next"].as_str().unwrap())).await;
    let listed: Vec<_> = [page, rest].iter().flat_map(|page| page.body["policies"].as_array().unwrap().clone()).collect();
    let listed: Vec<_> = listed.iter().map(|policy| policy["digest"].as_str().unwrap()).collect();
    assert_eq!(listed, digests);
    refused(&node.get(&format!("/api/v1/policies/{}", &digests[0][..7])).await, StatusCode::BAD_REQUEST, "bad_request");
    refused(&node.get("/api/v1/policies/CHEAPEST").await, StatusCode::BAD_REQUEST, "bad_request");
    refused(&node.get("/api/v1/policies/00000000").await, StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_policy_is_refused_with_a_code_and_leaves_nothing() {
    let (world, node, _data) = one_node().await;
    let head = world.log.true_head().await;
    let importing = Guest { imports: "(import \"env\" \"clock\" (func))".into(), ..Guest::new(PolicyKind::Route) };
    let trapping = Guest { describe: "unreachable".into(), ..Guest::new(PolicyKind::Route) };
    let mut unnamed = manifest(PolicyKind::Route);
    unnamed["name"] = json!("");
    let cases = [
        ("kind=route", b"\x7fELF".to_vec(), StatusCode::BAD_REQUEST, "policy_malformed"),
        ("kind=route", b"\0asm\x01\0\0\0".to_vec(), StatusCode::BAD_REQUEST, "policy_wrong_world"),
        ("kind=expiry", permitting(PolicyKind::Route, 1), StatusCode::BAD_REQUEST, "policy_wrong_world"),
        ("kind=route", importing.module(), StatusCode::BAD_REQUEST, "policy_not_a_component"),
        ("kind=route", trapping.module(), StatusCode::BAD_REQUEST, "policy_fault"),
        ("kind=route", described(&unnamed), StatusCode::BAD_REQUEST, "bad_manifest"),
        ("kind=route", vec![0; (1 << 20) + 1], StatusCode::PAYLOAD_TOO_LARGE, "policy_too_large"),
        ("kind=route&class=slow", vec![0; (24 << 20) + 1], StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
        ("kind=colour", vec![], StatusCode::BAD_REQUEST, "bad_request"),
        ("kind=route&colour=blue", vec![], StatusCode::BAD_REQUEST, "bad_request"),
        ("kind=route&name=%20", permitting(PolicyKind::Route, 1), StatusCode::BAD_REQUEST, "bad_request"),
    ];
    for (query, module, status, code) in cases {
        refused(&upload(&node, query, module).await, status, code);
    }
    assert_eq!(world.log.true_head().await, head);
    assert!(node.get("/api/v1/policies").await.body["policies"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_cannot_be_kept_is_not_recorded_and_may_be_repeated() {
    let (world, node, _data) = one_node().await;
    let (head, module) = (world.log.true_head().await, permitting(PolicyKind::Route, 1));
    node.reach.set(Way::Away);
    let answer = upload(&node, "kind=route", module.clone()).await;
    refused(&answer, StatusCode::SERVICE_UNAVAILABLE, "artefacts_unavailable");
    assert_eq!((answer.header("retry-after"), world.log.true_head().await), (Some(5), head));
    node.reach.set(Way::Open);
    let fields = [("idempotency-key", "once")];
    let path = "/api/v1/policies?kind=route";
    let first = node.call_with("POST", path, &fields, module.clone()).await;
    let second = node.call_with("POST", path, &fields, module).await;
    assert_eq!((first.status, second.status), (StatusCode::CREATED, StatusCode::CREATED), "{} {}", first.body, second.body);
    assert_eq!(first.body["sequence"], second.body["sequence"]);
    let other = node.call_with("POST", path, &fields, permitting(PolicyKind::Route, 2)).await;
    refused(&other, StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_in_effect_when_it_is_answered_and_rolled_back_by_one_command() {
    let (world, node, _data) = one_node().await;
    let one = uploaded(&node, PolicyKind::Route, permitting(PolicyKind::Route, 1)).await;
    let two = uploaded(&node, PolicyKind::Route, denying(2)).await;
    let answer = bind(&node, json!({ "policy": one[..10], "scope": { "pool": "default" }, "settings": { "b": 1, "a": [] } })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    let binding = &answer.body["binding"];
    let id = binding["id"].as_str().unwrap();
    assert_eq!((&binding["kind"], &binding["mode"], &binding["on_fault"]), (&json!("route"), &json!("enforce"), &json!("baseline")));
    assert_eq!((&binding["scope"], &binding["policy"], &binding["loaded"]), (&json!({ "pool": "default" }), &json!(one), &json!(true)));
    let active = in_effect(&node.active.load(), id).unwrap();
    assert_eq!(
        (&*active.current.settings, active.current.mode, active.current.on_fault),
        (r#"{"a":[],"b":1}"#, Mode::Enforce, OnFault::Baseline)
    );
    assert_eq!(active.current.settings_digest, Digest::blake3(active.current.settings.as_bytes()));
    assert!(matches!(active.scope, Scope::Pool(_)) && active.previous.is_none());
    assert_eq!(running(&node, id), Some((one.clone(), true)));
    refused(&node.call("POST", &format!("/api/v1/bindings/{id}/rollback"), Value::Null).await, StatusCode::CONFLICT, "nothing_before");

    let changed = update(&node, id, json!({ "policy": two, "mode": "canary", "canary_percent": 10 })).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.body);
    let binding = &changed.body["binding"];
    assert_eq!(
        (&binding["canary_percent"], &binding["previous"]["policy"], &binding["falls_back"]),
        (&json!(10), &json!(one), &json!(true))
    );
    let active = in_effect(&node.active.load(), id).unwrap();
    assert_eq!((active.current.mode, &*active.current.settings), (Mode::Canary(10), r#"{"a":[],"b":1}"#));
    assert!(active.previous.unwrap().module.is_some(), "what a rollback returns to stays loaded");

    node.reach.set(Way::Away);
    let back = node.call("POST", &format!("/api/v1/bindings/{id}/rollback"), Value::Null).await;
    assert_eq!((back.status, &back.body["binding"]["policy"]), (StatusCode::OK, &json!(one)), "{}", back.body);
    assert_eq!((back.body["applied"].clone(), running(&node, id)), (json!(true), Some((one, true))));
    assert_eq!((&back.body["binding"]["previous"]["policy"], &back.body["binding"]["falls_back"]), (&json!(two), &json!(false)));
    assert!(in_effect(&node.active.load(), id).unwrap().previous.is_none(), "what was rolled back serves nobody");
    let types: Vec<_> =
        node.get(&format!("/api/v1/events?stream=default.binding.{id}&limit=10")).await.body["events"].as_array().unwrap().clone();
    let types: Vec<_> = types.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["BindingCreated", "BindingChanged", "BindingRolledBack"]);

    let removed = node.call("DELETE", &format!("/api/v1/bindings/{id}"), Value::Null).await;
    assert_eq!((removed.status, running(&node, id)), (StatusCode::OK, None), "{}", removed.body);
    refused(&node.get(&format!("/api/v1/bindings/{id}")).await, StatusCode::NOT_FOUND, "not_found");
    refused(&update(&node, id, json!({ "mode": "off" })).await, StatusCode::NOT_FOUND, "not_found");
    assert_eq!(removed.body["sequence"], json!(world.log.true_head().await.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_turned_off_serves_no_key_of_a_canary() {
    let (_world, node, _data) = one_node().await;
    let one = uploaded(&node, PolicyKind::Route, permitting(PolicyKind::Route, 1)).await;
    let two = uploaded(&node, PolicyKind::Route, denying(2)).await;
    let id = bound(&node, &one).await;
    update(&node, &id, json!({ "mode": "off" })).await;
    let changed = update(&node, &id, json!({ "policy": two, "mode": "canary", "canary_percent": 10 })).await;
    assert_eq!((&changed.body["binding"]["previous"]["policy"], &changed.body["binding"]["falls_back"]), (&json!(one), &json!(false)));
    assert!(in_effect(&node.active.load(), &id).unwrap().previous.is_none());
    let back = node.call("POST", &format!("/api/v1/bindings/{id}/rollback"), Value::Null).await;
    assert_eq!((&back.body["binding"]["mode"], running(&node, &id)), (&json!("enforce"), Some((one, true))), "{}", back.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_asked_of_the_policy_which_says_all_that_is_wrong() {
    let (world, node, _data) = one_node().await;
    let policy = uploaded(&node, PolicyKind::Route, choosy()).await;
    let free = uploaded(&node, PolicyKind::Route, permitting(PolicyKind::Route, 1)).await;
    let head = world.log.true_head().await;
    let tenant = json!({ "tenant": "default" });
    let answer = bind(&node, json!({ "policy": policy, "scope": tenant, "settings": { "region": "x" } })).await;
    refused(&answer, StatusCode::UNPROCESSABLE_ENTITY, "settings_refused");
    let faults = json!([
        { "code": "region.unknown", "detail": "there is no region x" },
        { "code": "weight.range", "detail": "weights are below 10" },
    ]);
    assert_eq!(answer.body["faults"], faults);
    let large = json!({ "policy": policy, "scope": tenant, "settings": { "a": "x".repeat(20_000) } });
    refused(&bind(&node, large).await, StatusCode::BAD_REQUEST, "settings_too_large");
    assert_eq!(world.log.true_head().await, head, "nothing was recorded");

    let id = bound(&node, &policy).await;
    let both = update(&node, &id, json!({ "policy": free, "settings": { "region": "x" } })).await;
    assert_eq!(both.status, StatusCode::OK, "{}", both.body);
    let back = update(&node, &id, json!({ "policy": policy })).await;
    refused(&back, StatusCode::UNPROCESSABLE_ENTITY, "settings_refused");
    assert_eq!(running(&node, &id), Some((free, true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_fit_the_manifests_schema_are_refused_with_their_places() {
    let (world, node, _data) = one_node().await;
    let mut said = manifest(PolicyKind::Route);
    said["settings"] = json!({
        "type": "object", "required": ["region"], "additionalProperties": false,
        "properties": { "region": { "type": "string" }, "weights": { "items": { "type": "integer", "minimum": 1 } } },
    });
    let policy = uploaded(&node, PolicyKind::Route, described(&said)).await;
    let head = world.log.true_head().await;
    let asked = |settings: Value| json!({ "policy": policy, "scope": { "tenant": "default" }, "settings": settings });
    let answer = bind(&node, asked(json!({ "weights": [1, 0], "regio": "eu" }))).await;
    refused(&answer, StatusCode::UNPROCESSABLE_ENTITY, "settings_refused");
    let fault = |path: &str, detail: &str| json!({ "code": "settings.schema", "path": path, "detail": detail });
    let faults = json!([
        fault("/region", "is missing"),
        fault("/regio", "is not known, expected `region`, `weights`"),
        fault("/weights/1", "0 is less than 1"),
    ]);
    assert_eq!(answer.body["faults"], faults);
    assert_eq!(world.log.true_head().await, head, "nothing was recorded");

    let bound = bind(&node, asked(json!({ "region": "eu", "weights": [1] }))).await;
    assert_eq!(bound.status, StatusCode::CREATED, "{}", bound.body);
    let id = bound.body["binding"]["id"].as_str().unwrap();
    refused(&update(&node, id, json!({ "settings": {} })).await, StatusCode::UNPROCESSABLE_ENTITY, "settings_refused");

    said["settings"] = json!({ "properties": { "region": { "type": "text" } } });
    let body = described(&said);
    let refusal = upload(&node, "kind=route", body).await;
    refused(&refusal, StatusCode::BAD_REQUEST, "bad_manifest");
    assert!(refusal.body["detail"].as_str().unwrap().contains("/properties/region/type"), "{}", refusal.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_makes_no_sense_is_refused() {
    let (world, node, _data) = one_node().await;
    let policy = uploaded(&node, PolicyKind::Expiry, expiring(1)).await;
    let quota = uploaded(&node, PolicyKind::Quota, permitting(PolicyKind::Quota, 1)).await;
    let head = world.log.true_head().await;
    let tenant = json!({ "tenant": "default" });
    for body in [
        json!({ "policy": "0".repeat(64), "scope": tenant }),
        json!({ "policy": "0123", "scope": tenant }),
        json!({ "policy": policy, "scope": { "tenant": "other" } }),
        json!({ "policy": policy, "scope": { "pool": "nowhere" } }),
        json!({ "policy": policy, "scope": { "key": "key_nobody" } }),
        json!({ "policy": policy, "scope": { "tenant": "default", "pool": "default" } }),
        json!({ "policy": policy, "scope": tenant, "mode": "canary" }),
        json!({ "policy": policy, "scope": tenant, "mode": "canary", "canary_percent": 100 }),
        json!({ "policy": policy, "scope": tenant, "mode": "enforce", "canary_percent": 10 }),
        json!({ "policy": policy, "scope": tenant, "mode": "loud" }),
        json!({ "policy": policy, "scope": tenant, "colour": "blue" }),
        json!({ "policy": policy }),
    ] {
        let answer = bind(&node, body.clone()).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "bad_request"), "{body}: {}", answer.body);
    }
    assert_eq!(world.log.true_head().await, head);

    let key = node.create_key().await;
    let answer = bind(&node, json!({ "policy": policy, "scope": { "key": key } })).await;
    let binding = &answer.body["binding"];
    assert_eq!((&binding["scope"], &binding["on_fault"]), (&json!({ "key": key }), &json!("deny")), "{}", answer.body);
    let id = binding["id"].as_str().unwrap();
    refused(&update(&node, id, json!({ "policy": quota })).await, StatusCode::BAD_REQUEST, "wrong_policy_kind");
    refused(&update(&node, id, json!({ "canary_percent": 10 })).await, StatusCode::BAD_REQUEST, "bad_request");
    let stale = node.call_with("PATCH", &format!("/api/v1/bindings/{id}"), &[("if-match", "\"7\"")], br#"{"mode":"off"}"#.to_vec()).await;
    refused(&stale, StatusCode::PRECONDITION_FAILED, "version_mismatch");
    assert_eq!(stale.body["version"], 1);
    let fields = [("if-match", "1"), ("idempotency-key", "off")];
    for _ in 0..2 {
        let off = node.call_with("PATCH", &format!("/api/v1/bindings/{id}"), &fields, br#"{"mode":"off"}"#.to_vec()).await;
        assert_eq!((off.status, &off.body["binding"]["version"]), (StatusCode::OK, &json!(2)), "{}", off.body);
    }
    assert_eq!(in_effect(&node.active.load(), id).unwrap().current.mode, Mode::Off);
    let page = node.get("/api/v1/bindings?limit=1").await;
    assert_eq!((page.body["bindings"].as_array().unwrap().len(), &page.body["next"]), (1, &Value::Null));
    assert_eq!(
        node.get("/api/v1/policies").await.body["policies"].as_array().unwrap().iter().filter(|one| one["bindings"] == 1).count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_effect_stays_until_another_node_has_the_module_and_a_removal_does_not_wait() {
    let (_world, [(first, _a), (second, _b)]) = two_nodes().await;
    let one = uploaded(&first, PolicyKind::Route, permitting(PolicyKind::Route, 1)).await;
    let (kept, removed, off) = (bound(&first, &one).await, bound(&first, &one).await, bound(&first, &one).await);
    becomes(&second, "three bindings", |active| {
        active.bindings.len() == 3 && active.bindings.iter().all(|one| one.current.module.is_some())
    })
    .await;

    second.reach.set(Way::Held);
    let two = uploaded(&first, PolicyKind::Route, denying(2)).await;
    update(&first, &kept, json!({ "policy": two })).await;
    assert_eq!(running(&first, &kept), Some((two.clone(), true)));
    let added = bound(&first, &two).await;
    first.call("DELETE", &format!("/api/v1/bindings/{removed}"), Value::Null).await;
    update(&first, &off, json!({ "mode": "off", "policy": two })).await;
    becomes(&second, "one binding less", |active| in_effect(active, &removed).is_none()).await;
    becomes(&second, "one that is off", |active| in_effect(active, &off).is_some_and(|off| off.current.mode == Mode::Off)).await;
    assert_eq!(running(&second, &kept), Some((one.clone(), true)), "the old one serves until the new one is ready");
    assert_eq!(running(&second, &added), None, "a new one is not in effect without its module");
    assert_eq!(second.get("/readyz").await.body["policies"]["loading"], 1);
    assert_eq!(second.get(&format!("/api/v1/bindings/{kept}")).await.body["binding"]["loaded"], false);

    second.reach.set(Way::Open);
    becomes(&second, "the new policy", |active| {
        [&kept, &added].into_iter().all(|id| in_effect(active, id).is_some_and(|binding| binding.current.digest.to_string() == two))
    })
    .await;
    assert_eq!((running(&second, &kept), running(&second, &added)), (Some((two.clone(), true)), Some((two, true))));
    assert!(in_effect(&second.active.load(), &kept).unwrap().previous.unwrap().module.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_is_compiled_everywhere_before_anybody_binds_it() {
    let (_world, [(first, _a), (second, _b)]) = two_nodes().await;
    let policy = uploaded(&first, PolicyKind::Route, permitting(PolicyKind::Route, 1)).await;
    let (host, digest) = (second.modules.host().clone(), policy.parse::<Digest>().unwrap());
    let is_kept = || host.load_cached(&digest, PolicyKind::Route, PolicyClass::Fast).unwrap().is_some();
    tokio::time::timeout(PATIENCE, async {
        while !is_kept() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the other node compiles it");
    // It needs nothing of anybody when it is bound.
    second.reach.set(Way::Away);
    let id = bound(&first, &policy).await;
    becomes(&second, "the binding", |active| in_effect(active, &id).is_some_and(|binding| binding.current.module.is_some())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_cannot_be_had_is_named_and_tried_again() {
    let (world, [(first, _a), (second, _b)]) = two_nodes().await;
    let one = uploaded(&first, PolicyKind::Route, permitting(PolicyKind::Route, 1)).await;
    let id = bound(&first, &one).await;
    becomes(&second, "the binding", |active| in_effect(active, &id).is_some_and(|binding| binding.current.module.is_some())).await;
    second.reach.set(Way::Away);
    let two = uploaded(&first, PolicyKind::Route, denying(2)).await;
    update(&first, &id, json!({ "policy": two })).await;
    becomes(&second, "a binding without its module", |active| {
        in_effect(active, &id).is_some_and(|binding| binding.current.module.is_none())
    })
    .await;
    let active = in_effect(&second.active.load(), &id).unwrap();
    assert_eq!(active.current.digest.to_string(), two);
    assert!(active.previous.unwrap().module.is_some(), "the last good version is there to fall back to");
    let mut health = second.modules.health();
    let told = tokio::time::timeout(PATIENCE, health.wait_for(|health| !health.missing.is_empty())).await.unwrap().unwrap().clone();
    assert_eq!((told.missing[0].policy.to_string(), told.missing[0].name.as_str()), (two.clone(), "guest"));
    let ready = second.get("/readyz").await;
    assert_eq!((ready.status, &ready.body["degraded"]), (StatusCode::OK, &json!(true)), "{}", ready.body);
    assert_eq!(ready.body["reasons"], json!(["policy_missing"]));
    assert!(ready.body["policies"]["missing"][0]["reason"].as_str().unwrap().contains("the shelf is away"), "{}", ready.body);
    let metrics = second.get("/metrics").await.body.as_str().unwrap().to_owned();
    assert!(metrics.contains("keyrelay_policies_missing 1") && metrics.contains("keyrelay_policy_bindings 1"), "{metrics}");

    second.reach.set(Way::Open);
    becomes(&second, "the module", |active| in_effect(active, &id).is_some_and(|binding| binding.current.module.is_some())).await;
    assert_eq!(second.get("/readyz").await.body["reasons"], json!([]));

    // What every node has lost is mended by the same bytes.
    let digest: Digest = one.parse().unwrap();
    world.shelf.take(&digest).unwrap();
    refused(&first.get(&format!("/api/v1/policies/{one}/module")).await, StatusCode::SERVICE_UNAVAILABLE, "policy_missing");
    assert_eq!(upload(&first, "kind=route", permitting(PolicyKind::Route, 1)).await.status, StatusCode::OK);
    assert_eq!(first.get(&format!("/api/v1/policies/{one}")).await.status, StatusCode::OK);
    assert_eq!(world.shelf.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_has_its_modules_from_its_own_disk_and_no_gap_without_them() {
    let (world, root) = (World::default(), RootKey::generate().unwrap());
    let (node, data) = world.node(&root).await;
    let one = uploaded(&node, PolicyKind::Route, permitting(PolicyKind::Route, 1)).await;
    let id = bound(&node, &one).await;
    node.stop().await;

    let foundation = world.found_or_join(&crate::world::sources(data.path(), Some(&root))).await.unwrap();
    let node = world.start(&data, foundation).await;
    node.reach.set(Way::Away);
    assert!(node.modules.wait_settled(node.models.policies().as_of, PATIENCE).await);
    assert_eq!(running(&node, &id), Some((one.clone(), true)), "machine code is kept");
    node.stop().await;

    std::fs::remove_dir_all(data.path().join("policy-code")).unwrap();
    let foundation = world.found_or_join(&crate::world::sources(data.path(), Some(&root))).await.unwrap();
    let reach = world.shelf.reach();
    reach.set(Way::Held);
    let node = world.start_reaching(&data, foundation, reach).await;
    becomes(&node, "a binding that counts as failed", |active| !active.bindings.is_empty()).await;
    assert_eq!(running(&node, &id), Some((one.clone(), false)), "at a start on_fault applies rather than nothing");
    node.reach.set(Way::Open);
    becomes(&node, "the module", |active| in_effect(active, &id).is_some_and(|binding| binding.current.module.is_some())).await;
}
