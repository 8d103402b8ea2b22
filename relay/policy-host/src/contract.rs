//! The contract of `plugins/wit/policy.wit` in Rust: what a policy is given and what it answers.
//!
//! These types are what the engine lowers and lifts, what decision records hold, and what table vectors are written in. The order of fields
//! is the contract's; a record of version 1 never changes.

mod types;

pub mod expiry;
pub mod quota;
pub mod route;

pub use types::{Advice, Attribute, Demand, Effect, Fault, Obligation, Price, Reason, Subject, Verdict};

/// The contract's package and version, as interfaces are named: `keyrelay:policy/setup@1.0.0`.
pub const PACKAGE: &str = "keyrelay:policy";
pub const VERSION: &str = "1.0.0";
