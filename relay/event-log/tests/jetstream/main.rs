//! The log on real nats-servers: what servers do that a log must not show, and what becomes of it when they fail.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and waits for the tasks it spawns")]

mod servers;

mod connection;
mod credentials;
mod failing;
mod losing;
mod prepare;
mod traps;
