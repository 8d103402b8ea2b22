//! Many keys that expire in the same second: whether any is accepted after it, how long the sweep takes that records them, and what a steady load
//! notices of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use schemas::Timestamp;
use serde_json::json;
use tests::admin::IssuedKey;
use tests::{Admin, Launch, wait};
use tokio::task::JoinSet;

use super::Options;
use super::load::{self, Target};
use super::process::Server;
use super::report::{line, percentile, row};

/// Keys that expire, unless `--keys` says fewer.
const KEYS_MAX: usize = 100_000;
const CREATORS: usize = 64;
/// Of the keys, so many are tried in the second after.
const TRIED: usize = 1000;
const CONNECTIONS: u64 = 16;
const RATE_PER_SECOND: u64 = 500;
/// What a key's creation may take at the most, for choosing the second.
const CREATED_PER_SECOND_MIN: u64 = 800;
/// The longest that a sweep is waited for.
const SWEEP_MAX: Duration = Duration::from_secs(600);

pub(crate) async fn measure(options: Options) -> Result<()> {
    let mock = Server::start(&["mock"])?;
    let directory = tempfile::tempdir()?;
    let launch =
        Launch::new(&directory.path().join("data")).with("KEYRELAY_LOG_LEVEL", "warn").with("KEYRELAY_CONTROL_EXPIRY_INTERVAL", "1s");
    let node = launch.start().await?;
    let (admin, relay) = (node.admin()?, node.relay());
    admin.add_upstream("mock", "openai", &format!("{}/v1", mock.origin), "sk-mock").await?;
    let lasting = admin.create_key(&json!({ "name": "load", "expires": "never" })).await?;
    let target = Target { name: "relay", origin: node.relay_origin.clone(), secret: lasting.secret };

    let count = options.keys.min(KEYS_MAX);
    let expires_at = Timestamp::from_micros((now()?.as_seconds() + count as u64 / CREATED_PER_SECOND_MIN + 20) * 1_000_000);
    let keys = keys(&admin, count, expires_at).await?;
    ensure!(now()? < expires_at, "{count} keys were not made in time");
    let mut quiet = load::requests(&target, CONNECTIONS, Some(RATE_PER_SECOND), Duration::from_secs(10)).await?;
    let head = admin.head().await?;
    ensure!(head > count as u64 && now()? < expires_at, "the quiet measurement ran into the expiry");

    wait::until_within(Duration::from_secs(600), "the second", || async { Ok((now()? >= expires_at).then_some(())) }).await?;
    let begin = Instant::now();
    let is_swept = AtomicBool::new(false);
    let sweep = async {
        wait::until_within(SWEEP_MAX, "the sweep", || async { Ok((admin.head().await? >= head + count as u64).then_some(())) }).await?;
        is_swept.store(true, Ordering::Relaxed);
        anyhow::Ok(begin.elapsed())
    };
    let busy = async {
        let mut times = Vec::new();
        while !is_swept.load(Ordering::Relaxed) {
            times.extend(load::requests(&target, CONNECTIONS, Some(RATE_PER_SECOND), Duration::from_secs(1)).await?);
        }
        anyhow::Ok(times)
    };
    let tried = async {
        for key in keys.iter().step_by((count / TRIED).max(1)) {
            let answer = relay.chat(&key.secret, "too late").await?;
            answer.expect(401).context("an expired key was accepted")?;
        }
        anyhow::Ok(())
    };
    let (took, mut busy, ()) = tokio::try_join!(sweep, busy, tried)?;
    node.stop().await?;

    line("")?;
    row(&format!("{count} keys that expire in one second"), "measured", "reach")?;
    row("until all of them are recorded, s", &format!("{:.1}", took.as_secs_f64()), "seconds")?;
    row("recorded per second", &format!("{:.0}", count as f64 / took.as_secs_f64()), "")?;
    let mut both = |part| format!("{:.2} / {:.2}", percentile(&mut quiet, part) / 1e3, percentile(&mut busy, part) / 1e3);
    row(&format!("relay latency at {RATE_PER_SECOND}/s, quiet / meanwhile, p50, ms"), &both(0.5), "")?;
    row(&format!("relay latency at {RATE_PER_SECOND}/s, quiet / meanwhile, p99, ms"), &both(0.99), "")
}

fn now() -> Result<Timestamp> {
    Ok(Timestamp::from_micros(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?))
}

async fn keys(admin: &Admin, count: usize, expires_at: Timestamp) -> Result<Vec<IssuedKey>> {
    let mut creators = JoinSet::new();
    for creator in 0..CREATORS {
        let admin = admin.clone();
        creators.spawn(async move {
            let mut keys = Vec::new();
            for _ in (creator..count).step_by(CREATORS) {
                keys.push(admin.create_key(&json!({ "name": "short", "expires_at": expires_at })).await?);
            }
            anyhow::Ok(keys)
        });
    }
    let mut keys = Vec::with_capacity(count);
    while let Some(some) = creators.join_next().await {
        keys.extend(some??);
    }
    Ok(keys)
}
