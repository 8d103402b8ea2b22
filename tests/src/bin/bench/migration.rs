//! A long log that moves from a node's own files to NATS while the node is written to and asked: how long that takes, and for how long nobody
//! can write.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use event_log::{Appended, EmbeddedLog, EventLog, Expect};
use nats_server::{Cluster, Sync};
use schemas::{ClusterId, Digest, Sequence};
use serde_json::{Value, json};
use tests::traffic::{Rates, Traffic};
use tests::world::CREDENTIAL;
use tests::{Admin, Launch, Node, ScriptedUpstream, cli};
use tokio::task::JoinSet;

use super::Options;
use super::founded::Founded;
use super::process::{cpu_us, peak_bytes};
use super::report::{line, percentile, row};
use super::stage::{Stage, mib};

const LOAD: Rates = Rates { writes_per_second: 50, requests_per_second: 200, fences: false };
/// Records under way while the log is filled.
const WRITERS: usize = 512;
/// A node judges all of its log before it is ready.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1800);
/// Load before and after the move.
const WRITES_AFTER: usize = 100;
/// How often it is looked at what a run has used so far.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// What stands before the key in `DATA/writer.key`.
const WRITER_KEY_PREFIX: &str = "kr-writer-1:";

pub(crate) async fn measure(options: Options) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let upstream = ScriptedUpstream::start().await?;
    line("")?;
    let Rates { writes_per_second, requests_per_second, .. } = LOAD;
    let title = format!("migration of {} keys to R{}, sync_interval: always", options.keys, options.servers);
    row(&title, "measured", &format!("under {writes_per_second} writes/s, {requests_per_second} requests/s"))?;

    let launch = founded(&directory.path().join("data"), &upstream).await?;
    let stage = Stage::begin()?;
    let head = fill(&launch.data, options.keys).await?;
    stage.end("embedded log filled, signing each record", head, "")?;
    let begin = Instant::now();
    let node = launch.start().await?;
    show("the node starts and judges everything", head.0, begin.elapsed(), Spent::of(node.pid())?, ">= 25 k/s per core")?;

    let cluster = tokio::task::block_in_place(|| Cluster::start(options.servers, Sync::Always))?;
    let url = cluster.url();
    let traffic = Traffic::on(vec![node.admin()?], vec![node.relay()], LOAD).await?;
    let (ahead, mut writes) = ahead(&node, &url).await?;
    let copied = ahead.answer["ahead"].as_u64().context("how far ahead it is")?;
    show("copied ahead, from the running node", copied, ahead.elapsed, ahead.spent, "")?;
    let figure = format!("{:.1} / {:.1} ms", percentile(&mut writes, 0.5) / 1e3, percentile(&mut writes, 0.99) / 1e3);
    row("a control write meanwhile, p50 / p99", &figure, "")?;
    traffic.stop().await?;
    show("the node, with this load", head.0, begin.elapsed(), Spent::of(node.pid())?, "<= 512 MiB with 1 M")?;

    let last_answer = Instant::now();
    let before = log(&node.admin()?).await?;
    let launch = node.stop().await?;
    let stopped = last_answer.elapsed();
    let moved = migrate(&launch.data, &url).await?;
    let answer = &moved.answer;
    ensure!(answer["done"] == true && answer["size"] == before["position"], "{answer} is not all of {before}");
    ensure!(answer["root"] == before["root"], "the root {} became {}", before["root"], answer["root"]);
    let size = answer["size"].as_u64().context("a size")?;
    show(&format!("the second run, {} copied; same root", answer["copied"]), size, moved.elapsed, moved.spent, "")?;
    let starting = last_answer.elapsed();
    let node = launch.with("KEYRELAY_NATS_URL", &url).start().await?;
    let ready = last_answer.elapsed();
    node.admin()?.create_key(&json!({ "name": "first", "expires": "never" })).await?;
    let parts = format!(
        "{:.1} to stop, {:.1} to migrate, {:.1} to start",
        stopped.as_secs_f64(),
        (starting - stopped).as_secs_f64(),
        (ready - starting).as_secs_f64()
    );
    row("control writes paused, answer to answer", &format!("{:.1} s", last_answer.elapsed().as_secs_f64()), &parts)?;
    // Traffic like the one before would send the same idempotency keys again.
    for number in 0..WRITES_AFTER {
        node.admin()?.create_key(&json!({ "name": format!("after-{number}"), "expires": "never" })).await?;
    }
    node.stop().await?;
    Ok(())
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    cpu_us: f64,
    peak: u64,
}

