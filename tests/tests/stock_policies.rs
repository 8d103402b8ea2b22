//! The stock policies, as they are built for operators: what each makes of the next request.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::http::Answer;
use tests::{World, clock, policies};

/// Uploads a stock policy and binds it to the tenant; gives the binding's id.
async fn bind(world: &World, kind: &str, name: &str, settings: Value) -> Result<String> {
    let module = fs::read(policies::stock()?.join(name).with_extension("wasm"))?;
    let uploaded = world.admin.upload_policy(kind, name, module).await?;
    let body = json!({ "policy": uploaded["policy"]["digest"], "scope": { "tenant": "default" }, "settings": settings });
    let bound = world.admin.post("/bindings", &body).await?.success().with_context(|| format!("binding {name}"))?;
    ensure!(bound["binding"]["loaded"] == true, "{bound}");
    Ok(bound["binding"]["id"].as_str().context("an id")?.to_owned())
}

async fn second_upstream(world: &World, rules: Value) -> Result<()> {
    let mut body = json!({ "name": "second", "dialect": "openai", "base_url": world.upstream.openai_url(), "credential": "sk-second" });
    if let (Some(body), Value::Object(rules)) = (body.as_object_mut(), rules) {
        body.extend(rules);
    }
    world.admin.add_upstream_with(&body).await.map(drop)
}

fn served_by(answer: &Answer, upstream: &str) -> Result<()> {
    answer.expect(200)?;
    ensure!(answer.header("x-keyrelay-upstream") == upstream, "{:?}", answer.headers);
    Ok(())
}

fn refused(answer: &Answer, status: u16, code: &str) -> Result<()> {
    answer.expect(status)?;
    ensure!(answer.header("x-keyrelay-policy-reason") == code, "{:?} {}", answer.headers, answer.text());
    Ok(())
}

#[tokio::test]
async fn the_preferred_region_serves_until_the_binding_is_rolled_back() -> Result<()> {
    let world = World::start().await?;
    second_upstream(&world, json!({ "priority": 90, "region": "eu", "tags": ["spare"] })).await?;
    let key = world.key(json!({})).await?;
    let binding = bind(&world, "route", "cheapest-healthy", json!({})).await?;
    served_by(&world.relay.chat(&key.secret, "hello").await?, "openai")?;
    let change = json!({ "settings": { "regions": ["eu"] } });
    world.admin.call(Method::PATCH, &format!("/api/v1/bindings/{binding}"), &[], &change).await?.success()?;
    served_by(&world.relay.chat(&key.secret, "hello").await?, "second")?;
    world.admin.post(&format!("/bindings/{binding}/rollback"), &Value::Null).await?.success()?;
    served_by(&world.relay.chat(&key.secret, "hello").await?, "openai")
}

#[tokio::test]
async fn money_is_counted_by_the_prices_of_the_pool_and_ends() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let prices = json!({ "prices": [{ "model": "*", "input": 1_000_000, "output": 2_000_000 }] });
    world.admin.call(Method::PUT, "/api/v1/pools/default/prices", &[], &prices).await?.success()?;
    let cost = |answer: &Answer| {
        let usage = answer.success()?["usage"].clone();
        let number = |name: &str| usage[name].as_u64().with_context(|| format!("no {name} in {usage}"));
        anyhow::Ok(number("prompt_tokens")? + 2 * number("completion_tokens")?)
    };
    let once = cost(&world.relay.chat(&key.secret, "hello").await?)?;
    bind(&world, "quota", "money-quota", json!({ "day_microusd": 3 * once })).await?;
    for _ in 0..2 {
        ensure!(cost(&world.relay.chat(&key.secret, "hello").await?)? == once, "the script costs another time something else");
    }
    // Three requests have used it up, whether or not the usage models have counted the last one yet.
    refused(&world.relay.chat(&key.secret, "hello").await?, 429, "quota.day")
}

#[tokio::test]
async fn models_are_allowed_by_the_tags_of_a_key() -> Result<()> {
    let world = World::start().await?;
    let (tagged, other) = (world.key(json!({ "tags": ["ml"] })).await?, world.key(json!({})).await?);
    bind(&world, "route", "model-allow-list", json!({ "tags": { "ml": ["gpt-*"] } })).await?;
    served_by(&world.relay.chat(&tagged.secret, "hello").await?, "openai")?;
    refused(&world.relay.chat(&other.secret, "hello").await?, 403, "model.not_allowed")
}

