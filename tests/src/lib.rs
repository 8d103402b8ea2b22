//! What the end-to-end tests and the bench stand on: a node in a directory of its own, a scripted upstream, and small clients.
//!
//! Nothing here knows how the relay works inside: it starts the built binary, reads its ready line, and speaks HTTP to it.
//! No test sleeps: it waits for a line, a counter or a sequence, under a deadline.

#![allow(clippy::disallowed_methods, reason = "tests stand outside the node: they own their tasks, their environment and their clock")]

pub mod admin;
pub mod canary;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod history;
pub mod http;
pub mod key_maker;
pub mod net;
pub mod node;
pub mod planted;
pub mod policies;
pub mod relay;
pub mod token_endpoint;
pub mod traffic;
pub mod upstream;
pub mod wait;
pub mod world;

pub use admin::Admin;
pub use cluster::Cluster;
pub use key_maker::KeyMaker;
pub use node::{Launch, Node};
pub use relay::Relay;
pub use token_endpoint::TokenEndpoint;
pub use upstream::{Behaviour, ScriptedUpstream};
pub use world::World;
