//! The built binary, run to its end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What a run left behind.
#[derive(Debug, Clone)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A binary of this workspace, found beside the running test: `target/<profile>/deps/<test>` or `target/<profile>/<binary>`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let found = here.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no {name} beside {}: run tests/run, or `cargo build --workspace --all-features` first", here.display()))
}

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A command for the node's binary with a clean environment.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(binary(name)?);
    clean(&mut command);
    Ok(command)
}

/// Takes everything out of a command's environment but what finds programs.
pub fn clean(command: &mut Command) {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent").stdin(Stdio::null());
}

/// Runs `keyrelay` with these arguments.
pub fn keyrelay<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(arguments: I) -> Result<Run> {
    run(command("keyrelay")?.args(arguments))
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<Run> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    Ok(Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Run {
    pub fn expect(self, code: i32) -> Result<Self> {
        anyhow::ensure!(self.code == code, "expected exit code {code}, got {}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// What it printed with `--json`.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {}\n{}", self.stdout, self.stderr))
    }
}
