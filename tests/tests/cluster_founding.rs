//! How a cluster comes to be: one founding however many start at once, and nobody joins who does not belong.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nats_server::Sync;
use serde_json::{Value, json};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use tests::cluster::{Cluster, Plan};
use tests::node::Start;
use tests::{Admin, Launch, wait};

fn plan(nodes: usize) -> Plan {
    Plan { servers: 1, nodes, ..Plan::default() }
}

/// Writes a root key as an operator hands it out before the first start.
fn write_root_key(path: &Path) -> Result<()> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, format!("kr-root-1:{}\n", STANDARD.encode(bytes)).as_bytes())?;
    Ok(())
}

fn with_root_key(cluster: &Cluster, index: usize, path: &Path) -> Result<Launch> {
    let mut launch = cluster.launch(index)?;
    launch.environment.retain(|(name, _)| name != "KEYRELAY_VAULT_ROOT_KEY_FILE");
    Ok(launch.with("KEYRELAY_VAULT_ROOT_KEY_FILE", &path.to_string_lossy()))
}

async fn cluster_of(admin: &Admin) -> Result<String> {
    let log = admin.get("/log").await?.success()?;
    log["cluster"].as_str().map(str::to_owned).with_context(|| format!("no cluster in {log}"))
}

/// A refused start says what to do, and leaves the data as it was found.
fn names_the_cure(stderr: &str, words: &[&str]) -> Result<()> {
    let missing: Vec<&&str> = words.iter().filter(|word| !stderr.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} is not in:\n{stderr}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_empty_nodes_with_one_root_key_found_one_cluster_and_a_third_joins() -> Result<()> {
    let mut cluster = Cluster::without_nodes(plan(3)).await?;
    let root_key = cluster.directory().join("given.key");
    write_root_key(&root_key)?;
    let (one, two) = (with_root_key(&cluster, 0, &root_key)?, with_root_key(&cluster, 1, &root_key)?);
    let (one, two) = tokio::join!(one.start(), two.start());
    let (one, two) = (one?, two?);
    // Whoever founded has the owner's token; the other has none to give out.
    let tokens: Vec<String> = [&one, &two].iter().filter_map(|node| node.owner_token().ok()).collect();
    ensure!(tokens.len() == 1, "{} nodes wrote an owner's token", tokens.len());
    let (first, second) = (Admin::new(&one.admin_origin, &tokens[0]), Admin::new(&two.admin_origin, &tokens[0]));
    ensure!(cluster_of(&first).await? == cluster_of(&second).await?, "there are two clusters");

    cluster.node_is(0, one, &tokens[0])?;
    cluster.node_is(1, two, &tokens[0])?;
    cluster.adopt(2, with_root_key(&cluster, 2, &root_key)?).await?;
    cluster.settle().await?;
    let events = cluster.admin(2)?.events().await?;
    let count = |name: &str| events.iter().filter(|event| event["type"] == name).count();
    ensure!(count("ClusterFounded") == 1 && count("WriterEnrolled") == 3, "{events:#?}");
    ensure!(count("TenantCreated") == 1 && count("PoolCreated") == 1, "the default tenant and pool are there once: {events:#?}");
    let settled = cluster.settled().await?;
    settled.expect_sound(&tests::history::History::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_empty_nodes_with_different_root_keys_the_loser_names_the_founder() -> Result<()> {
    let cluster = Cluster::without_nodes(plan(2)).await?;
    // Each makes a root key of its own.
    let mut other = cluster.launch(1)?;
    other.environment.retain(|(name, _)| name != "KEYRELAY_VAULT_ROOT_KEY_FILE");
    let (one, two) = tokio::join!(cluster.launch(0)?.attempt(), other.attempt());
    let (winner, loser) = match (one?, two?) {
        (Start::Ready(winner), Start::Exited(loser)) | (Start::Exited(loser), Start::Ready(winner)) => (winner, loser),
        (Start::Ready(_), Start::Ready(_)) => anyhow::bail!("both founded"),
        (Start::Exited(one), Start::Exited(two)) => anyhow::bail!("nobody founded:\n{}\n{}", one.stderr, two.stderr),
    };
    let loser = loser.expect(2)?;
    let founder = cluster_of(&winner.admin()?).await?;
    names_the_cure(&loser.stderr, &[&founder, "root key"])?;
    let lost = if winner.data() == cluster.data(0) { 1 } else { 0 };
    for file in ["root.key", "owner.token"] {
        ensure!(!cluster.data(lost).join(file).exists(), "the loser kept its {file}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_belong_is_refused_with_the_cure() -> Result<()> {
    let mut cluster = Cluster::start(plan(2)).await?;
    let founder = cluster_of(&cluster.admin(0)?).await?;

    // Without a root key.
    let mut bare = cluster.launch(1)?;
    bare.data = cluster.directory().join("bare");
    bare.environment.retain(|(name, _)| name != "KEYRELAY_VAULT_ROOT_KEY_FILE");
    let run = bare.clone().refused().await?.expect(2)?;
    names_the_cure(&run.stderr, &["root key", "vault.root_key_file", &founder])?;
    ensure!(!bare.data.join("root.key").exists(), "a root key was made on a founded log");

    // With another one.
    let other_key = cluster.directory().join("other.key");
    write_root_key(&other_key)?;
    let other = bare.with("KEYRELAY_VAULT_ROOT_KEY_FILE", &other_key.to_string_lossy());
    names_the_cure(&other.refused().await?.expect(2)?.stderr, &["root key", &founder])?;

    // With read models of another cluster.
    let elsewhere = Launch::new(&cluster.directory().join("elsewhere")).start().await?;
    let stranger = cluster_of(&elsewhere.admin()?).await?;
    let elsewhere = elsewhere.stop().await?;
    cluster.stop_node(1).await?;
    let models = cluster.data(1).join("read-models");
    std::fs::remove_dir_all(&models)?;
    std::fs::rename(elsewhere.data.join("read-models"), &models)?;
    let run = cluster.launch(1)?.refused().await?;
    ensure!(run.code != 0, "a node started with the read models of another cluster");
    names_the_cure(&run.stderr, &[&stranger, &founder])?;
    std::fs::remove_dir_all(&models)?;
    cluster.start_node(1).await?;
    cluster.settle().await?;
    Ok(())
}

/// How a node shows another one; none if it does not.
async fn shown(admin: &Admin, node: &str) -> Result<Option<Value>> {
    let nodes = admin.get("/nodes").await?.success()?;
    Ok(nodes["nodes"].as_array().into_iter().flatten().find(|shown| shown["id"] == node).cloned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_comes_back_as_it_was() -> Result<()> {
    let mut cluster = Cluster::start(plan(3)).await?;
    let node = cluster.node(2)?.ready["node"].as_str().context("a node id")?.to_owned();
    cluster.stop_node(2).await?;
    let admin = cluster.admin(0)?;
    wait::until("the end of its liveness", || async {
        Ok(shown(&admin, &node).await?.filter(|node| node["live"] == false && node["membership"] == "enrolled"))
    })
    .await?;
    let key = admin.create_key(&json!({ "name": "after", "expires": "never" })).await?;
    cluster.settle().await?;
    cluster.relay(1)?.chat(&key.secret, "the others go on").await?.success()?;
    cluster.start_node(2).await?;
    ensure!(cluster.node(2)?.ready["node"] == node.as_str(), "it has another id");
    cluster.settle().await?;
    cluster.relay(2)?.chat(&key.secret, "it is back").await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_is_retired_and_comes_back_only_as_another() -> Result<()> {
    let mut cluster = Cluster::start(plan(2)).await?;
    let node = cluster.node(1)?.ready["node"].as_str().context("a node id")?.to_owned();
    cluster.admin(1)?.post("/nodes/leave", &json!({})).await?.success()?;
    cluster.node_ends(1).await?;
    let admin = cluster.admin(0)?;
    wait::until("its retirement", || async { Ok(shown(&admin, &node).await?.filter(|node| node["membership"] == "retired")) }).await?;
    let types = admin.event_types(&format!("_.writer.{node}")).await?;
    ensure!(types == ["WriterEnrolled", "WriterRetired"], "{types:?}");

    let run = cluster.launch(1)?.refused().await?.expect(2)?;
    names_the_cure(&run.stderr, &[&node, "retired", "writer.key"])?;
    std::fs::rename(cluster.data(1).join("writer.key"), cluster.data(1).join("writer.key.old"))?;
    cluster.start_node(1).await?;
    ensure!(cluster.node(1)?.ready["node"] != node.as_str(), "it signs under the retired key");
    let key = cluster.admin(1)?.create_key(&json!({ "name": "as another", "expires": "never" })).await?;
    cluster.settle().await?;
    cluster.relay(0)?.chat(&key.secret, "of a node that came back").await?.success()?;
    cluster.settled().await?.expect_sound(&tests::history::History::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_sync_is_refused_where_that_is_required() -> Result<()> {
    let cluster = Cluster::without_nodes(Plan { sync: Sync::Default, ..plan(1) }).await?;
    let strict = cluster.launch(0)?.with("KEYRELAY_NATS_REQUIRE_VERIFIED_SYNC", "true");
    let run = strict.refused().await?.expect(2)?;
    names_the_cure(&run.stderr, &["sync_interval"])?;
    let node = cluster.launch(0)?.start().await?;
    ensure!(node.ready["sync"] == "lazy", "{}", node.ready);
    Ok(())
}
