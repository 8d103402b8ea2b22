//! The record format and the judgement of records, from the outside: what other releases, other nodes and auditors rely on.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

mod codec;
mod golden;
mod json;
mod judge;
mod log;
mod samples;
