//! Commands and reads while the log is away.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use tokio::time::Instant;
use vault::RootKey;

use crate::shaky::Turn;
use crate::world::World;

async fn one_node() -> (World, crate::world::Node, tempfile::TempDir) {
    let world = World::default();
    let (node, data) = world.node(&RootKey::generate().unwrap()).await;
    (world, node, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_refused_in_time_and_reads_go_on_with_their_age_told() {
    let (world, node, _data) = one_node().await;
    let key = node.create_key().await;
    let head = world.log.true_head().await;
    world.log.leave();

    let began = Instant::now();
    let answer = node.call("POST", "/api/v1/keys", json!({ "name": "late", "expires": "never" })).await;
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
    assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "log_unavailable"), "{}", answer.body);
    assert_eq!(answer.header("retry-after"), Some(5));

    let shown = node.get(&format!("/api/v1/keys/{key}")).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert_eq!(shown.body["as_of"], json!(head.0));
    assert!(shown.header("x-keyrelay-stale-seconds").is_some_and(|seconds| (10..20).contains(&seconds)), "{:?}", shown.headers);
    assert_eq!(node.get("/api/v1/log").await.body["head"], json!(head.0));
    let events = node.get("/api/v1/events").await;
    assert_eq!((events.status, events.code()), (StatusCode::SERVICE_UNAVAILABLE, "log_unavailable"));

    let ready = node.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK, "{}", ready.body);
    assert_eq!(ready.body["degraded"], json!(true));
    assert_eq!(ready.body["reasons"], json!(["log_away", "stale"]));
    assert_eq!(ready.body["read_models"], json!("waiting"));
    let metrics = node.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("\nkeyrelay_log_connected 0\n") && metrics.contains("\nkeyrelay_log_stale_seconds 1"), "{metrics}");

    // What was refused was not written, and is not written later.
    world.log.come_back();
    node.create_key().await;
    assert_eq!(world.log.true_head().await, head.next());
    let ready = node.get("/readyz").await;
    assert_eq!((&ready.body["degraded"], &ready.body["stale_seconds"]), (&json!(false), &json!(0)), "{}", ready.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_outlasts_a_log_that_comes_back() {
    let (world, node, _data) = one_node().await;
    let head = world.log.true_head().await;
    world.log.leave();
    let log = world.log.clone();
    let back = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        log.come_back();
    });
    node.create_key().await;
    back.await.unwrap();
    assert_eq!(world.log.true_head().await, head.next());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_is_unknown_stays_so_until_it_is_found_out() {
    let (world, node, _data) = one_node().await;
    let head = world.log.true_head().await;
    // Stored without a word, then away for a while: to say that nothing was written would be wrong.
    world.log.next_appends([Turn::KeptAndUnknown, Turn::Away, Turn::Away, Turn::Away]);
    node.create_key().await;
    assert_eq!(world.log.true_head().await, head.next());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_refused_write_is_the_first_of_its_kind() {
    let (world, node, _data) = one_node().await;
    world.log.next_appends([Turn::Away, Turn::Away, Turn::Away]);
    let key = node.create_key().await;
    assert_eq!(node.get(&format!("/api/v1/keys/{key}")).await.body["key"]["version"], json!(1));
}
