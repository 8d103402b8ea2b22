//! The rarer turns of a key's life: first use, early end of an overlap, archive, restore and purge, metadata, a dedicated upstream.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::admin::IssuedKey;
use tests::http::Answer;
use tests::{ScriptedUpstream, World, cli, wait};
use vault::{Entry, KeyStore as _, RocksKeyStore, Slot};

fn refused(answer: &Answer, status: u16, reason: &str) -> Result<()> {
    answer.expect(status)?;
    let given = answer.header("x-keyrelay-reason");
    ensure!(given == reason, "expected the reason {reason}, got {given}: {}", answer.text());
    Ok(())
}

async fn step(world: &World, key: &IssuedKey, verb: &str, body: Value) -> Result<Value> {
    world.admin.post(&format!("/keys/{}/{verb}", key.id), &body).await?.success()
}

#[tokio::test]
async fn the_time_of_a_key_begins_with_its_first_request_to_an_upstream_and_only_once() -> Result<()> {
    let world = World::start().await?;
    let key = world.admin.create_key(&json!({ "name": "later", "expires_after_first_use": "3s" })).await?;
    let shown = world.admin.key(&key.id).await?;
    ensure!(shown["expires_after_first_use"] == "3s" && shown["expires_at"].is_null(), "{shown}");

    // Neither a list of models nor a refused request is a use.
    let authorization = format!("Bearer {}", key.secret);
    world.relay.get("/v1/models", &[("authorization", &authorization)]).await?.success()?;
    world.relay.chat_body(&key.secret, "{}").await?.expect(400)?;
    ensure!(world.admin.event_types(&key.stream()).await? == ["KeyCreated", "KeyActivationAwaited"]);

    let requests = (0..64).map(|_| world.relay.chat(&key.secret, "at once"));
    for answer in futures_util::future::join_all(requests).await {
        answer?.success()?;
    }
    let activated = wait::until("the activation", || async {
        let shown = world.admin.key(&key.id).await?;
        Ok((!shown["first_used_at"].is_null()).then_some(shown))
    })
    .await?;
    ensure!(!activated["expires_at"].is_null() && activated["expires_after_first_use"].is_null(), "{activated}");
    let answer = wait::until("the expiry", || async {
        let answer = world.relay.chat(&key.secret, "until it expires").await?;
        Ok((!answer.status.is_success()).then_some(answer))
    })
    .await?;
    refused(&answer, 401, "key_expired")?;
    let types = world.admin.event_types(&key.stream()).await?;
    ensure!(types == ["KeyCreated", "KeyActivationAwaited", "KeyActivated"], "{types:?}");

    // The waiting can begin again.
    let renewed = step(&world, &key, "renew", json!({ "expires_after_first_use": "30d" })).await?;
    ensure!(renewed["reenabled"] == true && renewed["key"]["first_used_at"].is_null(), "{renewed}");
    world.relay.chat(&key.secret, "again").await?.success()?;
    Ok(())
}

#[tokio::test]
async fn a_renewal_says_whether_it_brought_the_key_back_and_lifts_a_disable_only_when_asked() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let renewed = step(&world, &key, "renew", json!({ "expires_in": "90d" })).await?;
    ensure!(renewed["reenabled"] == false, "it was active all along: {renewed}");
    step(&world, &key, "disable", json!({})).await?;
    let renewed = step(&world, &key, "renew", json!({ "expires": "never" })).await?;
    ensure!(renewed["reenabled"] == false && renewed["key"]["state"] == "disabled", "{renewed}");
    refused(&world.relay.chat(&key.secret, "still disabled").await?, 403, "key_disabled")?;

    let body = json!({ "expires_in": "30d", "enable": true });
    let path = format!("/keys/{}/renew", key.id);
    let once = || world.admin.post_once(&path, &body, "again");
    let (first, second) = (once().await?.success()?, once().await?.success()?);
    ensure!(first["reenabled"] == true && first["key"]["state"] == "active", "{first}");
    ensure!(first == second, "a retry says the same: {first} {second}");
    world.relay.chat(&key.secret, "enabled").await?.success()?;
    let types = world.admin.event_types(&key.stream()).await?;
    ensure!(types == ["KeyCreated", "KeyRenewed", "KeyDisabled", "KeyRenewed", "KeyRenewed", "KeyEnabled"], "{types:?}");
    Ok(())
}

