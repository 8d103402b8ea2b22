//! Prices of pools, and what usage cost by them: over REST, on the command line, in both dialects, with tokens from a cache.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::http::Answer;
use tests::upstream::Behaviour;
use tests::{World, cli, wait};

const PATH: &str = "/api/v1/pools/default/prices";

fn prices() -> Value {
    json!([
        { "model": "gpt-*", "input": 2_500_001, "output": 10_000_000, "cache_read": 1_250_000, "cache_write": null },
        { "model": "claude-*", "input": 3_000_000, "output": 15_000_000, "cache_read": 300_000, "cache_write": 3_750_000 },
    ])
}

async fn set(world: &World, prices: Value) -> Result<Value> {
    world.admin.call(Method::PUT, PATH, &[], &json!({ "prices": prices })).await?.success()
}

/// What an answer's own figures cost by the prices above, in millionths of a micro-dollar.
fn exact_cost(answer: &Answer) -> Result<u128> {
    let usage = answer.success()?["usage"].clone();
    let number = |value: &Value| value.as_u64().map(u128::from).with_context(|| format!("no figure in {usage}"));
    if usage["prompt_tokens"].is_null() {
        let (input, cached) = (number(&usage["input_tokens"])?, number(&usage["cache_read_input_tokens"])?);
        return Ok(input * 3_000_000 + cached * 300_000 + number(&usage["output_tokens"])? * 15_000_000);
    }
    let (prompt, cached) = (number(&usage["prompt_tokens"])?, number(&usage["prompt_tokens_details"]["cached_tokens"])?);
    Ok((prompt - cached) * 2_500_001 + cached * 1_250_000 + number(&usage["completion_tokens"])? * 10_000_000)
}

