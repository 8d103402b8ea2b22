//! Coordination over NATS: leases, soft state and members in a KV bucket, counters in a stream, heartbeats as core messages.
//!
//! All is made when it is first needed. While NATS is away every call is answered within [`ANSWER_WAIT`](crate::ANSWER_WAIT), and what needs no
//! answer is tried again in the background.

mod bucket;
mod counter;
mod heartbeat;
mod lease;
mod members;
mod message;
mod own_stream;
mod registry;
mod sightings;
mod soft;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_trait::async_trait;
use bytes::Bytes;
use schemas::{ClusterId, WriterId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::bucket::Bucket;
use self::counter::Counters;
use self::heartbeat::Heartbeat;
use self::lease::Leases;
use self::members::Members;
use self::own_stream::within;
use self::registry::Registry;
use self::soft::SoftState;
use crate::{Clock, Coordination, CoordinationError, Lease, NodeStatus, Nodes, name};

/// [`Coordination`] among the nodes of one cluster.
pub struct NatsCoordination {
    node: WriterId,
    leases: Leases,
    counters: Arc<Counters>,
    soft: SoftState,
    registry: Arc<Registry>,
    members: Arc<Members>,
    heartbeat: Heartbeat,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the tasks when this value goes without having been closed.
    _stop_on_drop: DropGuard,
}

impl NatsCoordination {
    /// Begins to hear and tell; to be called inside a runtime. Does not wait for NATS and does not fail. `replicas` is for what is not
    /// there yet; none leaves that to whether the servers are clustered.
    pub fn start(client: Client, cluster: ClusterId, node: WriterId, replicas: impl Into<Option<usize>>, clock: Clock) -> Self {
        let replicas = replicas.into();
        let bucket = Arc::new(Bucket::new(&client, replicas));
        let counters = Arc::new(Counters::new(&client, cluster, replicas));
        let registry = Arc::new(Registry::new(node, clock.clone()));
        let leases = Leases::new(cluster, node, clock.clone(), bucket.clone());
        let soft = SoftState::new(cluster, bucket.clone());
        let members = Arc::new(Members { cluster, clock, bucket, counters: counters.clone(), registry: registry.clone() });
        let heartbeat = Heartbeat { client, cluster, registry: registry.clone() };

        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(stop.clone().run_until_cancelled_owned(heartbeat.clone().run()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(members.clone().run()));
        tasks.close();
        let _stop_on_drop = stop.clone().drop_guard();
        Self { node, leases, counters, soft, registry, members, heartbeat, tasks, stop, _stop_on_drop }
    }

    /// How many messages about nodes, or entries, were not understood or not for this cluster.
    pub fn ignored(&self) -> u64 {
        self.registry.ignored()
    }
}

#[async_trait]
impl Coordination for NatsCoordination {
    async fn lease(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, CoordinationError> {
        name::check(name)?;
        within(self.leases.take(name, ttl)).await
    }

    async fn release(&self, name: &str) -> Result<(), CoordinationError> {
        name::check(name)?;
        within(self.leases.release(name)).await
    }

    async fn add(&self, counter: &str, amount: u64, id: u128) -> Result<u64, CoordinationError> {
        name::check(counter)?;
        within(self.counters.add(counter, amount, id)).await
    }

    async fn total(&self, counter: &str) -> Result<u64, CoordinationError> {
        name::check(counter)?;
        within(self.counters.total(counter)).await
    }

    async fn put(&self, name: &str, value: Bytes, ttl: Duration) -> Result<(), CoordinationError> {
        name::check(name)?;
        within(self.soft.put(name, value, ttl)).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, CoordinationError> {
        name::check(name)?;
        within(self.soft.get(name)).await
    }

    fn announce(&self, status: NodeStatus) {
        self.registry.announce(status);
    }

    fn nodes(&self) -> watch::Receiver<Nodes> {
        self.registry.subscribe()
    }

    fn listening(&self) -> Option<Duration> {
        self.registry.listening(Instant::now())
    }

    async fn forget(&self, node: WriterId) -> Result<(), CoordinationError> {
        if node == self.node {
            self.registry.leave();
        }
        self.members.remove(node).await?;
        self.heartbeat.tell_gone(node).await;
        self.registry.forget(node);
        Ok(())
    }

    async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
