//! Tenants over REST, on the relay and on the command line: made, changed, suspended and resumed, each without a trace in another.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::admin::IssuedKey;
use tests::http::Answer;
use tests::world::CREDENTIAL;
use tests::{Admin, World, cli, wait};

const NULL: Value = Value::Null;

fn refused(answer: &Answer, status: u16, reason: &str) -> Result<()> {
    answer.expect(status)?;
    let given = answer.header("x-keyrelay-reason");
    ensure!(given == reason, "expected the reason {reason}, got {given}: {}", answer.text());
    Ok(())
}

/// A problem of the API.
fn problem(answer: &Answer, status: u16, code: &str) -> Result<()> {
    let problem = answer.expect(status)?.json()?;
    ensure!(problem["code"] == code, "expected {code}: {problem}");
    Ok(())
}

/// A tenant with the upstreams of the world, and a client of it.
async fn tenant(world: &World, id: &str) -> Result<Admin> {
    world.admin.post("/tenants", &json!({ "id": id })).await?.expect(201)?;
    let admin = world.admin.of_tenant(id);
    admin.add_upstream("openai", "openai", &world.upstream.openai_url(), CREDENTIAL).await?;
    admin.add_upstream("anthropic", "anthropic", &world.upstream.origin(), CREDENTIAL).await?;
    Ok(admin)
}

async fn key(admin: &Admin) -> Result<IssuedKey> {
    admin.create_key(&json!({ "name": "ci", "expires_in": "30d" })).await
}

async fn shown(world: &World, id: &str) -> Result<Value> {
    Ok(world.admin.get(&format!("/tenants/{id}")).await?.success()?["tenant"].take())
}

#[tokio::test]
async fn a_tenant_is_made_once_with_its_pool_and_changed_on_the_version_that_was_seen() -> Result<()> {
    let world = World::start().await?;
    let body = json!({ "id": "acme", "name": "Acme & Sons", "expiry_max": "90d" });
    let made = world.admin.post_once("/tenants", &body, "make").await?.expect(201)?.json()?;
    let again = world.admin.post_once("/tenants", &body, "make").await?.expect(201)?.json()?;
    ensure!(made["tenant"] == again["tenant"] && made["sequence"] == again["sequence"], "{made}, then {again}");
    let tenant = &made["tenant"];
    ensure!(tenant["id"] == "acme" && tenant["name"] == "Acme & Sons" && tenant["state"] == "active" && tenant["version"] == 1, "{made}");
    ensure!(tenant["expiry_max"] == "90d" && tenant["default_expiry"].is_null(), "{made}");
    ensure!(shown(&world, "acme").await? == *tenant, "the read model says something else");
    problem(&world.admin.post("/tenants", &body).await?, 409, "exists")?;

    let acme = world.admin.of_tenant("acme");
    let pools = acme.get("/pools").await?.success()?;
    ensure!(pools["pools"].as_array().is_some_and(|pools| pools.len() == 1) && pools["pools"][0]["name"] == "default", "{pools}");
    let pool = format!("acme.pool.{}", pools["pools"][0]["id"].as_str().unwrap_or_default());
    ensure!(world.admin.event_types(&pool).await? == ["PoolCreated"], "the pool's events");
    // A name that is one is id enough, and a tenant without more has one event.
    let plain = world.admin.post("/tenants", &json!({ "name": "plain" })).await?.expect(201)?.json()?;
    ensure!(plain["tenant"]["id"] == "plain" && world.admin.event_types("plain.tenant.0").await? == ["TenantCreated"], "{plain}");

    let patch = |fields: Vec<(&'static str, &'static str)>, body: Value| {
        let admin = world.admin.clone();
        async move { admin.call(Method::PATCH, "/api/v1/tenants/acme", &fields, &body).await }
    };
    let changed = patch(vec![("if-match", "1")], json!({ "default_expiry": "30d" })).await?.success()?;
    ensure!(changed["tenant"]["default_expiry"] == "30d" && changed["tenant"]["expiry_max"] == "90d", "{changed}");
    problem(&patch(vec![("if-match", "1")], json!({ "name": "late" })).await?, 412, "version_mismatch")?;
    problem(&patch(vec![], json!({ "expiry_max": "1d" })).await?, 400, "bad_expiry")?;
    problem(&patch(vec![], json!({ "expiry_max": "0s" })).await?, 400, "bad_expiry")?;
    problem(&patch(vec![], json!({ "name": " " })).await?, 400, "bad_request")?;
    let cleared = patch(vec![], json!({ "expiry_max": null })).await?.success()?;
    ensure!(cleared["tenant"]["expiry_max"].is_null() && cleared["tenant"]["default_expiry"] == "30d", "{cleared}");
    let events = world.admin.event_types("acme.tenant.0").await?;
    ensure!(events == ["TenantCreated", "TenantChanged", "TenantChanged", "TenantChanged"], "the log says {events:?}");

    for wrong in
        [json!({}), json!({ "id": "_" }), json!({ "id": "Acme" }), json!({ "name": "Acme & Sons" }), json!({ "id": "x".repeat(33) })]
    {
        world.admin.post("/tenants", &wrong).await?.expect(400).context(wrong)?;
    }
    for path in ["/tenants/none", "/tenants/_", "/tenants/NONE"] {
        problem(&world.admin.get(path).await?, 404, "tenant_not_found")?;
        problem(&world.admin.post(&format!("{path}/suspend"), &json!({})).await?, 404, "tenant_not_found")?;
    }
    let listed = |page: &Value| page["tenants"].as_array().into_iter().flatten().map(|t| t["id"].to_string()).collect::<Vec<_>>();
    let first = world.admin.get("/tenants?limit=2").await?.success()?;
    let second = world.admin.get("/tenants?limit=2&cursor=default").await?.success()?;
    ensure!(listed(&first) == ["\"acme\"", "\"default\""] && first["next"] == "default", "{first}");
    ensure!(listed(&second) == ["\"plain\""] && second["next"].is_null(), "{second}");
    Ok(())
}

