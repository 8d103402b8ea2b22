//! `keyrelay log rebuild`: other read models in the place of those in use, and nobody notices.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::world::CREDENTIAL;
use tests::{Admin, Node, ScriptedUpstream, cli};

const KEYS: usize = 400;

/// What must be the same whichever models are in use.
async fn shown(admin: &Admin) -> Result<Value> {
    let log = admin.get("/log").await?.success()?;
    let upstreams = admin.get("/upstreams").await?.success()?;
    Ok(json!({ "position": log["position"], "root": log["root"], "keys": admin.keys().await?, "upstreams": upstreams["upstreams"] }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_the_read_models_are_rebuilt_and_the_rows_are_the_same() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let node = Node::start(&directory.path().join("data")).await?;
    let upstream = ScriptedUpstream::start().await?;
    let admin = node.admin()?;
    admin.add_upstream("openai", "openai", &upstream.openai_url(), CREDENTIAL).await?;
    let mut keys = Vec::new();
    for number in 0..KEYS {
        keys.push(admin.create_key(&json!({ "name": format!("key-{number}"), "expires": "never" })).await?);
    }
    let (revoked, live) = (&keys[0], &keys[1]);
    admin.post(&format!("/keys/{}/revoke", revoked.id), &json!({ "reason": "leaked" })).await?.success()?;
    let before = shown(&admin).await?;

    for (flags, verdicts) in [(vec!["--judge"], "judged"), (vec![], "known")] {
        let mut command = cli::command("keyrelay")?;
        command.args(["log", "rebuild", "--json", "--data"]).arg(node.data()).args(&flags);
        let rebuild = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let rebuilding = tokio::task::spawn_blocking(move || rebuild.wait_with_output());
        let mut served = 0;
        // At least once, however fast the rebuild is.
        loop {
            node.relay().chat(&live.secret, "hello").await?.success()?;
            let refused = node.relay().chat(&revoked.secret, "hello").await?;
            ensure!(refused.status == 401, "a revoked key was answered with {}", refused.status);
            let as_of = admin.get(&format!("/keys/{}", revoked.id)).await?.success()?;
            ensure!(as_of["as_of"].as_u64() >= before["position"].as_u64(), "a read went back: {as_of}");
            served += 1;
            if rebuilding.is_finished() {
                break;
            }
        }
        let output = rebuilding.await??;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rebuilt: Value = serde_json::from_slice(&output.stdout).context("an answer")?;
        ensure!(rebuilt["state"] == "done" && rebuilt["verdicts"] == verdicts, "{rebuilt}");
        ensure!(rebuilt["root"] == before["root"] && rebuilt["position"] == before["position"], "{rebuilt}");
        let after = shown(&admin).await?;
        ensure!(after == before, "after {served} requests {before} became {after}");
    }

    // What is written after the switch is folded into the rebuilt models, and a restart opens them.
    admin.post(&format!("/keys/{}/revoke", live.id), &json!({})).await?.success()?;
    ensure!(node.relay().chat(&live.secret, "hello").await?.status == 401, "the revocation is not seen");
    let after = shown(&admin).await?;
    let node = node.stop().await?.start().await?;
    ensure!(shown(&node.admin()?).await? == after, "a restart shows other rows");
    Ok(())
}
