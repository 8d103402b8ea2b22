//! An engine for the command line, and modules from files. Machine code stays in a folder of the user, since a slow module takes most of a minute
//! to compile: what lies there counts only with a tag under the folder's own key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, bail};
use policy_host::host::FAST_RESIDENT_BYTES_DEFAULT;
use policy_host::{Admitted, Compiler, Host, HostConfig};
use schemas::policy::{PolicyClass, PolicyKind};

/// The most bytes of machine code that stay; the oldest goes first. Some ten modules of JavaScript or Python.
const KEPT_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Where machine code stays between commands; none without a home.
#[derive(Debug, Clone)]
pub(in crate::cli) struct CodeFolder(Option<PathBuf>);

impl CodeFolder {
    /// `keyrelay/policy-code` in the user's folder for caches: `XDG_CACHE_HOME`, else `.cache` of a home that is there.
    pub(in crate::cli) fn of(environment: &BTreeMap<String, String>) -> Self {
        let absolute = |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").filter(|home| home.is_dir()).map(|home| home.join(".cache")));
        Self(caches.map(|caches| caches.join("keyrelay/policy-code")))
    }
}

/// A host that compiles in this process.
pub(super) struct Workbench {
    pub(super) host: Host,
    /// Holds what no user's folder could.
    _scratch: Option<Scratch>,
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
    pub(super) fn new(folder: &CodeFolder) -> anyhow::Result<Self> {
        // A folder that cannot be used costs time and nothing else.
        if let Some(host) = folder.0.as_deref().and_then(|kept| host(kept).ok()) {
            return Ok(Self { host, _scratch: None });
        }
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).context("the system has no random numbers")?;
        let scratch = Scratch(env::temp_dir().join(format!("keyrelay-policy-{:016x}", u64::from_be_bytes(bytes))));
        Ok(Self { host: host(&scratch.0).context("the engine for policies does not start")?, _scratch: Some(scratch) })
    }

    /// Admits the module of a file. Without a kind, it is that of the world whose exports the module has.
    pub(super) fn admit(&self, file: &Path, kind: Option<PolicyKind>, class: PolicyClass) -> anyhow::Result<Admitted> {
        let uploaded = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        match self.host.admit(&uploaded, kind.unwrap_or_else(|| likely_kind(&uploaded)), class) {
            Ok(admitted) => Ok(admitted),
            Err(error) => bail!("{} is no policy: {:#}", file.display(), anyhow::Error::from(error)),
        }
    }
}

/// The kind whose world a module exports. Of one that exports none, it is an admission that says what it is not, as whatever kind.
pub(super) fn likely_kind(uploaded: &[u8]) -> PolicyKind {
    policy_host::kind_of(uploaded).unwrap_or(PolicyKind::Route)
}

fn host(cache: &Path) -> Result<Host, policy_host::HostError> {
    // The compiler's child is for what comes from outside; here it is the caller's own, or was admitted by a node.
    Host::new(HostConfig {
        cache: cache.to_owned(),
        cache_bytes_max: KEPT_BYTES_MAX,
        compiler: Compiler::InProcess,
        fast_slots: 2,
        fast_resident_bytes: FAST_RESIDENT_BYTES_DEFAULT,
        slow_threads: 1,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test says where")]

    use super::*;

    #[test]
    fn the_folder_is_the_users_own_and_needs_a_home_that_is_there() {
        let of = |pairs: &[(&str, &str)]| {
            CodeFolder::of(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()).0
        };
        let home = tempfile::tempdir().unwrap();
        let at = home.path().to_str().unwrap();
        assert_eq!(of(&[("XDG_CACHE_HOME", "/caches"), ("HOME", at)]), Some(PathBuf::from("/caches/keyrelay/policy-code")));
        assert_eq!(of(&[("XDG_CACHE_HOME", ""), ("HOME", at)]), Some(home.path().join(".cache/keyrelay/policy-code")));
        assert_eq!(of(&[("HOME", "/nonexistent")]), None);
        assert_eq!(of(&[("XDG_CACHE_HOME", "relative")]), None);
    }
}
