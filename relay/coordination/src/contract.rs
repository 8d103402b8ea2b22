//! The contract of coordination, and the words it is spoken in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use schemas::{Digest, Sequence, Timestamp, WriterId};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

/// A right with a holder and an end, gone without a message. Whoever acts under it stops by its own clock before `expires_at`, and what it does
/// must still be safe if it is late: the log's expectations decide, a lease only keeps two from doing the same work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub name: String,
    pub holder: WriterId,
    pub expires_at: Timestamp,
    /// Grows with every new holder: what acts under the lease may hand it on as a fencing token.
    pub term: u64,
}

/// What a node tells the others of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: WriterId,
    /// The release it runs.
    pub release: String,
    /// The highest log format level that it can read.
    pub format_level: u32,
    pub started_at: Timestamp,
    /// Where its listeners are reached.
    pub relay: String,
    pub admin: String,
    /// The last sequence that its read models have applied.
    pub applied: Sequence,
    /// The last sequence whose bindings of policies apply on it, their modules loaded. 0 for a release that does not tell.
    #[serde(default)]
    pub policies: Sequence,
    /// The root keys of the log that it has, by commitment: what lies under them opens there. Empty for a release that does not tell.
    #[serde(default)]
    pub root_keys: Vec<Digest>,
    /// Told in `/readyz`; here so that one node can show all.
    pub ready: bool,
}

/// A node in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    pub status: NodeStatus,
    /// When it was last heard of, by this node's clock; of one that was not heard since this node started, by that node's own clock.
    pub heard_at: Timestamp,
    /// Whether that is recent enough to count on it.
    pub live: bool,
}

/// All nodes that are known, in the order of their ids, this one included.
pub type Nodes = Arc<Vec<NodeEntry>>;

/// Why nothing can be coordinated now.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CoordinationError {
    /// Nobody answers; whether a change was made is not known.
    #[error("the other nodes cannot be reached: {reason}")]
    Unavailable { reason: String },
    #[error("{name:?} is no name: 1 to 64 characters of a-z, 0-9, - and _")]
    Name { name: String },
    #[error("what lies under {name:?} is not of this format")]
    Foreign { name: String },
    /// Soft state is for what is small.
    #[error("the value of {name:?} has more than {bytes_max} bytes")]
    TooLarge { name: String, bytes_max: usize },
}

/// What nodes share beside the log: who does a piece of work, how much is spent, who is there, and soft state that may be lost.
///
/// Nothing here is the truth about a credential. Names are 1 to 64 characters of `a-z0-9-_`. All methods may be called at any time
/// from any task; dropping a future may leave the change made or not made.
#[async_trait]
pub trait Coordination: Send + Sync + 'static {
    /// Takes a lease for this node, or extends the one it holds, to `ttl` from now. None where another node holds it. Its term stays while
    /// this process extends it, and grows when it is taken anew, also by the same node after a restart.
    async fn lease(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, CoordinationError>;

    /// Gives a lease back early; nothing happens if this node does not hold it.
    async fn release(&self, name: &str) -> Result<(), CoordinationError>;

    /// Adds to a counter and gives its total after that. The same `id` is added once, however often it is sent, for two minutes at least.
    async fn add(&self, counter: &str, amount: u64, id: u128) -> Result<u64, CoordinationError>;

    /// The total of a counter, 0 if nothing was added. One that nothing was added to for [`COUNTER_KEPT`](crate::COUNTER_KEPT) begins at 0 again.
    async fn total(&self, counter: &str) -> Result<u64, CoordinationError>;

    /// Puts soft state of at most [`SOFT_BYTES_MAX`](crate::SOFT_BYTES_MAX), which others see at once and which is gone after `ttl`; a node
    /// that did not put it may see it up to a second longer. It may be lost.
    async fn put(&self, name: &str, value: Bytes, ttl: Duration) -> Result<(), CoordinationError>;

    /// Soft state; none if there is none or its time is over.
    async fn get(&self, name: &str) -> Result<Option<Bytes>, CoordinationError>;

    /// Tells the others how this node stands; the newest is sent, soon and then again and again. Never blocks and never fails: a node that
    /// cannot be heard is not live to the others.
    fn announce(&self, status: NodeStatus);

    /// The registry as this node sees it, and its changes.
    fn nodes(&self) -> watch::Receiver<Nodes>;

    /// For how long this node has heard the others without a break. Who is not live though it lasts longer than [`LIVE_WAIT`](crate::LIVE_WAIT) is
    /// silent; before that it may only not have been heard. None while nobody can be heard.
    fn listening(&self) -> Option<Duration>;

    /// Takes a node out of the registry, as it does itself when it leaves: what it announces after that is not told. Another node that still
    /// runs is soon heard again.
    async fn forget(&self, node: WriterId) -> Result<(), CoordinationError>;

    /// Ends the tasks behind this value.
    async fn close(&self);
}
