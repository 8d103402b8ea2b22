//! Salts of other systems, under which keys that came from there are known until they show their secrets.
//!
//! A salt is a secret of the cluster: `ENCRYPTION_KEY` of a claude-relay-service also opens its accounts. It is sealed once, under the next
//! version, and the version stands in the log. Version 0 is the empty salt, and is in no vault.

use std::collections::HashMap;
use std::fmt;

use parking_lot::RwLock;
use schemas::{Digest, Timestamp};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::address::SecretAddress;
use crate::cluster_secrets::address;
use crate::vault::{Lifetime, SealError, Sealing, UnsealError, Vault};

/// The most salts of one cluster: a text that no key of ours has is hashed under each.
pub const SALTS_MAX: u32 = 16;
const FIELD: &str = "salt";

/// Salts that were opened, by version.
#[derive(Default)]
pub(crate) struct Salts {
    /// Written by whoever needs one first.
    opened: RwLock<HashMap<u32, Zeroizing<Vec<u8>>>>,
}

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salts(hidden)")
    }
}

/// Why a salt was not sealed.
#[derive(Debug, Error)]
pub enum SealSaltError {
    #[error("there are {SALTS_MAX} salts of other systems already")]
    TooMany,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Unseal(#[from] UnsealError),
}

impl Vault {
    /// The version that a salt has, or comes to have when it is sealed next.
    pub fn salt_version(&self, salt: &[u8]) -> Result<u32, SealSaltError> {
        if salt.is_empty() {
            return Ok(0);
        }
        for version in 1..=SALTS_MAX {
            match self.unseal(&salt_address(version)) {
                Ok(present) if present.as_slice() != salt => {}
                Ok(_) | Err(UnsealError::Missing) => return Ok(version),
                Err(error) => return Err(error.into()),
            }
        }
        Err(SealSaltError::TooMany)
    }

    /// Seals a salt, unless it is; gives its version. Of several that seal at once, each gets a version of its own.
    pub fn seal_salt(&self, salt: &[u8], now: Timestamp) -> Result<u32, SealSaltError> {
        loop {
            let version = self.salt_version(salt)?;
            if version == 0 {
                return Ok(version);
            }
            match self.seal(&salt_address(version), salt, Lifetime::lasting(now))? {
                Sealing::Sealed => return Ok(version),
                Sealing::Exists if self.unseal(&salt_address(version))?.as_slice() == salt => return Ok(version),
                Sealing::Exists => {}
            }
        }
    }

    /// The hash of a text under a salt that was opened before; none where it must be opened first. Touches no store.
    pub fn salted_hash(&self, version: u32, text: &str) -> Option<Digest> {
        if version == 0 {
            return Some(hash(text, &[]));
        }
        self.salts.opened.read().get(&version).map(|salt| hash(text, salt))
    }

    /// Opens a salt, for [`Vault::salted_hash`].
    pub fn open_salt(&self, version: u32) -> Result<(), UnsealError> {
        if version > 0 && !self.salts.opened.read().contains_key(&version) {
            let salt = self.unseal(&salt_address(version))?;
            self.salts.opened.write().insert(version, salt);
        }
        Ok(())
    }
}

/// As claude-relay-service makes it: `sha256(key + ENCRYPTION_KEY)`.
fn hash(text: &str, salt: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::new().chain_update(text).chain_update(salt).finalize().into())
}

/// Where the salt of a version lies, which is never 0.
pub fn salt_address(version: u32) -> SecretAddress {
    address([0; 16], FIELD, version)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::sync::Arc;

    use super::*;
    use crate::{MemoryKeyStore, RootKey};

    const NOW: Timestamp = Timestamp::from_micros(1);

    #[test]
    fn a_salt_is_sealed_once_and_found_again_by_another_node() {
        let (root, store) = (RootKey::generate().unwrap(), Arc::new(MemoryKeyStore::default()));
        let vault = Vault::open(root.clone(), store.clone()).unwrap();
        assert_eq!((vault.salt_version(b"one").unwrap(), vault.seal_salt(b"one", NOW).unwrap()), (1, 1));
        assert_eq!((vault.seal_salt(b"two", NOW).unwrap(), vault.seal_salt(b"one", NOW).unwrap()), (2, 1));
        assert_eq!(vault.salt_version(b"").unwrap(), 0);
        let other = Vault::open(root, store).unwrap();
        assert_eq!(other.salted_hash(2, "cr_x"), None);
        other.open_salt(2).unwrap();
        assert!(matches!(other.open_salt(3), Err(UnsealError::Missing)));
        // printf 'cr_xtwo' | sha256sum, printf 'cr_x' | sha256sum
        assert_eq!(other.salted_hash(2, "cr_x").unwrap().to_string(), "b10f9002aadd99487d1790dc5136fd5ea07d42428a2f47c44491c119147da8e7");
        assert_eq!(other.salted_hash(0, "cr_x").unwrap().to_string(), "fab661fadee4ecd356cebbc86eb7f63982c664b03389d91ea7da533bcf0c8718");
        for n in 3..=SALTS_MAX {
            assert_eq!(vault.seal_salt(n.to_string().as_bytes(), NOW).unwrap(), n);
        }
        assert!(matches!(vault.seal_salt(b"more", NOW), Err(SealSaltError::TooMany)));
    }
}