fn micro_usd(exact: &[u128]) -> u64 {
    u64::try_from(exact.iter().sum::<u128>().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The one row of a grouping for which a member has a value.
async fn row(world: &World, path: &str, member: &str, value: &str) -> Result<Value> {
    let usage = world.admin.get(path).await?.success()?;
    let rows = usage["usage"].as_array().context("no rows")?;
    rows.iter().find(|row| row[member] == value).cloned().with_context(|| format!("no {member} {value} in {usage}"))
}

#[tokio::test]
async fn usage_costs_what_the_present_prices_say() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let mut answers = Vec::new();
    for (cached_tokens, reasoning_tokens) in [(0, 0), (700, 30), (1, 0)] {
        let behaviour = Behaviour { cached_tokens, reasoning_tokens, words: 33, ..Behaviour::default() };
        world.upstream.next(behaviour.clone());
        answers.push(world.relay.chat(&key.secret, "how much").await?);
        world.upstream.next(behaviour);
        answers.push(world.relay.message(&key.secret, "how much").await?);
    }
    let costs = answers.iter().map(exact_cost).collect::<Result<Vec<_>>>()?;
    world.admin.usage_of(&key.id, 6).await?;

    let unpriced = row(&world, "/usage", "key", &key.id).await?;
    ensure!(unpriced["cost_microusd"].is_null() && unpriced["unpriced"] == 6, "nothing has a price yet: {unpriced}");

    // What was used before there were prices is priced as well.
    let answer = set(&world, prices()).await?;
    ensure!(answer["prices"] == prices() && answer["applied"] == true && answer["version"] == 2, "{answer}");
    let all = row(&world, "/usage?group_by=key", "key", &key.id).await?;
    ensure!(all["cost_microusd"] == micro_usd(&costs) && all["unpriced"] == 0, "{all}, expected {costs:?}");
    let of = |dialect: usize| micro_usd(&costs.iter().skip(dialect).step_by(2).copied().collect::<Vec<_>>());
    for (dialect, model) in [(0, "gpt-scripted"), (1, "claude-scripted")] {
        let found = row(&world, "/usage?group_by=model", "model", model).await?;
        ensure!(found["cost_microusd"] == of(dialect), "{found}, expected {}", of(dialect));
    }
    for (dialect, name) in [(0, "openai"), (1, "anthropic")] {
        let upstream = world.admin.get(&format!("/upstreams/{name}")).await?.success()?;
        let id = upstream["upstream"]["id"].as_str().unwrap_or_default().to_owned();
        let found = row(&world, "/usage?group_by=upstream", "upstream", &id).await?;
        ensure!(found["cost_microusd"] == of(dialect), "{found}, expected {}", of(dialect));
    }
    // A request each, rounded up by itself; and days, which may be two around midnight.
    for (answer, exact) in answers.iter().zip(&costs) {
        let shown = world.admin.get(&format!("/requests/{}", answer.header("x-request-id"))).await?.success()?;
        ensure!(shown["request"]["cost_microusd"] == micro_usd(&[*exact]), "{shown}, expected {exact}");
    }
    for path in ["/usage?group_by=day".to_owned(), format!("/keys/{}/usage", key.id)] {
        let usage = world.admin.get(&path).await?.success()?;
        let days = usage["usage"].as_array().context("no rows")?;
        let sum: u64 = days.iter().filter_map(|day| day["cost_microusd"].as_u64()).sum();
        ensure!((micro_usd(&costs)..micro_usd(&costs) + days.len() as u64).contains(&sum), "{usage}");
    }

    // A model without a price costs nothing that could be told, and is counted apart.
    let other = json!({ "model": "o1-scripted", "messages": [{ "role": "user", "content": "hm" }] });
    let answer = world.relay.chat_body(&key.secret, other.to_string()).await?;
    answer.success()?;
    world.admin.usage_of(&key.id, 7).await?;
    let all = row(&world, "/usage?group_by=key", "key", &key.id).await?;
    ensure!(all["cost_microusd"] == micro_usd(&costs) && all["unpriced"] == 1, "{all}");
    let found = row(&world, "/usage?group_by=model", "model", "o1-scripted").await?;
    ensure!(found["cost_microusd"].is_null() && found["unpriced"] == 1, "{found}");
    let shown = world.admin.get(&format!("/requests/{}", answer.header("x-request-id"))).await?.success()?;
    ensure!(shown["request"]["cost_microusd"].is_null(), "{shown}");

    // All of it is derived: the same after everything was folded anew.
    let before = world.admin.get("/usage?group_by=model").await?.success()?;
    let world = world.restarted(|data| Ok(std::fs::remove_dir_all(data.join("usage-models"))?)).await?;
    let after = wait::until("the usage that was there before", || async {
        let after = world.admin.get("/usage?group_by=model").await?.success()?;
        Ok((after["as_of"] == before["as_of"]).then_some(after))
    })
    .await?;
    ensure!(after == before, "before: {before}\nafter: {after}");
    Ok(())
}

#[tokio::test]
async fn prices_are_set_whole_once_and_on_the_version_that_was_seen() -> Result<()> {
    let world = World::start().await?;
    let put = |fields: Vec<(&'static str, &'static str)>, prices: Value| {
        let admin = world.admin.clone();
        async move { admin.call(Method::PUT, PATH, &fields, &json!({ "prices": prices })).await }
    };
    let shown = world.admin.get("/pools/default/prices").await?.success()?;
    ensure!(shown["prices"] == json!([]) && shown["version"] == 1 && shown["name"] == "default", "{shown}");

    let set = put(vec![("if-match", "1"), ("idempotency-key", "set")], prices()).await?.success()?;
    let again = put(vec![("if-match", "1"), ("idempotency-key", "set")], prices()).await?.success()?;
    ensure!(set["version"] == 2 && again["sequence"] == set["sequence"] && again["prices"] == set["prices"], "{set}, then {again}");
    put(vec![("if-match", "1")], json!([])).await?.expect(412)?;
    put(vec![("idempotency-key", "set")], json!([])).await?.expect(422)?;
    for (wrong, code) in [
        (json!([{ "model": "a", "input": 1_000_000_000_001_u64, "output": 1 }]), "bad_price"),
        (json!([{ "model": "", "input": 1, "output": 1 }]), "bad_request"),
        (json!([{ "model": "a", "input": 2.5, "output": 1 }]), "bad_request"),
        (json!([{ "model": "a", "input": -1, "output": 1 }]), "bad_request"),
        (json!([{ "model": "a", "output": 1 }]), "bad_request"),
        (json!([{ "model": "a", "input": 1, "output": 1, "batch": 1 }]), "bad_request"),
        (Value::Null, "bad_request"),
    ] {
        let refused = put(vec![], wrong.clone()).await?;
        ensure!(refused.expect(400)?.json()?["code"] == code, "{wrong}: {}", refused.text());
    }
    world.admin.call(Method::PUT, "/api/v1/pools/none/prices", &[], &json!({ "prices": [] })).await?.expect(404)?;
    world.admin.get("/pools/none/prices").await?.expect(404)?;

    let all = world.admin.get("/prices").await?.success()?;
    ensure!(all["pools"].as_array().is_some_and(|pools| pools.len() == 1) && all["pools"][0]["prices"] == prices(), "{all}");
    ensure!(put(vec![], json!([])).await?.success()?["prices"] == json!([]), "not taken away");
    let stream = format!("default.pool.{}", all["pools"][0]["pool"].as_str().unwrap_or_default());
    let events = world.admin.event_types(&stream).await?;
    ensure!(events == ["PoolCreated", "PoolPriced", "PoolPriced"], "the log says {events:?}");
    Ok(())
}

#[tokio::test]
async fn prices_and_costs_are_told_on_the_command_line() -> Result<()> {
    let world = World::start().await?;
    let data = world.node.data().to_owned();
    let file = world.directory.path().join("prices.json");
    let run = |arguments: &[&str]| cli::keyrelay(arguments.iter().map(Path::new).chain([Path::new("--data"), &data]));
    let file_text = file.to_str().context("a path")?;
    std::fs::write(&file, prices().to_string())?;
    let set = run(&["prices", "set", "default", file_text, "--if-version", "1", "--json"])?.expect(0)?.json()?;
    ensure!(set["prices"] == prices() && set["version"] == 2, "{set}");
    run(&["prices", "set", "default", file_text, "--if-version", "1"])?.expect(1)?;
    run(&["prices", "set", "none", file_text])?.expect(1)?;

    let shown = run(&["prices", "show", "default", "--json"])?.expect(0)?;
    ensure!(shown.json()?["prices"] == prices(), "{}", shown.stdout);
    // What was shown can be set.
    std::fs::write(&file, &shown.stdout)?;
    ensure!(run(&["prices", "set", "default", file_text, "--json"])?.expect(0)?.json()?["version"] == 2, "the same prices are no change");
    let table = run(&["prices", "show"])?.expect(0)?.stdout;
    ensure!(table.contains("gpt-*") && table.contains("2500001") && table.contains("default"), "{table}");
    std::fs::write(&file, "no JSON")?;
    run(&["prices", "set", "default", file_text])?.expect(2)?;
    run(&["prices", "set", "default", "/nonexistent"])?.expect(2)?;

    let key = world.key(json!({})).await?;
    let answer = world.relay.chat(&key.secret, "how much").await?;
    world.admin.usage_of(&key.id, 1).await?;
    let cost = micro_usd(&[exact_cost(&answer)?]);
    let usage = run(&["usage", "show", "--json"])?.expect(0)?.json()?;
    ensure!(usage["usage"][0]["cost_microusd"] == cost, "{usage}, expected {cost}");
    let table = run(&["usage", "show"])?.expect(0)?.stdout;
    ensure!(table.contains("COST MICROUSD") && table.contains(&cost.to_string()), "{table}");
    let explained = run(&["usage", "explain", answer.header("x-request-id")])?.expect(0)?.stdout;
    let line = explained.lines().find(|line| line.starts_with("cost_microusd")).unwrap_or_default();
    ensure!(line.ends_with(&format!(" {cost}")), "{explained}");
    Ok(())
}
