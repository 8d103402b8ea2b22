//! The root keys that a node was given, and which of them the cluster wants.
//!
//! A node may be given several: the one in use, and one that is to follow, so that it is in place before the change. What a file holds that
//! the log does not know is left alone.

use std::path::Path;

use schemas::Digest;
use schemas::cluster::Cluster;
use schemas::root_key::RootKeyState;
use vault::{RootKey, RootKeyVersion, RootKeys, files};

use super::{Founder, FoundingError, Sources, read_text};

/// Where in `DATA` a root key lies that is to follow on `root.key`. It is looked for while the node runs, so that no restart is needed.
pub const NEXT_ROOT_KEY: &str = "root.key.next";

impl Sources {
    /// Every root key that this node has now. A further file that is not there yet is none; one that is no root key is an error.
    pub fn root_keys(&self) -> Result<Vec<RootKey>, FoundingError> {
        let own = self.data.join("root.key");
        let first = match &self.root_key {
            Some(given) => Some(given.clone()),
            None => read_root_key(&own)?,
        };
        let mut keys: Vec<RootKey> = first.into_iter().collect();
        for path in [self.data.join(NEXT_ROOT_KEY)].iter().chain(&self.root_key_files) {
            keys.extend(read_root_key(path)?);
        }
        Ok(keys)
    }

    /// Lets `DATA/root.key` follow a change that is over: the next root key takes its name when the one there is destroyed. A root key that was
    /// given from elsewhere is whoever gave it's to replace.
    pub(crate) fn settle_root_key_files(&self, cluster: &Cluster) -> Result<bool, FoundingError> {
        let (own, next) = (self.data.join("root.key"), self.data.join(NEXT_ROOT_KEY));
        let (Some(old), Some(new)) = (read_root_key(&own)?, read_root_key(&next)?) else { return Ok(false) };
        let is_over = cluster.root_keys.destroyed.contains(&old.commitment()) && cluster.root_keys.active().commitment == new.commitment();
        if self.root_key.is_some() || !is_over {
            return Ok(false);
        }
        // Written whole under the name before the other name goes: a crash in between leaves both.
        files::write_secret(&own, format!("{}\n", new.text().as_str()).as_bytes())?;
        std::fs::remove_file(&next).map_err(|source| files::WriteSecretError::Io { path: next, source })?;
        Ok(true)
    }
}

/// What the vault opens with: the active root key, and those of the given ones that the log knows beside it.
pub(super) fn choose(sources: &Sources, cluster: &Cluster) -> Result<RootKeys, FoundingError> {
    let path = sources.data.join("root.key");
    let given = sources.root_keys()?;
    let (founder, first) = (Founder::of(cluster), given.first().map(RootKey::commitment));
    let active = cluster.root_keys.active().commitment;
    let (mut known, unknown): (Vec<RootKey>, Vec<RootKey>) =
        given.into_iter().partition(|key| cluster.root_keys.get(&key.commitment()).is_some());
    for key in &unknown {
        tracing::info!(root_key = %key.version(), "a root key that the log does not know is left alone");
    }
    let index = known.iter().position(|key| key.commitment() == active);
    match (index, first) {
        (Some(index), _) => Ok(RootKeys::new(known.swap_remove(index), known)),
        (None, Some(given)) => Err(FoundingError::OtherRootKey { founder, given, path }),
        (None, None) => Err(FoundingError::RootKeyMissing { founder, path }),
    }
}

/// The older root keys that data keys may still lie under.
pub(super) fn older(cluster: &Cluster) -> Vec<Digest> {
    let older = cluster.root_keys.held.iter().filter(|key| key.state == RootKeyState::DecryptOnly);
    older.map(|key| key.commitment).collect()
}

/// An older root key that this vault does not hold, and the number of data keys that lie under it; none where it holds what it needs.
pub(super) fn lacking(vault: &vault::Vault, older: &[Digest]) -> Result<Option<(Digest, u64)>, vault::StoreError> {
    let unheld: Vec<&Digest> = older.iter().filter(|key| !vault.holds_root_key(RootKeyVersion::of(key))).collect();
    if unheld.is_empty() {
        return Ok(None);
    }
    let counts = vault.count_wrapped()?;
    let count = |key: &Digest| counts.get(&RootKeyVersion::of(key)).copied().filter(|count| *count > 0);
    Ok(unheld.into_iter().find_map(|key| Some((*key, count(key)?))))
}

pub(super) fn read_root_key(path: &Path) -> Result<Option<RootKey>, FoundingError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    Ok(Some(RootKey::parse(&text)?))
}
