//! This node among the others: what it tells them of itself.

use std::sync::Arc;
use std::time::Duration;

use control::{Clock, Trust};
use coordination::{Coordination, LocalCoordination, NatsCoordination, NodeStatus};
use projector::ReadModels;
use schemas::cluster::FORMAT_LEVEL;
use schemas::{ClusterId, Sequence, WriterId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::storage::Cluster;

/// How often it is looked whether the log is still trusted.
const TRUST_INTERVAL: Duration = Duration::from_secs(1);

/// Over NATS in a cluster, in process for a node on its own.
pub(super) fn coordination(cluster: Option<&Cluster>, id: ClusterId, node: WriterId, clock: Clock) -> Arc<dyn Coordination> {
    match cluster {
        None => Arc::new(LocalCoordination::new(node, clock)),
        Some(cluster) => Arc::new(NatsCoordination::start(cluster.nats.client(), id, node, cluster.replicas, clock)),
    }
}

/// What stays the same of what a node tells.
pub(super) struct Introduction {
    pub(super) node: WriterId,
    pub(super) relay: String,
    pub(super) admin: String,
}

/// Tells the others of every sequence that the read models have applied, until the node stops.
pub(super) async fn announce(
    introduction: Introduction,
    coordination: Arc<dyn Coordination>,
    models: ReadModels,
    clock: Clock,
    mut ready: watch::Receiver<bool>,
    health: control::Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Introduction { node, relay, admin } = introduction;
    let mut status = NodeStatus {
        node,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        format_level: u32::from(FORMAT_LEVEL),
        started_at: clock(),
        relay,
        admin,
        applied: models.position().sequence,
        ready: false,
    };
    let mut applied = models.subscribe();
    loop {
        // What was applied of a log that is refused says nothing about the log of the others.
        let is_trusted = health().log.trust != Trust::Refused;
        let position = *applied.borrow_and_update();
        status.applied = if is_trusted { position } else { Sequence::ZERO };
        status.ready = *ready.borrow_and_update();
        coordination.announce(status.clone());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = applied.changed() => changed?,
            changed = ready.changed() => changed?,
            () = tokio::time::sleep(TRUST_INTERVAL) => {}
        }
    }
}
