//! The language of Keyrelay: ids, commands, events, aggregates and the bytes of a record.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock, no randomness, no HTTP. The same code therefore
//! decides on a node, folds in the projector, and judges in an auditor's hands. It builds for `wasm32-unknown-unknown`.
//!
//! Where to look first: [`record`] for the bytes that one append stores, [`mod@judge`] for what makes a record valid,
//! [`event`] for the list of all events, and one file per aggregate (`key.rs`, `upstream.rs`, ...) for its commands, events and rules.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

pub mod actor;
pub mod address;
pub mod aggregate;
pub mod binding;
pub mod client_key;
pub mod cluster;
pub mod credential;
pub mod decision;
pub mod event;
pub mod id;
pub mod judge;
pub mod key;
pub mod login;
pub mod name;
pub mod policy;
pub mod pool;
pub mod record;
pub mod root_key;
#[cfg(test)]
mod rules;
pub mod sealed;
pub mod stream;
pub mod tenant;
pub mod time;
mod upcast;
pub mod upstream;
pub mod usage;
pub mod writer;

pub use actor::Actor;
pub use aggregate::{Aggregate, ApplyError, Command, Context, Head, Rejection, apply, decide};
pub use event::Event;
pub use id::{
    BindingId, ClusterId, CommandId, CredentialId, Digest, IncarnationId, KeyId, LoginId, PoolId, PublicKey, RecordId, RequestId,
    RotationId, SessionId, TenantId, UpstreamId, UserId, WriterId,
};
pub use judge::{Verdict, VoidReason, judge};
pub use record::{Record, Sequence, Version};
pub use sealed::Sealed;
pub use stream::{Stream, StreamKind};
pub use time::{DurationText, Timestamp};
