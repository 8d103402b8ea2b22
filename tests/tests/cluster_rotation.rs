//! Rotations in a cluster: one successor however often and wherever it is asked for, and an end of the old secret that all nodes keep.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use schemas::Timestamp;
use serde_json::{Value, json};
use tests::admin::IssuedKey;
use tests::clock::now_ms;
use tests::cluster::{Cluster, Plan, SETTLE};
use tests::history::History;
use tests::wait;

fn plan() -> Plan {
    Plan { servers: 1, nodes: 2, ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_is_sent_five_times_is_one_and_the_old_secret_ends_at_its_second_on_both_nodes() -> Result<()> {
    let cluster = Cluster::start(plan()).await?;
    let (admins, relays) = ([cluster.admin(0)?, cluster.admin(1)?], [cluster.relay(0)?, cluster.relay(1)?]);
    let key = admins[0].create_key(&json!({ "name": "rotated", "expires": "never" })).await?;
    admins[1].shown_after(&format!("/keys/{}", key.id), key.sequence).await?;

    let mut successors = Vec::new();
    for attempt in 0..5 {
        let path = format!("/keys/{}/rotate", key.id);
        let answer = admins[attempt % 2].post_once(&path, &json!({ "overlap": "12s" }), "one-rotation").await?.success()?;
        successors.push(answer);
    }
    let issued: Vec<IssuedKey> = successors.iter().map(IssuedKey::parse).collect::<Result<_>>()?;
    ensure!(issued.iter().all(|one| one.secret == issued[0].secret), "not one successor: {successors:?}");
    let end = successors[0]["key"]["secrets"][0]["valid_until"].as_str().context("an end")?.parse::<Timestamp>().context("a time")?;
    // The first millisecond from which the secret is good no longer.
    let end = i64::try_from(end.as_micros().div_ceil(1000))?;
    admins[1].shown_after(&format!("/keys/{}", key.id), issued[0].sequence).await?;

    for relay in &relays {
        relay.chat(&issued[0].secret, "the new one").await?.success()?;
    }
    let mut answered = 0;
    while now_ms()? + 1000 < end {
        relays[answered % 2].chat(&key.secret, "the old one").await?.success()?;
        answered += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(answered >= 2, "the overlap was over before both nodes could be asked");
    while now_ms()? < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for relay in &relays {
        let refused = relay.chat(&key.secret, "the old one").await?;
        ensure!(refused.header("x-keyrelay-reason") == "key_superseded", "{} {}", refused.status, refused.text());
        relay.chat(&issued[0].secret, "the new one").await?.success()?;
    }
    let types = admins[0].event_types(&key.stream()).await?;
    ensure!(types == ["KeyCreated", "KeyRotated"], "{types:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_rotates_once_and_its_secret_is_collected_at_the_other_node() -> Result<()> {
    let cluster = Cluster::start(plan().with("KEYRELAY_CONTROL_EXPIRY_INTERVAL", "1s")).await?;
    let (admins, relays) = ([cluster.admin(0)?, cluster.admin(1)?], [cluster.relay(0)?, cluster.relay(1)?]);
    let key = admins[0].create_key(&json!({ "name": "by itself", "expires": "never" })).await?;
    let path = format!("/api/v1/keys/{}", key.id);
    let schedule = json!({ "rotation": { "every": "2s", "overlap": "2s" } });
    admins[0].call(Method::PATCH, &path, &[], &schedule).await?.success()?;
    let shown = wait::until_within(SETTLE, "a successor at the other node", || async {
        let shown = admins[1].key(&key.id).await?;
        Ok((!shown["successor"].is_null()).then_some(shown))
    })
    .await?;
    ensure!(shown["successor"] == 2, "{shown}");
    // It waits, so nothing is rotated on until it is collected.
    let ended = admins[1].call(Method::PATCH, &path, &[], &json!({ "rotation": Value::Null })).await?.success()?;
    ensure!(ended["key"]["rotation"].is_null(), "{ended}");
    let collected = admins[1].post_once(&format!("/keys/{}/successor", key.id), &json!({}), "collected").await?.success()?;
    let secret = collected["secret"].as_str().context("a secret")?;
    let again = admins[0].post_once(&format!("/keys/{}/successor", key.id), &json!({}), "collected").await?.success()?;
    ensure!(again["secret"] == secret, "the same word gives the same secret at the other node");
    let sequence = collected["sequence"].as_u64().context("a sequence")?;
    admins[0].shown_after(&format!("/keys/{}", key.id), sequence).await?;
    for relay in &relays {
        relay.chat(secret, "collected").await?.success()?;
    }
    let types = admins[0].event_types(&key.stream()).await?;
    ensure!(types.iter().filter(|kind| *kind == "KeyRotated").count() == 1, "{types:?}");
    cluster.settled().await?.expect_sound(&History::default())
}
