//! Secrets that are sealed, but not in the key store: into bytes that the caller keeps, for as long as the store cannot be reached.
//!
//! ```text
//! wrapped data key, of fixed length | sealed bytes
//! ```
//! Both are what the store would hold, bound to the same address, so that nothing that is kept apart opens at another place.

use schemas::Timestamp;
use zeroize::Zeroizing;

use crate::address::SecretAddress;
use crate::aead::{DataKey, Forged, NoRandomness};
use crate::seal;
use crate::vault::{UnsealError, Vault};
use crate::wrap::{self, Times};

impl Vault {
    /// Seals a secret into bytes. Nothing is stored.
    pub fn seal_apart(&self, address: &SecretAddress, plaintext: &[u8], now: Timestamp) -> Result<Vec<u8>, NoRandomness> {
        let key = DataKey::generate()?;
        let mut bytes = self.keyring.wrap(&key, &address.slot(), Times { touched_at: now, expires_at: None })?;
        bytes.extend_from_slice(&seal::seal(&key, address, plaintext)?);
        Ok(bytes)
    }

    /// Opens what was sealed apart.
    pub fn unseal_apart(&self, address: &SecretAddress, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let (wrapped, sealed) = bytes.split_at_checked(wrap::LENGTH).ok_or(UnsealError::Tampered)?;
        let (key, _) = self.keyring.unwrap(wrapped, &address.slot())?;
        seal::unseal(&key, address, sealed).map_err(|Forged| UnsealError::Tampered)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use std::sync::Arc;

    use super::*;
    use crate::{MemoryKeyStore, RootKey};
    use schemas::TenantId;

    fn address(version: u32) -> SecretAddress {
        SecretAddress {
            tenant: TenantId::default_tenant(),
            owner_kind: "credential",
            owner_id: [1; 16],
            field: "answer",
            version,
            origin: String::new(),
        }
    }

    #[test]
    fn what_is_sealed_apart_opens_at_its_address_under_its_root_key_and_nowhere_else() {
        let vault = |root| Vault::open(root, Arc::new(MemoryKeyStore::default())).unwrap();
        let ours = vault(RootKey::generate().unwrap());
        let bytes = ours.seal_apart(&address(1), b"canary", Timestamp::from_micros(1)).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"));
        assert_eq!(ours.unseal_apart(&address(1), &bytes).unwrap().as_slice(), b"canary");
        assert!(matches!(ours.unseal_apart(&address(2), &bytes), Err(UnsealError::Tampered)));
        assert!(matches!(ours.unseal_apart(&address(1), &bytes[..40]), Err(UnsealError::Tampered)));
        let other = vault(RootKey::generate().unwrap());
        assert!(matches!(other.unseal_apart(&address(1), &bytes), Err(UnsealError::WrongRootKey { .. })));
    }
}
