//! A log that loses what it acknowledged, as NATS does with its default of a sync every two minutes and a power cut: noticed within ten seconds,
//! and healed where that is exact, refused with the evidence where another writer has taken the places. Never served in silence.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::StatusCode;
use nats_server::Sync;
use serde_json::{Value, json};
use tests::Admin;
use tests::admin::IssuedKey;
use tests::cluster::{Cluster, EVENTS, Plan, SETTLE};
use tests::history::{History, Outcome, Write};
use tests::wait;

const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// Keys before and after the copy that the data is rolled back to.
const KEPT: usize = 10;
const LOST: usize = 25;

fn plan(servers: usize, bug: Option<&str>) -> Plan {
    Plan { servers, sync: Sync::Default, nodes: 2, ..Plan::default() }.with_bug(bug)
}

/// Creates keys. What is refused while the servers elect is sent again, and is the same command however often.
async fn keys(admin: &Admin, count: usize) -> Result<Vec<IssuedKey>> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let mut keys = Vec::new();
    for _ in 0..count {
        let name = format!("key-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let body = json!({ "name": name, "expires": "never" });
        let answer = wait::until_within(SETTLE, "a log that takes writes", || async {
            let answer = admin.post_once("/keys", &body, &name).await?;
            Ok((answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer))
        });
        keys.push(IssuedKey::parse(&answer.await?.success()?)?);
    }
    Ok(keys)
}

/// The creations of keys as a history of acknowledged writes.
fn acknowledged(keys: &[IssuedKey]) -> History {
    let write = |key: &IssuedKey| Write {
        name: key.id.clone(),
        event: "KeyCreated",
        key: Some(key.id.clone()),
        expected: None,
        invoked: Duration::ZERO,
        outcome: Outcome::Acknowledged { at: Duration::ZERO, sequence: key.sequence, version: key.version },
    };
    History { writes: keys.iter().map(write).collect(), ..History::default() }
}

/// The fewest servers whose word is the log.
fn majority(cluster: &Cluster) -> std::ops::Range<usize> {
    0..cluster.nats.servers().len() / 2 + 1
}

/// The power of all servers goes; most of them lose everything since the copy, are back first, and make up the log among themselves. What the
/// others have beyond it then counts for nothing; any of them would else be elected, and nothing be lost.
fn roll_back(cluster: &mut Cluster) -> Result<()> {
    let copy = cluster.directory().join("copy");
    tokio::task::block_in_place(|| {
        for index in 0..cluster.nats.servers().len() {
            cluster.nats.server(index).kill()?;
        }
        for index in majority(cluster) {
            cluster.nats.server(index).roll_back_to(&copy.join(index.to_string()))?;
            cluster.nats.server(index).run()?;
        }
        cluster.nats.wait_ready()?;
        if cluster.nats.servers().len() > 1 {
            cluster.nats.wait_leader_of(EVENTS)?;
        }
        Ok(())
    })
}

/// The servers that lost nothing come back, with empty disks, as an operator is told: their own log is of terms that the others have forgotten,
/// so that one of them may be elected and put its log in the place of what was written since.
fn the_others_are_back(cluster: &mut Cluster) -> Result<()> {
    let nothing = cluster.directory().join("nothing");
    std::fs::create_dir_all(&nothing)?;
    for index in majority(cluster).end..cluster.nats.servers().len() {
        cluster.nats.server(index).roll_back_to(&nothing)?;
        cluster.nats.server(index).run()?;
    }
    cluster.nats_ready()
}

fn copy(cluster: &mut Cluster) -> Result<()> {
    let (copy, most) = (cluster.directory().join("copy"), majority(cluster));
    // Stopped for the copy, so that it is whole: what a disk keeps of a running server is not what is tested.
    tokio::task::block_in_place(|| {
        for index in most.clone() {
            cluster.nats.server(index).stop()?;
            cluster.nats.server(index).copy_store(&copy.join(index.to_string()))?;
        }
        for index in most {
            cluster.nats.server(index).run()?;
        }
        cluster.nats.wait_ready()
    })
}

