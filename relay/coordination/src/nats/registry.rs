//! The nodes that this one knows: itself as it announced, others as they were heard or as the bucket has them.
//!
//! Whether a node is live is judged by when this node heard it, on its monotonic clock, never by a time that the other wrote. Whether its silence
//! means anything is judged by this node's own messages, which come back to it: while they do not, it would not hear the others either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use schemas::{Timestamp, WriterId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::{Clock, LIVE_WAIT, NodeEntry, NodeStatus, Nodes};

/// Own messages that come back further apart than this leave a break in the listening: two beats, and some time for the way.
const ECHO_GAP_MAX: Duration = Duration::from_millis(2_500);
/// The most other nodes that are known at once.
const NODES_MAX: usize = 256;

pub(crate) struct Registry {
    node: WriterId,
    clock: Clock,
    known: Mutex<Known>,
    nodes: watch::Sender<Nodes>,
    /// Told when there is something new to tell the others.
    pub(crate) changed: Notify,
    /// Messages that were not understood, or were not for this cluster.
    ignored: AtomicU64,
}

#[derive(Default)]
struct Known {
    /// As announced. None before that, and after this node has left.
    own: Option<(NodeStatus, Timestamp)>,
    has_left: bool,
    others: BTreeMap<WriterId, Other>,
    /// None until an own message came back.
    echo: Option<Echo>,
}

/// This node's own messages, come back to it.
struct Echo {
    /// When the first came of those that came without a break.
    since: Instant,
    last: Instant,
}

struct Other {
    status: NodeStatus,
    heard_at: Timestamp,
    /// None if it was not heard since this node started.
    heard: Option<Instant>,
    beat: u64,
}

impl Other {
    fn is_live(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now - heard < LIVE_WAIT)
    }
}

