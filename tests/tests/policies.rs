//! Policies over the real binary: uploaded, compiled in its child, bound, changed and rolled back, by the command line and after a restart.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use policy_host::Output;
use policy_host::contract::{Effect, Verdict, route};
use schemas::policy::PolicyKind;
use serde_json::{Value, json};
use tests::cli::{self, Run};
use tests::{World, wait};

#[path = "../../relay/policy-host/tests/policies/guest.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the host's tests do more with it")]
mod guest;

use guest::Guest;

/// A route policy that lets everything pass.
fn permitting() -> Vec<u8> {
    Guest::new(PolicyKind::Route).module()
}

/// A route policy that lets nothing pass.
fn denying() -> Vec<u8> {
    Guest::saying(Output::Route(route::Output { verdict: Verdict::plain(Effect::Deny), picks: vec![] })).module()
}

fn policy(data: &Path, words: &[&str]) -> Result<Run> {
    cli::run(cli::command("keyrelay")?.arg("policy").args(words).arg("--json").arg("--data").arg(data))
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_uploads_binds_rolls_back_and_unbinds() -> Result<()> {
    let world = World::start().await?;
    let (data, file) = (world.node.data().to_owned(), world.directory.path().join("policy.wasm"));
    std::fs::write(&file, permitting())?;
    let file = file.to_str().context("a path")?;
    let uploaded = policy(&data, &["upload", file, "--kind", "route", "--name", "open"])?.expect(0)?.json()?;
    let open = text(&uploaded, "/policy/digest")?.to_owned();
    let again = policy(&data, &["upload", file, "--kind", "route"])?.expect(0)?.json()?;
    ensure!(again["policy"] == uploaded["policy"] && again["sequence"] == uploaded["sequence"], "uploaded twice: {again}");
    ensure!(again.get("name_not_taken").is_none(), "no other name was asked for: {again}");
    std::fs::write(file, denying())?;
    let closed = policy(&data, &["upload", file, "--kind", "route", "--name", "closed"])?.expect(0)?.json()?;
    let closed = text(&closed, "/policy/digest")?.to_owned();
    let listed = policy(&data, &["list"])?.expect(0)?.json()?;
    ensure!(listed["policies"].as_array().is_some_and(|policies| policies.len() == 2), "{listed}");
    ensure!(policy(&data, &["show", &open[..12]])?.expect(0)?.json()?["policy"]["name"] == "open", "a beginning is enough");

    let bound = policy(&data, &["bind", &open[..12], "--tenant", "--on-fault", "skip", "--settings", "{\"a\": 1}"])?.expect(0)?.json()?;
    let id = text(&bound, "/binding/id")?.to_owned();
    ensure!(bound["binding"]["settings"] == json!({ "a": 1 }) && bound["applied"] == true, "{bound}");
    let changed = policy(&data, &["update", &id, "--policy", &closed, "--mode", "shadow", "--if-version", "1"])?.expect(0)?.json()?;
    ensure!(changed["binding"]["mode"] == "shadow" && changed["binding"]["previous"]["policy"] == open.as_str(), "{changed}");
    let stale = policy(&data, &["update", &id, "--mode", "enforce", "--if-version", "1"])?;
    ensure!(stale.code == 1 && stale.stderr.contains("version_mismatch"), "{}: {}", stale.code, stale.stderr);
    let back = policy(&data, &["rollback", &id])?.expect(0)?.json()?;
    ensure!(back["binding"]["policy"] == open.as_str() && back["binding"]["mode"] == "enforce", "{back}");
    ensure!(back["binding"]["loaded"] == true && back["binding"]["previous"]["loaded"] == true, "a rollback loads nothing: {back}");
    let types = world.admin.event_types(&format!("default.binding.{id}")).await?;
    ensure!(types == ["BindingCreated", "BindingChanged", "BindingRolledBack"], "the log says {types:?}");

    policy(&data, &["unbind", &id])?.expect(0)?;
    let bindings = policy(&data, &["bindings"])?.expect(0)?.json()?;
    ensure!(bindings["bindings"] == json!([]), "{bindings}");
    let refused = policy(&data, &["rollback", &id])?;
    ensure!(refused.code == 1, "a removed binding came back: {}", refused.stdout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_knows_its_kind_and_tells_of_a_name_that_is_not_taken() -> Result<()> {
    let world = World::start().await?;
    let (data, file) = (world.node.data(), world.directory.path().join("policy.wasm"));
    std::fs::write(&file, Guest::new(PolicyKind::Quota).module())?;
    let path = file.to_str().context("a path")?;
    let uploaded = policy(data, &["upload", path, "--name", "first"])?.expect(0)?;
    ensure!(text(&uploaded.json()?, "/policy/kind")? == "quota" && uploaded.stderr.is_empty(), "{}{}", uploaded.stdout, uploaded.stderr);
    let head = world.admin.head().await?;
    let again = policy(data, &["upload", path, "--name", "second"])?.expect(0)?;
    let answer = again.json()?;
    ensure!(answer["policy"]["name"] == "first" && answer["name_not_taken"] == "second", "{answer}");
    ensure!(again.stderr.contains("as first") && again.stderr.contains("second was not taken"), "{}", again.stderr);
    ensure!(world.admin.head().await? == head, "a name was recorded");
    // The policy's settings are told line by line, here and by `check`.
    let digest = text(&answer, "/policy/digest")?.to_owned();
    let tell = |words: &[&str]| cli::run(cli::command("keyrelay")?.arg("policy").args(words));
    let data = data.to_str().context("a path")?;
    for told in [tell(&["show", &digest, "--data", data])?.expect(0)?.stdout, tell(&["check", path])?.expect(0)?.stdout] {
        ensure!(told.lines().any(|line| line.starts_with("settings")), "{told}");
    }
    // What exports nothing of a policy is told by the node.
    std::fs::write(&file, "(module)")?;
    ensure!(policy(Path::new(data), &["upload", path])?.code == 1, "no policy");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_policy_is_refused_by_the_compiling_child() -> Result<()> {
    let world = World::start().await?;
    let head = world.admin.head().await?;
    let file = world.directory.path().join("policy.wasm");
    let trapping = Guest { describe: "unreachable".into(), ..Guest::new(PolicyKind::Route) }.module();
    let cases = [
        (b"#!/bin/sh".to_vec(), "route", "policy_malformed"),
        (trapping, "route", "policy_fault"),
        (permitting(), "quota", "policy_wrong_world"),
        (vec![0; 2 << 20], "route", "policy_too_large"),
    ];
    for (bytes, kind, code) in cases {
        std::fs::write(&file, bytes)?;
        let run = policy(world.node.data(), &["upload", file.to_str().context("a path")?, "--kind", kind])?;
        ensure!(run.code == 1 && run.stderr.contains(code), "{code}: {}: {}", run.code, run.stderr);
    }
    ensure!(world.admin.head().await? == head, "a refused upload was recorded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_has_its_policies_before_it_serves() -> Result<()> {
    let world = World::start().await?;
    let digest = text(&world.admin.upload_policy("route", "open", permitting()).await?, "/policy/digest")?.to_owned();
    let id = world.admin.bind_policy(&digest).await?;
    let before = world.admin.binding(&id).await?;
    ensure!(before["loaded"] == true, "{before}");

    let world = world.restarted(|_| Ok(())).await?;
    ensure!(world.admin.binding(&id).await? == before, "after a restart");
    // Without its machine code and its read models a node works them out again.
    let world = world
        .restarted(|data| {
            std::fs::remove_dir_all(data.join("policy-code"))?;
            Ok(std::fs::remove_dir_all(data.join("read-models"))?)
        })
        .await?;
    ensure!(world.admin.binding(&id).await? == before, "compiled anew");

    // A module that is gone is told, and put right by the same bytes.
    let world = world
        .restarted(|data| {
            std::fs::remove_dir_all(data.join("policy-code"))?;
            Ok(std::fs::remove_file(data.join("artefacts/policy-modules").join(&digest))?)
        })
        .await?;
    let ready = world.admin.readiness().await?;
    ensure!(ready["reasons"] == json!(["policy_missing"]) && ready["policies"]["missing"][0]["policy"] == digest.as_str(), "{ready}");
    world.admin.upload_policy("route", "open", permitting()).await?;
    wait::until("the module", || async {
        let ready = world.admin.readiness().await?;
        Ok((ready["reasons"] == json!([])).then_some(()))
    })
    .await?;
    ensure!(world.admin.binding(&id).await?["loaded"] == true, "mended");
    Ok(())
}
