//! Lists of keys, and commands on many of them.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use vault::RootKey;

use crate::world::{Answer, Node, World};

async fn one_node() -> (World, Node, TempDir) {
    let world = World::default();
    let (node, data) = world.node(&RootKey::generate().unwrap()).await;
    (world, node, data)
}

/// The lines of a batch: its begin, its items and its end.
struct Lines {
    begin: Value,
    items: Vec<Value>,
    end: Value,
}

async fn batch(node: &Node, body: Value, idempotency_key: &str) -> Lines {
    let fields = [("idempotency-key", idempotency_key)];
    let (head, bytes) = node.exchange("POST", "/api/v1/keys/batch", &fields, body.to_string().into_bytes()).await;
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(head.status, StatusCode::OK, "{text}");
    assert_eq!(head.headers["content-type"], "application/x-ndjson");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.pop().unwrap();
    let begin = lines.remove(0);
    assert_eq!((&begin["type"], &end["type"]), (&json!("begin"), &json!("end")), "{text}");
    assert_eq!(begin["items"], json!(lines.len()));
    for (index, line) in lines.iter().enumerate() {
        assert_eq!((&line["type"], &line["index"]), (&json!("item"), &json!(index)));
    }
    Lines { begin, items: lines, end }
}

async fn refused(node: &Node, body: Value, idempotency_key: &str) -> Answer {
    node.call_with("POST", "/api/v1/keys/batch", &[("idempotency-key", idempotency_key)], body.to_string().into_bytes()).await
}

fn creation(count: usize) -> Value {
    json!({ "create": { "count": count, "first": 8, "key": { "name": "ci-{n:03}", "expires_in": "30d", "tags": ["ci"] } } })
}

