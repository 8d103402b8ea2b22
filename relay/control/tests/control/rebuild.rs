//! A rebuild of the read models that is asked for over the API.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};
use vault::RootKey;

use crate::world::{Node, World};

const PATH: &str = "/api/v1/log/rebuild";

async fn ended(node: &Node) -> Value {
    let begun = Instant::now();
    loop {
        let rebuild = node.get(PATH).await;
        assert_eq!(rebuild.status, StatusCode::OK);
        if rebuild.body["state"] != json!("running") {
            return rebuild.body;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", rebuild.body);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_rebuild_runs_at_a_time_and_tells_how_it_went() {
    let world = World::default();
    let (node, data) = world.node(&RootKey::generate().unwrap()).await;
    for _ in 0..5 {
        node.create_key().await;
    }
    let head = world.log.true_head().await;
    let before = node.models.dump().unwrap();
    assert_eq!(node.get(PATH).await.body["state"], json!("none"));
    let current = || std::fs::read_to_string(data.path().join("read-models/CURRENT")).unwrap();
    let generation = current();

    // It waits for a log that is away, and so does not end before it is looked at.
    world.log.leave();
    let started = node.call("POST", PATH, Value::Null).await;
    assert_eq!((started.status, &started.body["state"]), (StatusCode::ACCEPTED, &json!("running")), "{}", started.body);
    let second = node.call("POST", PATH, json!({ "judge": true })).await;
    assert_eq!((second.status, second.code()), (StatusCode::CONFLICT, "rebuild_running"), "{}", second.body);
    assert_eq!(current(), generation);
    world.log.come_back();
    let done = ended(&node).await;
    assert_eq!((&done["state"], &done["verdicts"], &done["reason"]), (&json!("done"), &json!("known"), &Value::Null), "{done}");
    assert_eq!((&done["position"], &done["root"]), (&json!(head.0), &json!(node.models.position().root)), "{done}");
    assert_ne!(current(), generation, "other models are in use");
    assert_eq!(node.models.dump().unwrap(), before);

    let generation = current();
    let started = node.call("POST", PATH, json!({ "judge": true })).await;
    assert_eq!(started.status, StatusCode::ACCEPTED, "{}", started.body);
    assert_eq!(ended(&node).await["verdicts"], json!("judged"));
    assert_ne!(current(), generation);
    assert_eq!(node.models.dump().unwrap(), before);
    let strange = node.call("POST", PATH, json!({ "gently": true })).await;
    assert_eq!(strange.status, StatusCode::BAD_REQUEST, "{}", strange.body);
}
