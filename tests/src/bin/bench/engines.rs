//! The engines by themselves: durable appends, the fold of a log, the look-up of a key.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use event_log::{Appended, EmbeddedLog, EventLog, Expect, MemoryLog};
use projector::{Config, Memory, Projector, ReadModels, install_snapshot};
use schemas::key::{Expiry, KeyRenewed};
use schemas::{Event, Sequence, Timestamp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::founded::{Founded, Signed, hash};
use super::process::resident_bytes;
use super::report::{line, median, percentile, row};

const CLIENTS: usize = 64;
const APPENDS_PER_CLIENT: u64 = 2000;
/// Few enough to stay in the cache of any size.
const CACHED_KEYS: usize = 1000;
const LOOKUPS: usize = 200_000;

pub(crate) async fn measure(options: Options) -> Result<()> {
    line("")?;
    row("engines", "measured", "reach")?;
    for (what, signs_first, reach) in [("signed", false, ">= 30 k/s, p99 <= 5 ms"), ("pre-signed", true, ">= 100 k/s, p99 <= 5 ms")] {
        let (mut rates, mut p99s) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let directory = tempfile::tempdir()?;
            let (rate, mut times) = append(directory.path(), signs_first).await?;
            rates.push(rate);
            p99s.push(percentile(&mut times, 0.99));
        }
        let figure = format!("{:.1} k/s, p99 {:.2} ms", median(&rates) / 1e3, median(&p99s) / 1e3);
        row(&format!("embedded append, durable, {CLIENTS} clients, {what}"), &figure, reach)?;
    }
    projections(options.keys).await
}

