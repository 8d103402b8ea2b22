//! The binary `keyrelay`.

use std::process::ExitCode;

use clap::Parser as _;
use keyrelay::cli::{self, Cli};

fn main() -> ExitCode {
    let environment = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    cli::run(Cli::parse(), environment.collect())
}
