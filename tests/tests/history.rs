//! The load and the checker that the cluster tests stand on, tried on one node with the embedded log.

use std::time::Duration;

use anyhow::{Result, ensure};
use event_log::EmbeddedLog;
use tests::World;
use tests::history::{Kind, Settled, View, check};
use tests::traffic::{Rates, Traffic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_on_one_node_makes_a_sound_history_and_tampering_shows() -> Result<()> {
    let world = World::start().await?;
    // One node in three roles: whatever is asked of another node is asked of it again.
    let (admins, relays) = (vec![world.admin.clone(); 3], vec![world.relay.clone(); 3]);
    let traffic = Traffic::on(admins, relays, Rates { writes_per_second: 100, requests_per_second: 100, fences: true }).await?;
    traffic.goes_on(200, Duration::from_secs(20)).await?;
    let recorder = traffic.stop().await?;
    let history = recorder.history();
    ensure!(history.fences.len() > 10 && history.reads.len() > 50 && history.requests.len() > 50, "there was no load");

    let counted = world.upstream.counted();
    for key in history.requests.iter().filter(|request| request.status == 200).map(|request| &request.key) {
        let served = history.requests.iter().filter(|request| request.status == 200 && request.key == *key).count();
        world.admin.usage_of(key, served as u64).await?;
    }
    let shown = View::of_node("node0", &world.admin).await?;
    let data = world.node.stop().await?.data;
    let log = EmbeddedLog::open(&data.join("log"))?;
    let kept = View::of_log("log", &log, &shown).await?;
    let mut settled = Settled { views: vec![shown, kept], counted: Some(counted) };
    settled.expect_sound(&history)?;

    // The same history against a log that lost its last key, which nobody may overlook.
    let last = settled.views[1].records.len() - 1;
    settled.views[1].records.remove(last);
    let kinds: Vec<Kind> = check(&history, &settled).iter().map(|finding| finding.kind).collect();
    ensure!(kinds.contains(&Kind::Lost) && kinds.contains(&Kind::Differ), "{kinds:?}");
    Ok(())
}
