//! The defaults of the node itself, each with its reason; those of the data plane stand in `gateway`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::PartsPerMillion;

/// Beside where it was started, so that a first try needs no privileges.
pub(super) const DATA: &str = "./keyrelay-data";

/// Loopback: a node is opened to a network by somebody's decision, not by starting it.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(super) const RELAY_LISTEN: SocketAddr = SocketAddr::new(LOOPBACK, 8080);
pub(super) const ADMIN_LISTEN: SocketAddr = SocketAddr::new(LOOPBACK, 8081);

/// Within what service managers give a process between TERM and KILL.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// One permit in a hundred: enough to compare a candidate with, and little beside the usage that every request writes.
pub(super) const DECISION_SAMPLE_PPM: PartsPerMillion = PartsPerMillion::new(10_000);

/// Nothing waits for it: requests are refused by the time itself. Often enough for people who read the log.
pub(super) const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);
