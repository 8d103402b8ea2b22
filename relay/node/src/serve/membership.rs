//! This node among the others: what it tells them of itself.

use std::sync::Arc;
use std::time::Duration;

use control::policies::PolicyHealth;
use control::{Clock, Trust};
use coordination::{Coordination, LocalCoordination, NatsCoordination, NodeStatus};
use projector::ReadModels;
use schemas::cluster::FORMAT_LEVEL;
use schemas::{ClusterId, Digest, Sequence, WriterId};
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

/// What changes of it.
pub(super) struct Standing {
    pub(super) models: ReadModels,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) policies: watch::Receiver<PolicyHealth>,
    pub(super) root_keys: watch::Receiver<Arc<[Digest]>>,
    pub(super) health: control::Health,
}

/// Tells the others of every sequence that the read models have applied, until the node stops.
pub(super) async fn announce(
    introduction: Introduction,
    coordination: Arc<dyn Coordination>,
    standing: Standing,
    clock: Clock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Standing { models, mut ready, mut policies, mut root_keys, health } = standing;
    let Introduction { node, relay, admin } = introduction;
    let mut status = NodeStatus {
        node,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        format_level: u32::from(FORMAT_LEVEL),
        started_at: clock(),
        relay,
        admin,
        applied: models.position().sequence,
        policies: Sequence::ZERO,
        root_keys: Vec::new(),
        ready: false,
    };
    let mut applied = models.subscribe();
    loop {
        // What was applied of a log that is refused says nothing about the log of the others.
        let is_trusted = health().log.trust != Trust::Refused;
        let position = *applied.borrow_and_update();
        status.applied = if is_trusted { position } else { Sequence::ZERO };
        let in_effect = policies.borrow_and_update().in_effect;
        status.policies = if is_trusted { in_effect } else { Sequence::ZERO };
        status.root_keys = root_keys.borrow_and_update().to_vec();
        status.ready = *ready.borrow_and_update();
        coordination.announce(status.clone());
        tokio::select! {
            // First: what is watched ends with the node, and that is no failure.
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = applied.changed() => changed?,
            changed = ready.changed() => changed?,
            changed = policies.changed() => changed?,
            changed = root_keys.changed() => changed?,
            () = tokio::time::sleep(TRUST_INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

    use std::sync::atomic::{AtomicBool, Ordering};

    use control::founding::{self, Sources};
    use control::{LogHealth, NodeHealth};
    use event_log::{EventLog as _, MemoryLog};
    use projector::{Memory, Projector};
    use vault::{MemoryKeyStore, RootKey};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn of_a_log_that_is_refused_nothing_counts_as_applied() {
        let (data, log, clock) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::new()), crate::serve::clock());
        let root_key = Some(RootKey::generate().unwrap());
        let sources = Sources { data: data.path().to_owned(), root_key, root_key_files: Vec::new(), owner_token: None };
        founding::found_or_join(&sources, &*log, Arc::new(MemoryKeyStore::default()), &clock).await.unwrap();
        let memory = Memory::new(Memory::BYTES_MIN);
        let config = projector::Config { data: data.path().to_owned(), memory, clock: clock.clone() };
        let head = log.head().await.unwrap();
        assert!(head > Sequence::ZERO);
        let (projector, models) = Projector::open(config, log).await.unwrap();
        let (node, stop, is_refused) = (WriterId::from_bytes([7; 16]), CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let coordination = Arc::new(LocalCoordination::new(node, clock.clone()));
        let health: control::Health = Arc::new({
            let is_refused = is_refused.clone();
            move || {
                let trust = if is_refused.load(Ordering::SeqCst) { Trust::Refused } else { Trust::Trusted };
                NodeHealth { log: LogHealth { trust, ..NodeHealth::embedded().log }, ..NodeHealth::embedded() }
            }
        });
        let introduction = Introduction { node, relay: "http://127.0.0.1:1".to_owned(), admin: "http://127.0.0.1:2".to_owned() };
        let ((_starting, ready), (_loader, policies)) = (watch::channel(true), watch::channel(PolicyHealth::default()));
        let (_holder, root_keys) = watch::channel(Arc::default());
        let standing = Standing { models: models.clone(), ready, policies, root_keys, health };
        let announcing = announce(introduction, coordination.clone(), standing, clock, stop.clone());
        let watching = async {
            let mut nodes = coordination.nodes();
            let mut applied = async |wanted: Sequence| {
                let told = nodes.wait_for(|nodes| nodes.iter().any(|entry| entry.status.applied == wanted));
                tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
            };
            applied(head).await;
            is_refused.store(true, Ordering::SeqCst);
            applied(Sequence::ZERO).await;
            is_refused.store(false, Ordering::SeqCst);
            applied(head).await;
            stop.cancel();
        };
        let (announced, folded, ()) = tokio::join!(announcing, projector.run(stop.clone()), watching);
        announced.unwrap();
        folded.unwrap();
    }
}
