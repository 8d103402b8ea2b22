//! Policies on the data path: what they change about requests, what of that holds for each attempt, what time does, and what a fault costs.

#![allow(clippy::unwrap_used, reason = "a fixture may panic")]

#[path = "../../../relay/policy-host/tests/policies/guest.rs"]
#[expect(dead_code, reason = "the host's tests do more with it")]
mod guest;

mod attempts;
mod bench;
mod missing;
mod moments;
mod requests;
mod unhurried;
mod unsteady;
