//! The registry as the API shows it, the fence of a revocation, and how nodes leave.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use control::founding::{self, FoundingError};
use schemas::{Sequence, WriterId};
use serde_json::{Value, json};
use vault::RootKey;

use crate::world::{Answer, Node, World, sources};

/// Two nodes of one cluster.
async fn two_nodes() -> (World, RootKey, [(Node, tempfile::TempDir); 2]) {
    let (world, root) = (World::default(), RootKey::generate().unwrap());
    let first = world.node(&root).await;
    let second = world.node(&root).await;
    assert!(first.0.models.wait_for(world.log.true_head().await, Duration::from_secs(5)).await);
    (world, root, [first, second])
}

fn listed(answer: &Answer, id: WriterId) -> Value {
    let nodes = answer.body["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["id"] == json!(id)).cloned().unwrap_or_else(|| panic!("{id} is not in {}", answer.body))
}

async fn revoke(node: &Node, key: &str) -> Answer {
    node.call("POST", &format!("/api/v1/keys/{key}/revoke?wait=true"), json!({ "reason": "leaked" })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_listed_whether_they_are_heard_of_or_only_enrolled() {
    let (world, _, [(first, _a), (second, _b)]) = two_nodes().await;
    let head = world.log.true_head().await;
    world.registry.hear(second.id, Sequence(2), false);
    let stranger = WriterId::from_bytes([9; 16]);
    world.registry.hear(stranger, Sequence(0), true);
    let answer = first.get("/api/v1/nodes").await;
    assert_eq!(answer.status, StatusCode::OK);
    let (this, other, new) = (listed(&answer, first.id), listed(&answer, second.id), listed(&answer, stranger));
    assert_eq!(
        (&this["this"], &this["live"], &this["membership"], &this["lag"]),
        (&json!(true), &json!(true), &json!("enrolled"), &json!(0))
    );
    assert_eq!((&other["this"], &other["live"], &other["membership"]), (&json!(false), &json!(false), &json!("enrolled")));
    assert_eq!(other["lag"], json!(head.0 - 2));
    assert_eq!(new["membership"], json!("joining"));

    coordination::Coordination::forget(&world.registry, second.id).await.unwrap();
    let unheard = listed(&first.get("/api/v1/nodes").await, second.id);
    assert_eq!((&unheard["membership"], &unheard["live"], &unheard["heard_at"]), (&json!("enrolled"), &json!(false), &Value::Null));

    let page = first.get("/api/v1/nodes?limit=2").await;
    let rest = first.get(&format!("/api/v1/nodes?cursor={}", page.body["next"].as_str().unwrap())).await;
    assert_eq!((page.body["nodes"].as_array().unwrap().len(), rest.body["nodes"].as_array().unwrap().len()), (2, 1));
    assert_eq!(rest.body["next"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_is_reached_when_every_live_node_has_applied_the_revocation() {
    let (world, _, [(first, _a), (second, _b)]) = two_nodes().await;
    let (registry, other, models) = (world.registry.clone(), second.id, second.models.clone());
    registry.hear(other, models.position().sequence, true);
    let key = first.create_key().await;
    // The other node announces what it applies, as a node does.
    let announcing = tokio::spawn(async move {
        let mut applied = models.subscribe();
        while applied.changed().await.is_ok() {
            let sequence = *applied.borrow_and_update();
            registry.hear(other, sequence, true);
        }
    });
    let answer = revoke(&first, &key).await;
    announcing.abort();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let fence = &answer.body["fence"];
    assert_eq!((&fence["reached"], &fence["nodes"]), (&json!(true), &json!(2)), "{fence}");
    assert_eq!((&fence["missing"], &fence["not_live"]), (&json!([]), &json!([])));
    assert!(fence["elapsed_ms"].as_u64().unwrap() < 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_is_not_reached_names_who_is_missing_and_the_key_is_revoked() {
    let (world, _, [(first, _a), (second, _b)]) = two_nodes().await;
    world.registry.hear(second.id, Sequence(3), true);
    let key = first.create_key().await;
    let answer = revoke(&first, &key).await;
    assert_eq!(answer.status, StatusCode::OK);
    let fence = &answer.body["fence"];
    assert_eq!((&fence["reached"], &fence["missing"]), (&json!(false), &json!([second.id])), "{fence}");
    assert!((10_000..12_000).contains(&fence["elapsed_ms"].as_u64().unwrap()), "{fence}");
    assert_eq!(first.get(&format!("/api/v1/keys/{key}")).await.body["key"]["state"], json!("revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_away_meanwhile_is_not_waited_for_but_told() {
    let (world, _, [(first, _a), (second, _b)]) = two_nodes().await;
    world.registry.hear(second.id, Sequence(3), true);
    let key = first.create_key().await;
    let (registry, id) = (world.registry.clone(), second.id);
    let leaving = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        registry.hear(id, Sequence(3), false);
    });
    let answer = revoke(&first, &key).await;
    leaving.await.unwrap();
    let fence = &answer.body["fence"];
    assert_eq!((&fence["reached"], &fence["nodes"], &fence["not_live"]), (&json!(true), &json!(1), &json!([second.id])), "{fence}");
    assert_eq!(first.create_key_and_revoke_without_waiting().await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_not_heard_yet_is_waited_for_as_long_as_it_may_be_silent() {
    let (world, _, [(first, _a), (second, _b)]) = two_nodes().await;
    let (registry, other) = (world.registry.clone(), second.id);
    let key = first.create_key().await;
    // As after a start: the other node runs, and its next message is on its way.
    coordination::Coordination::forget(&registry, other).await.unwrap();
    registry.begin_to_listen();
    let models = second.models.clone();
    let heard = tokio::spawn(async move {
        let before = models.position().sequence;
        assert!(models.wait_for(before.next(), Duration::from_secs(5)).await);
        // Later than a fence takes that does not wait for it.
        tokio::time::sleep(Duration::from_millis(500)).await;
        registry.hear(other, models.position().sequence, true);
    });
    let answer = revoke(&first, &key).await;
    heard.await.unwrap();
    let fence = &answer.body["fence"];
    assert_eq!((&fence["reached"], &fence["nodes"]), (&json!(true), &json!(2)), "{fence}");
    assert_eq!((&fence["missing"], &fence["not_live"]), (&json!([]), &json!([])));
    assert!((500..5_000).contains(&fence["elapsed_ms"].as_u64().unwrap()), "{fence}");

    // One that is not heard in all that time is silent, and told as such.
    coordination::Coordination::forget(&world.registry, other).await.unwrap();
    let key = first.create_key().await;
    world.registry.begin_to_listen();
    let fence = &revoke(&first, &key).await.body["fence"];
    assert_eq!((&fence["reached"], &fence["nodes"], &fence["not_live"]), (&json!(true), &json!(1), &json!([other])), "{fence}");
    assert!((4_500..7_000).contains(&fence["elapsed_ms"].as_u64().unwrap()), "{fence}");
}

impl Node {
    async fn create_key_and_revoke_without_waiting(&self) -> Value {
        let key = self.create_key().await;
        let answer = self.call("POST", &format!("/api/v1/keys/{key}/revoke"), json!({})).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.body["fence"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_node_that_is_not_live_is_retired_by_another_and_it_does_not_come_back() {
    let (world, root, [(first, _a), (second, data)]) = two_nodes().await;
    let (id, path) = (second.id, format!("/api/v1/nodes/{}", second.id));
    for path in [&path, &format!("/api/v1/nodes/{}", first.id)] {
        let answer = first.call("DELETE", path, Value::Null).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::CONFLICT, "node_live"), "{}", answer.body);
    }
    second.stop().await;
    world.registry.hear(id, Sequence(3), false);
    // A node that is cut off itself cannot tell who is live, and one that was silent for a moment may be heard again.
    world.log.leave();
    let answer = first.call("DELETE", &path, Value::Null).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "registry_unavailable"), "{}", answer.body);
    world.log.come_back();
    let registry = world.registry.clone();
    let heard = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        registry.hear(id, Sequence(3), true);
    });
    let answer = first.call("DELETE", &path, Value::Null).await;
    heard.await.unwrap();
    assert_eq!((answer.status, answer.code()), (StatusCode::CONFLICT, "node_live"), "{}", answer.body);
    world.registry.hear(id, Sequence(3), false);

    let answer = first.call("DELETE", &path, Value::Null).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!((&answer.body["node"]["membership"], &answer.body["node"]["live"]), (&json!("retired"), &json!(false)));
    let again = first.call("DELETE", &path, Value::Null).await;
    assert_eq!((again.status, again.code()), (StatusCode::CONFLICT, "writer_retired"), "{}", again.body);
    let unknown = first.call("DELETE", &format!("/api/v1/nodes/{}", WriterId::from_bytes([7; 16])), Value::Null).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{}", unknown.body);
    assert_eq!(first.models.status().counts.void, 0, "the retirement counts");
    let retired = tokio::time::timeout(Duration::from_secs(5), founding::until_retired(&first.models, id)).await.unwrap().unwrap();
    assert_eq!(retired.node, id);
    assert_eq!(listed(&first.get("/api/v1/nodes").await, id)["membership"], json!("retired"));

    let (projector, models) = world.open_models(data.path()).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let following = tokio::spawn({
        let stop = stop.clone();
        async move { projector.run(stop).await }
    });
    assert!(models.wait_for(world.log.true_head().await, Duration::from_secs(5)).await);
    let error = founding::from_local(&sources(data.path(), Some(&root)), &models, world.store.clone()).await.err().unwrap();
    assert!(matches!(error, FoundingError::Retired(_)) && error.to_string().contains("writer.key"), "{error:?}");
    stop.cancel();
    following.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_with_its_own_signature_as_its_last_record() {
    let (world, _, [(first, _a), (second, _b)]) = two_nodes().await;
    let answer = second.call("POST", "/api/v1/nodes/leave", json!({})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.body["node"]["membership"], json!("retired"));
    assert!(second.is_stopped.load(Ordering::SeqCst) && !first.is_stopped.load(Ordering::SeqCst));
    let head = world.log.true_head().await;
    assert_eq!(answer.body["sequence"], json!(head.0));

    let late = second.call("POST", "/api/v1/keys", json!({ "name": "late", "expires": "never" })).await;
    assert_eq!((late.status, late.code()), (StatusCode::SERVICE_UNAVAILABLE, "stopping"), "{}", late.body);
    assert_eq!(world.log.true_head().await, head);
    first.create_key().await;
    assert_eq!(first.models.status().counts.void, 0);
}
