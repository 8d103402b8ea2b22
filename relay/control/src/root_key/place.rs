//! Where a re-wrap is, in a file of the node's own, so that one that is cut short every second comes to its end all the same: what was gone
//! through is not gone through again, though it would be quickly.
//!
//! The file may be older than the key store, never newer: entries are swapped before it is written. One that cannot be read is as none, and the
//! re-wrap begins anew. What a root key is destroyed on is another scan, which trusts no file.

use std::path::{Path, PathBuf};
use std::{fs, io};

use schemas::Digest;
use serde::{Deserialize, Serialize};
use vault::{Rewrap, RewrapError, Slot, Vault};

/// Data keys of one write to the store.
const PAGE: usize = 512;
/// The most entries at fault that are named.
const NAMED_MAX: usize = 20;

/// What is done with every data key, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    Rewrapping,
    Verifying,
}

/// Where a re-wrap is, and what was found in the pass that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// What is wrapped under.
    pub(super) root_key: Digest,
    pub(super) stage: Stage,
    /// Data keys there were at the beginning.
    pub(super) total: u64,
    pub(super) seen: u64,
    /// Those that were wrapped again in this pass, or in a scan those that are still to be.
    pub(super) rewrapped: u64,
    pub(super) damaged: u64,
    pub(super) unheld: u64,
    /// Where the first of these lie: `<tenant>/<kind>/<id>/<field>/<version>`.
    pub(super) at_fault: Vec<String>,
    /// The last slot that was gone through, encoded; none before the first.
    after: Option<Vec<u8>>,
}

impl Place {
    pub(super) fn beginning(root_key: Digest, stage: Stage, total: u64) -> Self {
        Self { root_key, stage, total, seen: 0, rewrapped: 0, damaged: 0, unheld: 0, at_fault: Vec::new(), after: None }
    }

    /// The beginning of a pass of another stage.
    pub(super) fn turned(&self, stage: Stage) -> Self {
        Self::beginning(self.root_key, stage, self.total)
    }

    /// Goes through the next data keys. True at the end of the pass; how many were wrapped again.
    pub(super) fn go_on(&mut self, vault: &Vault) -> Result<(bool, u64), RewrapError> {
        let after = self.after.as_deref().and_then(Slot::decode);
        let (part, next) = match self.stage {
            Stage::Rewrapping => vault.rewrap(after.as_ref(), PAGE)?,
            Stage::Verifying => vault.verify_wrapped(after.as_ref(), PAGE)?,
        };
        self.add(&part);
        let is_end = next.is_none();
        if let Some(next) = next {
            self.after = Some(next.encode());
        }
        Ok((is_end, part.rewrapped))
    }

    fn add(&mut self, part: &Rewrap) {
        self.seen += part.seen;
        self.rewrapped += part.rewrapped;
        self.damaged += part.damaged;
        self.unheld += part.unheld;
        self.at_fault.extend(part.at_fault.iter().map(spell));
        self.at_fault.truncate(NAMED_MAX);
    }
}

/// The file that keeps a place.
pub(super) struct PlaceFile(PathBuf);

impl PlaceFile {
    pub(super) fn of(data: &Path) -> Self {
        Self(data.join("rewrap.place"))
    }

    /// Where the re-wrap under this root key was; none if there was none, or nobody can tell.
    pub(super) fn read(&self, root_key: &Digest) -> Option<Place> {
        let place: Place = postcard::from_bytes(&fs::read(&self.0).ok()?).ok()?;
        (place.root_key == *root_key).then_some(place)
    }

    /// Replaces the file as a whole. It need not be durable.
    pub(super) fn write(&self, place: &Place) -> io::Result<()> {
        let new = self.0.with_extension("new");
        fs::write(&new, postcard::to_allocvec(place).map_err(io::Error::other)?)?;
        fs::rename(new, &self.0)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A slot as people read it.
fn spell(slot: &Slot) -> String {
    let id: String = slot.owner_id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}/{}/{id}/{}/{}", slot.tenant.as_str(), slot.owner_kind, slot.field, slot.version)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use std::sync::Arc;

    use schemas::{TenantId, Timestamp};
    use vault::{Lifetime, MemoryKeyStore, RootKey, RootKeys, SecretAddress, Vault};

    use super::*;

    const SECRETS: u32 = 2_000;

    /// A vault of secrets under another root key than the active one.
    fn vault() -> (Vault, Digest) {
        let (store, old, new) = (Arc::new(MemoryKeyStore::default()), RootKey::generate().unwrap(), RootKey::generate().unwrap());
        let before = Vault::open(old.clone(), store.clone()).unwrap();
        for number in 0..SECRETS {
            let mut owner_id = [0; 16];
            owner_id[..4].copy_from_slice(&number.to_be_bytes());
            let address = SecretAddress {
                tenant: TenantId::default_tenant(),
                owner_kind: "credential",
                owner_id,
                field: "secret",
                version: 1,
                origin: String::new(),
            };
            let _ = before.seal(&address, b"secret", Lifetime::lasting(Timestamp::from_micros(1))).unwrap();
        }
        let commitment = new.commitment();
        (Vault::open(RootKeys::new(new, [old]), store).unwrap(), commitment)
    }

    #[test]
    fn a_rewrap_that_is_cut_short_after_every_page_comes_to_its_end_and_goes_through_nothing_twice() {
        let (directory, (vault, root_key)) = (tempfile::tempdir().unwrap(), vault());
        let file = PlaceFile::of(directory.path());
        for stage in [Stage::Rewrapping, Stage::Verifying] {
            file.write(&Place::beginning(root_key, stage, 0)).unwrap();
            let (mut lives, mut rewrapped) = (0, 0);
            let whole = loop {
                // All that a new process knows.
                let mut place = file.read(&root_key).unwrap();
                let (is_end, part) = place.go_on(&vault).unwrap();
                rewrapped += part;
                file.write(&place).unwrap();
                lives += 1;
                if is_end {
                    break place;
                }
            };
            assert_eq!((whole.rewrapped, whole.damaged, whole.unheld), (rewrapped, 0, 0));
            assert!(whole.seen >= u64::from(SECRETS) && whole.seen < u64::from(SECRETS) + PAGE as u64, "{whole:?}");
            assert!(lives > 3);
            assert_eq!(rewrapped > 0, stage == Stage::Rewrapping);
        }
    }

    #[test]
    fn a_place_of_another_root_key_or_one_that_cannot_be_read_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = PlaceFile::of(directory.path());
        let (ours, other) = (RootKey::generate().unwrap().commitment(), RootKey::generate().unwrap().commitment());
        assert_eq!(file.read(&ours), None);
        let place = Place::beginning(ours, Stage::Verifying, 7);
        file.write(&place).unwrap();
        assert_eq!((file.read(&ours), file.read(&other)), (Some(place), None));
        fs::write(directory.path().join("rewrap.place"), [0xff; 9]).unwrap();
        assert_eq!(file.read(&ours), None);
        file.remove().unwrap();
        file.remove().unwrap();
    }
}