/// Renews keys from many tasks, each waiting for its own append. Gives appends per second and the time of each.
async fn append(directory: &Path, signs_first: bool) -> Result<(f64, Vec<Duration>)> {
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(&directory.join("log"))?);
    let founded = Arc::new(Founded::new());
    let renewed = |number: usize, version: u64| {
        let event = Event::KeyRenewed(KeyRenewed { expiry: Expiry::Never });
        founded.event(number, version, event)
    };
    let mut ready: Vec<Vec<Signed>> = Vec::new();
    for client in 0..CLIENTS {
        let signed = if signs_first { APPENDS_PER_CLIENT } else { 0 };
        ready.push((1..=signed).map(|version| renewed(client, version)).collect::<Result<_>>()?);
    }
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for (client, ready) in ready.into_iter().enumerate() {
        let (log, founded) = (Arc::clone(&log), Arc::clone(&founded));
        clients.spawn(async move {
            let (mut ready, mut times, mut last) = (ready.into_iter(), Vec::new(), Sequence(0));
            for version in 1..=APPENDS_PER_CLIENT {
                let begin = Instant::now();
                let event = || Event::KeyRenewed(KeyRenewed { expiry: Expiry::Never });
                let (subject, bytes) = ready.next().map_or_else(|| founded.event(client, version, event()), Ok)?;
                match log.append(&subject, Expect { subject: last, log: None }, bytes).await? {
                    Appended::Appended(sequence) => last = sequence,
                    other => anyhow::bail!("not appended: {other:?}"),
                }
                times.push(begin.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = clients.join_next().await {
        all.extend(times??);
    }
    Ok((all.len() as f64 / begin.elapsed().as_secs_f64(), all))
}

async fn projections(keys: usize) -> Result<()> {
    let log: Arc<dyn EventLog> = Arc::new(filled_log(keys).await?);
    let directory = tempfile::tempdir()?;
    let before = resident_bytes(std::process::id())?;
    let (projector, models) = Projector::open(config(directory.path()), Arc::clone(&log)).await?;
    let projector = Arc::new(projector);
    let cancel = CancellationToken::new();
    let begin = Instant::now();
    let following = tokio::spawn({
        let (projector, cancel) = (Arc::clone(&projector), cancel.clone());
        async move { projector.run(cancel).await }
    });
    let head = log.head().await?;
    while !models.wait_for(head, Duration::from_secs(5)).await {
        ensure!(!following.is_finished(), "the fold stopped: {:?}", models.status().state);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let rate = keys as f64 / elapsed / 1e3;
    row(&format!("projector apply, first judgement, {keys} keys"), &format!("{rate:.1} k/s"), ">= 25 k/s per core")?;
    look_up(&models, keys)?;
    let grown = resident_bytes(std::process::id())?.saturating_sub(before) as f64 / 1048576.0;
    row(&format!("memory of the read models, {keys} keys, MiB"), &format!("{grown:.0}"), "<= 512 with 1 M")?;
    let begin = Instant::now();
    projector.rebuild(projector::Verdicts::Judged, |_| {}).await?;
    let rate = keys as f64 / begin.elapsed().as_secs_f64() / 1e3;
    row(&format!("rebuild beside the model in use, {keys} keys"), &format!("{rate:.1} k/s"), ">= 25 k/s per core")?;
    let begin = Instant::now();
    let rebuilt = projector.rebuild(projector::Verdicts::Known, |_| {}).await?;
    ensure!(rebuilt.verdicts == projector::Verdicts::Known, "the known verdicts were not believed");
    let rate = keys as f64 / begin.elapsed().as_secs_f64() / 1e3;
    row(&format!("the same by known verdicts, {keys} keys"), &format!("{rate:.1} k/s"), ">= 300 k/s")?;
    new_node(&projector, &*log, keys).await?;
    cancel.cancel();
    following.await??;
    Ok(())
}

/// Takes a snapshot of a running node's models and makes it another's.
async fn new_node(projector: &Projector, log: &dyn EventLog, keys: usize) -> Result<()> {
    let (founded, directory) = (Founded::new(), tempfile::tempdir()?);
    let (from, data) = (directory.path().join("snapshot"), directory.path().join("data"));
    let begin = Instant::now();
    let manifest = projector.snapshot(&from, founded.writer(), |statement| founded.sign_statement(statement)).await?;
    let taken = begin.elapsed().as_secs_f64();
    let (cluster, cluster_key) = founded.cluster();
    let begin = Instant::now();
    install_snapshot(&config(&data), &from, cluster, cluster_key, log).await?;
    let installed = begin.elapsed().as_secs_f64();
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let figure = format!("taken {taken:.2} s, installed {installed:.2} s, {:.0} MiB", bytes as f64 / 1048576.0);
    row(&format!("new node from a snapshot, {keys} keys"), &figure, "<= 10 s with 1 M")
}

pub(crate) fn config(data: &Path) -> Config {
    Config { data: data.to_owned(), memory: Memory::new(Memory::BYTES_DEFAULT), clock: Arc::new(|| Timestamp::from_micros(0)) }
}

/// A founded log in memory with so many keys.
async fn filled_log(keys: usize) -> Result<MemoryLog> {
    let (log, founded) = (MemoryLog::new(), Founded::new());
    let mut records = founded.beginning()?;
    for number in 0..keys {
        records.push(founded.key(number)?);
        for (subject, bytes) in records.drain(..) {
            let outcome = log.append(&subject, Expect { subject: Sequence(0), log: None }, bytes).await?;
            ensure!(matches!(outcome, Appended::Appended(_)), "not appended: {outcome:?}");
        }
    }
    Ok(log)
}

fn look_up(models: &ReadModels, keys: usize) -> Result<()> {
    let time = |hashes: &[schemas::Digest]| {
        let mut times = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let begin = Instant::now();
            black_box(models.key_by_hash(hash)?).context("a key is not found")?;
            times.push(begin.elapsed());
        }
        anyhow::Ok(times)
    };
    // Spread over all keys by a step that has no factor in common with their number, each once: none is cached yet.
    let spread: Vec<_> = (0..LOOKUPS.min(keys)).map(|place| hash(place * 999_983 % keys)).collect();
    let mut cold = time(&spread)?;
    let few: Vec<_> = (0..LOOKUPS).map(|place| hash(place % CACHED_KEYS.min(keys))).collect();
    time(&few)?;
    let mut cached = time(&few)?;
    let figure = |times: &mut Vec<Duration>| format!("p50 {:.2}, p99 {:.2}", percentile(times, 0.5), percentile(times, 0.99));
    row("key look-up, cached, us", &figure(&mut cached), "<= 1")?;
    row("key look-up, from RocksDB, us", &figure(&mut cold), "<= 20")
}
