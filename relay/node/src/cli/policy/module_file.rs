//! An author's module on this machine: read, and admitted as a node would.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use policy_host::host::FAST_RESIDENT_BYTES_DEFAULT;
use policy_host::{AdmissionError, Admitted, Compiler, Host, HostConfig};
use schemas::policy::{PolicyClass, PolicyKind};

use super::super::failure::Failure;
use super::super::output::Output;
use super::{Class, Kind};

#[derive(Debug, Args)]
pub(super) struct ModuleArgs {
    /// The module: a component, or a core module that describes its world
    pub(super) module: PathBuf,
    /// What it decides on [default: what the input or the vectors say]
    #[arg(long, value_enum)]
    pub(super) kind: Option<Kind>,
    /// The limits that it runs under; slow is for JavaScript and Python [default: what the vectors say, else fast]
    #[arg(long, value_enum)]
    pub(super) class: Option<Class>,
}

/// An admitted module and its host, with machine code in a folder that goes away with it.
pub(super) struct Trial {
    pub(super) admitted: Admitted,
    pub(super) host: Host,
    pub(super) uploaded_bytes: usize,
    _cache: tempfile::TempDir,
}

impl ModuleArgs {
    /// What was said, or what a file says.
    pub(super) fn kind_or(&self, said: Option<PolicyKind>) -> Result<PolicyKind, Failure> {
        let kind = self.kind.map(PolicyKind::from).or(said).context("say what the policy decides on: --kind route, quota or expiry")?;
        Ok(kind)
    }

    pub(super) fn class_or(&self, said: Option<PolicyClass>) -> PolicyClass {
        self.class.map(PolicyClass::from).or(said).unwrap_or(PolicyClass::Fast)
    }

    /// Admits the module. The inner error is the module's own fault.
    pub(super) fn admit(&self, kind: PolicyKind, class: PolicyClass) -> Result<Result<Trial, AdmissionError>, Failure> {
        let bytes = fs::read(&self.module).with_context(|| format!("cannot read {}", self.module.display()))?;
        let cache = tempfile::tempdir().context("cannot make a folder for machine code")?;
        // An author's own file: nothing to protect this machine from, and one evaluation at a time.
        let config = HostConfig {
            cache: cache.path().to_owned(),
            compiler: Compiler::InProcess,
            fast_slots: 2,
            fast_resident_bytes: FAST_RESIDENT_BYTES_DEFAULT,
            slow_threads: 1,
        };
        let host = Host::new(config).context("cannot start the engine")?;
        Ok(host.admit(&bytes, kind, class).map(|admitted| Trial { admitted, host, uploaded_bytes: bytes.len(), _cache: cache }))
    }

    /// Admits the module, or says why not.
    pub(super) fn admitted(&self, kind: PolicyKind, class: PolicyClass, output: &mut Output) -> Result<Trial, Failure> {
        self.admit(kind, class)?.map_err(|error| {
            output.note(&format!("error: the module is refused: {}", chain(&error)));
            Failure::Findings
        })
    }
}

/// An error and what caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The text of a file, or of standard input for `-`.
pub(super) fn read_text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(text)
}
