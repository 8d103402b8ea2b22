//! A long log that is backed up while the node is written to, proved, and restored: how long each takes, and what writers notice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{Admin, ScriptedUpstream};

use super::Options;
use super::migration::{LOOK, Ran, Spent, fill, founded, run, show};
use super::report::{line, percentile, row};
use super::stage::mib;

pub(crate) async fn measure(options: Options) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let upstream = ScriptedUpstream::start().await?;
    line("")?;
    row(&format!("backup and restore of {} keys", options.keys), "measured", "in wall time and CPU a record")?;
    let launch = founded(&directory.path().join("data"), &upstream).await?;
    let head = fill(&launch.data, options.keys).await?;
    let node = launch.start().await?;
    let (data, file, target) = (node.data().to_owned(), directory.path().join("backup"), directory.path().join("restored"));
    let (data, file, target) = (data.as_os_str(), file.as_os_str(), target.as_os_str());
    let root_key = node.data().join("root.key");

    let admin = node.admin()?;
    let mut alone = Vec::new();
    for _ in 0..100 {
        alone.push(write(&admin).await?);
    }
    let mut meanwhile = Vec::new();
    let taken = {
        let words = ["backup".as_ref(), "--data".as_ref(), data, "--output".as_ref(), file];
        let mut taking = std::pin::pin!(run(&words));
        loop {
            tokio::select! {
                taken = &mut taking => break taken?,
                written = write(&admin) => meanwhile.push(written?),
            }
        }
    };
    let Ran { answer, elapsed, spent } = taken;
    let records = answer["sequence"].as_u64().context("a sequence")?;
    ensure!(records >= head.0, "{answer}");
    let megabytes = format!("{:.0} MiB", mib(answer["bytes"].as_u64().unwrap_or_default()));
    show("backup, taken from the running node", records, elapsed, spent, &megabytes)?;
    show("the node, with this backup", records, elapsed, Spent::of(node.pid())?, "")?;
    let figure = |times: &mut [Duration]| format!("{:.1} / {:.1} ms", percentile(times, 0.5) / 1e3, percentile(times, 0.99) / 1e3);
    row("a control write before, p50 / p99", &figure(&mut alone), "")?;
    row("a control write meanwhile, p50 / p99", &figure(&mut meanwhile), &format!("{} writes", meanwhile.len()))?;

    let key = root_key.as_os_str();
    let Ran { answer: report, elapsed, spent } = run(&["backup".as_ref(), "verify".as_ref(), file, "--root-key".as_ref(), key]).await?;
    ensure!(report["ok"] == true && report["root"] == answer["root"], "{report}");
    show("backup verify", records, elapsed, spent, "")?;
    let Ran { answer: restored, elapsed, spent } =
        run(&["restore".as_ref(), file, "--data".as_ref(), target, "--root-key".as_ref(), key]).await?;
    ensure!(restored["root"] == answer["root"], "{restored}");
    show("restore; same root", records, elapsed, spent, "verified, written, folded")?;
    node.stop().await?;
    Ok(())
}

/// How long a control write takes.
async fn write(admin: &Admin) -> Result<Duration> {
    let begin = Instant::now();
    admin.create_key(&json!({ "name": "meanwhile", "expires": "never" })).await?;
    let taken = begin.elapsed();
    tokio::time::sleep(LOOK / 10).await;
    Ok(taken)
}
