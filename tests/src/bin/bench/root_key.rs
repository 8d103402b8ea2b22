//! Changing the root key of a node with many secrets while it relays: how long it takes, and what requests notice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use schemas::{TenantId, Timestamp};
use serde_json::json;
use tests::{Relay, ScriptedUpstream};
use vault::{Entry, KeyStore as _, Lifetime, MemoryKeyStore, RocksKeyStore, RootKey, SecretAddress, Vault, files};

use super::Options;
use super::migration::{Ran, founded, run};
use super::report::{line, percentile, row};

/// Fewer than the million of the other rows, as the goal for a change while relaying says.
const COUNTS: [usize; 2] = [200_000, 1_000_000];
/// Secrets that are made between two writes to the store.
const RUN: usize = 20_000;
/// Between two requests of the one client: what is looked for is what a request waits, not how many fit.
const PAUSE: Duration = Duration::from_millis(2);

/// With `--keys` below a million, that many secrets; else both of the counts that the design speaks of.
pub(crate) async fn measure(options: Options) -> Result<()> {
    let counts: Vec<usize> = if options.keys < COUNTS[1] { vec![options.keys] } else { COUNTS.to_vec() };
    for count in counts {
        change(count, Duration::from_secs(options.seconds.max(5))).await?;
    }
    Ok(())
}

async fn change(count: usize, calm: Duration) -> Result<()> {
    let (directory, upstream) = (tempfile::tempdir()?, ScriptedUpstream::start().await?);
    line("")?;
    row(&format!("root key change with {count} secrets"), "measured", "reach")?;
    let launch = founded(&directory.path().join("data"), &upstream).await?;
    let old = root_key(&launch.data.join("root.key"))?;
    tokio::task::block_in_place(|| fill(&launch.data, &old, count))?;
    let node = launch.start().await?;
    let data = node.data().to_owned();
    let key = node.admin()?.create_key(&json!({ "name": "bench", "expires": "never" })).await?;
    let (next, new) = (data.join("root.key.next"), RootKey::generate()?);
    files::write_secret(&next, format!("{}\n", new.text().as_str()).as_bytes())?;

    let (relay, old_file) = (node.relay(), data.join("root.key"));
    let mut before = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < calm {
        before.push(request(&relay, &key.secret).await?);
    }
    let words = ["migrate-keys".as_ref(), "--from".as_ref(), old_file.as_os_str(), "--to".as_ref(), next.as_os_str()];
    let words = [&words[..], &["--without-backup".as_ref(), "--data".as_ref(), data.as_os_str()]].concat();
    let mut changing = std::pin::pin!(run(&words));
    let mut meanwhile = Vec::new();
    let Ran { answer, elapsed, .. } = loop {
        tokio::select! {
            changed = &mut changing => break changed?,
            taken = request(&relay, &key.secret) => meanwhile.push(taken?),
        }
    };
    let rewrap = &answer["rewrap"];
    ensure!(rewrap["state"] == "done" && rewrap["damaged"] == 0 && rewrap["unheld"] == 0, "{rewrap}");
    ensure!(rewrap["rewrapped"].as_u64() >= Some(count as u64), "{rewrap}");
    let took = Duration::from_millis(rewrap["elapsed_ms"].as_u64().context("a time")?);
    row("re-wrap and scan, on the node", &format!("{:.1} s", took.as_secs_f64()), "1 M within 60 s")?;
    row("the whole command", &format!("{:.1} s", elapsed.as_secs_f64()), "")?;
    let quantiles = |times: &mut [Duration]| (percentile(times, 0.5), percentile(times, 0.99));
    let ((p50, p99), (p50_meanwhile, p99_meanwhile)) = (quantiles(&mut before), quantiles(&mut meanwhile));
    row("a request before, p50 / p99", &format!("{p50:.0} / {p99:.0} us"), &format!("{} requests", before.len()))?;
    row(
        "a request meanwhile, p50 / p99",
        &format!("{p50_meanwhile:.0} / {p99_meanwhile:.0} us"),
        &format!("{} requests", meanwhile.len()),
    )?;
    row("p99 meanwhile over before", &format!("{:.2}", p99_meanwhile / p99), "1.05")?;
    node.stop().await?;
    Ok(())
}

/// How long a request takes; one that fails ends the bench.
async fn request(relay: &Relay, secret: &str) -> Result<Duration> {
    let begin = Instant::now();
    relay.chat(secret, "hello").await?.success()?;
    let taken = begin.elapsed();
    tokio::time::sleep(PAUSE).await;
    Ok(taken)
}

fn root_key(path: &Path) -> Result<RootKey> {
    Ok(RootKey::parse(std::str::from_utf8(&files::read_secret(path)?)?)?)
}

/// Seals secrets that nothing refers to into the key store of a stopped node.
fn fill(data: &Path, root: &RootKey, count: usize) -> Result<()> {
    let store = RocksKeyStore::open(&data.join("keys"))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let now = Timestamp::from_micros(u64::try_from(now.as_micros())?);
    for first in (0..count).step_by(RUN) {
        let memory = Arc::new(MemoryKeyStore::default());
        let vault = Vault::open(root.clone(), memory.clone())?;
        for number in first..count.min(first + RUN) {
            let mut owner_id = [0xf1; 16];
            owner_id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let address = SecretAddress {
                tenant: TenantId::default_tenant(),
                owner_kind: "credential",
                owner_id,
                field: "secret",
                version: 1,
                origin: "https://api.example.com".to_owned(),
            };
            let _ = vault.seal(&address, b"sk-a-credential-of-the-usual-length-0123456789abcdef", Lifetime::lasting(now))?;
        }
        let mut entries = BTreeMap::new();
        for entry in [Entry::Wrapped, Entry::Sealed] {
            // Not the pepper of the store they were made in.
            let of_secrets = memory.scan(entry, None, usize::MAX)?.into_iter().filter(|(slot, _)| slot.owner_kind == "credential");
            entries.extend(of_secrets.map(|(slot, bytes)| ((slot, entry), bytes)));
        }
        store.fill(entries.iter().map(|((slot, entry), bytes)| (*entry, slot.clone(), bytes.as_slice())))?;
    }
    Ok(())
}
