//! The fence: waiting until every live node has applied a record, so that whoever revoked a key knows when it is good nowhere, and whoever
//! bound a policy knows when it decides everywhere.

use std::collections::BTreeSet;
use std::time::Duration;

use coordination::{Coordination, LIVE_WAIT, NodeStatus};
use projector::ReadModels;
use schemas::{Sequence, WriterId};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::policies::PolicyHealth;

/// How long a fence is waited for.
pub(crate) const FENCE_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether this node has listened long enough.
const LISTEN_INTERVAL: Duration = Duration::from_millis(100);

/// How far a record has come among the nodes of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Fence {
    /// Every live node has applied the record, and it is known which nodes are live. False says nothing against the record itself: it is in the log.
    pub(crate) reached: bool,
    /// Live nodes, this one included.
    pub(crate) nodes: usize,
    /// From when the request came.
    pub(crate) elapsed_ms: u64,
    /// Live nodes that had not applied it in time, and enrolled nodes that this one has not heard yet but may hear still: it has listened for
    /// less than a live node may be silent.
    pub(crate) missing: Vec<WriterId>,
    /// Enrolled nodes that are silent: stopped, or cut off. One that is cut off and runs may act on what it knew for as long as its
    /// `relay.staleness_max` lasts, and no longer. Retire those that are gone for good.
    pub(crate) not_live: Vec<WriterId>,
}

/// What a fence is waited for with.
pub(crate) struct FencePosts<'a> {
    pub(crate) coordination: &'a dyn Coordination,
    pub(crate) models: &'a ReadModels,
    pub(crate) this: WriterId,
    /// Writers that are enrolled and not retired.
    pub(crate) enrolled: BTreeSet<WriterId>,
    pub(crate) applied: Applied,
    pub(crate) began: Instant,
}

/// What it means that a node has applied a record.
pub(crate) enum Applied {
    /// Its read models have.
    Record,
    /// The bindings of policies are in effect as of it, with their modules. As this node itself stands.
    Bindings(watch::Receiver<PolicyHealth>),
}

impl FencePosts<'_> {
    /// Waits until all live nodes have applied a sequence, at most for `patience`. Who is live is asked again at each change: a node that
    /// goes away in the meantime is no longer waited for, and is told as not live. After a start or a break it takes some seconds until an
    /// enrolled node that is not heard is known to be silent, and until then the fence is not reached.
    pub(crate) async fn wait(self, sequence: Sequence, patience: Duration) -> Fence {
        let give_up = tokio::time::sleep(patience);
        tokio::pin!(give_up);
        let (mut nodes, mut applied) = (self.coordination.nodes(), self.models.subscribe());
        loop {
            nodes.mark_unchanged();
            let fence = self.look(sequence);
            if fence.reached {
                return fence;
            }
            // A registry or a fold that ended changes no more; the deadline answers for it.
            tokio::select! {
                () = &mut give_up => return self.look(sequence),
                Ok(()) = nodes.changed() => {}
                Ok(()) = applied.changed() => {}
                () = tokio::time::sleep(LISTEN_INTERVAL) => {}
            }
        }
    }

    fn look(&self, sequence: Sequence) -> Fence {
        // Before the nodes: who is not live among them was not heard in all that time.
        let has_listened = self.coordination.listening().is_some_and(|listening| listening >= LIVE_WAIT);
        let nodes = self.coordination.nodes().borrow().clone();
        let mut live: BTreeSet<WriterId> = nodes.iter().filter(|entry| entry.live).map(|entry| entry.status.node).collect();
        live.insert(self.this);
        let behind = |entry: &&coordination::NodeEntry| entry.live && entry.status.node != self.this && self.of(&entry.status) < sequence;
        let mut missing: Vec<WriterId> = nodes.iter().filter(behind).map(|entry| entry.status.node).collect();
        // What this node itself has applied is known better than it has told the others.
        if self.own() < sequence {
            missing.push(self.this);
        }
        let unheard = self.enrolled.difference(&live).copied();
        let (silent, unknown): (Vec<_>, Vec<_>) = unheard.partition(|_| has_listened);
        missing.extend(unknown);
        Fence {
            reached: missing.is_empty(),
            nodes: live.len(),
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            missing,
            not_live: silent,
        }
    }
    /// How far another node is, as it has told.
    fn of(&self, status: &NodeStatus) -> Sequence {
        match self.applied {
            Applied::Record => status.applied,
            Applied::Bindings(_) => status.policies,
        }
    }

    fn own(&self) -> Sequence {
        match &self.applied {
            Applied::Record => self.models.position().sequence,
            Applied::Bindings(health) => health.borrow().in_effect,
        }
    }
}
