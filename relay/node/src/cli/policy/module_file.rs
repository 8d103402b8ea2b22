//! An author's module on this machine: read, and admitted as a node would.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use policy_host::{AdmissionError, Admitted};
use schemas::policy::{PolicyClass, PolicyKind};

use super::super::failure::Failure;
use super::super::output::Output;
use super::workbench::{CodeFolder, Workbench, likely_kind};
use super::{Class, Kind};

#[derive(Debug, Args)]
pub(super) struct ModuleArgs {
    /// The module: a component, or a core module that describes its world
    pub(super) module: PathBuf,
    /// What it decides on [default: what the input or the vectors say, else what the module exports]
    #[arg(long, value_enum)]
    pub(super) kind: Option<Kind>,
    /// The limits that it runs under; slow is for JavaScript and Python [default: what the vectors say, else fast]
    #[arg(long, value_enum)]
    pub(super) class: Option<Class>,
}

/// An admitted module and its host.
pub(super) struct Trial {
    pub(super) admitted: Admitted,
    pub(super) bench: Workbench,
    pub(super) uploaded_bytes: usize,
}

/// A module as it was read, and what it is to be admitted as.
pub(super) struct Candidate {
    bytes: Vec<u8>,
    pub(super) kind: PolicyKind,
    pub(super) class: PolicyClass,
}

impl ModuleArgs {
    /// The module of the file. Kind and class are what was said, or what a file says, or what the module is.
    pub(super) fn read(&self, kind: Option<PolicyKind>, class: Option<PolicyClass>) -> Result<Candidate, Failure> {
        let bytes = fs::read(&self.module).with_context(|| format!("cannot read {}", self.module.display()))?;
        let kind = self.kind.map(PolicyKind::from).or(kind).unwrap_or_else(|| likely_kind(&bytes));
        let class = self.class.map(PolicyClass::from).or(class).unwrap_or(PolicyClass::Fast);
        Ok(Candidate { bytes, kind, class })
    }
}

impl Candidate {
    /// Admits the module. The inner error is the module's own fault.
    pub(super) fn admit(&self, folder: &CodeFolder) -> Result<Result<Trial, AdmissionError>, Failure> {
        let bench = Workbench::new(folder)?;
        let admitted = bench.host.admit(&self.bytes, self.kind, self.class);
        Ok(admitted.map(|admitted| Trial { admitted, bench, uploaded_bytes: self.bytes.len() }))
    }

    /// Admits the module, or says why not.
    pub(super) fn admitted(&self, folder: &CodeFolder, output: &mut Output) -> Result<Trial, Failure> {
        self.admit(folder)?.map_err(|error| {
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