async fn root(admin: &Admin) -> Result<(u64, String)> {
    let log = admin.get("/log").await?.success()?;
    Ok((log["position"].as_u64().context("a position")?, log["root"].as_str().context("a root")?.to_owned()))
}

/// Which connection to the log a node has.
async fn epoch(admin: &Admin) -> Result<u64> {
    admin.readiness().await?["log"]["epoch"].as_u64().context("no epoch")
}

/// Every node has compared the log that came back, put back what was missing, and the servers have all of it.
async fn is_healed(cluster: &mut Cluster, epochs: [u64; 2], before: &(u64, String), made: &[IssuedKey]) -> Result<()> {
    let begin = Instant::now();
    let stages: [(&[&str], _, _); 2] = [(&["healing", "trusted"], "noticed", NOTICED_WITHIN), (&["trusted"], "trusted again", SETTLE)];
    for (trust, what, within) in stages {
        for (index, epoch) in epochs.into_iter().enumerate() {
            let admin = cluster.admin(index)?;
            wait::until_within(within.saturating_sub(begin.elapsed()), &format!("a log that node {index} has {what}"), || async {
                let log = &admin.readiness().await?["log"];
                let is_so = log["trust"].as_str().is_some_and(|shown| trust.contains(&shown));
                Ok((log["epoch"].as_u64() > Some(epoch) && is_so).then_some(()))
            })
            .await?;
        }
        eprintln!("{what} after {:?}", begin.elapsed());
    }
    the_others_are_back(cluster)?;
    let settled = cluster.settled().await?;
    settled.expect_sound(&acknowledged(made))?;
    for index in 0..2 {
        let after = root(&cluster.admin(index)?).await?;
        ensure!(after == *before, "node {index} has another log: {before:?} became {after:?}");
    }
    Ok(())
}

