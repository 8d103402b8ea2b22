//! Kills at random moments under load: nothing that was acknowledged is lost.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Admin, Launch, cli, wait};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Clients that write at once.
const WRITERS: u64 = 8;
/// A kill comes after so many acknowledgements of a round, at the most.
const ACKNOWLEDGED_MAX: u64 = 60;
/// The steps of a key's life under load, and the state after each.
const LIFE: [(&str, &str); 3] = [("", "active"), ("disable", "disabled"), ("revoke", "revoked")];

/// A key, and how many steps of its life were acknowledged.
#[derive(Debug, Clone)]
struct Acknowledged {
    id: String,
    steps: usize,
    sequence: u64,
}

#[derive(Clone)]
struct Load {
    keys: Arc<Mutex<Vec<Acknowledged>>>,
    count: watch::Sender<u64>,
}

/// Creates keys and ends them, until the node is gone.
async fn write(admin: Admin, load: Load) -> Result<()> {
    loop {
        let created = admin.create_key(&json!({ "name": "crash", "expires": "never" })).await?;
        let place = {
            let mut keys = load.keys.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?;
            keys.push(Acknowledged { id: created.id.clone(), steps: 1, sequence: created.sequence });
            keys.len() - 1
        };
        load.count.send_modify(|count| *count += 1);
        for (step, _) in &LIFE[1..] {
            let answer = admin.post(&format!("/keys/{}/{step}", created.id), &json!({})).await?.success()?;
            let mut keys = load.keys.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?;
            keys[place].steps += 1;
            keys[place].sequence = answer["sequence"].as_u64().context("a sequence")?;
            drop(keys);
            load.count.send_modify(|count| *count += 1);
        }
    }
}

/// How far a key came, as the read model shows it.
fn steps(key: &Value) -> usize {
    LIFE.iter().position(|(_, state)| key["state"] == *state).map_or(0, |place| place + 1)
}

async fn nothing_acknowledged_is_lost(bug: Option<String>) -> Result<()> {
    let rounds = if std::env::var_os("KEYRELAY_TESTS_FULL").is_some() { 200 } else { 20 };
    let mut random = seed();
    let directory = tempfile::tempdir()?;
    let mut launch = Launch::new(&directory.path().join("data")).with_bug(bug.as_deref());
    for round in 0..rounds {
        let node = launch.clone().start().await.with_context(|| format!("round {round}"))?;
        let load = Load { keys: Arc::default(), count: watch::Sender::new(0) };
        let mut count = load.count.subscribe();
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            writers.spawn(write(node.admin()?, load.clone()));
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = 1 + (random >> 33) % ACKNOWLEDGED_MAX;
        wait::for_future("acknowledgements", count.wait_for(|count| *count >= moment)).await??;
        launch = node.kill()?;
        // Writers end with an error, because the node is gone.
        while writers.join_next().await.is_some() {}

        let node = launch.clone().start().await.with_context(|| format!("round {round}, after the kill"))?;
        let admin = node.admin()?;
        let head = admin.head().await?;
        let keys = load.keys.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?.clone();
        for acknowledged in &keys {
            let key = admin.key(&acknowledged.id).await.with_context(|| format!("round {round}: {acknowledged:?} is lost"))?;
            ensure!(steps(&key) >= acknowledged.steps, "round {round}: {acknowledged:?} is lost, the node shows {}", key["state"]);
            ensure!(acknowledged.sequence <= head, "round {round}: {acknowledged:?} is lost, the log ends at {head}");
        }
        launch = node.stop().await?;
    }
    let data = launch.data.as_os_str();
    cli::keyrelay(["log".as_ref(), "verify".as_ref(), "--offline".as_ref(), "--data".as_ref(), data])?.expect(0)?;
    Ok(())
}

/// A seed that is told, so that a failing run can be had again.
#[expect(clippy::disallowed_methods, reason = "a test run's own seed comes from its clock or its environment")]
fn seed() -> u64 {
    let given = std::env::var("KEYRELAY_TESTS_SEED").ok().and_then(|text| text.parse().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = given.unwrap_or(now.as_micros() as u64);
    eprintln!("KEYRELAY_TESTS_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_moments_nothing_acknowledged_is_lost() -> Result<()> {
    nothing_acknowledged_is_lost(None).await
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_answers_before_it_writes_is_noticed() -> Result<()> {
    tests::planted::turns_red("buffered-log", "", nothing_acknowledged_is_lost).await
}
