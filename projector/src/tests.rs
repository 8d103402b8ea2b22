#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(clippy::disallowed_methods, reason = "a test has no tracker; it awaits what it spawns")]

mod ahead;
mod decisions;
mod degraded;
mod fold;
mod key_index;
mod keys;
mod models;
mod policies;
mod prices;
mod rebuild;
mod shaky;
mod snapshot;
mod start;
mod usage;
mod world;