#[tokio::test]
async fn an_overlap_that_is_finished_early_ends_at_once() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let rotated = IssuedKey::parse(&step(&world, &key, "rotate", json!({ "overlap": "24h" })).await?)?;
    world.relay.chat(&key.secret, "in the overlap").await?.success()?;
    let finished = step(&world, &key, "finish-rotation", json!({})).await?;
    let left: Vec<&Value> = finished["key"]["secrets"].as_array().into_iter().flatten().map(|secret| &secret["number"]).collect();
    ensure!(left == [2], "{finished}");
    refused(&world.relay.chat(&key.secret, "the old one").await?, 401, "key_superseded")?;
    world.relay.chat(&rotated.secret, "the new one").await?.success()?;
    let again = step(&world, &key, "finish-rotation", json!({})).await?;
    ensure!(again["key"]["version"] == finished["key"]["version"], "nothing was left to finish: {again}");
    Ok(())
}

#[tokio::test]
async fn a_key_is_put_away_taken_back_and_purged() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({ "description": "of somebody" })).await?;
    let path = format!("/keys/{}/purge", key.id);
    let purge = || world.admin.post(&path, &Value::Null);
    let early = purge().await?;
    early.expect(409)?;
    ensure!(early.json()?["code"] == "key_not_archived", "{}", early.text());

    let archived = step(&world, &key, "archive", json!({ "reason": "left" })).await?;
    ensure!(archived["key"]["state"] == "archived" && archived["key"]["archived"]["reason"] == "left", "{archived}");
    refused(&world.relay.chat(&key.secret, "archived").await?, 401, "key_archived")?;
    let renewal = world.admin.post(&format!("/keys/{}/renew", key.id), &json!({ "expires": "never" })).await?;
    renewal.expect(409)?;
    ensure!(renewal.json()?["code"] == "key_archived", "{}", renewal.text());
    step(&world, &key, "restore", json!({})).await?;
    world.relay.chat(&key.secret, "restored").await?.success()?;

    step(&world, &key, "archive", json!({})).await?;
    let purged = purge().await?.success()?;
    ensure!(purged["id"] == key.id.as_str() && purged["erased"] == true && purged["applied"] == true, "{purged}");
    refused(&world.relay.chat(&key.secret, "purged").await?, 401, "key_unknown")?;
    world.admin.get(&format!("/keys/{}", key.id)).await?.expect(404)?;
    let again = purge().await?.success()?;
    ensure!(again == purged, "a retry finishes what may be left: {again}");
    let listed = world.admin.get("/keys").await?.success()?;
    ensure!(listed["keys"] == json!([]), "{listed}");
    let types = world.admin.event_types(&key.stream()).await?;
    ensure!(types == ["KeyCreated", "KeyArchived", "KeyRestored", "KeyArchived", "KeyPurged"], "what happened stays: {types:?}");

    let world = world
        .restarted(|data| {
            cli::keyrelay(["log".as_ref(), "verify".as_ref(), "--offline".as_ref(), "--data".as_ref(), data.as_os_str()])?.expect(0)?;
            Ok(())
        })
        .await?;
    world.admin.get(&format!("/keys/{}", key.id)).await?.expect(404)?;
    Ok(())
}

/// The keys of keys' texts in the key store of a stopped node.
fn text_keys(data: &Path) -> Result<Vec<(Slot, Vec<u8>)>> {
    let keys = RocksKeyStore::open(&data.join("keys"))?;
    Ok(keys.scan(Entry::Wrapped, None, 1000)?.into_iter().filter(|(slot, _)| &*slot.owner_kind == "subject/key").collect())
}