/// The names of a list, in its order.
async fn names(node: &Node, query: &str) -> Vec<String> {
    let answer = node.get(&format!("/api/v1/keys?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
}

fn column<'a>(items: &'a [Value], member: &str) -> Vec<&'a Value> {
    items.iter().map(|item| &item[member]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_sent_again_gives_the_same_keys_and_secrets_and_does_nothing_twice() {
    let (world, node, _data) = one_node().await;
    let first = batch(&node, creation(50), "fifty").await;
    assert_eq!(first.begin["idempotency_key"], "fifty");
    assert_eq!(first.end["counts"]["changed"], json!(50), "{}", first.end);
    assert_eq!((&first.items[0]["name"], &first.items[49]["name"]), (&json!("ci-008"), &json!("ci-057")));
    let secrets: BTreeSet<&str> = first.items.iter().map(|item| item["secret"].as_str().unwrap()).collect();
    assert_eq!(secrets.len(), 50);
    for item in &first.items {
        let hash = schemas::client_key::hash(item["secret"].as_str().unwrap());
        let key = node.models.key_by_hash(&hash).unwrap().unwrap();
        assert_eq!((json!(key.id), json!(key.details.name)), (item["id"].clone(), item["name"].clone()));
    }

    let head = world.log.true_head().await;
    let again = batch(&node, creation(50), "fifty").await;
    assert_eq!(again.end["counts"], json!({ "changed": 0, "repeated": 50, "unchanged": 0, "failed": 0, "not_begun": 0 }));
    for member in ["id", "secret", "sequence", "version"] {
        assert_eq!(column(&again.items, member), column(&first.items, member), "{member}");
    }
    assert_eq!(world.log.true_head().await, head);

    let answer = refused(&node, creation(60), "fifty").await;
    assert_eq!((answer.status, answer.code()), (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"));
    assert_eq!(world.log.true_head().await, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_a_batch_and_the_rest_is_had_by_sending_it_again() {
    let (_world, node, _data) = one_node().await;
    let fields = [("idempotency-key", "many")];
    let mut body = node.open("POST", "/api/v1/keys/batch", &fields, creation(2000).to_string().into_bytes()).await.into_body();
    let mut seen = Vec::new();
    while seen.iter().filter(|byte| **byte == b'\n').count() < 20 {
        seen.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    drop(body);
    let lines = batch(&node, creation(2000), "many").await;
    let (changed, repeated) = (lines.end["counts"]["changed"].as_u64().unwrap(), lines.end["counts"]["repeated"].as_u64().unwrap());
    assert!(repeated >= 19 && changed > 0 && changed + repeated == 2000, "{}", lines.end);
    let text = String::from_utf8(seen).unwrap();
    for line in text.lines().skip(1).filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let index = line["index"].as_u64().unwrap() as usize;
        assert_eq!(lines.items[index]["secret"], line["secret"], "{line}");
    }
    assert_eq!(node.get("/api/v1/keys?limit=1").await.body["total"], json!(2000));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_item_fails_by_itself_and_a_dry_run_tells_the_difference() {
    let (world, node, _data) = one_node().await;
    let made = batch(&node, creation(5), "five").await;
    let ids: Vec<Value> = column(&made.items, "id").into_iter().cloned().collect();
    let revoke = json!({ "revoke": { "reason": "gone" }, "keys": [ids[0]] });
    assert_eq!(batch(&node, revoke, "revoke").await.end["counts"]["changed"], json!(1));
    let disable = json!({ "disable": {}, "keys": [ids[1]] });
    batch(&node, disable, "disable").await;

    let head = world.log.true_head().await;
    let mut renew =
        json!({ "renew": { "expires": "never" }, "keys": [ids[0], "key_nobody", ids[1], ids[2], schemas::KeyId::from_bytes([9; 16])] });
    renew["dry_run"] = json!(true);
    let rehearsed = batch(&node, renew.clone(), "renew").await;
    assert_eq!(world.log.true_head().await, head);
    assert_eq!(column(&rehearsed.items, "status"), [409, 404, 200, 200, 404]);
    assert_eq!(
        column(&rehearsed.items, "code"),
        [&json!("key_revoked"), &json!("not_found"), &Value::Null, &Value::Null, &json!("not_found")]
    );
    let difference = &rehearsed.items[2]["difference"];
    assert_eq!(difference["events"], json!(["KeyRenewed"]));
    assert_eq!(difference["members"]["expires_at"], json!({ "from": made.items[1]["expires_at"], "to": null }));
    assert_eq!(difference["members"]["state"], Value::Null, "a renewal does not enable");

    renew["dry_run"] = json!(false);
    let renewed = batch(&node, renew, "renew").await;
    assert_eq!(column(&renewed.items, "status"), [409, 404, 200, 200, 404]);
    assert_eq!(renewed.end["counts"], json!({ "changed": 2, "repeated": 0, "unchanged": 0, "failed": 3, "not_begun": 0 }));
    assert_eq!(renewed.end["done"], json!(true));
    assert_eq!((&renewed.items[2]["state"], &renewed.items[2]["expires_at"]), (&json!("disabled"), &Value::Null));

    let change =
        json!({ "change": { "tags": ["eu"], "description": "moved" }, "filter": { "tag": "ci", "state": "active" }, "dry_run": true });
    let rehearsed = batch(&node, change.clone(), "change").await;
    assert_eq!(rehearsed.items.len(), 3);
    let members = &rehearsed.items[0]["difference"]["members"];
    assert_eq!(members["tags"], json!({ "from": ["ci"], "to": ["eu"] }));
    assert_eq!(members["description"], json!({ "from": null, "to": "moved" }));
    let change = json!({ "change": { "tags": ["eu"] }, "filter": { "tag": "ci", "state": "active" } });
    assert_eq!(batch(&node, change.clone(), "change").await.end["counts"]["changed"], json!(3));
    assert_eq!(names(&node, "tag=eu&sort=name").await, ["ci-010", "ci-011", "ci-012"]);
    // What was done does not match any more, and is not done twice.
    assert_eq!(batch(&node, change, "change").await.items.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_put_away_taken_back_and_purged_together() {
    let (world, node, _data) = one_node().await;
    let made = batch(&node, creation(5), "five").await;
    let ids: Vec<Value> = column(&made.items, "id").into_iter().cloned().collect();
    let archive = json!({ "archive": { "reason": "left" }, "filter": { "tag": "ci", "sort": "name" } });
    let archived = batch(&node, archive.clone(), "archive").await;
    assert_eq!((&archived.end["counts"]["changed"], &archived.items[0]["state"]), (&json!(5), &json!("archived")));
    assert_eq!(batch(&node, archive, "once more").await.end["counts"]["unchanged"], json!(5));
    let shown = node.get(&format!("/api/v1/keys/{}", ids[0].as_str().unwrap())).await.body;
    assert_eq!(shown["key"]["archived"]["reason"], json!("left"));

    let restored = batch(&node, json!({ "restore": {}, "keys": ids[..2] }), "restore").await;
    assert_eq!((&restored.end["counts"]["changed"], &restored.items[1]["state"]), (&json!(2), &json!("active")));

    let head = world.log.true_head().await;
    let purge = json!({ "purge": {}, "keys": [ids[0], ids[2], ids[3], "key_nobody"] });
    let mut rehearsal = purge.clone();
    rehearsal["dry_run"] = json!(true);
    let rehearsed = batch(&node, rehearsal, "purge").await;
    assert_eq!(world.log.true_head().await, head);
    assert_eq!(column(&rehearsed.items, "status"), [409, 200, 200, 404]);
    assert_eq!((&rehearsed.items[1]["difference"]["events"], &rehearsed.items[1]["name"]), (&json!(["KeyPurged"]), &json!("ci-010")));

    let purged = batch(&node, purge.clone(), "purge").await;
    assert_eq!(column(&purged.items, "code"), [&json!("key_not_archived"), &Value::Null, &Value::Null, &json!("not_found")]);
    assert_eq!(purged.end["counts"], json!({ "changed": 2, "repeated": 0, "unchanged": 0, "failed": 2, "not_begun": 0 }));
    assert_eq!((&purged.items[1]["erased"], &purged.items[1]["name"]), (&json!(true), &json!("ci-010")));
    let again = batch(&node, purge.clone(), "purge").await;
    assert_eq!(again.end["counts"], json!({ "changed": 0, "repeated": 2, "unchanged": 0, "failed": 2, "not_begun": 0 }));
    let other = batch(&node, purge, "another").await;
    assert_eq!(other.end["counts"], json!({ "changed": 0, "repeated": 0, "unchanged": 2, "failed": 2, "not_begun": 0 }));
    assert_eq!(names(&node, "tag=ci&sort=name").await, ["ci-008", "ci-009", "ci-012"]);
    // What is archived takes no renewal, and the others are done.
    let renewed = batch(&node, json!({ "renew": { "expires": "never" }, "filter": { "tag": "ci", "sort": "name" } }), "renew").await;
    assert_eq!(column(&renewed.items, "status"), [200, 200, 409]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_makes_no_sense_is_refused_whole() {
    let (world, node, _data) = one_node().await;
    let head = world.log.true_head().await;
    let key = json!({ "name": "ci-{n}", "expires": "never" });
    for (body, what) in [
        (json!({}), "exactly one of"),
        (json!({ "enable": {}, "revoke": {}, "keys": ["x"] }), "exactly one of"),
        (json!({ "enable": {} }), "either keys or a filter"),
        (json!({ "enable": {}, "keys": ["x"], "filter": {} }), "either keys or a filter"),
        (json!({ "archive": {}, "purge": {}, "keys": ["x"] }), "exactly one of"),
        (json!({ "enable": {}, "keys": [] }), "1 to 10000 ids"),
        (json!({ "enable": {}, "filter": { "tga": "ci" } }), "unknown field"),
        (json!({ "enable": {}, "filter": { "cursor": "x" } }), "no cursor"),
        (json!({ "enable": {}, "filter": { "pool": "none" } }), "no pool"),
        (json!({ "create": { "count": 10001, "key": key } }), "count is 1 to 10000"),
        (json!({ "create": { "count": 2, "key": { "name": "ci", "expires": "never" } } }), "pattern"),
        (json!({ "create": { "count": 2, "key": key }, "filter": {} }), "has neither"),
        (json!({ "renew": {}, "filter": {} }), "exactly one of"),
    ] {
        let answer = refused(&node, body.clone(), "x").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.body);
        assert!(answer.body["detail"].as_str().unwrap().contains(what), "{body}: {}", answer.body);
    }
    assert_eq!(world.log.true_head().await, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_searched_sorted_and_paged() {
    let (_world, node, _data) = one_node().await;
    let made = batch(&node, creation(5), "five").await;
    let secret = made.items[3]["secret"].as_str().unwrap();
    assert_eq!(names(&node, "search=CI-01&sort=name&order=desc").await, ["ci-012", "ci-011", "ci-010"]);
    for search in [secret, &secret[..20], made.items[3]["id"].as_str().unwrap()] {
        assert_eq!(names(&node, &format!("search={search}")).await, ["ci-011"]);
    }
    assert_eq!(names(&node, "search=sk-kr-nothing1").await, [""; 0]);
    assert_eq!(names(&node, "never_expires=true").await, [""; 0]);
    assert_eq!(names(&node, "state=active&pool=default&unused_since=2999-01-01T00:00:00Z").await.len(), 5);

    let first = node.get("/api/v1/keys?sort=name&limit=3&tag=ci").await.body;
    assert_eq!((&first["total"], &first["keys"][0]["last_used_at"]), (&json!(5), &Value::Null));
    let cursor = first["next"].as_str().unwrap();
    assert_eq!(names(&node, &format!("sort=name&limit=3&tag=ci&cursor={cursor}")).await, ["ci-011", "ci-012"]);
    for other in ["sort=name", "sort=name&tag=ci&order=desc", "tag=ci", "limit=0", "state=asleep", "tga=ci"] {
        let answer = node.get(&format!("/api/v1/keys?{other}&cursor={cursor}")).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "bad_request"), "{other}: {}", answer.body);
    }
}
