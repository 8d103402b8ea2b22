//! Keys that expire: refused from the second on, recorded by a sweep, once each, and never deleted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use schemas::Timestamp;
use serde_json::json;
use tests::{World, wait};

const KEYS: usize = 200;

#[allow(clippy::disallowed_methods, reason = "a test stands outside the node and has the machine's clock")]
fn now() -> Result<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Timestamp::from_micros(u64::try_from(since.as_micros())?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_expire_in_the_same_second_are_all_refused_from_it_on_and_all_recorded_once() -> Result<()> {
    let world = World::with(|launch| launch.with("KEYRELAY_CONTROL_EXPIRY_INTERVAL", "1s")).await?;
    let expires_at = Timestamp::from_micros((now()?.as_seconds() + 10) * 1_000_000);
    let body = json!({ "name": "one of many", "expires_at": expires_at });
    let keys = try_join_all((0..KEYS).map(|_| world.admin.create_key(&body))).await?;
    let lasting = world.key(json!({})).await?;
    let before = join_all(keys.iter().map(|key| world.relay.chat(&key.secret, "in time"))).await;
    ensure!(now()? < expires_at, "this machine is too slow to make {KEYS} keys in time");
    before.into_iter().try_for_each(|answer| answer?.success().map(drop))?;

    wait::until("the second", || async { Ok((now()? >= expires_at).then_some(())) }).await?;
    for answer in join_all(keys.iter().map(|key| world.relay.chat(&key.secret, "too late"))).await {
        let answer = answer?;
        answer.expect(401)?;
        ensure!(answer.header("x-keyrelay-reason") == "key_expired", "{}", answer.text());
    }
    world.relay.chat(&lasting.secret, "not this one").await?.success()?;

    wait::until("all expiries in the log", || async {
        let recorded = world.admin.events().await?.iter().filter(|event| event["type"] == "KeyExpired").count();
        ensure!(recorded <= KEYS, "{recorded} expiries of {KEYS} keys");
        Ok((recorded == KEYS).then_some(()))
    })
    .await?;
    let shown = world.admin.key(&keys[7].id).await?;
    ensure!(shown["state"] == "expired" && shown["expired_at"] == json!(expires_at), "{shown}");
    world.admin.post(&format!("/keys/{}/renew", keys[7].id), &json!({ "expires_in": "1h" })).await?.success()?;
    world.relay.chat(&keys[7].secret, "renewed").await?.success()?;
    let types = world.admin.event_types(&keys[7].stream()).await?;
    ensure!(types == ["KeyCreated", "KeyExpired", "KeyRenewed"], "{types:?}");
    Ok(())
}

#[tokio::test]
async fn what_expired_while_no_node_ran_is_recorded_at_the_next_start() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({ "expires_in": "2s" })).await?;
    let expires_at: Timestamp = world.admin.key(&key.id).await?["expires_at"].as_str().context("an expiry")?.parse()?;
    let world = world
        .restarted(|_| {
            while now()? < expires_at {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        })
        .await?;
    wait::until("the expiry in the log", || async {
        let types = world.admin.event_types(&key.stream()).await?;
        Ok((types == ["KeyCreated", "KeyExpired"]).then_some(()))
    })
    .await
}
