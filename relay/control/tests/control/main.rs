//! The control plane over a log in memory that can go away, with several nodes in one process.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]
#![allow(clippy::disallowed_methods, reason = "tests own their tasks and their clock")]

mod away;
mod bulk;
mod founding;
mod guest;
mod leaks;
mod logins;
mod nodes;
mod policies;
mod provider;
mod rebuild;
mod refresh;
mod registry;
mod root_keys;
mod rotations;
mod shaky;
mod shelf;
mod world;
