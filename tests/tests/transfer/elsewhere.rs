//! Files of other systems: what their keys and accounts come to here, and that clients go on with the secrets they have.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::{World, wait};

use crate::node::{empty_node, keyrelay, path};

/// Of the samples, see their README.
const OLD_KEY: &str = "Xq7pLm2Vt9Rw4Zs8Kc1Nb6Hf3Jd5Gy0a";
const KEYS: [&str; 3] = [
    "cr_313ddc4ea288273958564a4afbc80646a72aa95dd55fef65870c7a4707c120c6",
    "cr_5a9f0ba9549141e8c2d47a4318a9b93ab41d13a855ae44876ad970673518618c",
    "cr_da48beb908add6a151af7a83aa3bfe822b3f74fd75c4c400ac84c2510c2a8f8f",
];
const LITELLM: [&str; 2] = ["sk-Jx82kQm1ZtR9vWbY3nLp0A", "sk-9aKq7Lm2Vx5Rt8Yw1Zc4Bn"];
const ONE_API: &str = "sk-8Jx2kQm1ZtR9vWbY3nLp0Aq7Lm2Vx5Rt8Yw1Zc4Bn6Df3Gh0";

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transfer/elsewhere").join(name)
}

fn old_key_file(directory: &Path) -> Result<PathBuf> {
    let file = directory.join("old-key");
    std::fs::write(&file, format!("{OLD_KEY}\n"))?;
    Ok(file)
}

/// Imports a file of another system, without being asked.
fn import(world: &World, system: &str, file: &Path, words: &[&str]) -> Result<Value> {
    let all = ["import", path(file)?, "--yes", "--json", "--from", system];
    keyrelay(&world.node, &[&all, words].concat())?.expect(0)?.json()
}

/// Of an answer, what is told of a place in the file.
fn left<'a>(told: &'a Value, place: &str) -> Vec<&'a str> {
    let left = told["not_carried"].as_array().into_iter().flatten();
    left.filter(|one| one["source"] == place).filter_map(|one| one["what"].as_str()).collect()
}

async fn key_named(world: &World, name: &str) -> Result<Value> {
    let keys = world.admin.get("/keys?limit=100").await?.success()?;
    let found = keys["keys"].as_array().into_iter().flatten().find(|key| key["name"] == name).cloned();
    found.with_context(|| format!("no key {name:?} in {keys}"))
}

