//! The node: configuration, the composition root, the command line, the offline audit, backup and restore.
//!
//! A library so that tests can build its parts; the binary is a thin shell around [`cli::run`]. Nothing here reads the process's
//! environment: it comes in as an argument, once, in `main`.

pub mod audit;
pub mod backup;
pub mod cli;
pub mod config;
#[cfg(feature = "faults")]
pub mod faults;
mod layout;
mod logging;
pub mod migrate;
pub mod serve;

pub use config::Config;