#[tokio::test]
async fn outside_of_business_hours_nothing_is_served() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    // The first of January 1970 was a Thursday. Hours on the day after tomorrow are neither now nor soon.
    let days = clock::now_ms()? / 86_400_000;
    let names = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let day = names[usize::try_from((days + 2) % 7)?];
    let binding = bind(&world, "quota", "business-hours", json!({ "days": [day], "from": "08:00", "to": "09:00" })).await?;
    refused(&world.relay.chat(&key.secret, "hello").await?, 429, "hours.closed")?;
    let always = json!({ "settings": { "days": names, "from": "00:00", "to": "00:00" } });
    world.admin.call(Method::PATCH, &format!("/api/v1/bindings/{binding}"), &[], &always).await?.success()?;
    served_by(&world.relay.chat(&key.secret, "hello").await?, "openai")
}

#[tokio::test]
async fn a_share_of_the_keys_goes_to_another_pool() -> Result<()> {
    let world = World::start().await?;
    world.admin.post("/pools", &json!({ "name": "next" })).await?.success()?;
    second_upstream(&world, json!({ "pool": "next" })).await?;
    let key = world.key(json!({ "pools": ["default", "next"] })).await?;
    let settings = |share: u32| json!({ "stable": "default", "canary": "next", "share_ppm": share });
    let binding = bind(&world, "route", "canary-share", settings(0)).await?;
    served_by(&world.relay.chat(&key.secret, "hello").await?, "openai")?;
    let change = json!({ "settings": settings(1_000_000) });
    world.admin.call(Method::PATCH, &format!("/api/v1/bindings/{binding}"), &[], &change).await?.success()?;
    served_by(&world.relay.chat(&key.secret, "hello").await?, "second")
}

#[tokio::test]
async fn a_key_that_is_used_does_not_expire_for_want_of_use_and_one_that_rests_does() -> Result<()> {
    const HOUR: u64 = 3_600;
    let world = World::with_bug(Some(clock::MOVED)).await?;
    let key = world.key(json!({})).await?;
    let binding = bind(&world, "expiry", "expire-unused", json!({ "unused_days": 1 })).await?;
    // Each use begins the day anew, so that it slides.
    for (uses, hours) in [(1, 0), (2, 23), (3, 46), (4, 69)] {
        clock::ahead(world.node.data(), hours * HOUR)?;
        served_by(&world.relay.chat(&key.secret, "hello").await?, "openai")?;
        world.admin.usage_of(&key.id, uses).await?;
    }
    // The facts of a second ago were another's.
    clock::ahead(world.node.data(), 94 * HOUR)?;
    refused(&world.relay.chat(&key.secret, "hello").await?, 403, "key.unused")?;
    // A restart knows when it was used as well.
    let change = json!({ "settings": { "unused_days": 2 } });
    world.admin.call(Method::PATCH, &format!("/api/v1/bindings/{binding}"), &[], &change).await?.success()?;
    let world = world.restarted(|_| Ok(())).await?;
    served_by(&world.relay.chat(&key.secret, "hello").await?, "openai")
}

#[tokio::test]
async fn what_was_used_before_a_start_is_known_to_the_first_request_after_it() -> Result<()> {
    // The usage models come a second later than they could, and have to be folded anew.
    let world = World::with_bug(Some("late-usage")).await?;
    let key = world.key(json!({})).await?;
    let prices = json!({ "prices": [{ "model": "*", "input": 1_000_000, "output": 2_000_000 }] });
    world.admin.call(Method::PUT, "/api/v1/pools/default/prices", &[], &prices).await?.success()?;
    bind(&world, "quota", "money-quota", json!({ "day_microusd": 1, "soft_percent": 100 })).await?;
    world.relay.chat(&key.secret, "hello").await?.expect(200)?;
    refused(&world.relay.chat(&key.secret, "hello").await?, 429, "quota.day")?;
    let world = world.restarted(|data| Ok(fs::remove_dir_all(data.join("usage-models"))?)).await?;
    refused(&world.relay.chat(&key.secret, "hello").await?, 429, "quota.day")
}
