//! A registry of nodes that says what a test lets it say.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coordination::{Coordination, CoordinationError, Lease, NodeEntry, NodeStatus, Nodes};
use schemas::{Sequence, Timestamp, WriterId};
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Clone, Default)]
pub(crate) struct Registry {
    nodes: Arc<watch::Sender<Nodes>>,
    /// When the break in the listening ended that a test made; none if there never was one.
    listens_since: Arc<Mutex<Option<Instant>>>,
}

impl Registry {
    /// As after a start or a reconnect: from now on the others are heard.
    pub(crate) fn begin_to_listen(&self) {
        *self.listens_since.lock().unwrap() = Some(Instant::now());
    }

    /// What is heard of a node.
    pub(crate) fn hear(&self, node: WriterId, applied: Sequence, live: bool) {
        let status = NodeStatus {
            node,
            release: "0.1.0".to_owned(),
            format_level: 1,
            started_at: Timestamp::from_micros(1),
            relay: "http://127.0.0.1:1".to_owned(),
            admin: "http://127.0.0.1:2".to_owned(),
            applied,
            policies: Sequence::ZERO,
            root_keys: Vec::new(),
            ready: true,
        };
        let heard = NodeEntry { status, heard_at: Timestamp::from_micros(2), live };
        self.nodes.send_modify(|nodes| {
            let others = nodes.iter().filter(|entry| entry.status.node != node).cloned();
            let mut all: Vec<NodeEntry> = others.chain([heard]).collect();
            all.sort_by_key(|entry| entry.status.node);
            *nodes = Arc::new(all);
        });
    }
}

#[async_trait]
impl Coordination for Registry {
    async fn lease(&self, _: &str, _: Duration) -> Result<Option<Lease>, CoordinationError> {
        Ok(None)
    }

    async fn release(&self, _: &str) -> Result<(), CoordinationError> {
        Ok(())
    }

    async fn add(&self, _: &str, amount: u64, _: u128) -> Result<u64, CoordinationError> {
        Ok(amount)
    }

    async fn total(&self, _: &str) -> Result<u64, CoordinationError> {
        Ok(0)
    }

    async fn put(&self, _: &str, _: Bytes, _: Duration) -> Result<(), CoordinationError> {
        Ok(())
    }

    async fn get(&self, _: &str) -> Result<Option<Bytes>, CoordinationError> {
        Ok(None)
    }

    fn announce(&self, status: NodeStatus) {
        self.hear(status.node, status.applied, true);
    }

    fn nodes(&self) -> watch::Receiver<Nodes> {
        self.nodes.subscribe()
    }

    fn listening(&self) -> Option<Duration> {
        Some(self.listens_since.lock().unwrap().map_or(Duration::MAX, |since| since.elapsed()))
    }

    async fn forget(&self, node: WriterId) -> Result<(), CoordinationError> {
        self.nodes.send_modify(|nodes| *nodes = Arc::new(nodes.iter().filter(|entry| entry.status.node != node).cloned().collect()));
        Ok(())
    }

    async fn close(&self) {}
}
