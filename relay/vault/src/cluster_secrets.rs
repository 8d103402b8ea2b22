//! The cluster's own secrets: its signing key and the pepper of fingerprints. They are random, versioned, and wrapped like any other, so
//! that changing the root key voids nothing.

use std::fmt;

use schemas::{ClusterId, Digest, TenantId, Timestamp};
use zeroize::Zeroizing;

use crate::address::{SecretAddress, Slot};
use crate::aead;
use crate::key_store::{Entry, StoreError};
use crate::vault::{Lifetime, OpenError, SealError, Sealing, UnsealError, Vault};

/// The owner kind of the cluster's secrets. No sweep touches them.
pub(crate) const OWNER_KIND: &str = "cluster";

const FINGERPRINT_DOMAIN: &str = "keyrelay 2026 vault fingerprint v1";
const DIGEST_DOMAIN: &str = "keyrelay 2026 vault keyed digest v1";
const CLIENT_KEY_DOMAIN: &str = "keyrelay 2026 vault client key v1";
const PEPPER_VERSION: u32 = 1;

/// Random bytes that fingerprints are keyed with, so that no one without the vault can test a guess against one.
pub(crate) struct Pepper {
    version: u32,
    /// Derived from the pepper for fingerprints alone.
    key: Zeroizing<[u8; 32]>,
    /// Derived from the pepper for digests alone.
    digest_key: Zeroizing<[u8; 32]>,
    /// Derived from the pepper for client keys that were not issued here alone.
    client_key: Zeroizing<[u8; 32]>,
}

impl Pepper {
    /// Stands in while a vault opens; never seen outside.
    pub(crate) fn none() -> Self {
        Self { version: 0, key: Zeroizing::new([0; 32]), digest_key: Zeroizing::new([0; 32]), client_key: Zeroizing::new([0; 32]) }
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pepper({}, hidden)", self.version)
    }
}

impl Vault {
    /// Seals the seed of the cluster's Ed25519 key, as `cluster/<cluster id>/1`.
    pub fn seal_cluster_key(&self, cluster: &ClusterId, seed: &[u8; 32], now: Timestamp) -> Result<Sealing, SealError> {
        self.seal(&cluster_key_address(cluster), seed, Lifetime::lasting(now))
    }

    /// The seed of the cluster's Ed25519 key.
    pub fn cluster_key(&self, cluster: &ClusterId) -> Result<Zeroizing<[u8; 32]>, UnsealError> {
        seed_of(&self.unseal(&cluster_key_address(cluster))?).ok_or(UnsealError::Tampered)
    }

    /// Erases the key of a cluster that was not founded after all: the orphan of a lost race.
    pub fn erase_cluster_key(&self, cluster: &ClusterId) -> Result<(), StoreError> {
        self.erase(&cluster_key_address(cluster))
    }

    /// A name for a secret that tells equal from unequal and nothing else: `<pepper version>:<32 hex>`.
    pub fn fingerprint(&self, secret: &[u8]) -> String {
        let hash = blake3::keyed_hash(&self.pepper.key, secret).to_hex();
        format!("{}:{}", self.pepper.version, &hash[..32])
    }

    /// A digest of something that may be guessable, such as a request's text: only the vault's holder can test a guess against it.
    pub fn keyed_digest(&self, bytes: &[u8]) -> Digest {
        Digest::from_bytes(*blake3::keyed_hash(&self.pepper.digest_key, bytes).as_bytes())
    }

    /// The hash under which a client key that was not issued here is known, and the version of the pepper in it. Such keys may be guessable:
    /// only the vault's holder can test a guess. Touches no store, and is cheap enough for every request.
    pub fn client_key_hash(&self, text: &str) -> (Digest, u32) {
        let hash = blake3::keyed_hash(&self.pepper.client_key, text.as_bytes());
        (Digest::from_bytes(*hash.as_bytes()), self.pepper.version)
    }

    /// Loads the pepper that is there.
    pub(crate) fn load_pepper(&self) -> Result<Pepper, OpenError> {
        match self.unseal(&pepper_address()) {
            Err(UnsealError::Missing) if self.store.scan(Entry::Sealed, None, 1)?.is_empty() => Err(OpenError::Empty),
            found => self.pepper_of(found),
        }
    }

    /// Loads the pepper, drawing it if the store is empty. Of several nodes that draw at once, all load the first.
    pub(crate) fn load_or_draw_pepper(&self) -> Result<Pepper, OpenError> {
        let address = pepper_address();
        // Asked before the pepper is: it is the first secret of every store, so others without it mean that it was lost.
        let is_new = self.store.scan(Entry::Sealed, None, 1)?.is_empty();
        let found = match self.unseal(&address) {
            Err(UnsealError::Missing) if is_new => {
                let drawn = aead::random::<32>()?;
                match self.seal(&address, &drawn[..], Lifetime::lasting(Timestamp::from_micros(0))) {
                    Ok(Sealing::Sealed | Sealing::Exists) => self.unseal(&address),
                    Err(SealError::WrongRootKey { named }) => Err(UnsealError::WrongRootKey { named }),
                    Err(SealError::Store(error)) => return Err(error.into()),
                    Err(SealError::NoRandomness(error)) => return Err(error.into()),
                    Err(SealError::TooLarge { .. } | SealError::Erased | SealError::Tampered | SealError::Contended) => {
                        Err(UnsealError::Tampered)
                    }
                }
            }
            found => found,
        };
        self.pepper_of(found)
    }

    fn pepper_of(&self, found: Result<Zeroizing<Vec<u8>>, UnsealError>) -> Result<Pepper, OpenError> {
        let secret = found.map_err(|error| match error {
            UnsealError::WrongRootKey { named } => OpenError::WrongRootKey { given: self.root_key_version(), named },
            UnsealError::Store(error) => error.into(),
            UnsealError::Missing | UnsealError::Erased | UnsealError::Tampered => OpenError::PepperDamaged,
        })?;
        let secret = seed_of(&secret).ok_or(OpenError::PepperDamaged)?;
        let derived = |domain| Zeroizing::new(blake3::derive_key(domain, &secret[..]));
        Ok(Pepper {
            version: PEPPER_VERSION,
            key: derived(FINGERPRINT_DOMAIN),
            digest_key: derived(DIGEST_DOMAIN),
            client_key: derived(CLIENT_KEY_DOMAIN),
        })
    }
}

fn seed_of(secret: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    (secret.len() == seed.len()).then(|| {
        seed.copy_from_slice(secret);
        seed
    })
}

fn cluster_key_address(cluster: &ClusterId) -> SecretAddress {
    address(*cluster.as_bytes(), "signing_key", 1)
}

/// Where the pepper lies: a store that has any secret has this one.
pub(crate) fn pepper_slot() -> Slot {
    pepper_address().slot()
}

/// The pepper belongs to the store and not to a cluster id: it is drawn before a cluster is founded.
fn pepper_address() -> SecretAddress {
    address([0; 16], "pepper", PEPPER_VERSION)
}

pub(crate) fn address(owner_id: [u8; 16], field: &'static str, version: u32) -> SecretAddress {
    SecretAddress { tenant: TenantId::none(), owner_kind: OWNER_KIND, owner_id, field, version, origin: String::new() }
}
