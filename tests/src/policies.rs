//! Modules of the stock policies, and the tools that policies in other languages are built with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};

use crate::cli;

/// Cargo's target directory of this build.
pub fn target() -> Result<PathBuf> {
    let profile = cli::binary("keyrelay")?.parent().context("a folder")?.to_owned();
    Ok(profile.parent().context("a target directory")?.to_owned())
}

/// The folder with the stock policies' modules, built if need be.
pub fn stock() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = BUILT.get() {
        return Ok(folder);
    }
    let mut build = Command::new(cli::workspace().join("plugins/build"));
    let run = cli::run(build.env("CARGO_TARGET_DIR", target()?).env("CARGO_NET_OFFLINE", "true"))?.expect(0)?;
    Ok(BUILT.get_or_init(|| PathBuf::from(run.stdout.trim())))
}

/// Where `tests/run` keeps what it installs.
pub fn tools() -> Result<PathBuf> {
    let tools = PathBuf::from(std::env::var_os("HOME").context("a home")?).join(".cache/keyrelay");
    for tool in ["npm/node_modules/@bytecodealliance/componentize-js", "componentize-py/bin/componentize-py"] {
        ensure!(tools.join(tool).exists(), "{} is not installed: tests/run installs it", tools.join(tool).display());
    }
    Ok(tools)
}