#[tokio::test]
async fn a_request_acts_in_the_tenant_that_it_names_and_in_no_other() -> Result<()> {
    let world = World::start().await?;
    let acme = tenant(&world, "acme").await?;
    // Names are those of the world's own upstreams and pool, and mean each tenant's own.
    let of = |shown: &Value| shown["upstream"]["id"].as_str().unwrap_or_default().to_owned();
    let ids = [of(&acme.get("/upstreams/openai").await?.success()?), of(&world.admin.get("/upstreams/openai").await?.success()?)];
    ensure!(ids[0] != ids[1] && !ids[0].is_empty(), "{ids:?}");
    let ours = key(&acme).await?;
    world.relay.chat(&ours.secret, "hello").await?.success()?;
    acme.usage_of(&ours.id, 1).await?;
    let used = acme.get("/usage?group_by=upstream").await?.success()?;
    ensure!(used["usage"].as_array().is_some_and(|rows| rows.len() == 1) && used["usage"][0]["upstream"] == ids[0].as_str(), "{used}");
    // `default` is what a request means that names none.
    let named = world.admin.of_tenant("default").get("/upstreams").await?.success()?;
    ensure!(named["upstreams"] == world.admin.get("/upstreams").await?.success()?["upstreams"], "{named}");

    for unknown in ["none", "_", "ACME", "acme ", "a/b"] {
        let admin = world.admin.of_tenant(unknown);
        let answer = admin.get("/keys").await?;
        // White space around a header's value is no part of it.
        if unknown == "acme " {
            answer.expect(200)?
        } else {
            answer.expect(404)?
        };
        if unknown != "acme " {
            problem(&answer, 404, "tenant_not_found")?;
            problem(&admin.post("/keys", &json!({ "name": "x", "expires_in": "1d" })).await?, 404, "tenant_not_found")?;
            // What is about the cluster as a whole needs no tenant.
            admin.get("/nodes").await?.success()?;
            admin.get("/tenants").await?.success()?;
        }
    }
    let twice = [("keyrelay-tenant", "acme"), ("keyrelay-tenant", "default")];
    problem(&world.admin.call(Method::GET, "/api/v1/keys", &twice, &NULL).await?, 400, "bad_request")?;

    // The same idempotency key in two tenants is two commands.
    let body = json!({ "name": "once", "expires_in": "1d" });
    let [one, two] = [acme.post_once("/keys", &body, "once").await?, world.admin.post_once("/keys", &body, "once").await?];
    ensure!(IssuedKey::parse(&one.success()?)?.id != IssuedKey::parse(&two.success()?)?.id, "one key in two tenants");

    // A start knows the tenants again.
    let world = world.restarted(|data| Ok(std::fs::remove_dir_all(data.join("read-models"))?)).await?;
    ensure!(of(&world.admin.of_tenant("acme").get("/upstreams/openai").await?.success()?) == ids[0], "not the same upstream");
    world.relay.chat(&ours.secret, "hello").await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspending_one_tenant_under_load_leaves_the_others_untouched() -> Result<()> {
    const CLIENTS: usize = 4;
    /// Of each tenant, before and after each change.
    const REQUESTS: u64 = 50;

    let world = World::start().await?;
    let (acme, bolt) = (tenant(&world, "acme").await?, tenant(&world, "bolt").await?);
    let (ours, theirs) = (key(&acme).await?, key(&bolt).await?);
    let served = std::sync::Arc::new(AtomicU64::new(0));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (relay, secret, served) = (world.relay.clone(), theirs.secret.clone(), served.clone());
        load.spawn(async move {
            loop {
                if let Err(error) = relay.chat(&secret, "untouched").await.and_then(|answer| answer.success()) {
                    return error;
                }
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let goes_on = |load: &mut tokio::task::JoinSet<anyhow::Error>| {
        let (failed, from, served) = (load.try_join_next(), served.load(Ordering::Relaxed), served.clone());
        async move {
            ensure!(failed.is_none(), "another tenant's request was refused: {failed:?}");
            wait::until("requests of the other tenant", || async { Ok((served.load(Ordering::Relaxed) >= from + REQUESTS).then_some(())) })
                .await
        }
    };
    goes_on(&mut load).await?;
    world.relay.chat(&ours.secret, "before").await?.success()?;

    let suspended = world.admin.post("/tenants/acme/suspend?wait=true", &json!({ "reason": "unpaid" })).await?.success()?;
    ensure!(suspended["fence"]["reached"] == true && suspended["tenant"]["state"] == "suspended", "{suspended}");
    let asked = || world.upstream.seen().iter().filter(|seen| String::from_utf8_lossy(&seen.body).contains("suspended")).count();
    for _ in 0..10 {
        refused(&world.relay.chat(&ours.secret, "suspended").await?, 403, "tenant_suspended")?;
        refused(&world.relay.message(&ours.secret, "suspended").await?, 403, "tenant_suspended")?;
    }
    let authorization = format!("Bearer {}", ours.secret);
    refused(&world.relay.get("/v1/models", &[("authorization", &authorization)]).await?, 403, "tenant_suspended")?;
    ensure!(asked() == 0, "a refused request reached the upstream");
    goes_on(&mut load).await?;

    // The owner goes on as before in a suspended tenant: what is made there is refused until it is resumed.
    let fresh = key(&acme).await?;
    refused(&world.relay.chat(&fresh.secret, "suspended").await?, 403, "tenant_suspended")?;
    let rotated = acme.post(&format!("/keys/{}/rotate", ours.id), &json!({ "overlap": "0s" })).await?.success()?;
    let rotated = rotated["secret"].as_str().context("a secret")?;
    acme.post("/pools", &json!({ "name": "more" })).await?.expect(201)?;
    goes_on(&mut load).await?;

    let resumed = world.admin.post("/tenants/acme/resume", &json!({})).await?.success()?;
    ensure!(resumed["tenant"]["state"] == "active" && resumed["tenant"]["suspended"].is_null(), "{resumed}");
    world.relay.chat(&fresh.secret, "resumed").await?.success()?;
    world.relay.chat(rotated, "resumed").await?.success()?;
    refused(&world.relay.chat(&ours.secret, "rotated away").await?, 401, "key_superseded")?;
    goes_on(&mut load).await?;
    let failed = load.try_join_next();
    ensure!(failed.is_none(), "another tenant's request was refused: {failed:?}");
    load.shutdown().await;

    let events = world.admin.event_types("acme.tenant.0").await?;
    ensure!(events == ["TenantCreated", "TenantSuspended", "TenantResumed"], "the log says {events:?}");
    let reason = world.admin.get("/events?stream=acme.tenant.0").await?.text();
    ensure!(!reason.contains("unpaid"), "a reason in plain words: {reason}");
    Ok(())
}

#[tokio::test]
async fn a_tenant_says_how_long_its_keys_are_good() -> Result<()> {
    let world = World::start().await?;
    world.admin.post("/tenants", &json!({ "id": "acme", "default_expiry": "7d", "expiry_max": "30d" })).await?.expect(201)?;
    let acme = world.admin.of_tenant("acme");
    let set = |body: Value| {
        let admin = world.admin.clone();
        async move { admin.call(Method::PATCH, "/api/v1/tenants/acme", &[], &body).await?.success() }
    };
    let seconds = |from: &Value, to: &Value| -> Result<u64> {
        let micros = |value: &Value| -> Result<u64> { Ok(value.as_str().context("a time")?.parse::<schemas::Timestamp>()?.as_micros()) };
        Ok((micros(to)?.saturating_sub(micros(from)?) + 500_000) / 1_000_000)
    };

    // Without a word about it a key has the default; elsewhere it is asked for as before.
    let created = acme.post_once("/keys", &json!({ "name": "default" }), "by default").await?.success()?;
    let key = created["key"].clone();
    let id = key["id"].as_str().context("an id")?.to_owned();
    ensure!(seconds(&key["created_at"], &key["expires_at"])? == 7 * 86_400, "{key}");
    ensure!(acme.key(&id).await?["expires_at"] == key["expires_at"], "the read model says something else");
    problem(&world.admin.post("/keys", &json!({ "name": "default" })).await?, 400, "bad_request")?;
    problem(&acme.post("/keys", &json!({ "name": "x", "expires_in": "1d", "expires": "never" })).await?, 400, "bad_request")?;

    // Nothing goes beyond the maximum, by whichever word; the maximum itself is good.
    acme.post("/keys", &json!({ "name": "longest", "expires_in": "30d" })).await?.expect(201)?;
    let head = world.admin.head().await?;
    for expiry in [json!({ "expires_in": "31d" }), json!({ "expires": "never" }), json!({ "expires_at": "2200-01-01T00:00:00Z" })] {
        let mut body = expiry.clone();
        body["name"] = "beyond".into();
        for answer in [acme.post("/keys", &body).await?, acme.post(&format!("/keys/{id}/renew"), &expiry).await?] {
            problem(&answer, 422, "expiry_beyond_maximum")?;
            ensure!(answer.json()?["detail"].as_str().is_some_and(|detail| detail.contains("30d")), "{}", answer.text());
        }
    }
    ensure!(world.admin.head().await? == head, "a refused expiry was written");
    for dry_run in [true, false] {
        let batch = |verb: &str, body: Value| json!({ "keys": [id], verb: body, "dry_run": dry_run });
        let answer = acme.post("/keys/batch", &batch("renew", json!({ "expires": "never" }))).await?;
        let told = answer.expect(200)?.text();
        ensure!(told.contains("\"status\":422") && told.contains("expiry_beyond_maximum"), "{told}");
        let new = json!({ "create": { "count": 2, "key": { "name": "by default {n}" } }, "dry_run": dry_run });
        let told = acme.post("/keys/batch", &new).await?.expect(200)?.text();
        ensure!(told.matches("\"status\":201").count() == 2, "{told}");
    }
    acme.post(&format!("/keys/{id}/renew"), &json!({ "expires_in": "30d" })).await?.success()?;
    // A maximum is one tenant's alone.
    world.admin.post("/keys", &json!({ "name": "for ever", "expires": "never" })).await?.expect(201)?;

    // A lower one is about what comes: keys keep what they have, changes but of the expiry go on, and a retry is answered as it was.
    set(json!({ "default_expiry": null, "expiry_max": "1d" })).await?;
    ensure!(seconds(&key["created_at"], &acme.key(&id).await?["expires_at"])? >= 30 * 86_400, "a key lost its time");
    acme.call(Method::PATCH, &format!("/api/v1/keys/{id}"), &[], &json!({ "name": "renamed" })).await?.success()?;
    problem(&acme.post(&format!("/keys/{id}/renew"), &json!({ "expires_in": "2d" })).await?, 422, "expiry_beyond_maximum")?;
    problem(&acme.post("/keys", &json!({ "name": "default" })).await?, 400, "bad_request")?;
    let again = acme.post_once("/keys", &json!({ "name": "default" }), "by default").await?.success()?;
    ensure!(again["key"]["id"] == key["id"] && again["secret"] == created["secret"], "{again}");
    set(json!({ "expiry_max": null })).await?;
    acme.post(&format!("/keys/{id}/renew"), &json!({ "expires": "never" })).await?.success()?;
    let events = world.admin.event_types(&format!("acme.key.{id}")).await?;
    ensure!(events == ["KeyCreated", "KeyRenewed", "KeyChanged", "KeyRenewed"], "the log says {events:?}");
    Ok(())
}

#[tokio::test]
async fn the_command_line_makes_suspends_and_acts_in_tenants() -> Result<()> {
    let world = World::start().await?;
    let data = world.node.data().to_owned();
    let run = |words: &[&str]| cli::keyrelay(words.iter().map(Path::new).chain([Path::new("--json"), Path::new("--data"), &data]));
    let made = run(&["tenants", "create", "acme", "--name", "Acme", "--default-expiry", "7d", "--expiry-max", "30d"])?.expect(0)?.json()?;
    ensure!(made["tenant"]["default_expiry"] == "7d" && made["tenant"]["name"] == "Acme", "{made}");
    run(&["tenants", "create", "acme"])?.expect(1)?;
    let changed =
        run(&["tenants", "update", "acme", "--expiry-max", "20d", "--no-default-expiry", "--if-version", "1"])?.expect(0)?.json()?;
    ensure!(changed["tenant"]["expiry_max"] == "20d" && changed["tenant"]["default_expiry"].is_null(), "{changed}");
    run(&["tenants", "update", "acme", "--default-expiry", "5d"])?.expect(0)?;

    // Wherever the flag stands, or in the environment.
    run(&["keys", "create", "ours", "--tenant", "acme"])?.expect(0)?;
    run(&["--tenant", "acme", "keys", "create", "too", "--expires-in", "20d"])?.expect(0)?;
    let beyond = run(&["keys", "create", "beyond", "--tenant", "acme", "--never-expires"])?.expect(1)?;
    ensure!(beyond.stderr.contains("expiry_beyond_maximum") && beyond.stderr.contains("20d"), "{}", beyond.stderr);
    run(&["keys", "create", "unsaid"])?.expect(1)?;
    run(&["keys", "renew", "key_x"])?.expect(2)?;
    let listed = cli::run(cli::command("keyrelay")?.args(["keys", "list", "--json", "--data"]).arg(&data).env("KEYRELAY_TENANT", "acme"))?;
    ensure!(listed.expect(0)?.json()?["keys"].as_array().is_some_and(|keys| keys.len() == 2), "the tenant's keys");
    ensure!(run(&["keys", "list"])?.expect(0)?.json()?["keys"] == json!([]), "the default tenant has no key");
    let unknown = run(&["pools", "list", "--tenant", "none"])?.expect(1)?;
    ensure!(unknown.stderr.contains("tenant_not_found"), "{}", unknown.stderr);
    // Making a tenant is not acting in it.
    let made = cli::run(cli::command("keyrelay")?.args(["tenants", "create", "bolt", "--data"]).arg(&data).env("KEYRELAY_TENANT", "bolt"))?;
    ensure!(made.expect(0)?.stdout.contains("bolt"), "the answer names it");

    let suspended = run(&["tenants", "suspend", "acme", "--reason", "unpaid", "--wait"])?.expect(0)?.json()?;
    ensure!(suspended["tenant"]["suspended"]["reason"] == "unpaid" && suspended["fence"]["reached"] == true, "{suspended}");
    ensure!(run(&["tenants", "show", "acme"])?.expect(0)?.json()?["tenant"]["state"] == "suspended", "shown as suspended");
    ensure!(run(&["tenants", "resume", "acme"])?.expect(0)?.json()?["tenant"]["state"] == "active", "resumed");
    let table = cli::keyrelay(["tenants".as_ref(), "list".as_ref(), "--data".as_ref(), data.as_os_str()])?.expect(0)?.stdout;
    ensure!(table.lines().count() == 4 && table.contains("acme") && table.contains("20d"), "{table}");
    Ok(())
}
