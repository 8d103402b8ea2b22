//! Policies in a cluster: uploaded and bound on one node, in effect on another, rolled back by one command anywhere.

use anyhow::{Context as _, Result, ensure};
use policy_host::Output;
use policy_host::contract::{Effect, Verdict, route};
use serde_json::{Value, json};
use tests::cluster::{Cluster, Plan};
use tests::{Admin, Relay, wait};

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
