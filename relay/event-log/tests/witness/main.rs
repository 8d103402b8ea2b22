//! The witness: a log that loses, changes or forgets what it acknowledged is healed or refused, and never served as if nothing had happened.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, print, and waits for the tasks it spawns"
)]

mod node;
mod records;

mod bounds;
mod cost;
mod doubts;
mod history;
mod nats;
mod planted;
mod restarts;
mod table;
