//! The data plane: a request comes in with a client key and goes out with an upstream's credential, and what it used is written down.
//!
//! ```text
//! http ──> exchange ──> admit (client_key, limits) ──> held_body, request_head ──> policies ──> choose (targets, cooling, pulse)
//!                                                                                                │
//!   client <── answer_body (tap: what it used) <── forward (transport, address) <────────────────┘
//!                  │
//!                  └──> meter ──> usage ──> usage log
//!                                   │
//!                                   └──> meters: what keys and tenants have used and hold
//! ```
//!
//! Invariants. The bytes of a request and of an answer are never written anew; the three edits there are, asking for usage, hiding it, and
//! lowering a bound on the answer, are splices. A client key never leaves this crate, and a credential goes only to the origin it was entered for. A request that
//! reached an upstream settles exactly once. The data path waits for no control plane and never reads the log. Every buffer, queue
//! and wait has a bound, and the bound has a name.

mod activation;
mod address;
mod admit;
mod answer_body;
mod catalogue;
mod choose;
mod client_key;
mod config;
mod cooling;
mod decisions;
mod exchange;
mod fallback;
#[cfg(feature = "faults")]
pub mod faults;
mod forward;
mod gateway;
mod grants;
mod headers;
mod held_body;
mod http;
mod limits;
mod meter;
mod meters;
mod metrics;
mod older_key;
mod outbox;
mod policies;
mod pulse;
mod random;
mod refusal;
mod request_head;
mod splice;
mod sse;
mod staleness;
mod tap;
mod targets;
mod transport;
mod usage;

pub use crate::http::{openapi, router};
pub use address::ClientAddress;
pub use catalogue::Probed;
pub use config::GatewayConfig;
pub use decisions::{DecisionSink, DecisionWriter};
pub use gateway::{Clock, Gateway, GatewayError, GatewayParts, GatewayTasks};
pub use metrics::Metrics;
pub use outbox::{Outbound, OutboxReader};
pub use policies::ShadowWorker;
pub use usage::{UsageSink, UsageWriteError, UsageWriter};
