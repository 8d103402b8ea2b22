//! Coordination on one machine: a map behind a lock, gone with the process.
//!
//! It is also the model of what the form over NATS does: several nodes may share one, see [`LocalCoordination::beside`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use schemas::{Timestamp, WriterId};
use tokio::sync::watch;

use crate::{
    COUNTER_KEPT, Clock, Coordination, CoordinationError, IDS_KEPT, Lease, NodeEntry, NodeStatus, Nodes, SOFT_BYTES_MAX, later, name,
};

/// The most pieces of soft state; beyond it the one that ends first goes.
const SOFT_MAX: usize = 4_096;
/// How many counters there may be before those that are over are looked for.
const COUNTERS_SWEPT_FROM: usize = 4_096;

/// [`Coordination`] in process. Leases, counters and soft state end by the clock that is passed in.
pub struct LocalCoordination {
    node: WriterId,
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    nodes: watch::Sender<Nodes>,
}

#[derive(Default)]
struct State {
    leases: HashMap<String, Held>,
    /// Totals, and when one is over.
    counters: HashMap<String, (u64, Timestamp)>,
    /// At how many counters the next sweep is due.
    sweep_at: usize,
    /// The totals after the additions that are remembered.
    added: HashMap<(String, u128), u64>,
    added_order: VecDeque<(Timestamp, (String, u128))>,
    soft: HashMap<String, (Bytes, Timestamp)>,
    nodes: BTreeMap<WriterId, NodeEntry>,
}

struct Held {
    holder: Option<WriterId>,
    expires_at: Timestamp,
    term: u64,
}

impl LocalCoordination {
    pub fn new(node: WriterId, clock: Clock) -> Self {
        let state = Mutex::new(State { sweep_at: COUNTERS_SWEPT_FROM, ..State::default() });
        Self { node, shared: Arc::new(Shared { clock, state, nodes: watch::Sender::new(Nodes::default()) }) }
    }

    /// Another node that shares all with this one, for what is tested with several.
    pub fn beside(&self, node: WriterId) -> Self {
        Self { node, shared: self.shared.clone() }
    }

    fn now(&self) -> Timestamp {
        (self.shared.clock)()
    }

    fn publish(&self, state: &State) {
        self.shared.nodes.send_replace(Arc::new(state.nodes.values().cloned().collect()));
    }
}

#[async_trait]
impl Coordination for LocalCoordination {
    async fn lease(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, CoordinationError> {
        name::check(name)?;
        let now = self.now();
        let mut state = self.shared.state.lock();
        let term = match state.leases.get(name) {
            Some(held) if held.holder == Some(self.node) => held.term,
            Some(held) if held.holder.is_some() && held.expires_at > now => return Ok(None),
            held => held.map_or(0, |held| held.term) + 1,
        };
        let expires_at = later(now, ttl);
        state.leases.insert(name.to_owned(), Held { holder: Some(self.node), expires_at, term });
        Ok(Some(Lease { name: name.to_owned(), holder: self.node, expires_at, term }))
    }

    async fn release(&self, name: &str) -> Result<(), CoordinationError> {
        name::check(name)?;
        let mut state = self.shared.state.lock();
        if let Some(held) = state.leases.get_mut(name).filter(|held| held.holder == Some(self.node)) {
            held.holder = None;
        }
        Ok(())
    }

    async fn add(&self, counter: &str, amount: u64, id: u128) -> Result<u64, CoordinationError> {
        name::check(counter)?;
        let now = self.now();
        let mut state = self.shared.state.lock();
        state.forget_before(now);
        let addition = (counter.to_owned(), id);
        if let Some(total) = state.added.get(&addition) {
            return Ok(*total);
        }
        let total = state.total(counter, now).saturating_add(amount);
        state.counters.insert(counter.to_owned(), (total, later(now, COUNTER_KEPT)));
        state.added.insert(addition.clone(), total);
        state.added_order.push_back((later(now, IDS_KEPT), addition));
        Ok(total)
    }

    async fn total(&self, counter: &str) -> Result<u64, CoordinationError> {
        name::check(counter)?;
        Ok(self.shared.state.lock().total(counter, self.now()))
    }

    async fn put(&self, name: &str, value: Bytes, ttl: Duration) -> Result<(), CoordinationError> {
        name::check(name)?;
        if value.len() > SOFT_BYTES_MAX {
            return Err(CoordinationError::TooLarge { name: name.to_owned(), bytes_max: SOFT_BYTES_MAX });
        }
        let now = self.now();
        let mut state = self.shared.state.lock();
        state.soft.retain(|_, (_, ends_at)| *ends_at > now);
        if state.soft.len() >= SOFT_MAX && !state.soft.contains_key(name) {
            let first = state.soft.iter().min_by_key(|(_, (_, ends_at))| *ends_at).map(|(name, _)| name.clone());
            first.and_then(|name| state.soft.remove(&name));
        }
        state.soft.insert(name.to_owned(), (value, later(now, ttl)));
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, CoordinationError> {
        name::check(name)?;
        let now = self.now();
        Ok(self.shared.state.lock().soft.get(name).filter(|(_, ends_at)| *ends_at > now).map(|(value, _)| value.clone()))
    }

    fn announce(&self, status: NodeStatus) {
        let mut state = self.shared.state.lock();
        let entry = NodeEntry { status: NodeStatus { node: self.node, ..status }, heard_at: self.now(), live: true };
        state.nodes.insert(self.node, entry);
        self.publish(&state);
    }

    fn nodes(&self) -> watch::Receiver<Nodes> {
        self.shared.nodes.subscribe()
    }

    /// Nothing can be missed in process.
    fn listening(&self) -> Option<Duration> {
        Some(Duration::MAX)
    }

    async fn forget(&self, node: WriterId) -> Result<(), CoordinationError> {
        let mut state = self.shared.state.lock();
        state.nodes.remove(&node);
        self.publish(&state);
        Ok(())
    }

    async fn close(&self) {
        let mut state = self.shared.state.lock();
        if let Some(entry) = state.nodes.get_mut(&self.node) {
            entry.live = false;
        }
        self.publish(&state);
    }
}

impl State {
    fn total(&self, counter: &str, now: Timestamp) -> u64 {
        self.counters.get(counter).filter(|(_, ends_at)| *ends_at > now).map_or(0, |(total, _)| *total)
    }

    /// Drops the ids of additions, and now and then the counters, whose time is over.
    fn forget_before(&mut self, now: Timestamp) {
        while let Some((_, addition)) = self.added_order.pop_front_if(|(ends_at, _)| *ends_at <= now) {
            self.added.remove(&addition);
        }
        if self.counters.len() >= self.sweep_at {
            self.counters.retain(|_, (_, ends_at)| *ends_at > now);
            self.sweep_at = COUNTERS_SWEPT_FROM.max(self.counters.len() * 2);
        }
    }
}
