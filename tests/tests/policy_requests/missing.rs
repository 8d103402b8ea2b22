//! Policies whose modules a node does not have: the binding says what that counts as.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use policy_host::contract::Obligation;
use schemas::policy::PolicyKind;
use serde_json::{Value, json};
use tests::{World, wait};

use crate::bench::{Bench, SPARE, denying, obliging, picks, refused};

/// What the baseline caps an answer at.
const BASELINE: u64 = 64;

/// Takes modules away, from the shelf and from the machine code that is kept.
fn lose(data: &Path, digests: &[&str]) -> Result<()> {
    fs::remove_dir_all(data.join("policy-code"))?;
    for digest in digests {
        fs::remove_file(data.join("artefacts/policy-modules").join(digest))?;
    }
    Ok(())
}

/// The bound on the answer that the upstream was asked for last.
fn bound(world: &World) -> Result<Value> {
    let seen = world.upstream.seen();
    let body: Value = serde_json::from_slice(seen.last().map_or(b"null", |seen| &seen.body))?;
    Ok(body["max_completion_tokens"].clone())
}

#[tokio::test]
async fn without_its_module_a_policy_counts_as_its_binding_says() -> Result<()> {
    let baseline = BASELINE.to_string();
    let bench = Bench::with(|launch| launch.with("KEYRELAY_POLICY_BASELINE_OUTPUT_TOKENS", &baseline)).await?;
    let guest = obliging(vec![Obligation::CapOutput(50)]);
    let digest = bench.upload(&guest).await?;
    let mut keys = Vec::new();
    for on_fault in ["deny", "baseline", "skip"] {
        let key = bench.world.key(json!({})).await?;
        bench.bind_digest(&digest, json!({ "scope": { "key": key.id }, "on_fault": on_fault })).await?;
        keys.push(key);
    }
    let Bench { world, .. } = bench;
    for key in &keys {
        world.relay.chat(&key.secret, "hello").await?.expect(200)?;
        ensure!(bound(&world)? == 50);
    }

    let world = world.restarted(|data| lose(data, &[&digest])).await?;
    refused(&world.relay.chat(&keys[0].secret, "hello").await?, 503, "policy_fault")?;
    for (key, cap) in keys[1..].iter().zip([BASELINE.into(), Value::Null]) {
        world.relay.chat(&key.secret, "hello").await?.expect(200)?;
        ensure!(bound(&world)? == cap, "{} in place of {cap}", bound(&world)?);
    }

    // The same bytes again, and all of them have their policy.
    world.admin.upload_policy("quota", "guest", guest.module()).await?;
    wait::until("the policy", || async { Ok((world.relay.chat(&keys[0].secret, "hello").await?.status == 200).then_some(())) }).await?;
    for key in &keys {
        world.relay.chat(&key.secret, "hello").await?.expect(200)?;
        ensure!(bound(&world)? == 50);
    }
    Ok(())
}

#[tokio::test]
async fn without_its_module_a_binding_has_what_was_enforced_before() -> Result<()> {
    let bench = Bench::start().await?;
    let binding = bench.bind(&picks(&[&bench.spare]), json!({ "on_fault": "deny" })).await?;
    let denying = bench.upload(&denying(PolicyKind::Route, None)).await?;
    bench.change(&binding, &json!({ "policy": denying })).await?;
    refused(&bench.chat().await?, 403, "policy_denied")?;
    let Bench { world, key, .. } = bench;
    let world = world.restarted(|data| lose(data, &[&denying])).await?;
    let answer = world.relay.chat(&key.secret, "hello").await?;
    answer.expect(200)?;
    ensure!(answer.header("x-keyrelay-upstream") == SPARE, "{:?}", answer.headers);
    Ok(())
}
