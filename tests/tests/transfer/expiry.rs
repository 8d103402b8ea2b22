//! Keys that come without an expiry, or with one that their tenant does not allow: what they get, and what they get from `migrate-expiry`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use schemas::Timestamp;
use serde_json::{Value, json};
use tests::{Admin, Node, World, clock};

use crate::node::{empty_node, export, import, keyrelay, rewritten};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// The file with the keys of these names as if they came from where keys need no expiry.
fn without_expiry(file: &Path, names: &[&str]) -> Result<PathBuf> {
    let text = rewritten(file, |line| {
        if line["type"] == "key" && names.iter().any(|name| line["name"] == *name) {
            line["expires_at"] = Value::Null;
            line["expiry_unset"] = json!(true);
        }
    })?;
    let changed = file.with_extension("unset");
    fs::write(&changed, text)?;
    Ok(changed)
}

/// The time of a member, in days from now.
fn days(value: &Value) -> Result<f64> {
    let at: Timestamp = value.as_str().with_context(|| format!("no time: {value}"))?.parse()?;
    Ok((at.as_micros() as i64 / 1000 - clock::now_ms()?) as f64 / DAY_MS as f64)
}

fn is_about(value: &Value, expected: f64) -> Result<bool> {
    Ok((days(value)? - expected).abs() < 0.02)
}

async fn found(admin: &Admin, filter: &str) -> Result<Vec<String>> {
    let page = admin.get(&format!("/keys?{filter}&sort=name")).await?.success()?;
    Ok(page["keys"].as_array().context("keys")?.iter().filter_map(|key| key["name"].as_str().map(str::to_owned)).collect())
}

fn migrate(node: &Node, words: &[&str]) -> Result<tests::cli::Run> {
    keyrelay(node, &[&["migrate-expiry", "--days", "30", "--json"], words].concat())
}

