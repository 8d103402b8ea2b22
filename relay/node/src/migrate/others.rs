//! Whether other nodes still run on a log that is about to move away from under them.

use anyhow::{Result, ensure};
use coordination::{Coordination as _, LIVE_WAIT, NatsCoordination};
use event_log::Nats;
use projector::Clock;
use schemas::{ClusterId, PublicKey, WriterId};

/// Listens for as long as a live node may be silent, and refuses if there is one.
pub(super) async fn refuse_live(nats: &Nats, cluster: ClusterId, clock: Clock) -> Result<()> {
    // It only listens, under an id that no node has.
    let nobody = WriterId::of(&PublicKey::from_bytes([0; 32]));
    let coordination = NatsCoordination::start(nats.client(), cluster, nobody, nats.replicas(), clock);
    tokio::time::sleep(LIVE_WAIT).await;
    let nodes = coordination.nodes().borrow().clone();
    coordination.close().await;
    let live: Vec<String> =
        nodes.iter().filter(|entry| entry.live && entry.status.node != nobody).map(|entry| entry.status.node.to_string()).collect();
    ensure!(live.is_empty(), "nodes are running on that log: {}; stop them all first", live.join(", "));
    Ok(())
}
