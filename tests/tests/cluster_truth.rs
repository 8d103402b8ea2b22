//! One truth: what one node does is so on all of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::cli;
use tests::cluster::{Cluster, Plan};
use tests::history::History;
use tests::traffic::{Rates, Traffic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_made_on_one_node_works_on_all_and_is_refused_on_all_once_a_revocation_returns() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    for index in 0..3 {
        let ready = &cluster.node(index)?.ready;
        ensure!(ready["sync"] == "verified", "node {index} is {}", ready["sync"]);
    }
    let key = cluster.admin(0)?.create_key(&json!({ "name": "shared", "expires": "never" })).await?;
    for index in 0..3 {
        let shown = cluster.admin(index)?.shown_after(&format!("/keys/{}", key.id), key.sequence).await?;
        ensure!(shown["key"]["version"] == key.version, "node {index} shows {shown}");
        cluster.relay(index)?.chat(&key.secret, "everywhere").await?.success()?;
    }

    let begin = Instant::now();
    let revoked = cluster.admin(1)?.post(&format!("/keys/{}/revoke?wait=true", key.id), &json!({ "reason": "leaked" })).await?.success()?;
    let fence = &revoked["fence"];
    ensure!(fence["reached"] == true && fence["nodes"] == 3 && fence["missing"] == json!([]), "{revoked}");
    ensure!(begin.elapsed() < Duration::from_secs(10), "the fence took {:?}: {revoked}", begin.elapsed());
    for index in 0..3 {
        let answer = cluster.relay(index)?.chat(&key.secret, "behind the fence").await?;
        answer.expect(401).with_context(|| format!("node {index}"))?;
        ensure!(answer.header("x-keyrelay-reason") == "key_revoked", "{}", answer.text());
    }
    let settled = cluster.settled().await?;
    settled.expect_sound(&History::default())?;
    let types = cluster.admin(2)?.event_types(&key.stream()).await?;
    ensure!(types == ["KeyCreated", "KeyRevoked"], "{types:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_lists_all_nodes() -> Result<()> {
    let cluster = Cluster::start(Plan { servers: 1, ..Plan::default() }).await?;
    let mut ids = Vec::new();
    for index in 0..3 {
        ids.push(cluster.node(index)?.ready["node"].as_str().context("a node id")?.to_owned());
    }
    ids.sort_unstable();
    for index in 0..3 {
        let admin = cluster.admin(index)?;
        let listed = tests::wait::until("three live nodes", || async {
            let answer = admin.get("/nodes").await?.success()?;
            let live: Vec<&Value> = answer["nodes"].as_array().into_iter().flatten().filter(|node| node["live"] == true).collect();
            let mut live: Vec<String> = live.iter().filter_map(|node| node["id"].as_str().map(str::to_owned)).collect();
            live.sort_unstable();
            Ok((live.len() == 3).then_some(live))
        })
        .await?;
        ensure!(listed == ids, "node {index} lists {listed:?}, there are {ids:?}");
    }
    // The command line finds the address and the token in the data of the node that founded.
    let data = cluster.data(0);
    let run = cli::keyrelay(["nodes".as_ref(), "--json".as_ref(), "--data".as_ref(), data.as_os_str()])?.expect(0)?;
    let printed = run.stdout;
    ensure!(ids.iter().all(|id| printed.contains(id.as_str())), "{printed}");
    Ok(())
}

/// What is asked of all nodes at once fits together, with nothing done to the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_from_all_sides_there_is_one_history() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let traffic = Traffic::start(&cluster, Rates { writes_per_second: 50, requests_per_second: 60, fences: true }).await?;
    traffic.goes_on(300, Duration::from_secs(120)).await?;
    let recorder = traffic.stop().await?;
    let settled = cluster.settled().await?;
    recorder.look(|history| {
        ensure!(history.fences.len() > 20 && history.requests.len() > 100, "there was no load: {} fences", history.fences.len());
        settled.expect_sound(history)
    })
}
