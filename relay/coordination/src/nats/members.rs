//! The nodes' entries in the bucket: who belongs to the cluster, also while it is quiet.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use schemas::{ClusterId, WriterId};
use tokio::time::{Instant, sleep};

use super::bucket::Bucket;
use super::counter::Counters;
use super::message::Member;
use super::own_stream::within;
use super::registry::Registry;
use crate::{Clock, CoordinationError};

/// How often a node's entry is written and the others are read.
const INTERVAL: Duration = Duration::from_secs(10);
/// The pause after an attempt that failed, and before the first announcement is written.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(crate) struct Members {
    pub(crate) cluster: ClusterId,
    pub(crate) clock: Clock,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) registry: Arc<Registry>,
}

impl Members {
    /// Runs until it is dropped: makes the streams, then reads and writes entries.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut is_written = false;
        loop {
            let pause = match self.exchange(&mut is_written).await {
                Ok(()) if is_written => INTERVAL,
                Ok(()) => RETRY_PAUSE,
                Err(CoordinationError::Unavailable { reason }) => {
                    tracing::debug!(reason, "the registry of nodes waits");
                    RETRY_PAUSE
                }
                Err(error) => {
                    tracing::warn!(%error, "the registry of nodes is not kept");
                    INTERVAL
                }
            };
            sleep(pause).await;
        }
    }

    async fn exchange(&self, is_written: &mut bool) -> Result<(), CoordinationError> {
        within(self.bucket.prepare()).await?;
        within(self.counters.prepare()).await?;
        if let Some(status) = self.registry.own() {
            let key = self.key(status.node);
            let member = Member::encode((self.clock)(), status);
            within(self.bucket.put(&key, HeaderMap::new(), member.into())).await?;
            *is_written = true;
            // It may have left while its entry was on the way.
            if self.registry.has_left() {
                within(self.bucket.remove(&key)).await?;
            }
        }
        self.read().await
    }

    async fn read(&self) -> Result<(), CoordinationError> {
        let mut stored = Vec::new();
        for key in within(self.bucket.keys(&format!("{}.node", self.cluster))).await? {
            let Some(entry) = within(self.bucket.get(&key)).await? else { continue };
            match Member::decode(&entry.value) {
                Some(member) => stored.push((member.status, member.at)),
                None => self.registry.ignore("an entry of another version"),
            }
        }
        self.registry.learn(stored, Instant::now());
        Ok(())
    }

    pub(crate) async fn remove(&self, node: WriterId) -> Result<(), CoordinationError> {
        within(self.bucket.remove(&self.key(node))).await
    }

    fn key(&self, node: WriterId) -> String {
        format!("{}.node.{node}", self.cluster)
    }
}
