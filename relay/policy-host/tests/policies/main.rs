//! Policies against the host: honest ones and hostile ones, all made here from text, so that no toolchain is needed.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

mod admission;
mod cache;
mod child;
mod guest;
mod honest;
mod hostile;
mod repeat;
mod slow;
mod world;