async fn a_rolled_back_log_is_healed(servers: usize, bug: Option<String>) -> Result<()> {
    let mut cluster = Cluster::start(plan(servers, bug.as_deref())).await?;
    let mut made = keys(&cluster.admin(0)?, KEPT).await?;
    cluster.settle().await?;
    copy(&mut cluster)?;
    // Of both nodes, so that each has something to put back.
    made.extend(keys(&cluster.admin(0)?, LOST).await?);
    made.extend(keys(&cluster.admin(1)?, LOST).await?);
    cluster.settle().await?;
    let before = root(&cluster.admin(0)?).await?;

    let epochs = [epoch(&cluster.admin(0)?).await?, epoch(&cluster.admin(1)?).await?];
    roll_back(&mut cluster)?;
    is_healed(&mut cluster, epochs, &before, &made).await.context("the loss was not healed")?;
    // It takes writes and serves what was lost for a while.
    made.extend(keys(&cluster.admin(1)?, 1).await?);
    for key in [&made[0], made.last().context("a key")?, &made[KEPT + LOST]] {
        cluster.settle().await?;
        cluster.relay(0)?.chat(&key.secret, "after the healing").await?.success()?;
    }
    cluster.settled().await?.expect_sound(&acknowledged(&made))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_rolled_back_is_noticed_and_healed_to_the_same_root() -> Result<()> {
    a_rolled_back_log_is_healed(1, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_two_servers_of_three_rolled_back_is_noticed_and_healed_to_the_same_root() -> Result<()> {
    a_rolled_back_log_is_healed(3, None).await
}

// Nodes remember what they read as well as what they wrote, so a witness that forgets its own records loses nothing while a node runs: that
// bug is planted where a process ends in between, in the crate of the witness.
#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_does_not_compare_is_noticed_by_what_is_lost() -> Result<()> {
    tests::planted::turns_red("witness-blind", "not healed", |bug| a_rolled_back_log_is_healed(1, bug)).await
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_does_not_compare_is_noticed_by_what_two_servers_of_three_lost() -> Result<()> {
    tests::planted::turns_red("witness-blind", "not healed", |bug| a_rolled_back_log_is_healed(3, bug)).await
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_does_not_compare_is_noticed_by_what_it_accepts() -> Result<()> {
    tests::planted::turns_red("witness-blind", "a refusal of the forked log", |bug| another_writer_took_the_places(1, bug)).await
}

/// Whether a node says that its log is another one than it was.
fn refuses(readiness: &Value) -> bool {
    readiness["log"]["trust"] == "refused"
}

/// Node 0 is away while the log loses records that it had acknowledged and node 1 writes others in their places.
async fn another_writer_took_the_places(servers: usize, bug: Option<String>) -> Result<()> {
    let mut cluster = Cluster::start(plan(servers, bug.as_deref())).await?;
    keys(&cluster.admin(0)?, KEPT).await?;
    cluster.settle().await?;
    // Node 1 goes first: it must not have seen what is lost, or it would put it back itself.
    cluster.stop_node(1).await?;
    copy(&mut cluster)?;
    let admin = cluster.admin(0)?;
    // One more than will be written in their places, so that the read models' own look, at their position, finds nothing there.
    keys(&admin, LOST + 1).await?;
    cluster.stop_node(0).await?;
    roll_back(&mut cluster)?;
    the_others_are_back(&mut cluster)?;
    cluster.start_node(1).await?;
    keys(&cluster.admin(1)?, LOST).await?;

    // Node 0 is back, with acknowledged records of its own and others in their places.
    let begin = Instant::now();
    let evidence = match cluster.launch(0)?.attempt().await? {
        tests::node::Start::Exited(run) => {
            ensure!(run.code != 0, "it ended as if all were well");
            run.stderr
        }
        tests::node::Start::Ready(node) => {
            let admin = node.admin()?;
            let noticed = wait::until_within(NOTICED_WITHIN, "a refusal of the forked log", || async {
                let readiness = admin.readiness().await?;
                Ok(refuses(&readiness).then_some(readiness))
            })
            .await?;
            let refused = admin.post("/keys", &json!({ "name": "nobody", "expires": "never" })).await?;
            refused.expect(503).context("it writes to a log that forked")?;
            format!("{noticed}{}", node.stderr())
        }
    };
    ensure!(begin.elapsed() < NOTICED_WITHIN + Duration::from_secs(5), "noticed after {:?}", begin.elapsed());
    ensure!(evidence.contains("evidence"), "where the evidence is, it does not say: {evidence}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_places_another_writer_took_is_refused_with_the_evidence() -> Result<()> {
    another_writer_took_the_places(1, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_places_another_writer_took_on_two_servers_of_three_is_refused_with_the_evidence() -> Result<()> {
    another_writer_took_the_places(3, None).await
}

/// What the key store lost with the log comes back from the mirrors of the nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_entries_that_were_lost_come_back_from_the_mirrors() -> Result<()> {
    let mut cluster = Cluster::start(plan(1, None)).await?;
    copy(&mut cluster)?;
    let second = tests::ScriptedUpstream::start().await?;
    let admin = cluster.admin(0)?;
    let body = json!({ "name": "second", "dialect": "openai", "base_url": second.openai_url(), "credential": "sk-second", "priority": 1 });
    wait::until_within(SETTLE, "an upstream that is added", || async {
        Ok(admin.post_once("/upstreams", &body, "the second").await?.status.is_success().then_some(()))
    })
    .await?;
    cluster.settle().await?;
    roll_back(&mut cluster)?;
    let made = keys(&admin, 1).await?.pop().context("a key")?;
    cluster.settle().await?;
    // A node that never saw the credential gets it from the store.
    cluster.stop_node(1).await?;
    std::fs::remove_dir_all(cluster.data(1))?;
    cluster.start_node(1).await?;
    cluster.settle().await?;
    cluster.relay(1)?.chat(&made.secret, "by the second upstream").await?.success()?;
    let seen = second.seen();
    ensure!(seen.len() == 1 && seen[0].header("authorization") == "Bearer sk-second", "{seen:?}");
    Ok(())
}