#[tokio::test]
async fn texts_that_a_purge_left_behind_are_destroyed_by_the_node() -> Result<()> {
    let world = World::start().await?;
    let (gone, kept) = (world.key(json!({ "description": "of Ada" })).await?, world.key(json!({ "description": "of Bob" })).await?);
    let mut before = Vec::new();
    let world = world
        .restarted(|data| {
            before = text_keys(data)?;
            Ok(())
        })
        .await?;
    ensure!(before.len() == 2, "{before:?}");
    step(&world, &gone, "archive", json!({})).await?;
    step(&world, &gone, "purge", json!({})).await?;
    // As if the node had gone between the record and the key store.
    let world = world
        .restarted(|data| {
            ensure!(text_keys(data)?.len() == 1);
            let keys = RocksKeyStore::open(&data.join("keys"))?;
            for (slot, bytes) in &before {
                keys.swap_wrapped(slot, None, Some(bytes))?;
            }
            Ok(())
        })
        .await?;
    wait::until("the sweep", async || Ok(world.node.stderr().contains("secrets that nothing refers to were destroyed").then_some(())))
        .await?;
    ensure!(world.admin.key(&kept.id).await?["description"] == "of Bob");
    world
        .restarted(|data| {
            ensure!(text_keys(data)?.len() == 1);
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_dedicated_upstream_gets_all_requests_and_no_other_takes_its_place_unless_asked() -> Result<()> {
    let world = World::start().await?;
    let own = ScriptedUpstream::start().await?;
    world.admin.post("/pools", &json!({ "name": "elsewhere" })).await?.success()?;
    let credential = "sk-own-upstream-9fK2";
    let body = json!({ "name": "own", "dialect": "openai", "base_url": own.openai_url(), "credential": credential, "pool": "elsewhere" });
    world.admin.add_upstream_with(&body).await?;
    let key = world.key(json!({ "upstream": "own" })).await?;
    let shown = world.admin.key(&key.id).await?;
    ensure!(shown["upstream"] == "own" && shown["upstream_fallback"] == false && shown["pools"] == json!(["default"]), "{shown}");

    let answer = world.relay.chat(&key.secret, "to my own").await?;
    ensure!(answer.header("x-keyrelay-upstream") == "own", "{}", answer.header("x-keyrelay-upstream"));
    world.admin.post("/upstreams/own/disable", &Value::Null).await?.success()?;
    refused(&world.relay.chat(&key.secret, "mine is away").await?, 503, "no_upstream")?;
    ensure!(world.upstream.seen().is_empty(), "another upstream took its place");

    let patch = |body: Value| {
        let (admin, path) = (world.admin.clone(), format!("/api/v1/keys/{}", key.id));
        async move { admin.call(http::Method::PATCH, &path, &[], &body).await }
    };
    patch(json!({ "upstream_fallback": true })).await?.success()?;
    let answer = world.relay.chat(&key.secret, "any will do").await?;
    ensure!(answer.header("x-keyrelay-upstream") == "openai", "{}", answer.text());
    world.admin.post("/upstreams/own/enable", &Value::Null).await?.success()?;
    let answer = world.relay.chat(&key.secret, "mine first").await?;
    ensure!(answer.header("x-keyrelay-upstream") == "own", "{}", answer.text());
    patch(json!({ "upstream": null })).await?.success()?;
    let answer = world.relay.chat(&key.secret, "the pools again").await?;
    ensure!(answer.header("x-keyrelay-upstream") == "openai", "{}", answer.text());
    patch(json!({ "upstream_fallback": true })).await?.expect(400)?;
    patch(json!({ "upstream": "nobody" })).await?.expect(400)?;
    Ok(())
}

#[tokio::test]
async fn metadata_is_kept_in_one_spelling_and_bounded() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({ "metadata": { "b": [1, 2], "a": "ü" } })).await?;
    ensure!(world.admin.key(&key.id).await?["metadata"] == json!({ "a": "ü", "b": [1, 2] }));
    let path = format!("/api/v1/keys/{}", key.id);
    let patch = |metadata: Value| {
        let (admin, path) = (world.admin.clone(), path.clone());
        async move { admin.call(http::Method::PATCH, &path, &[], &json!({ "metadata": metadata })).await }
    };
    let same = patch(json!({ "a": "ü", "b": [1, 2] })).await?.success()?;
    ensure!(same["key"]["version"] == 1, "the same metadata is no change: {same}");
    let too_large = patch(json!({ "a": "x".repeat(4096) })).await?;
    too_large.expect(400)?;
    ensure!(too_large.json()?["code"] == "bad_metadata", "{}", too_large.text());
    patch(json!([1])).await?.expect(400)?;
    let cleared = patch(Value::Null).await?.success()?;
    ensure!(cleared["key"]["metadata"] == json!({}), "{cleared}");
    Ok(())
}
