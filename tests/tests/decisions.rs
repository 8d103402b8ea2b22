//! Recorded decisions as an operator meets them: listed, told with their request, exported, replayed, and tried with a candidate.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use event_log::decisions::{DecisionLog, DecisionStream as _};
use policy_host::host::{CACHE_BYTES_DEFAULT, FAST_RESIDENT_BYTES_DEFAULT};
use policy_host::{Compiler, Host, HostConfig};
use schemas::decision::{DecisionBatch, DecisionEffect, DecisionRecord};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::{IncarnationId, TenantId, WriterId};
use serde_json::Value;
use tests::cli::Run;
use tests::{Launch, Node, cli, wait};

#[path = "../../relay/policy-host/tests/replay/guest.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "what the tests of the host need beside; a fixture may panic")]
mod guest;
#[path = "../../relay/policy-host/tests/replay/records.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "what the tests of the host need beside; a fixture may panic")]
mod records;

const DECISIONS: u64 = 2_500;
const LIMIT: u64 = 500;

/// What a node would have recorded of one policy.
fn decisions(cache: &Path) -> Result<Vec<DecisionRecord>> {
    let host = Host::new(HostConfig {
        cache: cache.to_owned(),
        cache_bytes_max: CACHE_BYTES_DEFAULT,
        compiler: Compiler::InProcess,
        fast_slots: 2,
        fast_resident_bytes: FAST_RESIDENT_BYTES_DEFAULT,
        slow_threads: 1,
    })?;
    let module = host.admit(&guest::price_limit(LIMIT), PolicyKind::Quota, PolicyClass::Fast)?.module;
    let (tenant, mut numbers) = (TenantId::default_tenant(), records::Numbers(11));
    let record = |n| {
        let cost = Some(numbers.below(1_200));
        let input = records::quota_input(&tenant, n, numbers.below(100), cost);
        records::record(&module, host.engine_profile(), n, &tenant, &input, cost)
    };
    Ok((1..=DECISIONS).map(record).collect())
}

/// Writes them where the node finds them at its start.
async fn write_down(data: &Path, decisions: &[DecisionRecord]) -> Result<()> {
    let log = DecisionLog::open(&data.join("decision-log"))?;
    let (node, incarnation) = (WriterId::from_bytes([1; 16]), IncarnationId::from_bytes([2; 16]));
    for (records, number) in decisions.chunks(200).zip(1..) {
        log.append(&DecisionBatch { node, incarnation, number, records: records.to_vec() }).await?;
    }
    log.close().await;
    Ok(())
}

async fn listed(node: &Node, query: &str) -> Result<Vec<Value>> {
    let (admin, mut found, mut cursor) = (node.admin()?, Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("/decisions?limit=1000{query}{cursor}")).await?.success()?;
        found.extend(page["decisions"].as_array().cloned().unwrap_or_default());
        let Some(next) = page["next"].as_str() else { return Ok(found) };
        cursor = format!("&cursor={next}");
    }
}

fn policy(node: &Node, arguments: &[&str]) -> Result<Run> {
    cli::run(cli::command("keyrelay")?.arg("--data").arg(node.data()).args(["policy", "--json"]).args(arguments))
}

#[tokio::test]
async fn decisions_are_listed_told_exported_replayed_and_tried_with_a_candidate() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let recorded = decisions(&directory.path().join("cache"))?;
    write_down(&data, &recorded).await?;
    let node = Launch::new(&data).start().await?;

    // Listed, all of them, newest first; and by what is asked.
    let all = wait::until("all decisions are folded", || async {
        let all = listed(&node, "").await?;
        Ok((all.len() as u64 == DECISIONS).then_some(all))
    })
    .await?;
    ensure!(
        all.iter().rev().zip(&recorded).all(|(row, record)| row["fuel"] == record.fuel && row["request"] == record.request.to_string())
    );
    let denied = recorded.iter().filter(|record| record.effect == DecisionEffect::Deny).count();
    ensure!(listed(&node, "&effect=deny").await?.len() == denied && denied > 500);
    let last = &all[0];
    let newest = &recorded[recorded.len() - 1];
    ensure!(last["input"]["quota"]["demand"]["model"] == "small-1" && last["output"]["quota"]["verdict"].is_object(), "{last}");
    ensure!(last["input_digest"] == schemas::Digest::blake3(&newest.input).to_string(), "{last}");
    node.admin()?.get("/decisions?limit=1001").await?.expect(400)?;
    node.admin()?.get("/decisions?cursor=nonsense").await?.expect(400)?;

    // Told with their request, which nothing else is known of.
    let request = newest.request.to_string();
    let shown = node.admin()?.get(&format!("/requests/{request}")).await?.success()?;
    ensure!(shown["request"].is_null() && shown["decisions"][0]["request"] == request, "{shown}");
    let explained = cli::run(cli::command("keyrelay")?.arg("--data").arg(&data).args(["usage", "explain", &request]))?.expect(0)?;
    ensure!(explained.stdout.contains("quota"), "{}", explained.stdout);

    // Exported, and replayed from the file with the module from a file.
    let file = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (export, module, candidate) = (file("decisions.jsonl"), file("policy.wasm"), file("candidate.wasm"));
    fs::write(&module, guest::price_limit(LIMIT))?;
    fs::write(&candidate, guest::price_limit(LIMIT - 200))?;
    policy(&node, &["decisions", "--export", &export])?.expect(0)?;
    let again = policy(&node, &["decisions", "--export", &export])?.expect(2)?;
    ensure!(again.stderr.contains("cannot create"), "{}", again.stderr);
    let replayed = policy(&node, &["replay", "--from", &export, "--module", &module])?.expect(0)?.json()?;
    ensure!(replayed["same"] == DECISIONS && replayed["differing"] == 0 && replayed["other_engine"] == 0, "{replayed}");
    // Without it there is nothing to replay with, until the node has it.
    let missing = policy(&node, &["replay"])?.expect(1)?.json()?;
    ensure!(missing["missing"] == DECISIONS, "{missing}");
    policy(&node, &["upload", &module, "--kind", "quota"])?.expect(0)?;
    let replayed = policy(&node, &["replay"])?.expect(0)?.json()?;
    ensure!(replayed["same"] == DECISIONS, "{replayed}");

    // A planted difference is found and named.
    let text = fs::read_to_string(&export)?;
    let mut lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    lines[7]["fuel"] = 1.into();
    fs::write(file("tampered.jsonl"), lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    let found = policy(&node, &["replay", "--from", &file("tampered.jsonl")])?.expect(1)?.json()?;
    ensure!(found["differing"] == 1 && found["named"][0]["id"] == lines[7]["id"], "{found}");

    // The same policy changes nothing, a stricter one flips what lies between.
    policy(&node, &["diff", &module])?.expect(0)?;
    let between =
        recorded.iter().filter(|record| record.effect == DecisionEffect::Permit && record.cost_max.is_some_and(|cost| cost > LIMIT - 200));
    let flips = between.count();
    for arguments in [vec!["diff", &candidate], vec!["diff", &candidate, "--from", &export, "--as", "quota"]] {
        let report = policy(&node, &arguments)?.expect(1)?.json()?;
        ensure!(report["flips"][0]["decisions"] == flips && report["flips"][0]["after"] == "deny", "{report}");
        ensure!(report["by_tenant"]["default"]["decisions"] == flips && report["method"].to_string().contains("open loop"), "{report}");
    }
    Ok(())
}
