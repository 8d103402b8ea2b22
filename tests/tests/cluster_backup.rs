//! A cluster is backed up by any of its nodes, with what another has just written, and restored as a node on its own log.

use std::ffi::OsStr;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::cluster::{Cluster, Plan};
use tests::world::CREDENTIAL;
use tests::{Launch, cli};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_backs_up_what_another_has_just_sealed_and_it_becomes_a_node_of_its_own() -> Result<()> {
    let cluster = Cluster::start(Plan { nodes: 2, ..Plan::default() }).await?;
    let (first, other) = (cluster.admin(0)?, cluster.node(1)?);
    let key = first.create_key(&json!({ "name": "ci", "expires": "never" })).await?;
    cluster.relay(0)?.chat(&key.secret, "before").await?.success()?;
    first.usage_of(&key.id, 1).await?;
    let root_key = cluster.root_key_file();
    let token = std::fs::read_to_string(cluster.data(0).join("owner.token"))?;
    let mut file = cluster.directory().join("none");
    for round in 0..5 {
        let url = cluster.upstream.openai_url();
        let added = first.add_upstream(&format!("round-{round}"), "openai", &url, CREDENTIAL).await?;
        file = cluster.directory().join(format!("{round}.backup"));
        let mut command = cli::command("keyrelay")?;
        command.env("KEYRELAY_TOKEN", token.trim()).args(["backup", "--json", "--admin-url", &other.admin_origin, "--output"]).arg(&file);
        let taken = tokio::task::block_in_place(|| cli::run(&mut command))?.expect(0)?.json()?;
        ensure!(taken["sequence"].as_u64() >= added["sequence"].as_u64(), "{added} is not in {taken}");
        let words =
            ["backup".as_ref(), "verify".as_ref(), file.as_os_str(), "--root-key".as_ref(), root_key.as_os_str(), "--json".as_ref()];
        let report = tokio::task::block_in_place(|| cli::keyrelay::<[&OsStr; 6]>(words))?.expect(0)?.json()?;
        ensure!(report["secrets_opened"] == 2 + round, "round {round}: {report}");
    }

    let data = cluster.directory().join("restored");
    let words = ["restore".as_ref(), file.as_os_str(), "--data".as_ref(), data.as_os_str(), "--root-key".as_ref(), root_key.as_os_str()];
    cli::keyrelay(words)?.expect(0)?;
    std::fs::copy(cluster.data(0).join("owner.token"), data.join("owner.token"))?;
    let node = Launch::new(&data).start().await?;
    ensure!(node.ready["sync"] == "embedded", "{}", node.ready);
    node.relay().chat(&key.secret, "after").await?.success()?;
    let used = node.admin()?.usage_of(&key.id, 2).await.context("usage of before and after")?;
    ensure!(used.requests == 2, "{used:?}");
    node.stop().await?;

    // Or into a cluster: restored, and before any start moved to servers that have nothing of it yet.
    let data = cluster.directory().join("first");
    let words = ["restore".as_ref(), file.as_os_str(), "--data".as_ref(), data.as_os_str(), "--root-key".as_ref(), root_key.as_os_str()];
    let restored = tokio::task::block_in_place(|| cli::keyrelay(words))?.expect(0)?;
    let nats = tokio::task::block_in_place(|| nats_server::Cluster::start(3, nats_server::Sync::Always))?;
    let url = nats.url();
    let mut migrate = cli::command("keyrelay")?;
    migrate.args(["log", "migrate", "--json", "--data"]).arg(&data).args(["--to-nats", &url]);
    let moved = tokio::task::block_in_place(|| cli::run(&mut migrate))?.expect(0)?.json()?;
    ensure!(restored.stdout.contains(moved["root"].as_str().context("a root")?), "restored {}, moved {moved}", restored.stdout);
    let first = Launch::new(&data).with("KEYRELAY_NATS_URL", &url).start().await?;
    let joins = cluster.directory().join("second");
    let key_file = root_key.to_str().context("a path")?;
    let second = Launch::new(&joins).with("KEYRELAY_NATS_URL", &url).with("KEYRELAY_VAULT_ROOT_KEY_FILE", key_file).start().await?;
    for node in [&first, &second] {
        node.relay().chat(&key.secret, "in a cluster again").await?.success()?;
    }
    ensure!(first.ready["sync"] != "embedded", "{}", first.ready);
    for node in [first, second] {
        node.stop().await?;
    }
    Ok(())
}
