//! The fence: waiting until every live node has applied a record, so that whoever revoked a key knows when it is good nowhere.

use std::collections::BTreeSet;
use std::time::Duration;

use coordination::Nodes;
use projector::ReadModels;
use schemas::{Sequence, WriterId};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;

/// How long a fence is waited for.
pub(crate) const FENCE_WAIT: Duration = Duration::from_secs(10);

/// How far a record has come among the nodes of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Fence {
    /// Every live node has applied the record. False says nothing against the record itself: it is in the log.
    pub(crate) reached: bool,
    /// Live nodes, this one included.
    pub(crate) nodes: usize,
    /// From when the request came.
    pub(crate) elapsed_ms: u64,
    /// Live nodes that had not applied it in time.
    pub(crate) missing: Vec<WriterId>,
    /// Enrolled nodes that nobody hears of: stopped, or cut off. One that is cut off and runs may act on what it knew for as long as its
    /// `relay.staleness_max` lasts, and no longer. Retire those that are gone for good.
    pub(crate) not_live: Vec<WriterId>,
}

/// What a fence is waited for with.
pub(crate) struct FencePosts<'a> {
    pub(crate) nodes: watch::Receiver<Nodes>,
    pub(crate) models: &'a ReadModels,
    pub(crate) this: WriterId,
    /// Writers that are enrolled and not retired.
    pub(crate) enrolled: BTreeSet<WriterId>,
    pub(crate) began: Instant,
}

impl FencePosts<'_> {
    /// Waits until all live nodes have applied a sequence, at most for `patience`. Who is live is asked again at each change: a node that
    /// goes away in the meantime is no longer waited for, and is told as not live.
    pub(crate) async fn wait(mut self, sequence: Sequence, patience: Duration) -> Fence {
        let give_up = tokio::time::sleep(patience);
        tokio::pin!(give_up);
        let mut applied = self.models.subscribe();
        loop {
            let fence = self.look(sequence);
            if fence.reached {
                return fence;
            }
            // A registry or a fold that ended changes no more; the deadline answers for it.
            tokio::select! {
                () = &mut give_up => return self.look(sequence),
                Ok(()) = self.nodes.changed() => {}
                Ok(()) = applied.changed() => {}
            }
        }
    }

    fn look(&mut self, sequence: Sequence) -> Fence {
        let nodes = self.nodes.borrow_and_update().clone();
        let mut live: BTreeSet<WriterId> = nodes.iter().filter(|entry| entry.live).map(|entry| entry.status.node).collect();
        live.insert(self.this);
        let behind = |entry: &&coordination::NodeEntry| entry.live && entry.status.node != self.this && entry.status.applied < sequence;
        let mut missing: Vec<WriterId> = nodes.iter().filter(behind).map(|entry| entry.status.node).collect();
        // What this node itself has applied is known better than it has told the others.
        if self.models.position().sequence < sequence {
            missing.push(self.this);
        }
        Fence {
            reached: missing.is_empty(),
            nodes: live.len(),
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            missing,
            not_live: self.enrolled.difference(&live).copied().collect(),
        }
    }
}
