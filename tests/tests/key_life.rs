//! A client key, from its creation to its end: each step is seen by the very next request, and all of it is in the log.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::http::Answer;
use tests::{World, cli, wait};

fn refused(answer: &Answer, status: u16, reason: &str) -> Result<()> {
    answer.expect(status)?;
    let given = answer.header("x-keyrelay-reason");
    ensure!(given == reason, "expected the reason {reason}, got {given}: {}", answer.text());
    Ok(())
}

#[tokio::test]
async fn each_step_of_a_life_is_seen_by_the_very_next_request() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let step = |verb: &str, body: Value| {
        let (admin, path) = (world.admin.clone(), format!("/keys/{}/{verb}", key.id));
        async move { admin.post(&path, &body).await?.success() }
    };

    world.relay.chat(&key.secret, "created").await?.success()?;

    let renewed = step("renew", json!({ "expires_in": "90d" })).await?;
    ensure!(renewed["key"]["version"] == 2 && !renewed["key"]["renewed_at"].is_null(), "not renewed: {renewed}");
    world.relay.chat(&key.secret, "renewed").await?.success()?;

    let before_rotation = Instant::now();
    let rotated = step("rotate", json!({ "overlap": "2s" })).await?;
    let new_secret = rotated["secret"].as_str().unwrap_or_default().to_owned();
    ensure!(rotated["key"]["id"] == key.id.as_str(), "a rotation keeps the id: {rotated}");
    world.relay.chat(&new_secret, "the new secret").await?.success()?;
    world.relay.chat(&key.secret, "the old secret, in the overlap").await?.success()?;
    let superseded = wait::until("the end of the overlap", || async {
        let answer = world.relay.chat(&key.secret, "the old secret").await?;
        Ok((!answer.status.is_success()).then_some(answer))
    })
    .await?;
    ensure!(before_rotation.elapsed() >= Duration::from_secs(2), "the old secret was refused inside the overlap");
    refused(&superseded, 401, "key_superseded")?;
    world.relay.chat(&new_secret, "the new secret goes on").await?.success()?;

    step("disable", json!({ "reason": "looked odd" })).await?;
    refused(&world.relay.chat(&new_secret, "disabled").await?, 403, "key_disabled")?;
    step("enable", json!({})).await?;
    world.relay.chat(&new_secret, "enabled").await?.success()?;
    step("revoke", json!({ "reason": "leaked" })).await?;
    let asked = world.upstream.seen().len();
    refused(&world.relay.chat(&new_secret, "revoked").await?, 401, "key_revoked")?;
    ensure!(world.upstream.seen().len() == asked, "a refused request reached the upstream");

    let life = world.admin.event_types(&key.stream()).await?;
    ensure!(life == ["KeyCreated", "KeyRenewed", "KeyRotated", "KeyDisabled", "KeyEnabled", "KeyRevoked"], "the log says {life:?}");
    let shown = world.admin.key(&key.id).await?;
    ensure!(shown["state"] == "revoked" && shown["version"] == 6 && shown["revoked"]["reason"] == "leaked", "the read model says {shown}");
    Ok(())
}

#[tokio::test]
async fn an_expired_key_is_refused_and_renewal_brings_it_back() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({ "expires_in": "1s" })).await?;
    let answer = wait::until("the expiry", || async {
        let answer = world.relay.chat(&key.secret, "until it expires").await?;
        Ok((!answer.status.is_success()).then_some(answer))
    })
    .await?;
    refused(&answer, 401, "key_expired")?;
    world.admin.post(&format!("/keys/{}/renew", key.id), &json!({ "expires_in": "1h" })).await?.success()?;
    world.relay.chat(&key.secret, "renewed").await?.success()?;
    Ok(())
}

#[tokio::test]
async fn a_revocation_is_seen_although_the_key_was_just_used() -> Result<()> {
    revocation_is_seen(None).await
}

async fn revocation_is_seen(bug: Option<String>) -> Result<()> {
    let world = World::with_bug(bug.as_deref()).await?;
    for _ in 0..20 {
        let key = world.key(json!({})).await?;
        world.relay.chat(&key.secret, "into the cache").await?.success()?;
        world.admin.post(&format!("/keys/{}/revoke", key.id), &json!({})).await?.success()?;
        refused(&world.relay.chat(&key.secret, "after").await?, 401, "key_revoked")?;
    }
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_cache_that_is_not_invalidated_is_noticed() -> Result<()> {
    tests::planted::turns_red("stale-key-cache", "expected 401", revocation_is_seen).await
}

/// Everything the read models show, without where they stand.
async fn shown(world: &World) -> Result<Value> {
    let mut all = json!({});
    for list in ["keys", "upstreams", "pools", "usage?group_by=key"] {
        let mut page = world.admin.get(&format!("/{list}")).await?.success()?;
        page.as_object_mut().map(|page| page.remove("as_of"));
        all[list] = page;
    }
    Ok(all)
}

#[tokio::test]
async fn read_models_that_were_deleted_come_back_the_same() -> Result<()> {
    let world = World::start().await?;
    let mut keys = Vec::new();
    for _ in 0..5 {
        keys.push(world.key(json!({ "models": ["gpt-*"], "limits": { "requests_per_minute": 1000 } })).await?);
    }
    for key in &keys {
        world.relay.chat(&key.secret, "once").await?.success()?;
        world.admin.usage_of(&key.id, 1).await?;
    }
    world.admin.post(&format!("/keys/{}/revoke", keys[0].id), &json!({ "reason": "rebuild" })).await?.success()?;
    let before = shown(&world).await?;

    let world = world
        .restarted(|data| {
            cli::keyrelay(["log".as_ref(), "verify".as_ref(), "--offline".as_ref(), "--data".as_ref(), data.as_os_str()])?.expect(0)?;
            Ok(std::fs::remove_dir_all(data.join("read-models"))?)
        })
        .await?;

    let after = shown(&world).await?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    world.relay.chat(&keys[1].secret, "served as before").await?.success()?;
    refused(&world.relay.chat(&keys[0].secret, "still revoked").await?, 401, "key_revoked")
}
