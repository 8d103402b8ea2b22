//! Every route of the document, asked in one tenant for what is another's: nothing of that is reached, and nothing of it changes.
//!
//! A new route needs a row in [`rows`]; without one the test fails.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use policy_host::Output;
use policy_host::contract::{Effect, Verdict, route};
use serde_json::{Value, json};
use tests::admin::IssuedKey;
use tests::world::CREDENTIAL;
use tests::{Admin, ScriptedUpstream, World, relay, wait};

#[path = "../../relay/policy-host/tests/policies/guest.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the host's tests do more with it")]
mod guest;

use guest::Guest;

/// The tenant that asks, and the one whose things it asks for. Whatever the latter names has its name in it.
const ALPHA: &str = "alpha";
const BRAVO: &str = "bravo";
const API: &str = "/api/v1";

/// How a route is asked.
enum Asked {
    /// In the tenant, for what is another's: the path and the body with bravo's ids in place of `$key`, `$upstream`, …, and the status.
    /// What a lookup does not find is 404; what a body names in vain 400; a list 200 without anything of bravo in it.
    InTenant(&'static str, Value, u16),
    /// The same, with a policy's module as the body.
    Upload(&'static str, u16),
    /// It is the owner's, about the cluster as a whole.
    ClusterWide,
    /// With a client key of alpha and not with the owner's token.
    Relay,
}

/// Each operation of the document once or more; those that change come after those that only read, and removals last.
fn rows() -> Vec<(&'static str, Asked)> {
    use Asked::{ClusterWide, InTenant, Relay, Upload};
    let get = |path, status| InTenant(path, Value::Null, status);
    vec![
        ("GET /keys", get("/keys?limit=1000", 200)),
        ("GET /keys", get("/keys?search=$key", 200)),
        ("GET /keys", get("/keys?search=key&sort=name", 200)),
        ("GET /keys", get("/keys?tag=bravo-tag", 200)),
        ("GET /keys", get("/keys?sort=last_used_at&order=desc", 200)),
        ("GET /keys", get("/keys?pool=$pool", 400)),
        ("GET /keys/{id}", get("/keys/$key", 404)),
        ("GET /keys/{id}/usage", get("/keys/$key/usage", 404)),
        ("GET /upstreams", get("/upstreams", 200)),
        ("GET /upstreams/{id}", get("/upstreams/$upstream", 404)),
        ("GET /upstreams/{id}", get("/upstreams/bravo-upstream", 404)),
        ("GET /upstreams/{id}/tests", get("/upstreams/$upstream/tests", 404)),
        ("GET /providers", get("/providers", 200)),
        ("GET /logins/{id}", get("/logins/$login", 404)),
        ("GET /pools", get("/pools", 200)),
        ("GET /pools/{id}", get("/pools/$pool", 404)),
        ("GET /pools/{id}", get("/pools/bravo-pool", 404)),
        ("GET /pools/{id}/prices", get("/pools/$pool/prices", 404)),
        ("GET /prices", get("/prices", 200)),
        ("GET /policies", get("/policies", 200)),
        ("GET /policies/{digest}", get("/policies/$policy", 404)),
        ("GET /policies/{digest}/module", get("/policies/$policy/module", 404)),
        ("GET /bindings", get("/bindings", 200)),
        ("GET /bindings/{id}", get("/bindings/$binding", 404)),
        ("GET /usage", get("/usage?group_by=key", 200)),
        ("GET /usage", get("/usage?group_by=model", 200)),
        ("GET /usage", get("/usage?group_by=upstream", 200)),
        ("GET /usage", get("/usage?group_by=day", 200)),
        ("GET /requests/{id}", get("/requests/$request", 404)),
        ("GET /requests/{id}", get("/requests/$denied", 404)),
        ("GET /decisions", get("/decisions", 200)),
        ("GET /decisions", get("/decisions?key=$key", 200)),
        ("GET /decisions", get("/decisions?request=$denied", 200)),
        ("GET /decisions", get("/decisions?binding=$binding", 200)),
        ("GET /decisions", get("/decisions?policy=$policy", 200)),
        ("GET /decisions/export", get("/decisions/export", 200)),
        ("GET /commands/{id}", get("/commands/$command", 404)),
        // An id stands for what the tenant has; a whole stream's name is the owner's to read, like the log.
        ("GET /events", get("/events?stream=$key", 200)),
        ("POST /keys", InTenant("/keys", json!({ "name": "a", "expires_in": "1d", "pools": ["$pool"] }), 400)),
        ("POST /keys", InTenant("/keys", json!({ "name": "a", "expires_in": "1d", "pools": ["bravo-pool"] }), 400)),
        ("PATCH /keys/{id}", InTenant("/keys/$key", json!({ "name": "taken" }), 404)),
        ("POST /keys/{id}/renew", InTenant("/keys/$key/renew", json!({ "expires_in": "5d" }), 404)),
        ("POST /keys/{id}/rotate", InTenant("/keys/$key/rotate", json!({}), 404)),
        ("POST /keys/{id}/finish-rotation", InTenant("/keys/$key/finish-rotation", json!({}), 404)),
        ("POST /keys/{id}/successor", InTenant("/keys/$key/successor", json!({}), 404)),
        ("POST /keys/{id}/disable", InTenant("/keys/$key/disable", json!({ "reason": "mine now" }), 404)),
        ("POST /keys/{id}/enable", InTenant("/keys/$key/enable", json!({}), 404)),
        ("POST /keys/batch", batch(json!({ "keys": ["$key"], "disable": {} }))),
        ("POST /keys/batch", batch(json!({ "keys": ["$key"], "revoke": {}, "dry_run": true }))),
        ("POST /keys/batch", batch(json!({ "filter": { "tag": "bravo-tag" }, "disable": {} }))),
        ("POST /keys/batch", batch(json!({ "filter": { "search": "bravo" }, "renew": { "expires_in": "5d" } }))),
        ("POST /keys/batch", batch(json!({ "create": { "count": 1, "key": { "name": "{n}", "expires_in": "1d", "pools": ["$pool"] } } }))),
        ("POST /upstreams", InTenant("/upstreams", upstream_in("$pool"), 400)),
        ("POST /upstreams", InTenant("/upstreams", upstream_in("bravo-pool"), 400)),
        // Before another base URL drops the credential, and its rotations with it.
        ("GET /upstreams/{id}/rotations", get("/upstreams/$upstream/rotations", 404)),
        ("GET /upstreams/{id}/rotations", get("/upstreams/bravo-upstream/rotations", 404)),
        ("GET /upstreams/{id}/rotations/{rotation}", get("/upstreams/$upstream/rotations/$rotation", 404)),
        ("POST /upstreams/{id}/rotations", InTenant("/upstreams/$upstream/rotations", json!({ "credential": "sk-mine-now" }), 404)),
        ("POST /upstreams/{id}/rotations/{rotation}/advance", InTenant("/upstreams/$upstream/rotations/$rotation/advance", json!({}), 404)),
        ("POST /upstreams/{id}/rotations/{rotation}/abort", InTenant("/upstreams/$upstream/rotations/$rotation/abort", json!({}), 404)),
        (
            "POST /upstreams/{id}/rotations/{rotation}/rollback",
            InTenant("/upstreams/$upstream/rotations/$rotation/rollback", json!({}), 404),
        ),
        ("PATCH /upstreams/{id}", InTenant("/upstreams/$upstream", json!({ "credential": "sk-mine-now" }), 404)),
        ("PATCH /upstreams/{id}", InTenant("/upstreams/bravo-upstream", json!({ "base_url": "http://127.0.0.1:9/v1" }), 404)),
        ("POST /upstreams/{id}/disable", InTenant("/upstreams/$upstream/disable", json!({}), 404)),
        ("POST /upstreams/{id}/enable", InTenant("/upstreams/$upstream/enable", json!({}), 404)),
        ("POST /upstreams/{id}/test", InTenant("/upstreams/$upstream/test", Value::Null, 404)),
        ("POST /logins", InTenant("/logins", json!({ "provider": "github", "upstream": login_in("$pool") }), 400)),
        ("POST /logins", InTenant("/logins", json!({ "provider": "github", "upstream": login_in("bravo-pool") }), 400)),
        ("POST /upstreams/{id}/logins", InTenant("/upstreams/$upstream/logins", json!({ "provider": "github" }), 404)),
        ("DELETE /logins/{id}", InTenant("/logins/$login", Value::Null, 404)),
        ("POST /logins/{id}/callback", InTenant("/logins/$login/callback", json!({ "callback_url": "code#state" }), 400)),
        ("POST /logins/{id}/confirm", InTenant("/logins/$login/confirm", json!({}), 404)),
        // A name is taken in a tenant, not in the cluster.
        ("POST /pools", InTenant("/pools", json!({ "name": "bravo-pool" }), 201)),
        ("PATCH /pools/{id}", InTenant("/pools/$pool", json!({ "name": "taken" }), 404)),
        ("PUT /pools/{id}/prices", InTenant("/pools/$pool/prices", json!({ "prices": [] }), 404)),
        ("POST /bindings", InTenant("/bindings", json!({ "policy": "$policy", "scope": { "tenant": ALPHA } }), 400)),
        ("PATCH /bindings/{id}", InTenant("/bindings/$binding", json!({ "mode": "off" }), 404)),
        ("POST /bindings/{id}/rollback", InTenant("/bindings/$binding/rollback", json!({}), 404)),
        ("DELETE /bindings/{id}", InTenant("/bindings/$binding", Value::Null, 404)),
        ("POST /keys/{id}/revoke", InTenant("/keys/$key/revoke", json!({ "reason": "mine now" }), 404)),
        ("POST /keys/{id}/archive", InTenant("/keys/$key/archive", json!({ "reason": "mine now" }), 404)),
        ("POST /keys/{id}/restore", InTenant("/keys/$key/restore", json!({}), 404)),
        ("POST /keys/{id}/purge", InTenant("/keys/$key/purge", json!({}), 404)),
        ("DELETE /upstreams/{id}", InTenant("/upstreams/$upstream", Value::Null, 404)),
        ("DELETE /pools/{id}", InTenant("/pools/$pool", Value::Null, 404)),
        // The same bytes are a policy of each tenant's own; then alpha can bind it, but to nothing of bravo.
        ("POST /policies", Upload("/policies?kind=route&name=mine", 201)),
        ("POST /bindings", InTenant("/bindings", json!({ "policy": "$policy", "scope": { "tenant": BRAVO } }), 400)),
        ("POST /bindings", InTenant("/bindings", json!({ "policy": "$policy", "scope": { "pool": "$pool" } }), 400)),
        ("POST /bindings", InTenant("/bindings", json!({ "policy": "$policy", "scope": { "key": "$key" } }), 400)),
        ("GET /tenants", ClusterWide),
        ("POST /tenants", ClusterWide),
        ("GET /tenants/{id}", ClusterWide),
        ("PATCH /tenants/{id}", ClusterWide),
        ("POST /tenants/{id}/suspend", ClusterWide),
        ("POST /tenants/{id}/resume", ClusterWide),
        ("GET /log", ClusterWide),
        ("GET /log/rebuild", ClusterWide),
        ("POST /log/rebuild", ClusterWide),
        ("GET /audit/export", ClusterWide),
        ("GET /backup", ClusterWide),
        ("GET /export", ClusterWide),
        ("POST /import", ClusterWide),
        // Whose a key is that was found follows from the key; who reports it shows no token.
        ("POST /leaks", ClusterWide),
        ("GET /nodes", ClusterWide),
        ("POST /nodes/leave", ClusterWide),
        ("DELETE /nodes/{id}", ClusterWide),
        ("GET /notices", ClusterWide),
        ("POST /notices/channels/{name}/test", ClusterWide),
        ("GET /root-key", ClusterWide),
        ("POST /root-key/announce", ClusterWide),
        ("POST /root-key/withdraw", ClusterWide),
        ("POST /root-key/backups", ClusterWide),
        ("POST /root-key/forecast", ClusterWide),
        ("POST /root-key/change", ClusterWide),
        ("POST /root-key/destroy", ClusterWide),
        ("GET /livez", ClusterWide),
        ("GET /readyz", ClusterWide),
        ("GET /metrics", ClusterWide),
        ("GET /openapi.json", ClusterWide),
        ("GET /", Relay),
        ("GET /openai", Relay),
        ("GET /anthropic", Relay),
        ("GET /v1/models", Relay),
        ("GET /v1/models/{id}", Relay),
        ("GET /openai/v1/models", Relay),
        ("GET /openai/v1/models/{id}", Relay),
        ("GET /anthropic/v1/models", Relay),
        ("GET /anthropic/v1/models/{id}", Relay),
        ("POST /v1/chat/completions", Relay),
        ("POST /openai/v1/chat/completions", Relay),
        ("POST /v1/messages", Relay),
        ("POST /anthropic/v1/messages", Relay),
    ]
}

/// What items come to is told line by line in an answer that is a success.
fn batch(body: Value) -> Asked {
    Asked::InTenant("/keys/batch", body, 200)
}

/// What a login is to make, in a pool that is not the tenant's.
fn login_in(pool: &str) -> Value {
    json!({ "name": "mine", "dialect": "openai", "base_url": "http://127.0.0.1:9/v1", "pool": pool })
}

fn upstream_in(pool: &str) -> Value {
    json!({ "name": "x", "dialect": "openai", "base_url": "http://127.0.0.1:9/v1", "credential": CREDENTIAL, "pool": pool })
}

/// A route policy that lets nothing pass.
fn denying() -> Vec<u8> {
    Guest::saying(Output::Route(route::Output { verdict: Verdict::plain(Effect::Deny), picks: vec![] })).module()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {value}"))
}

/// A tenant with a pool, an upstream in each dialect and a key that was used once.
struct Tenant {
    admin: Admin,
    pool: Value,
    upstream: Value,
    key: IssuedKey,
    /// The request that was served.
    request: String,
}

impl Tenant {
    async fn made(world: &World, id: &str, upstream: &ScriptedUpstream) -> Result<Self> {
        let admin = world.admin.of_tenant(id);
        world.admin.post("/tenants", &json!({ "id": id })).await?.expect(201)?;
        let pool_name = format!("{id}-pool");
        let pool = admin.post("/pools", &json!({ "name": pool_name })).await?.success()?;
        let of = |dialect: &str, name: &str, url: String| json!({ "name": format!("{id}-{name}"), "dialect": dialect, "base_url": url, "credential": CREDENTIAL, "pool": pool_name });
        let added = admin.add_upstream_with(&of("openai", "upstream", upstream.openai_url())).await?;
        admin.add_upstream_with(&of("anthropic", "anthropic", upstream.origin())).await?;
        let price = json!({ "prices": [{ "model": format!("{id}-*"), "input": 1, "output": 1 }] });
        admin.call(Method::PUT, &format!("{API}/pools/{pool_name}/prices"), &[], &price).await?.success()?;
        let key = json!({ "name": format!("{id}-key"), "expires_in": "30d", "pools": [pool_name], "tags": [format!("{id}-tag")] });
        let key = admin.create_key(&key).await?;
        let served = world.relay.chat_body(&key.secret, chat(id)).await?;
        served.success()?;
        admin.usage_of(&key.id, 1).await?;
        let request = served.header("x-request-id").to_owned();
        Ok(Self { admin, pool, upstream: added, key, request })
    }
}

fn chat(tenant: &str) -> String {
    relay::chat("whose").to_string().replace(relay::MODEL, &format!("{tenant}-model"))
}

/// One of everything that a tenant has: what a row calls `$key` and so on, and what that is.
struct Things {
    ids: Vec<(&'static str, String)>,
}

impl Things {
    /// Adds a policy, a binding and a decision to what a tenant has.
    async fn made(world: &World, tenant: &Tenant) -> Result<Self> {
        let Tenant { admin, pool, upstream, key, request } = tenant;
        let policy = admin.upload_policy("route", "bravo-policy", denying()).await?;
        let digest = text(&policy, "/policy/digest")?.to_owned();
        let scope = json!({ "policy": digest, "scope": { "key": key.id }, "mode": "enforce" });
        let binding = admin.post("/bindings", &scope).await?.success()?;
        let denied = world.relay.chat_body(&key.secret, chat(BRAVO)).await?;
        denied.expect(403)?;
        let denied = denied.header("x-request-id").to_owned();
        wait::until("the decision is there", || async {
            Ok(admin.get(&format!("/requests/{denied}")).await?.status.is_success().then_some(()))
        })
        .await?;
        let rotation = ended_rotation(admin, text(upstream, "/upstream/id")?).await?;
        let login = admin.post("/logins", &json!({ "provider": "github", "upstream": login_in("bravo-pool") })).await?.success()?;
        let events = admin.get(&format!("/events?stream={}", key.id)).await?.success()?;
        let ids = vec![
            ("$key", key.id.clone()),
            ("$upstream", text(upstream, "/upstream/id")?.to_owned()),
            ("$credential", text(upstream, "/upstream/credential/id")?.to_owned()),
            ("$pool", text(pool, "/pool/id")?.to_owned()),
            ("$policy", digest),
            ("$binding", text(&binding, "/binding/id")?.to_owned()),
            ("$rotation", rotation),
            ("$login", text(&login, "/login/id")?.to_owned()),
            ("$request", request.clone()),
            ("$denied", denied),
            ("$command", text(&events, "/events/0/command_id")?.to_owned()),
        ];
        Ok(Self { ids })
    }

    fn named_in(&self, row: &str) -> String {
        self.ids.iter().fold(row.to_owned(), |row, (name, id)| row.replace(name, id))
    }

    /// What of this tenant stands in an answer that did not stand in the question.
    fn told(&self, question: &str, answer: &str) -> Option<&str> {
        let marks = self.ids.iter().map(|(_, id)| id.as_str()).chain([BRAVO]);
        marks.filter(|mark| !question.contains(mark)).find(|mark| answer.contains(mark))
    }
}

/// A rotation that is over, so that nothing more happens to it.
async fn ended_rotation(admin: &Admin, upstream: &str) -> Result<String> {
    let path = format!("/upstreams/{upstream}/rotations");
    let begun = admin.post(&path, &json!({ "credential": "sk-provider-bravo-next" })).await?.success()?;
    let rotation = text(&begun, "/rotation/id")?.to_owned();
    if !admin.post(&format!("{path}/{rotation}/abort"), &json!({})).await?.status.is_success() {
        admin.post(&format!("{path}/{rotation}/rollback"), &json!({})).await?.success()?;
    }
    Ok(rotation)
}

/// Everything that a tenant shows of itself, without where the models stand.
async fn shown(admin: &Admin) -> Result<Value> {
    let mut all = json!({});
    for list in
        ["keys", "upstreams", "pools", "prices", "policies", "bindings", "decisions", "usage?group_by=key", "usage?group_by=upstream"]
    {
        let mut page = admin.get(&format!("/{list}")).await?.success()?;
        page.as_object_mut().map(|page| page.remove("as_of"));
        all[list] = page;
    }
    Ok(all)
}

/// The events on a tenant's streams, and on any stream with one of its ids.
async fn events_of(admin: &Admin, things: &Things) -> Result<Vec<Value>> {
    let is_of = |stream: &str| stream.starts_with("bravo.") || things.ids.iter().any(|(_, id)| stream.ends_with(id.as_str()));
    Ok(admin.events().await?.into_iter().filter(|event| event["stream"].as_str().is_some_and(is_of)).collect())
}

/// Sends a row's request, and gives what was asked in words, the status and the answer.
async fn asked(admin: &Admin, things: &Things, operation: &str, asked: &Asked) -> Result<Option<(String, u16, String)>> {
    let method: Method = operation.split(' ').next().unwrap_or_default().parse()?;
    let (question, answer) = match asked {
        Asked::ClusterWide | Asked::Relay => return Ok(None),
        Asked::InTenant(path, body, _) => {
            let (path, body) = (things.named_in(path), things.named_in(&body.to_string()));
            let body = if body == "null" { Vec::new() } else { body.into_bytes() };
            let question = format!("{method} {path} {}", String::from_utf8_lossy(&body));
            (question, admin.send(method, &format!("{API}{path}"), &[("content-type", "application/json")], body).await?)
        }
        Asked::Upload(path, _) => {
            let question = format!("{method} {path} {}", things.named_in("$policy"));
            (question, admin.send(method, &format!("{API}{path}"), &[("content-type", "application/wasm")], denying()).await?)
        }
    };
    Ok(Some((question, answer.status.as_u16(), answer.text())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_reaches_or_changes_what_is_another_tenants() -> Result<()> {
    nothing_is_reached(None).await
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_does_not_look_at_the_tenant_is_noticed() -> Result<()> {
    tests::planted::turns_red("tenant-blind", "/commands/", nothing_is_reached).await
}

async fn nothing_is_reached(bug: Option<String>) -> Result<()> {
    let start = World::with(|launch| launch.with_bug(bug.as_deref()).with_config("[oauth.providers.github]\nclient_id = \"relay\"\n"));
    let (world, bravos) = (start.await?, ScriptedUpstream::start().await?);
    let alpha = Tenant::made(&world, ALPHA, &world.upstream).await?;
    let tenant = Tenant::made(&world, BRAVO, &bravos).await?;
    let (bravo, as_bravo) = (Things::made(&world, &tenant).await?, &tenant.admin);
    let rows = rows();

    // The document and the table are about the same routes.
    let document = world.admin.call(Method::GET, "/openapi.json", &[], &Value::Null).await?.success()?;
    let paths = document["paths"].as_object().context("no paths")?;
    let operation = |path: &str, method: &str| format!("{} {}", method.to_uppercase(), path.strip_prefix(API).unwrap_or(path));
    let methods = |item: &Value| item.as_object().map(|item| item.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let documented: BTreeSet<String> =
        paths.iter().flat_map(|(path, item)| methods(item).into_iter().map(|method| operation(path, &method))).collect();
    let listed: BTreeSet<String> = rows.iter().map(|(operation, _)| (*operation).to_owned()).collect();
    ensure!(documented.difference(&listed).next().is_none(), "without a row: {:?}", documented.difference(&listed));
    ensure!(listed.difference(&documented).next().is_none(), "not in the document: {:?}", listed.difference(&documented));

    let (before, events_before) = (shown(as_bravo).await?, events_of(&world.admin, &bravo).await?);
    ensure!(before["decisions"]["decisions"].as_array().is_some_and(|decisions| decisions.len() == 1), "{before}");
    for (operation, row) in &rows {
        let Some((question, status, answer)) = asked(&alpha.admin, &bravo, operation, row).await? else { continue };
        let (Asked::InTenant(_, _, expected) | Asked::Upload(_, expected)) = row else { continue };
        ensure!(status == *expected, "{question}: expected {expected}, answered {status}: {answer}");
        let told = bravo.told(&question, &answer);
        ensure!(told.is_none(), "{question} tells of {told:?}: {answer}");
    }
    let days = alpha.admin.get("/usage?group_by=day").await?.success()?;
    let requests: u64 = days["usage"].as_array().into_iter().flatten().filter_map(|day| day["requests"].as_u64()).sum();
    ensure!(requests == 1, "another tenant's requests are counted: {days}");
    ask_the_relay(&world, &alpha, &bravo, &bravos, &rows).await?;
    let (after, events_after) = (shown(as_bravo).await?, events_of(&world.admin, &bravo).await?);
    ensure!(before == after, "before: {before}\nafter: {after}");
    ensure!(events_before == events_after, "written: {:?}", &events_after[events_before.len()..]);

    // It was for want of the right alone: in its own tenant each of these is found.
    for (operation, row) in &rows {
        if let Asked::InTenant(_, _, 404) = row {
            let Some((question, status, answer)) = asked(as_bravo, &bravo, operation, row).await? else { continue };
            ensure!(status != 404 && status < 500, "{question}, in its own tenant: {status}: {answer}");
        }
    }
    Ok(())
}

/// Every route of the relay with a key of alpha: what is answered comes from alpha's upstreams, whatever tenant or model is named.
async fn ask_the_relay(
    world: &World,
    alpha: &Tenant,
    bravo: &Things,
    bravos: &ScriptedUpstream,
    rows: &[(&'static str, Asked)],
) -> Result<()> {
    let (seen, authorization) = (bravos.seen().len(), format!("Bearer {}", alpha.key.secret));
    let fields = [("authorization", authorization.as_str()), ("keyrelay-tenant", BRAVO), ("anthropic-version", "2023-06-01")];
    for (operation, _) in rows.iter().filter(|(_, row)| matches!(row, Asked::Relay)) {
        let (method, path) = operation.split_once(' ').context("an operation")?;
        let path = path.replace("{id}", "bravo-model");
        let body = if path.ends_with("messages") { relay::message("whose") } else { relay::chat("whose") };
        let answer = match method {
            "GET" => world.relay.get(&path, &fields).await?,
            _ => world.relay.open(&path, &fields, body.to_string()).await?.whole().await?,
        };
        ensure!(method == "GET" || answer.status.is_success(), "{operation}: {}", answer.text());
        let told = bravo.told(&path, &answer.text());
        ensure!(told.is_none(), "{operation} tells of {told:?}: {}", answer.text());
        ensure!(!answer.header("x-keyrelay-upstream").contains(BRAVO), "{operation}: answered by bravo's upstream");
    }
    ensure!(bravos.seen().len() == seen, "alpha's requests came to bravo's upstream");
    Ok(())
}
