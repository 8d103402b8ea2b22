//! Snapshots of the read models: a node takes them by itself, and a new node begins with the newest.

use anyhow::{Context as _, Result, ensure};
use nats_server::Sync;
use serde_json::{Value, json};
use tests::cluster::{Cluster, Plan, SETTLE};
use tests::{Node, planted, wait};

/// The positions of the snapshots that a node says it has put into the store.
fn taken(node: &Node) -> Vec<u64> {
    positions(node, "a snapshot is there for new nodes")
}

fn positions(node: &Node, message: &str) -> Vec<u64> {
    let text = node.stderr();
    let lines = text.lines().filter(|line| line.contains(message));
    lines.filter_map(|line| number_after(line, "position")).collect()
}

/// The number that a line gives for a field, however its format sets it off.
fn number_after(line: &str, field: &str) -> Option<u64> {
    let rest = &line[line.rfind(field)? + field.len()..];
    let digits: String = rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

async fn shown(cluster: &Cluster, index: usize) -> Result<Value> {
    let admin = cluster.admin(index)?;
    let log = admin.get("/log").await?.success()?;
    Ok(json!({ "position": log["position"], "root": log["root"], "keys": admin.keys().await? }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_taken_by_records_and_by_time_and_a_new_node_begins_with_the_newest() -> Result<()> {
    let plan =
        Plan { servers: 1, nodes: 2, sync: Sync::Default, environment: planted::environment(Some("eager-snapshots")), ..Plan::default() };
    let mut cluster = Cluster::without_nodes(plan).await?;
    cluster.start_node(0).await?;
    let admin = cluster.admin(0)?;
    let mut keys = Vec::new();
    let mut create = async |count: usize| {
        for _ in 0..count {
            keys.push(admin.create_key(&json!({ "name": "ci", "expires": "never" })).await?);
        }
        anyhow::Ok(keys.clone())
    };
    let created = create(8).await?;
    admin.post(&format!("/keys/{}/revoke", created[0].id), &json!({})).await?.success()?;
    let first = wait::until_within(SETTLE, "a first snapshot", || async { Ok(taken(cluster.node(0)?).first().copied()) }).await?;
    // A few more records are far from enough by their number; an hour, here a second, makes them enough.
    create(8).await?;
    let newest = wait::until_within(SETTLE, "a snapshot that is due by time", || async {
        Ok(taken(cluster.node(0)?).last().copied().filter(|newest| *newest >= first + 5))
    })
    .await?;

    cluster.start_node(1).await?;
    // What a node writes on one stream may be read later than what it wrote after that on the other.
    let first = || async { Ok(positions(cluster.node(1)?, "began with a snapshot").first().copied()) };
    let began = wait::until("a new node that does not fold the log from its beginning", first).await?;
    ensure!(began >= newest, "it began at {began}, the newest snapshot was at {newest}");
    wait::until_within(SETTLE, "two nodes that show the same", || async {
        Ok((shown(&cluster, 0).await? == shown(&cluster, 1).await?).then_some(()))
    })
    .await?;
    // What it began with is not only shown: the next record is folded into it.
    let key = create(1).await?.pop().context("a key")?;
    wait::until("the new key on the new node", || async {
        Ok(cluster.admin(1)?.get(&format!("/keys/{}", key.id)).await?.status.is_success().then_some(()))
    })
    .await
}
