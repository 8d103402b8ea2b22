//! A node whose decisions do not follow from what it recorded of them: replay finds it.

use anyhow::{Context as _, Result, ensure};
use schemas::policy::PolicyKind;
use serde_json::json;
#[cfg(feature = "faults")]
use tests::planted;
use tests::{Launch, cli, wait};

use crate::bench::Bench;
use crate::guest::{self, Guest};

const REQUESTS: usize = 20;

/// A quota policy that throws a coin.
fn coin() -> Guest {
    let toss = "(i32.wrap_i64 (i64.and (i64.load offset=8 (local.get $input)) (i64.const 1)))";
    Guest::deciding(PolicyKind::Quota, &format!("(i32.store8 (i32.const 72) {toss}) (i32.const {})", guest::ANSWER))
}

async fn decisions_replay(bug: Option<String>) -> Result<()> {
    let change = |launch: Launch| launch.with_bug(bug.as_deref()).with("KEYRELAY_POLICY_DECISION_SAMPLE_PPM", "1000000");
    let bench = Bench::with(change).await?;
    bench.bind(&coin(), json!({})).await?;
    let mut permitted = 0;
    for _ in 0..REQUESTS {
        permitted += usize::from(bench.chat().await?.status == 200);
    }
    // All on one side has a chance of one in half a million.
    ensure!((1..REQUESTS).contains(&permitted), "{permitted} of {REQUESTS}");
    wait::until("all decisions", || async {
        let listed = bench.world.admin.get("/decisions?limit=1000").await?.success()?;
        Ok((listed["decisions"].as_array().map(Vec::len) == Some(REQUESTS)).then_some(()))
    })
    .await?;
    let data = bench.world.node.data();
    let run = cli::run(cli::command("keyrelay")?.arg("--data").arg(data).args(["policy", "--json", "replay"]))?;
    let report = run.json().context(run.stderr.clone())?;
    let named = report["named"][0]["difference"].as_str().unwrap_or("none");
    ensure!(report["differing"] == 0 && run.code == 0, "{} of {REQUESTS} decisions differ by their {named}", report["differing"]);
    ensure!(report["same"] == REQUESTS, "{report}");
    Ok(())
}

#[tokio::test]
async fn what_a_node_decided_is_decided_again() -> Result<()> {
    decisions_replay(None).await
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_planted_non_determinism_is_found_by_replay() -> Result<()> {
    planted::turns_red("unrecorded-input", "20 of 20 decisions differ by their answer", decisions_replay).await
}
