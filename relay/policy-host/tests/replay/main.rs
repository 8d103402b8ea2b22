//! Recorded decisions run again, and candidates over them, a hundred thousand at a time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backtest;
mod guest;
mod records;
mod replay;
