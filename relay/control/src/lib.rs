//! The control plane: command execution, the REST API of the admin listener, and the founding of a cluster.
//!
//! A handler parses, [`Commands::execute`] decides on the aggregate and appends, the answer is rendered from the read model once the
//! record is applied. Nothing here decides on a read model alone: the log's expected head does.

pub mod audit;
pub mod backup;
pub mod commands;
mod credential_rotations;
pub mod decisions;
mod expiry;
#[cfg(feature = "faults")]
pub mod faults;
mod fence;
pub mod founding;
pub mod health;
mod http;
pub mod key_providers;
pub mod leaks;
mod metrics;
pub mod notices;
pub mod oauth;
pub mod policies;
mod rebuilds;
pub mod refresh;
mod root_key;
mod rotations;
pub mod secret_sources;
mod secrets;
mod session_cookie;
mod tenants;
pub mod transfer;
mod upstream_tests;
mod writer;

use std::sync::Arc;

use schemas::Timestamp;

pub use commands::{Commands, CommandsParts, ExecuteError, Receipt, Request};
pub use credential_rotations::{CredentialRotations, RotationNotes, RotationScheduler};
pub use expiry::ExpirySweeper;
pub use health::{Health, LogHealth, NodeHealth, SpoolHealth, Trust};
pub use http::{App, AppParts, Probe, ProbeOutcome, ProbeSecret, Stop, openapi, router};
pub use leaks::{LeakConfig, LeakIntake};
pub use metrics::Metrics;
pub use rebuilds::Rebuilds;
pub use root_key::{Rewrapping, RewrappingState, RootKeyWatch, RootKeyWatchParts};
pub use rotations::Rotations;
pub use secrets::{SUCCESSOR_OWNER, successor_address};
pub use upstream_tests::UpstreamTests;
pub use writer::Writer;

/// Where the time comes from: the system's clock in a node, a hand-moved one in tests.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