/// The items of a batch's answer.
fn items(run: &tests::cli::Run) -> Result<Vec<Value>> {
    let lines = run.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Value>>>()?;
    Ok(lines.into_iter().filter(|line| line["type"] == "item").collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_came_without_an_expiry_get_one_once_and_an_explicit_never_stays() -> Result<()> {
    let world = World::start().await?;
    let directory = world.directory.path();
    let first = world.key(json!({ "name": "first" })).await?;
    let second = world.key(json!({ "name": "second" })).await?;
    let never = world.admin.create_key(&json!({ "name": "chosen", "expires": "never" })).await?;
    let dated = world.admin.create_key(&json!({ "name": "dated", "expires_in": "7d" })).await?;
    let file = without_expiry(&export(&world.node, directory, "all.jsonl")?, &["first", "second"])?;

    let other = empty_node(directory, "other").await?;
    let admin = other.admin()?;
    import(&other, directory, &file, &[])?.expect(0)?;
    ensure!(found(&admin, "expiry_unset=true").await? == ["first", "second"]);
    ensure!(found(&admin, "never_expires=true").await? == ["chosen"], "what nobody decided on is no decision");
    ensure!(admin.key(&first.id).await?["expires_at"].is_null() && admin.key(&first.id).await?["state"] == "active");
    other.relay().chat(&first.secret, "without an expiry").await?.success()?;

    // It asks, and where nobody can answer it does nothing.
    let head = admin.head().await?;
    let asked = migrate(&other, &[])?.expect(2)?;
    ensure!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    let rehearsed = items(&migrate(&other, &["--dry-run"])?.expect(0)?)?;
    ensure!(admin.head().await? == head, "a rehearsal wrote something");
    let ids: Vec<&str> = rehearsed.iter().filter_map(|item| item["id"].as_str()).collect();
    ensure!(ids.len() == 2 && ids.contains(&first.id.as_str()) && ids.contains(&second.id.as_str()), "{rehearsed:?}");
    for item in &rehearsed {
        let difference = &item["difference"];
        let members: Vec<_> = difference["members"].as_object().context("members")?.keys().map(String::as_str).collect();
        ensure!(item["outcome"] == "changed" && difference["events"] == json!(["KeyRenewed"]), "{item}");
        ensure!(members.contains(&"expires_at") && members.iter().all(|name| ["expires_at", "renewed_at"].contains(name)), "{item}");
        let change = &difference["members"]["expires_at"];
        ensure!(change["from"].is_null() && is_about(&change["to"], 30.0)?, "{item}");
    }

    let done = migrate(&other, &["--yes"])?.expect(0)?;
    ensure!(items(&done)?.iter().all(|item| item["outcome"] == "changed"), "{}", done.stdout);
    for key in [&first, &second] {
        ensure!(is_about(&admin.key(&key.id).await?["expires_at"], 30.0)?, "{}", admin.key(&key.id).await?);
    }
    ensure!(admin.key(&never.id).await?["expires_at"].is_null() && is_about(&admin.key(&dated.id).await?["expires_at"], 7.0)?);
    ensure!(found(&admin, "expiry_unset=true").await?.is_empty() && found(&admin, "never_expires=true").await? == ["chosen"]);
    other.relay().chat(&first.secret, "with one").await?.success()?;

    let head = admin.head().await?;
    let again = migrate(&other, &["--yes"])?.expect(0)?;
    ensure!(items(&again)?.is_empty() && admin.head().await? == head, "a second run did something: {}", again.stdout);
    // The file that they came from takes nothing back either.
    import(&other, directory, &file, &[])?.expect(0)?;
    ensure!(admin.head().await? == head && found(&admin, "expiry_unset=true").await?.is_empty());
    Ok(())
}

/// What an import told of the keys, by name of the outcome and detail.
fn told<'a>(run: &'a Value, id: &str) -> Result<(&'a str, &'a str)> {
    let items = run["items"].as_array().context("items")?;
    let item = items.iter().find(|item| item["id"] == id).with_context(|| format!("{id} is not told of: {run}"))?;
    Ok((item["outcome"].as_str().unwrap_or_default(), item["detail"].as_str().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_default_and_maximum_hold_for_what_is_imported_and_no_key_is_lost() -> Result<()> {
    let world = World::start().await?;
    let (directory, admin) = (world.directory.path(), &world.admin);
    for tenant in ["both", "capped"] {
        admin.post("/tenants", &json!({ "id": tenant, "name": tenant })).await?.success()?;
    }
    let (both, capped) = (admin.of_tenant("both"), admin.of_tenant("capped"));
    let make = |of: &Admin, body: Value| {
        let of = of.clone();
        async move { of.create_key(&body).await }
    };
    let open = make(&both, json!({ "name": "open", "expires": "never" })).await?;
    let far = make(&both, json!({ "name": "far", "expires": "never" })).await?;
    let bare = make(&capped, json!({ "name": "bare", "expires": "never" })).await?;
    let waiting = make(&capped, json!({ "name": "waiting", "expires_after_first_use": "300d" })).await?;
    let near = make(&capped, json!({ "name": "near", "expires_in": "10d" })).await?;
    // Rules that came after the keys: theirs stay.
    let rules = [("both", json!({ "default_expiry": "30d", "expiry_max": "90d" })), ("capped", json!({ "expiry_max": "60d" }))];
    for (tenant, rules) in rules {
        admin.call(http::Method::PATCH, &format!("/api/v1/tenants/{tenant}"), &[], &rules).await?.success()?;
    }
    let whole = export(&world.node, directory, "all.jsonl")?;
    let head = admin.head().await?;
    for words in [&[][..], &["--force"]] {
        import(&world.node, directory, &whole, words)?.expect(0)?;
    }
    ensure!(admin.head().await? == head && both.key(&far.id).await?["expires_at"].is_null(), "keys that are there keep their time");

    let file = without_expiry(&whole, &["open", "bare"])?;
    let other = empty_node(directory, "other").await?;
    let rehearsed = import(&other, directory, &file, &["--dry-run"])?.expect(0)?.json()?;
    let done = import(&other, directory, &file, &[])?.expect(0)?.json()?;
    ensure!(done["result"]["failed"] == 0 && done["result"]["refused"] == 0, "{done}");
    for (id, detail) in [
        (&open.id, "it had no expiry: it gets the tenant's default, 30d"),
        (&far.id, "it was good for longer than is allowed here: it gets the tenant's maximum, 90d"),
        (&bare.id, "it had no expiry: it gets the tenant's maximum, 60d"),
        (&waiting.id, "it was good for longer than is allowed here: it gets the tenant's maximum, 60d"),
        (&near.id, ""),
    ] {
        ensure!(told(&done, id)? == ("created", detail), "{:?}", told(&done, id)?);
        ensure!(told(&rehearsed, id)? == told(&done, id)?, "a rehearsal told something else: {:?}", told(&rehearsed, id)?);
    }
    let there = other.admin()?;
    let (both, capped) = (there.of_tenant("both"), there.of_tenant("capped"));
    for (of, id, expected) in [(&both, &open.id, 30.0), (&both, &far.id, 90.0), (&capped, &bare.id, 60.0), (&capped, &near.id, 10.0)] {
        let key = of.key(id).await?;
        ensure!(is_about(&key["expires_at"], expected)?, "{key}");
    }
    ensure!(capped.key(&waiting.id).await?["expires_after_first_use"] == "60d");
    ensure!(found(&both, "expiry_unset=true").await?.is_empty() && found(&capped, "expiry_unset=true").await?.is_empty());
    // The same file, and another one that says the same, change nothing more, forced or not.
    let head = there.head().await?;
    import(&other, directory, &file, &[])?.expect(0)?;
    import(&other, directory, &file, &["--force"])?.expect(0)?;
    import(&other, directory, &whole, &["--force"])?.expect(0)?;
    ensure!(there.head().await? == head, "a time was given twice");
    Ok(())
}
