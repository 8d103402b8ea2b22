//! Expiries in a cluster: one node at a time records them, each once.

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tests::cluster::{Cluster, Plan, SETTLE};
use tests::history::History;
use tests::wait;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_record_each_expiry_once_also_when_one_of_them_goes() -> Result<()> {
    let plan = Plan { servers: 1, nodes: 2, ..Plan::default() };
    let mut cluster = Cluster::start(plan.with("KEYRELAY_CONTROL_EXPIRY_INTERVAL", "1s")).await?;
    for gone in [None, Some(0)] {
        let admin = cluster.admin(1)?;
        let body = json!({ "name": "short", "expires_in": "2s" });
        let keys = try_join_all((0..40).map(|_| admin.create_key(&body))).await?;
        if let Some(index) = gone {
            cluster.stop_node(index).await?;
        }
        wait::until_within(SETTLE, "all expiries in the log", || async {
            let events = admin.events().await?;
            let of_keys = |stream: &str| events.iter().filter(|event| event["stream"] == stream && event["type"] == "KeyExpired").count();
            let counts: Vec<usize> = keys.iter().map(|key| of_keys(&key.stream())).collect();
            ensure!(counts.iter().all(|count| *count <= 1), "an expiry was recorded twice");
            Ok(counts.iter().all(|count| *count == 1).then_some(()))
        })
        .await
        .with_context(|| format!("without {gone:?}"))?;
    }
    cluster.settled().await?.expect_sound(&History::default())
}