impl Spent {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Ok(Self { cpu_us: cpu_us(pid)?, peak: peak_bytes(pid)? })
    }
}

/// A run of a `keyrelay` command.
pub(crate) struct Ran {
    pub(crate) answer: Value,
    pub(crate) elapsed: Duration,
    pub(crate) spent: Spent,
}

pub(crate) fn show(what: &str, records: u64, elapsed: Duration, spent: Spent, reach: &str) -> Result<()> {
    let (seconds, records) = (elapsed.as_secs_f64(), records as f64);
    let figure = format!("{seconds:.2} s, {:.1} k/s", records / seconds / 1e3);
    row(what, &figure, &format!("{:.1} us; peak {:.0} MiB; {reach}", spent.cpu_us / records, mib(spent.peak)))
}

/// A node that was started once and stopped.
pub(crate) async fn founded(data: &Path, upstream: &ScriptedUpstream) -> Result<Launch> {
    let mut launch = Launch::new(data).with("KEYRELAY_LOG_LEVEL", "warn");
    launch.patience = PATIENCE;
    let node = launch.start().await?;
    node.admin()?.add_upstream("openai", "openai", &upstream.openai_url(), CREDENTIAL).await?;
    node.stop().await
}

/// Writes keys into the log of a stopped node, signed with its writer's key. Gives the log's head.
pub(crate) async fn fill(data: &Path, keys: usize) -> Result<Sequence> {
    let text = std::fs::read_to_string(data.join("writer.key"))?;
    let seed: Digest = text.trim().strip_prefix(WRITER_KEY_PREFIX).context("a writer's key")?.parse()?;
    let path = data.join("log");
    let log = Arc::new(tokio::task::spawn_blocking(move || EmbeddedLog::open(&path)).await??);
    let cluster: ClusterId = log.identity().await?.context("a founded log")?;
    let founded = Arc::new(Founded::enrolled(cluster, seed.as_bytes()));
    let mut writers = JoinSet::new();
    for first in 0..WRITERS {
        let (log, founded) = (Arc::clone(&log), Arc::clone(&founded));
        writers.spawn(async move {
            for number in (first..keys).step_by(WRITERS) {
                let (subject, bytes) = founded.key(number)?;
                match log.append(&subject, Expect { subject: Sequence(0), log: None }, bytes).await? {
                    Appended::Appended(_) => {}
                    other => bail!("not appended: {other:?}"),
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let head = log.head().await?;
    log.close().await;
    Ok(head)
}

/// The first run, while the node serves. Gives also how long writes took in that time.
async fn ahead(node: &Node, url: &str) -> Result<(Ran, Vec<Duration>)> {
    let admin = node.admin()?;
    let mut migrated = std::pin::pin!(migrate(node.data(), url));
    let mut times = Vec::new();
    loop {
        let begin = Instant::now();
        let write = async {
            admin.create_key(&json!({ "name": "meanwhile", "expires": "never" })).await?;
            let taken = begin.elapsed();
            tokio::time::sleep(LOOK).await;
            anyhow::Ok(taken)
        };
        tokio::select! {
            migrated = &mut migrated => return Ok((migrated?, times)),
            taken = write => times.push(taken?),
        }
    }
}

async fn migrate(data: &Path, url: &str) -> Result<Ran> {
    run(&["log".as_ref(), "migrate".as_ref(), "--to-nats".as_ref(), url.as_ref(), "--data".as_ref(), data.as_ref()]).await
}

/// Runs a command that must do what it is told, and looks at what it uses.
pub(crate) async fn run(words: &[&OsStr]) -> Result<Ran> {
    let mut command = cli::command("keyrelay")?;
    command.args(words).arg("--json");
    let (begin, mut spent) = (Instant::now(), Spent::default());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    while child.try_wait()?.is_none() {
        // It may be gone by now.
        spent = Spent::of(child.id()).unwrap_or(spent);
        tokio::time::sleep(LOOK).await;
    }
    let elapsed = begin.elapsed();
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{words:?} ended with {}", output.status);
    Ok(Ran { answer: serde_json::from_slice(&output.stdout)?, elapsed, spent })
}

/// Where the log stands.
async fn log(admin: &Admin) -> Result<Value> {
    admin.get("/log").await?.success()
}
