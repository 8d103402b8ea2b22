//! An engine for the command line, and modules from files.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, bail};
use policy_host::host::FAST_RESIDENT_BYTES_DEFAULT;
use policy_host::{Admitted, Compiler, Host, HostConfig};
use schemas::policy::{PolicyClass, PolicyKind};

/// A host that compiles in this process and forgets all of it at the end.
pub(super) struct Workbench {
    pub(super) host: Host,
    _directory: Scratch,
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind lies in the system's directory for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Workbench {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).context("the system has no random numbers")?;
        let directory = Scratch(env::temp_dir().join(format!("keyrelay-policy-{:016x}", u64::from_be_bytes(bytes))));
        // The compiler's child is for what comes from outside; here it is the caller's own, or was admitted by a node.
        let config = HostConfig {
            cache: directory.0.clone(),
            compiler: Compiler::InProcess,
            fast_slots: 2,
            fast_resident_bytes: FAST_RESIDENT_BYTES_DEFAULT,
            slow_threads: 1,
        };
        Ok(Self { host: Host::new(config).context("the engine for policies does not start")?, _directory: directory })
    }

    /// Admits the module of a file. Without a kind, it is that of the world whose exports the module has.
    pub(super) fn admit(&self, file: &Path, kind: Option<PolicyKind>, class: PolicyClass) -> anyhow::Result<Admitted> {
        let uploaded = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let kinds = kind.map_or_else(|| PolicyKind::ALL.to_vec(), |kind| vec![kind]);
        let mut refusals = Vec::new();
        for kind in kinds {
            match self.host.admit(&uploaded, kind, class) {
                Ok(admitted) => return Ok(admitted),
                Err(error) => refusals.push(format!("as {}: {:#}", kind.as_str(), anyhow::Error::from(error))),
            }
        }
        bail!("{} is no policy: {}", file.display(), refusals.join("; "))
    }
}
