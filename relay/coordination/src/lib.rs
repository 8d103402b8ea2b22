//! Leases, counters, the node registry and shared soft state: in process on one machine, over NATS in a cluster.
//!
//! Nothing that is kept here is the truth about a credential; that is the event log. What is lost here costs work done twice, or a wait.

mod contract;
mod local;
mod name;
mod nats;

use std::sync::Arc;
use std::time::Duration;

use schemas::Timestamp;

pub use contract::{Coordination, CoordinationError, Lease, NodeEntry, NodeStatus, Nodes};
pub use local::LocalCoordination;
pub use nats::NatsCoordination;

/// Where a node reads the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long a call may wait for NATS before it is answered with [`CoordinationError::Unavailable`]. A change of leader takes 4 to 9 s, so
/// callers try again later in any case, and what waits meanwhile should not pile up.
pub const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// A node that was not heard for so long is not live: five heartbeats, so that neither a lost message nor a second of a stopped process counts.
pub const LIVE_WAIT: Duration = Duration::from_secs(5);
/// How long the id of an addition is remembered. The contract says two minutes.
pub const IDS_KEPT: Duration = Duration::from_secs(150);
/// How long a counter is kept after the last addition: two of the longest windows that are counted in, a month.
pub const COUNTER_KEPT: Duration = Duration::from_secs(62 * 86_400);
/// The most bytes of one piece of soft state.
pub const SOFT_BYTES_MAX: usize = 64 * 1024;

/// This time moved on, at most to the last one there is.
fn later(time: Timestamp, by: Duration) -> Timestamp {
    let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(time.as_micros().saturating_add(micros)).min(Timestamp::MAX)
}
