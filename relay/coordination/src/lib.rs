//! Leases, counters, the node registry and shared soft state: in process on one machine, over NATS in a cluster.

mod contract;

pub use contract::{Coordination, CoordinationError, Lease, NodeEntry, NodeStatus, Nodes};
