//! A key whose time begins with its first request, in a cluster: one beginning, whichever nodes saw a first request, and whether or not the log
//! was there. And a key of another system, which its first request makes one of ours: once, too.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::cluster::{Cluster, Plan, SETTLE};
use tests::history::History;
use tests::wait;

fn plan() -> Plan {
    Plan { servers: 1, nodes: 2, ..Plan::default() }
}

async fn activated(cluster: &Cluster, index: usize, id: &str) -> Result<Value> {
    let admin = cluster.admin(index)?;
    wait::until_within(SETTLE, "the activation", || async {
        let shown = admin.key(id).await?;
        Ok((!shown["first_used_at"].is_null()).then_some(shown))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_first_requests_at_once_on_two_nodes_are_one_activation() -> Result<()> {
    let cluster = Cluster::start(plan()).await?;
    let body = json!({ "name": "raced", "expires_after_first_use": "12h" });
    for round in 0..5 {
        let key = cluster.admin(0)?.create_key(&body).await?;
        cluster.admin(1)?.shown_after(&format!("/keys/{}", key.id), key.sequence).await?;
        let relays = [cluster.relay(0)?, cluster.relay(1)?];
        let answers = futures_util::future::join_all((0..64).map(|n| relays[n % 2].chat(&key.secret, "first"))).await;
        for answer in answers {
            answer?.success()?;
        }
        let (here, there) = (activated(&cluster, 0, &key.id).await?, activated(&cluster, 1, &key.id).await?);
        ensure!(here["expires_at"] == there["expires_at"] && !here["expires_at"].is_null(), "round {round}: {here} {there}");
        // Whatever was still on its way has nothing to add.
        let more = cluster.relay(1)?.chat(&key.secret, "later").await?;
        more.success()?;
        cluster.settle().await?;
        let types = cluster.admin(0)?.event_types(&key.stream()).await?;
        ensure!(types == ["KeyCreated", "KeyActivationAwaited", "KeyActivated"], "round {round}: {types:?}");
    }
    cluster.settled().await?.expect_sound(&History::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_use_while_the_log_is_away_neither_waits_nor_lasts_longer() -> Result<()> {
    let mut cluster = Cluster::start(plan()).await?;
    let key = cluster.admin(0)?.create_key(&json!({ "name": "alone", "expires_after_first_use": "4s" })).await?;
    let relay = cluster.relay(0)?;
    relay.get("/v1/models", &[("authorization", &format!("Bearer {}", key.secret))]).await?.success()?;
    tokio::task::block_in_place(|| cluster.nats.server(0).stop())?;

    let begin = Instant::now();
    relay.chat(&key.secret, "first").await?.success()?;
    ensure!(begin.elapsed() < Duration::from_secs(2), "the request waited {:?}", begin.elapsed());
    let refused = wait::until("the end of the provisional time", || async {
        let answer = relay.chat(&key.secret, "meanwhile").await?;
        Ok((!answer.status.is_success()).then_some(answer))
    })
    .await?;
    ensure!(refused.header("x-keyrelay-reason") == "key_expired", "{}", refused.text());
    ensure!(begin.elapsed() >= Duration::from_secs(4), "refused after {:?}", begin.elapsed());

    cluster.nats.server(0).run()?;
    cluster.nats_ready()?;
    let shown = activated(&cluster, 1, &key.id).await?;
    let time = |name: &str| shown[name].as_str().context("a time")?.parse::<schemas::Timestamp>().context("a time");
    ensure!(time("expires_at")? == time("first_used_at")?.plus_seconds(4), "{shown}");
    ensure!(shown["state"] == "expired", "the time ran from the first use, not from when the log was back: {shown}");
    let types = cluster.admin(1)?.event_types(&key.stream()).await?;
    ensure!(types == ["KeyCreated", "KeyActivationAwaited", "KeyActivated"], "{types:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_uses_of_keys_of_another_system_at_once_on_two_nodes_are_one_upgrade_each() -> Result<()> {
    let mut cluster = Cluster::start(plan()).await?;
    // As claude-relay-service makes them: SHA-256 over the key, then its ENCRYPTION_KEY.
    let old_key = "Zc4Bn6Df3Gh0Js9aKq7Lm2Vx5Rt8Yw1W";
    let secrets: Vec<String> = (0..4).map(|n| format!("cr_{}{n}", "5a1f0c9e7b3d8264e19f7c0b8a6d3e2".repeat(2))).collect();
    let hash = |secret: &str| Sha256::digest(format!("{secret}{old_key}")).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let keys =
        secrets.iter().enumerate().map(|(n, secret)| json!({ "id": n.to_string(), "name": format!("key {n}"), "apiKey": hash(secret) }));
    let document = json!({ "metadata": { "version": "1.0" }, "data": { "apiKeys": keys.collect::<Vec<_>>() } });
    let import = "/api/v1/import?from=claude-relay-service";
    let sent = cluster.admin(0)?.call(http::Method::POST, import, &[("keyrelay-old-key", old_key)], &document).await?;
    let told = sent.text();
    ensure!(sent.status == 200 && told.contains(r#""event":"done","created":4"#), "{told}");
    let listed = cluster.admin(0)?.get("/keys").await?.success()?;
    let ids: Vec<_> = listed["keys"].as_array().into_iter().flatten().filter_map(|key| key["id"].as_str().map(str::to_owned)).collect();
    cluster.settle().await?;
    let relays = [cluster.relay(0)?, cluster.relay(1)?];
    for secret in &secrets[..3] {
        for answer in futures_util::future::join_all((0..32).map(|n| relays[n % 2].chat(secret, "as ever"))).await {
            answer?.success()?;
        }
    }
    let count = async |cluster: &Cluster| {
        let mut upgraded = 0;
        for id in &ids {
            let types = cluster.admin(1)?.event_types(&format!("default.key.{id}")).await?;
            upgraded += types.iter().filter(|name| *name == "KeySecretUpgraded").count();
        }
        anyhow::Ok(upgraded)
    };
    wait::until_within(SETTLE, "the upgrades", || async { Ok((count(&cluster).await? >= 3).then_some(())) }).await?;
    cluster.settle().await?;
    // The other node begins anew, and finds the upgraded ones and the one that nobody has shown.
    cluster.stop_node(1).await?;
    std::fs::remove_dir_all(cluster.data(1).join("read-models"))?;
    cluster.start_node(1).await?;
    for secret in &secrets {
        cluster.relay(1)?.chat(secret, "after a rebuild").await?.success()?;
    }
    wait::until_within(SETTLE, "the last upgrade", || async { Ok((count(&cluster).await? >= 4).then_some(())) }).await?;
    cluster.settle().await?;
    ensure!(count(&cluster).await? == 4, "one upgrade for each key");
    cluster.settled().await?.expect_sound(&History::default())
}
