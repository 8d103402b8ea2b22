//! `keyrelay policy`: WebAssembly modules that decide on requests, and what they decided.

mod diff;
mod records;
mod replay;
mod workbench;

use clap::Subcommand;

use super::client::Client;
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// List decisions, newest first, or export them for replay
    Decisions(records::Decisions),
    /// Run recorded decisions again and compare every byte. Exit code 1 if anything differs
    Replay(replay::Replay),
    /// Run a candidate over recorded decisions and tell what it would have changed. Exit code 1 if a request would have got something else
    Diff(diff::Diff),
}

/// `connect` finds the node; what works on files alone does not ask for it.
pub(super) async fn run(
    command: PolicyCommand,
    connect: impl FnOnce() -> Result<Client, Failure>,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        PolicyCommand::Decisions(args) => records::run(args, &connect()?, output).await,
        PolicyCommand::Replay(args) => replay::run(args, connect, output).await,
        PolicyCommand::Diff(args) => diff::run(args, connect, output).await,
    }
}