async fn types(world: &World, key: &Value) -> Result<Vec<String>> {
    world.admin.event_types(&format!("default.key.{}", key["id"].as_str().unwrap_or_default())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_claude_relay_service_go_on_working_and_are_upgraded_once() -> Result<()> {
    let world = World::start().await?;
    let (file, old_key) = (sample("claude-relay-service.json"), old_key_file(world.directory.path())?);
    let words = ["--old-key-file", path(&old_key)?];
    let refused = keyrelay(&world.node, &["import", path(&file)?, "--yes", "--from", "claude-relay-service"])?.expect(1)?;
    ensure!(refused.stderr.contains("ENCRYPTION_KEY"), "{}", refused.stderr);
    let dry = import(&world, "claude-relay-service", &file, &[&words[..], &["--dry-run"]].concat())?;
    let head = world.admin.head().await?;
    world.relay.chat(KEYS[0], "not yet").await?.expect(401)?;
    let done = import(&world, "claude-relay-service", &file, &words)?;
    ensure!(done["result"]["created"] == 3 && dry["result"]["created"] == 3 && dry["not_carried"] == done["not_carried"], "{dry}\n{done}");
    ensure!(world.admin.head().await? > head, "nothing was written");

    let ada = key_named(&world, "ada").await?;
    ensure!(ada["limits"] == json!({ "requests_per_minute": 90, "concurrency": 3 }) && ada["owner"] == "ada", "{ada}");
    ensure!(ada["expires_at"] == "2099-01-01T00:00:00Z" && ada["tags"] == json!(["team-a", "laptop"]), "{ada}");
    ensure!(ada["description"] == "Ada's laptop" && ada["created_at"] == "2026-01-10T09:00:00Z", "{ada}");
    let bert = key_named(&world, "bert, on first use").await?;
    ensure!(bert["expires_after_first_use"] == "2d", "{bert}");
    ensure!(bert["endpoints"] == json!(["models", "messages"]), "{bert}");
    ensure!(bert["metadata"]["claude-relay-service"]["dailyCostLimit"] == "5", "{bert}");
    // A window belongs to tokens too, and a service that is named twice is one.
    let carl = key_named(&world, "carl, never expires, disabled").await?;
    let kept = &carl["metadata"]["claude-relay-service"];
    ensure!(kept["rateLimitWindow"] == 300 && kept["tokenLimit"] == "100000" && kept["rateLimitRequests"].is_null(), "{carl}");
    ensure!(carl["endpoints"] == json!(["models", "messages", "chat_completions"]), "{carl}");
    let lost = left(&done, "/data/apiKeys/1");
    for what in ["dailyCostLimit 5", "totalCostLimit 100", "600 requests in 60 minutes", "permission gemini", "claudeAccountId group:3f1a"]
    {
        ensure!(lost.contains(&what), "{what} in {lost:?}");
    }
    ensure!(
        lost.iter().any(|what| what.starts_with("restrictedModels")) && lost.iter().any(|what| what.starts_with("allowedClients")),
        "{lost:?}"
    );
    ensure!(left(&done, "/data/claudeAccounts/0") == ["the account \"Max subscription\""], "{done}");
    ensure!(left(&done, "/data/admins") == ["1 admins"] && left(&done, "/data/apiKeys/0") == ["usageStats"], "{done}");

    // Many first uses at once are one upgrade.
    ensure!(types(&world, &ada).await? == ["KeyCreated", "KeyImported"], "before the first use");
    let answers = futures_util::future::join_all((0..3).map(|_| world.relay.chat(KEYS[0], "as ever"))).await;
    for answer in answers {
        answer?.success()?;
    }
    let upgraded = wait::until("the upgrade", || async {
        let types = types(&world, &ada).await?;
        Ok((types.len() > 2).then_some(types))
    })
    .await?;
    ensure!(upgraded == ["KeyCreated", "KeyImported", "KeySecretUpgraded"], "{upgraded:?}");
    world.relay.chat(KEYS[2], "disabled").await?.expect(403)?;
    world.relay.chat(&KEYS[0].replace("cr_", "cr-"), "another").await?.expect(401)?;

    // Again, it changes nothing.
    let head = world.admin.head().await?;
    let again = import(&world, "claude-relay-service", &file, &words)?;
    ensure!(again["result"]["unchanged"] == 3 && world.admin.head().await? == head, "{again}");

    // After a rebuild both the upgraded key and one that was never used are known, and neither secret nor salt lies anywhere in clear.
    let world = world.restarted(|data| Ok(std::fs::remove_dir_all(data.join("read-models"))?)).await?;
    world.relay.chat(KEYS[0], "upgraded").await?.success()?;
    let bert_before = types(&world, &bert).await?;
    world.relay.message(KEYS[1], "for the first time").await?;
    wait::until("the other upgrade", || async {
        let types = types(&world, &bert).await?;
        Ok((types.len() > bert_before.len() && types.iter().any(|name| name == "KeySecretUpgraded")).then_some(()))
    })
    .await?;
    let events = world.admin.events().await?;
    let count = events.iter().filter(|event| event["type"] == "KeySecretUpgraded").count();
    ensure!(count == 2, "{count} upgrades");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_made_under_the_old_scheme_is_nobody_elses_and_can_be_brought_by_none() -> Result<()> {
    let world = World::start().await?;
    let secret = "cr_5a1f0c9e7b3d8264e19f7c0b8a6d3e2f5a1f0c9e7b3d8264e19f7c0b8a6d3e2f";
    // As `_hashApiKey` does: the key, then the ENCRYPTION_KEY.
    let hash: String = Sha256::digest(format!("{secret}{OLD_KEY}")).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = json!({ "id": "one", "name": "made here", "apiKey": hash, "isActive": "true", "createdAt": "2026-01-01T00:00:00.000Z" });
    let document = json!({ "metadata": { "version": "1.0", "sanitized": false }, "data": { "apiKeys": [key] } });
    let (file, old_key) = (world.directory.path().join("crs.json"), old_key_file(world.directory.path())?);
    std::fs::write(&file, document.to_string())?;
    let done = import(&world, "claude-relay-service", &file, &["--old-key-file", path(&old_key)?])?;
    ensure!(done["result"]["created"] == 1, "{done}");
    let brought = world.admin.post("/keys", &json!({ "name": "twice", "expires": "never", "secret": secret })).await?;
    brought.expect(409)?;
    world.relay.chat(secret, "as ever").await?.success()?;
    let made = key_named(&world, "made here").await?;
    wait::until("the upgrade", || async { Ok(types(&world, &made).await?.iter().any(|name| name == "KeySecretUpgraded").then_some(())) })
        .await?;
    world.relay.chat(secret, "by our hash").await?.success()?;
    // Set again to the file's state it is known by the old hash again, and upgraded again.
    let file_again = world.directory.path().join("crs-later.json");
    std::fs::write(&file_again, format!("{document}\n"))?;
    let forced = import(&world, "claude-relay-service", &file_again, &["--old-key-file", path(&old_key)?, "--force"])?;
    ensure!(forced["result"]["changed"] == 1, "{forced}");
    world.relay.chat(secret, "set back").await?.success()?;
    // A sanitised export has no key that would work.
    let sanitized = json!({ "metadata": { "version": "1.0", "sanitized": true }, "data": { "apiKeys": [] } });
    std::fs::write(&file, sanitized.to_string())?;
    let refused = keyrelay(&world.node, &["import", path(&file)?, "--yes", "--from", "claude-relay-service"])?.expect(1)?;
    ensure!(refused.stderr.contains("sanitised"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_with_an_api_key_become_upstreams() -> Result<()> {
    let world = World::start().await?;
    let done = import(&world, "claude-relay-service", &sample("claude-relay-service-accounts.json"), &[])?;
    ensure!(done["result"]["created"] == 2, "{done}");
    let upstreams = world.admin.get("/upstreams?limit=100").await?.success()?;
    let upstream = |name: &str| upstreams["upstreams"].as_array().into_iter().flatten().find(|one| one["name"] == name).cloned();
    let console = upstream("console one").context("an upstream")?;
    ensure!(console["dialect"] == "anthropic" && console["base_url"] == "https://relay.example.com/api", "{console}");
    ensure!(console["priority"] == 10 && console["models"] == json!(["claude-sonnet-4-20250514"]), "{console}");
    let proxied = upstream("responses behind a proxy").context("an upstream")?;
    ensure!(!proxied["disabled"].is_null() && console["disabled"].is_null(), "{proxied}");
    ensure!(proxied["base_url"] == "https://api.openai.example/v1", "{proxied}");
    ensure!(left(&done, "/data/claudeConsoleAccounts/0") == ["model fast as claude-haiku", "maxConcurrentTasks"], "{done}");
    ensure!(left(&done, "/data/claudeConsoleAccounts/0/credentials") == ["user_agent"], "{done}");
    ensure!(left(&done, "/data/openaiResponsesAccounts/0") == ["proxy"], "{done}");

    // A later file binds a key to one of them.
    let bound =
        json!({ "id": "two", "name": "bound", "apiKey": KEYS[0], "claudeConsoleAccountId": "b4e1c3d5-0000-4000-8000-000000000002" });
    let file = world.directory.path().join("bound.json");
    std::fs::write(&file, json!({ "metadata": {}, "data": { "apiKeys": [bound] } }).to_string())?;
    let done = import(&world, "claude-relay-service", &file, &[])?;
    ensure!(done["result"]["created"] == 1 && left(&done, "/data/apiKeys/0").is_empty(), "{done}");
    let bound = key_named(&world, "bound").await?;
    ensure!(bound["upstream"] == "console one" && bound["secrets"][0]["brought"] == true, "{bound}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_litellm_and_one_api_go_on_working() -> Result<()> {
    let world = World::start().await?;
    let done = import(&world, "litellm", &sample("litellm.json"), &[])?;
    ensure!(done["result"]["created"] == 2, "{done}");
    let ci = key_named(&world, "ci").await?;
    ensure!(ci["limits"] == json!({ "requests_per_minute": 120, "concurrency": 4 }) && ci["tags"] == json!(["ci"]), "{ci}");
    ensure!(ci["metadata"]["cost_centre"] == "42" && ci["metadata"]["litellm"]["max_budget"] == 50.0, "{ci}");
    ensure!(ci["expires_at"] == "2099-06-01T12:00:00Z" && ci["models"] == json!(["gpt-4o*", "gpt-4o-mini"]), "{ci}");
    let lost = left(&done, "/keys/0");
    ensure!(lost == ["max_budget 50.0", "budget_duration 30d", "tpm_limit 100000"], "{lost:?}");
    let allowed = world.relay.chat_body(LITELLM[0], json!({ "model": "gpt-4o", "messages": [] }).to_string()).await?;
    allowed.success()?;
    wait::until("the upgrade", || async { Ok(types(&world, &ci).await?.iter().any(|name| name == "KeySecretUpgraded").then_some(())) })
        .await?;
    world.relay.chat(LITELLM[1], "blocked").await?.expect(403)?;

    let done = import(&world, "one-api", &sample("one-api.json"), &[])?;
    ensure!(done["result"]["created"] == 2, "{done}");
    ensure!(left(&done, "/data/2") == ["the key"] && left(&done, "/data/1") == ["remain_quota 500000", "subnet 10.0.0.0/8"], "{done}");
    let web = key_named(&world, "web").await?;
    ensure!(web["models"] == json!(["gpt-4o", "gpt-4o-mini"]) && web["secrets"][0]["brought"] == true, "{web}");
    let allowed = world.relay.chat_body(ONE_API, json!({ "model": "gpt-4o", "messages": [] }).to_string()).await?;
    allowed.success()?;
    ensure!(key_named(&world, "batch").await?["state"] == "disabled", "a key that was disabled there");
    // A weak one comes when that is said, and the others stay as they are.
    let done = import(&world, "one-api", &sample("one-api.json"), &["--allow-weak"])?;
    ensure!(done["result"]["created"] == 1 && done["result"]["unchanged"] == 2, "{done}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_gpt_load_become_upstreams_in_a_pool_of_their_group() -> Result<()> {
    let world = World::start().await?;
    let base_url = world.upstream.openai_url();
    let to = ["--dialect", "openai", "--base-url", &base_url];
    let done = import(&world, "gpt-load", &sample("gpt-load-log.csv"), &to)?;
    ensure!(done["result"]["created"] == 4 && left(&done, "line 4") == ["the credential"], "{done}");
    let groups = import(&world, "gpt-load", &sample("gpt-load-groups.json"), &[])?;
    ensure!(groups["result"]["created"] == 2, "{groups}");
    ensure!(left(&groups, "/data/0").contains(&"config"), "{groups}");
    // The list of a group has one that is there already, and one that is new to the group.
    let listed = import(&world, "gpt-load", &sample("gpt-load-keys.txt"), &[&to[..], &["--pool", "openai-free"]].concat())?;
    ensure!(listed["result"]["created"] == 1 && listed["result"]["unchanged"] == 1, "{listed}");
    ensure!(left(&listed, "line 4") == ["the credential"], "{listed}");
    world.relay.chat("sk-team-3Gh0Js9aKq7Lm2Vx5Rt8", "through the pools of its groups").await?.success()?;
    let seen = world.upstream.seen();
    let shown = seen.last().context("a request")?.header("authorization").to_owned();
    ensure!(shown == "Bearer sk-proj-4Hq8Rt2Lm6Vx0Zc5Bn" || shown == "Bearer sk-proj-7Kd1Wy9Pa3Sg5Jf8Qe", "{shown}");
    let refused = keyrelay(&world.node, &["import", path(&sample("gpt-load-keys.txt"))?, "--yes", "--from", "gpt-load"])?.expect(1)?;
    ensure!(refused.stderr.contains("dialect"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_another_systems_or_none_is_refused_whole() -> Result<()> {
    let world = World::start().await?;
    let node = empty_node(world.directory.path(), "untouched").await?;
    let admin = node.admin()?;
    let head = admin.head().await?;
    for (system, name) in [("litellm", "one-api.json"), ("one-api", "litellm.json"), ("claude-relay-service", "gpt-load-log.csv")] {
        let run = keyrelay(&node, &["import", path(&sample(name))?, "--yes", "--from", system])?;
        ensure!(run.expect(1)?.stderr.contains("is not what"), "{system}");
    }
    let file = world.directory.path().join("broken.json");
    std::fs::write(
        &file,
        json!({ "keys": [{ "token": "sk-a-good-one-Jx82kQm1ZtR9v", "rpm_limit": "many" }, { "token": "none" }] }).to_string(),
    )?;
    let run = keyrelay(&node, &["import", path(&file)?, "--yes", "--from", "litellm"])?.expect(1)?;
    ensure!(run.stderr.contains("/keys/0") && run.stderr.contains("/keys/1"), "{}", run.stderr);
    ensure!(admin.head().await? == head, "something was written");
    Ok(())
}