impl Registry {
    pub(crate) fn new(node: WriterId, clock: Clock) -> Self {
        let nodes = watch::Sender::new(Nodes::default());
        Self { node, clock, known: Mutex::default(), nodes, changed: Notify::new(), ignored: AtomicU64::new(0) }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Nodes> {
        self.nodes.subscribe()
    }

    pub(crate) fn announce(&self, status: NodeStatus) {
        let status = NodeStatus { node: self.node, ..status };
        let mut known = self.known.lock();
        if known.has_left {
            return;
        }
        let is_new = known.own.as_ref().is_none_or(|(own, _)| *own != status);
        known.own = Some((status, (self.clock)()));
        self.publish(&known, Instant::now());
        if is_new {
            self.changed.notify_one();
        }
    }

    pub(crate) fn own(&self) -> Option<NodeStatus> {
        self.known.lock().own.as_ref().map(|(status, _)| status.clone())
    }

    /// A node told how it stands. One that was not live is told of us at once, so that two nodes know each other within a message each way.
    pub(crate) fn hear(&self, status: NodeStatus, beat: u64, now: Instant) {
        let mut known = self.known.lock();
        let room = known.others.len() < NODES_MAX;
        match known.others.get(&status.node) {
            _ if status.node == self.node => return known.hear_own(&status, now),
            None if !room => return self.ignore("more nodes than a registry holds"),
            // What was under way when the node went to another server may come late. A clock that was set back may be the reason too: then
            // the node is heard again as soon as it is not live.
            Some(other) if other.is_live(now) && (status.started_at, beat) < (other.status.started_at, other.beat) => return,
            Some(other) if other.is_live(now) => {}
            _ => self.changed.notify_one(),
        }
        known.others.insert(status.node, Other { status, heard_at: (self.clock)(), heard: Some(now), beat });
        self.publish(&known, now);
    }

    /// The nodes of the bucket and when they wrote. What is neither live nor there was taken out by somebody.
    pub(crate) fn learn(&self, stored: Vec<(NodeStatus, Timestamp)>, now: Instant) {
        let ids: BTreeSet<WriterId> = stored.iter().map(|(status, _)| status.node).collect();
        let mut known = self.known.lock();
        known.others.retain(|node, other| other.is_live(now) || ids.contains(node));
        for (status, heard_at) in stored.into_iter().filter(|(status, _)| status.node != self.node).take(NODES_MAX) {
            known.others.entry(status.node).or_insert(Other { status, heard_at, heard: None, beat: 0 });
        }
        self.publish(&known, now);
    }

    pub(crate) fn forget(&self, node: WriterId) {
        let mut known = self.known.lock();
        known.others.remove(&node);
        self.publish(&known, Instant::now());
    }

    /// Announces nothing from now on.
    pub(crate) fn leave(&self) {
        let mut known = self.known.lock();
        known.has_left = true;
        known.own = None;
        self.publish(&known, Instant::now());
    }

    pub(crate) fn has_left(&self) -> bool {
        self.known.lock().has_left
    }

    /// For how long the others could be heard without a break; none if they cannot.
    pub(crate) fn listening(&self, now: Instant) -> Option<Duration> {
        let known = self.known.lock();
        known.echo.as_ref().filter(|echo| now - echo.last <= ECHO_GAP_MAX).map(|echo| now - echo.since)
    }

    /// When the next node stops being live if it is not heard.
    pub(crate) fn next_end(&self, now: Instant) -> Option<Instant> {
        let known = self.known.lock();
        known.others.values().filter(|other| other.is_live(now)).filter_map(|other| other.heard).min().map(|heard| heard + LIVE_WAIT)
    }

    /// Tells who is live now.
    pub(crate) fn refresh(&self, now: Instant) {
        self.publish(&self.known.lock(), now);
    }

    pub(crate) fn ignore(&self, why: &str) {
        let count = self.ignored.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(count, why, "a message about nodes is ignored");
    }

    pub(crate) fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Called under the lock, so that watchers see the states in their order.
    fn publish(&self, known: &Known, now: Instant) {
        let own = known.own.iter().map(|(status, heard_at)| NodeEntry { status: status.clone(), heard_at: *heard_at, live: true });
        let entry = |other: &Other| NodeEntry { status: other.status.clone(), heard_at: other.heard_at, live: other.is_live(now) };
        let mut nodes: Vec<NodeEntry> = own.chain(known.others.values().map(entry)).collect();
        nodes.sort_by_key(|entry| entry.status.node);
        self.nodes.send_replace(Arc::new(nodes));
    }
}

impl Known {
    /// Takes in an own message; one of an earlier process of this node shows nothing.
    fn hear_own(&mut self, status: &NodeStatus, now: Instant) {
        if self.own.as_ref().is_none_or(|(own, _)| own.started_at != status.started_at) {
            return;
        }
        match &mut self.echo {
            Some(echo) if now - echo.last <= ECHO_GAP_MAX => echo.last = now,
            echo => *echo = Some(Echo { since: now, last: now }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use schemas::Sequence;

    use super::*;

    const ME: WriterId = WriterId::from_bytes([0; 16]);
    const OTHER: WriterId = WriterId::from_bytes([1; 16]);

    fn registry() -> Registry {
        Registry::new(ME, Arc::new(|| Timestamp::from_micros(1)))
    }

    fn status(started: u64, applied: u64) -> NodeStatus {
        let started_at = Timestamp::from_micros(started);
        let text = String::new;
        NodeStatus {
            node: OTHER,
            release: text(),
            format_level: 1,
            started_at,
            relay: text(),
            admin: text(),
            applied: Sequence(applied),
            policies: Sequence::ZERO,
            root_keys: Vec::new(),
            ready: true,
        }
    }

    fn shown(registry: &Registry) -> Vec<(u64, bool)> {
        registry.subscribe().borrow().iter().map(|entry| (entry.status.applied.0, entry.live)).collect()
    }

    #[test]
    fn what_comes_late_is_not_taken_for_the_newest() {
        let (registry, now) = (registry(), Instant::now());
        registry.hear(status(10, 7), 2, now);
        registry.hear(status(10, 6), 1, now);
        registry.hear(status(9, 5), 3, now);
        assert_eq!(shown(&registry), [(7, true)]);
        registry.hear(status(11, 4), 1, now);
        assert_eq!(shown(&registry), [(4, true)], "a new process");
    }

    #[test]
    fn a_node_whose_clock_was_set_back_is_heard_again() {
        let (registry, mut now) = (registry(), Instant::now());
        registry.hear(status(10, 7), 2, now);
        now += LIVE_WAIT - Duration::from_millis(1);
        registry.hear(status(1, 8), 1, now);
        registry.refresh(now);
        assert_eq!(shown(&registry), [(7, true)]);
        now += Duration::from_millis(1);
        registry.refresh(now);
        assert_eq!(shown(&registry), [(7, false)]);
        registry.hear(status(1, 8), 1, now);
        assert_eq!(shown(&registry), [(8, true)]);
    }

    #[test]
    fn a_quiet_node_stays_while_the_bucket_has_it() {
        let (registry, mut now) = (registry(), Instant::now());
        registry.learn(vec![(status(10, 7), Timestamp::from_micros(1))], now);
        assert_eq!(shown(&registry), [(7, false)]);
        registry.hear(status(10, 9), 1, now);
        registry.learn(Vec::new(), now);
        assert_eq!(shown(&registry), [(9, true)], "it is live, its entry comes");
        now += LIVE_WAIT;
        registry.learn(Vec::new(), now);
        assert_eq!(shown(&registry), []);
    }

    #[test]
    fn listening_lasts_as_long_as_own_messages_come_back() {
        const BEAT: Duration = Duration::from_secs(1);
        let (registry, mut now) = (registry(), Instant::now());
        let own = |started| NodeStatus { node: ME, ..status(started, 7) };
        registry.announce(own(10));
        registry.hear(own(9), 1, now);
        registry.hear(status(10, 7), 1, now);
        assert_eq!(registry.listening(now), None, "neither an earlier process nor another node shows that this one is heard");
        for beat in 1..=4 {
            registry.hear(own(10), beat, now);
            now += BEAT;
        }
        assert_eq!(registry.listening(now), Some(4 * BEAT));
        now += ECHO_GAP_MAX;
        assert_eq!(registry.listening(now), None);
        registry.hear(own(10), 5, now);
        assert_eq!(registry.listening(now), Some(Duration::ZERO), "what came before the break does not count");
    }

    #[test]
    fn who_has_left_announces_nothing() {
        let registry = registry();
        registry.announce(status(10, 7));
        assert_eq!(shown(&registry), [(7, true)]);
        registry.leave();
        registry.announce(status(10, 8));
        assert_eq!(shown(&registry), []);
        assert!(registry.own().is_none());
    }
}
