//! Policies in a cluster: uploaded and bound on one node, in effect on another, rolled back by one command anywhere; what each node decided
//! is told by all of them.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use policy_host::Output;
use policy_host::contract::{Effect, Verdict, route};
use serde_json::{Value, json};
use tests::cluster::{Cluster, Plan};
use tests::http::Answer;
use tests::{Admin, Relay, clock, policies, wait};

#[path = "../../relay/policy-host/tests/policies/guest.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the host's tests do more with it")]
mod guest;

use guest::Guest;

/// Waits until a node answers a key so.
async fn answers(relay: &Relay, secret: &str, status: u16) -> Result<()> {
    wait::until(&format!("the status {status}"), || async {
        let answer = relay.chat(secret, "hello").await?;
        Ok((answer.status.as_u16() == status).then_some(()))
    })
    .await
}

/// Waits until a node shows a binding so, with the module that it needs.
async fn shows(admin: &Admin, id: &str, digest: &str, mode: &str) -> Result<Value> {
    wait::until(&format!("the policy {digest} in mode {mode}"), || async {
        let Ok(binding) = admin.binding(id).await else { return Ok(None) };
        Ok(Some(binding).filter(|binding| binding["policy"] == digest && binding["mode"] == mode && binding["loaded"] == true))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_bound_on_one_node_is_in_effect_on_another_and_rolled_back_from_there() -> Result<()> {
    let mut cluster = Cluster::start(Plan { nodes: 2, ..Plan::default() }).await?;
    let (first, second) = (cluster.admin(0)?, cluster.admin(1)?);
    let saying = |effect| Guest::saying(Output::Route(route::Output { verdict: Verdict::plain(effect), picks: vec![] }));
    let mut digests = Vec::new();
    for (name, guest) in [("open", saying(Effect::NotApplicable)), ("closed", saying(Effect::Deny))] {
        let answer = first.upload_policy("route", name, guest.module()).await?;
        digests.push(answer["policy"]["digest"].as_str().context("a digest")?.to_owned());
    }
    let key = first.create_key(&json!({ "name": "ci", "expires": "never" })).await?;
    let (here, there) = (cluster.relay(0)?, cluster.relay(1)?);
    // The other node compiles what was uploaded before anybody binds it.
    let kept = async |node: usize| Ok((compiled(&cluster, node).await?.1.len() >= digests.len()).then_some(()));
    wait::until("machine code of both policies on the other node", || kept(1)).await?;
    let id = first.bind_policy(&digests[0]).await?;
    shows(&second, &id, &digests[0], "enforce").await?;
    let changed =
        second.call(http::Method::PATCH, &format!("/api/v1/bindings/{id}"), &[], &json!({ "policy": digests[1] })).await?.success()?;
    ensure!(changed["applied"] == true, "{changed}");
    there.chat(&key.secret, "the very next request").await?.expect(403)?;
    shows(&first, &id, &digests[1], "enforce").await?;
    answers(&here, &key.secret, 403).await?;
    let back = second.post(&format!("/bindings/{id}/rollback"), &json!({})).await?.success()?;
    ensure!(back["applied"] == true && back["binding"]["policy"] == digests[0].as_str(), "{back}");
    there.chat(&key.secret, "the very next request").await?.success()?;
    shows(&first, &id, &digests[0], "enforce").await?;
    answers(&here, &key.secret, 200).await?;

    // Who waits for it has it everywhere with the answer: each time the other node's very next request is another.
    for _ in 0..5 {
        let body = json!({ "policy": digests[1] });
        let closed = first.call(Method::PATCH, &format!("/api/v1/bindings/{id}?wait=true"), &[], &body).await?.success()?;
        ensure!(closed["fence"]["reached"] == true && closed["fence"]["nodes"] == 2, "{closed}");
        there.chat(&key.secret, "the very next request").await?.expect(403)?;
        let open = first.post(&format!("/bindings/{id}/rollback?wait=true"), &json!({})).await?.success()?;
        ensure!(open["fence"]["reached"] == true, "{open}");
        there.chat(&key.secret, "the very next request").await?.success()?;
    }

    // A node that has nothing but what the others wrote has it all the same.
    cluster.stop_node(1).await?;
    for folder in ["artefacts", "policy-code"] {
        std::fs::remove_dir_all(cluster.data(1).join(folder))?;
    }
    cluster.start_node(1).await?;
    shows(&cluster.admin(1)?, &id, &digests[0], "enforce").await?;
    ensure!(cluster.data(1).join("artefacts/policy-modules").join(&digests[0]).is_file(), "what was fetched is kept on this machine");
    Ok(())
}

const DAYS: [&str; 7] = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
const DAY_SECONDS: u64 = 86_400;

/// What a request comes to: who serves it, or why it is refused.
type Fate = Result<&'static str, &'static str>;

/// A stock policy with settings that leave everything as it is, and others that do not.
struct Case {
    kind: &'static str,
    name: &'static str,
    idle: Value,
    busy: Value,
    fate: Fate,
}

fn cases() -> Result<Vec<Case>> {
    let case = |kind, name, idle, busy, fate| Case { kind, name, idle, busy, fate };
    // The first of January 1970 was a Thursday. Hours on the day after tomorrow are neither now nor soon.
    let day = DAYS[usize::try_from((clock::now_ms()? / 86_400_000 + 2) % 7)?];
    let share = |ppm: u32| json!({ "stable": "default", "canary": "next", "share_ppm": ppm });
    let hours = |days: &[&str], to| json!({ "days": days, "from": "08:00", "to": to });
    Ok(vec![
        case("route", "cheapest-healthy", json!({}), json!({ "regions": ["eu"] }), Ok("second")),
        case("quota", "money-quota", json!({ "day_microusd": 1_000_000_000 }), json!({ "day_microusd": 1 }), Err("quota.day")),
        case("route", "model-allow-list", json!({ "others": ["*"] }), json!({ "others": ["o1"] }), Err("model.not_allowed")),
        case("quota", "business-hours", hours(&DAYS, "08:00"), hours(&[day], "09:00"), Err("hours.closed")),
        case("route", "canary-share", share(0), share(1_000_000), Ok("second")),
        // The last one, as days pass for it.
        case("expiry", "expire-unused", json!({ "unused_days": 30 }), json!({ "unused_days": 1 }), Err("key.unused")),
    ])
}

fn is(answer: &Answer, fate: Fate) -> bool {
    match fate {
        Ok(upstream) => answer.status == 200 && answer.header("x-keyrelay-upstream") == upstream,
        Err(code) => answer.status != 200 && answer.header("x-keyrelay-policy-reason") == code,
    }
}

/// Waits until a node's requests come to this.
async fn comes_to(relay: &Relay, secret: &str, fate: Fate) -> Result<Answer> {
    wait::until(&format!("{fate:?}"), || async {
        let answer = relay.chat(secret, "hello").await?;
        Ok(is(&answer, fate).then_some(answer))
    })
    .await
}

/// How often a node has loaded a module, and the machine code that it keeps.
async fn compiled(cluster: &Cluster, node: usize) -> Result<(Vec<String>, BTreeSet<String>)> {
    let metrics = cluster.admin(node)?.metrics().await?;
    let loads = metrics.lines().filter(|line| line.starts_with("keyrelay_policy_loads_total")).map(str::to_owned).collect();
    let files = fs::read_dir(cluster.data(node).join("policy-code"))?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
    Ok((loads, files.collect::<Result<_>>()?))
}

/// Binds one, puts it in effect on the first node and rolls it back on the second, and looks at both each time. Gives the requests that were
/// refused, one of each node.
async fn put_in_effect_and_back(cluster: &Cluster, case: Case, secret: &str) -> Result<Vec<String>> {
    let Case { kind, name, idle, busy, fate } = case;
    let (first, second) = (cluster.admin(0)?, cluster.admin(1)?);
    let (here, there) = (cluster.relay(0)?, cluster.relay(1)?);
    let module = fs::read(policies::stock()?.join(name).with_extension("wasm"))?;
    let uploaded = first.upload_policy(kind, name, module).await?;
    let digest = uploaded["policy"]["digest"].as_str().context("a digest")?.to_owned();
    let body = json!({ "policy": digest, "scope": { "tenant": "default" }, "settings": idle });
    let bound = first.post("/bindings", &body).await?.success()?;
    let id = bound["binding"]["id"].as_str().context("an id")?.to_owned();
    shows(&second, &id, &digest, "enforce").await?;
    if kind == "expiry" {
        // Nobody asks for two days.
        (0..2).try_for_each(|node| clock::ahead(&cluster.data(node), 2 * DAY_SECONDS))?;
    } else {
        comes_to(&here, secret, Ok("openai")).await?;
        comes_to(&there, secret, Ok("openai")).await?;
    }

    let path = format!("/api/v1/bindings/{id}");
    let changed = first.call(Method::PATCH, &path, &[], &json!({ "settings": busy })).await?.success()?;
    ensure!(changed["applied"] == true, "{changed}");
    let next = here.chat(secret, "the very next request").await?;
    ensure!(is(&next, fate), "{name}: {} {:?}", next.status, next.headers);
    let other = comes_to(&there, secret, fate).await.context(name)?;

    let before = (compiled(cluster, 0).await?, compiled(cluster, 1).await?);
    let back = second.post(&format!("/bindings/{id}/rollback"), &Value::Null).await?.success()?;
    ensure!(back["applied"] == true && back["binding"]["settings"] == idle, "{back}");
    let after = there.chat(secret, "the very next request").await?;
    ensure!(is(&after, Ok("openai")), "{name}: {} {:?}", after.status, after.headers);
    comes_to(&here, secret, Ok("openai")).await.context(name)?;
    ensure!((compiled(cluster, 0).await?, compiled(cluster, 1).await?) == before, "a rollback of {name} loaded or compiled something");
    second.call(Method::DELETE, &path, &[], &Value::Null).await?.success()?;
    let id_of = |answer: &Answer| answer.header("x-request-id").to_owned();
    Ok(if fate.is_err() { vec![id_of(&next), id_of(&other)] } else { vec![] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stock_policy_is_in_effect_on_both_nodes_and_their_decisions_are_told_by_both() -> Result<()> {
    let cluster = Cluster::start(Plan { nodes: 2, ..Plan::default() }.with_bug(Some(clock::MOVED))).await?;
    let (first, second) = (cluster.admin(0)?, cluster.admin(1)?);
    first.post("/pools", &json!({ "name": "next" })).await?.success()?;
    let upstream = json!({
        "name": "second", "dialect": "openai", "base_url": cluster.upstream.openai_url(), "credential": "sk-second", "pool": "next", "region": "eu"
    });
    first.add_upstream_with(&upstream).await?;
    for (pool, input) in [("default", 1_000_000), ("next", 2_000_000)] {
        let prices = json!({ "prices": [{ "model": "*", "input": input, "output": input }] });
        first.call(Method::PUT, &format!("/api/v1/pools/{pool}/prices"), &[], &prices).await?.success()?;
    }
    let key = first.create_key(&json!({ "name": "ci", "expires": "never", "pools": ["default", "next"] })).await?;
    cluster.settle().await?;

    let mut refused = BTreeSet::new();
    for case in cases()? {
        refused.extend(put_in_effect_and_back(&cluster, case, &key.secret).await?);
    }
    ensure!(refused.len() == 8, "four policies refuse, a request of each node: {refused:?}");
    for admin in [&first, &second] {
        wait::until("the decisions of both nodes", || async {
            let listed = admin.get("/decisions?effect=deny&limit=1000").await?.success()?;
            let told = listed["decisions"].as_array().into_iter().flatten().filter_map(|one| one["request"].as_str());
            let told: BTreeSet<String> = told.map(str::to_owned).collect();
            Ok(refused.is_subset(&told).then_some(()))
        })
        .await?;
    }
    Ok(())
}
