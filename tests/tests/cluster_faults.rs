//! Harm done to a cluster under load: whatever was acknowledged is there once, one writer wins each version, and the relay goes on.
//!
//! Every test writes a history of 50 control writes and 60 relay requests a second over three nodes, and has it checked from the outside.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, EVENTS, Plan};
use tests::traffic::{Rates, Traffic};

const RATES: Rates = Rates { writes_per_second: 50, requests_per_second: 60, fences: false };
/// For writes to go on after harm: an election takes up to nine seconds, may have to be held twice, and has to share the machine.
const RECOVERY: Duration = Duration::from_secs(120);

/// Ends the load, and checks everything that was asked and told.
async fn is_sound(cluster: &Cluster, traffic: Traffic, acknowledged_min: usize) -> Result<()> {
    let recorder = traffic.stop().await?;
    cluster.nats_ready()?;
    let settled = cluster.settled().await?;
    recorder.look(|history| {
        eprintln!("{} writes, {} acknowledged, {} requests", history.writes.len(), history.acknowledged(), history.requests.len());
        ensure!(history.acknowledged() >= acknowledged_min, "only {} writes were acknowledged", history.acknowledged());
        settled.expect_sound(history)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_five_times() -> Result<()> {
    let mut cluster = Cluster::start(Plan::default()).await?;
    let traffic = Traffic::start(&cluster, RATES).await?;
    for _ in 0..5 {
        traffic.goes_on(50, RECOVERY).await?;
        let killed = cluster.kill_leader()?;
        // The others elect one of them while it is away.
        traffic.goes_on(20, RECOVERY).await?;
        cluster.nats.server(killed).run()?;
        cluster.nats_ready()?;
    }
    is_sound(&cluster, traffic, 350).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_cut_off_with_a_node_and_comes_back() -> Result<()> {
    let cluster = Cluster::start(Plan { apart: true, ..Plan::default() }).await?;
    let traffic = Traffic::start(&cluster, RATES).await?;
    traffic.goes_on(50, RECOVERY).await?;
    let leader = tokio::task::block_in_place(|| cluster.nats.wait_leader_of(EVENTS))?;
    // The minority keeps a node that goes on serving, and may acknowledge nothing.
    cluster.part(&[&format!("n{leader}"), "node2"])?;
    traffic.goes_on(100, RECOVERY).await?;
    traffic.for_a_while(Duration::from_secs(10)).await;
    cluster.heal()?;
    traffic.goes_on(100, RECOVERY).await?;
    is_sound(&cluster, traffic, 250).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_cut_off_from_all_servers_and_comes_back() -> Result<()> {
    let cluster = Cluster::start(Plan { apart: true, ..Plan::default() }).await?;
    let traffic = Traffic::start(&cluster, RATES).await?;
    traffic.goes_on(50, RECOVERY).await?;
    cluster.part(&["node1"])?;
    traffic.for_a_while(Duration::from_secs(20)).await;
    traffic.goes_on(50, RECOVERY).await?;
    cluster.heal()?;
    traffic.goes_on(100, RECOVERY).await?;
    is_sound(&cluster, traffic, 200).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_paused_for_twenty_seconds() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let traffic = Traffic::start(&cluster, RATES).await?;
    traffic.goes_on(50, RECOVERY).await?;
    let leader = tokio::task::block_in_place(|| cluster.nats.wait_leader_of(EVENTS))?;
    cluster.nats.servers()[leader].pause()?;
    traffic.for_a_while(Duration::from_secs(20)).await;
    cluster.nats.servers()[leader].resume()?;
    traffic.goes_on(100, RECOVERY).await?;
    is_sound(&cluster, traffic, 150).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_servers_are_away_for_a_minute() -> Result<()> {
    let mut cluster = Cluster::start(Plan::default()).await?;
    let traffic = Traffic::start(&cluster, RATES).await?;
    traffic.goes_on(50, RECOVERY).await?;
    for index in 0..3 {
        tokio::task::block_in_place(|| cluster.nats.server(index).stop())?;
    }
    let served = |recorder: &tests::history::Recorder| recorder.look(|history| history.requests.len());
    let before = served(&traffic.recorder);
    traffic.for_a_while(Duration::from_secs(60)).await;
    let meanwhile = served(&traffic.recorder) - before;
    // Half of what was asked, so that a busy machine is no finding; that each was served is the checker's business.
    ensure!(meanwhile >= 1800, "only {meanwhile} requests were answered while the servers were away");
    for index in 0..3 {
        cluster.nats.server(index).run()?;
    }
    cluster.nats_ready()?;
    traffic.goes_on(100, RECOVERY).await?;
    is_sound(&cluster, traffic, 150).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_killed_under_load_and_comes_back() -> Result<()> {
    let mut cluster = Cluster::start(Plan { servers: 1, ..Plan::default() }).await?;
    // The load goes to the two others, so that every request it sends has somebody to answer it.
    cluster.stop_node(2).await?;
    let traffic = Traffic::start(&cluster, RATES).await?;
    for _ in 0..3 {
        cluster.start_node(2).await?;
        traffic.goes_on(50, RECOVERY).await?;
        cluster.kill_node(2)?;
    }
    cluster.start_node(2).await?;
    is_sound(&cluster, traffic, 150).await
}
