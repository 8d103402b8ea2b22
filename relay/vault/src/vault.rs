//! What callers do with secrets: seal, unseal, erase.
//!
//! A secret is two entries in one slot. The wrapped data key is written first, then the sealed bytes; so a crash in between leaves a data
//! key without a secret, which a later seal takes over and a sweep removes. Erasing goes the same way: the data key first, and with it the
//! secret, then the bytes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use schemas::{TenantId, Timestamp};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::address::{SecretAddress, Slot};
use crate::aead::{DataKey, Forged, NoRandomness};
use crate::cluster_secrets::Pepper;
use crate::key_store::{Entry, KeyStore, Put, StoreError, Swap};
use crate::keyring::{Keyring, NotHeld, RootKeys};
use crate::root_key::{RootKey, RootKeyVersion};
use crate::salts::Salts;
use crate::seal;
use crate::wrap::{Times, UnwrapError};

/// The longest secret: far above any credential, so that a mistake does not fill the store.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// How often a compare-and-swap is tried against others at the same slot before giving up.
pub(crate) const SWAP_ATTEMPTS: usize = 16;

/// How long a reader waits before it asks again for a secret that may be on its way.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// When a secret was sealed and until when it is kept. The vault has no clock; the caller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    pub sealed_at: Timestamp,
    /// None for a secret that is kept until it is erased. See [`Vault::sweep_expired`].
    pub expires_at: Option<Timestamp>,
}

impl Lifetime {
    /// Kept until erased.
    pub const fn lasting(now: Timestamp) -> Self {
        Self { sealed_at: now, expires_at: None }
    }

    /// Kept for a number of seconds.
    pub fn of_seconds(now: Timestamp, seconds: u64) -> Self {
        Self { sealed_at: now, expires_at: Some(now.plus_seconds(seconds)) }
    }
}

/// What came of a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "where a secret exists already, the caller's plaintext was not stored"]
pub enum Sealing {
    /// The secret is durable.
    Sealed,
    /// Another secret is durable at this address, sealed earlier or just now; the caller unseals it and goes on with that.
    Exists,
}

/// Why a vault does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the root key is not the one that this key store was written under: it is {given}, the store names {named}")]
    WrongRootKey { given: RootKeyVersion, named: RootKeyVersion },
    #[error("the vault's pepper is lost or damaged: the key store was changed from outside, or restored in part")]
    PepperDamaged,
    #[error("the key store is empty, but secrets were sealed in it: it is another store, or was lost; restore it, or name the right one")]
    Empty,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a secret was not sealed.
#[derive(Debug, Error)]
pub enum SealError {
    #[error("a secret has at most {SECRET_BYTES_MAX} bytes, this one has {bytes}")]
    TooLarge { bytes: usize },
    #[error("the secret at this address was erased in part; erasing must be finished before another is sealed here")]
    Erased,
    #[error("the data key at this address was changed from outside")]
    Tampered,
    #[error("the data key at this address is wrapped under another root key, {named}")]
    WrongRootKey { named: RootKeyVersion },
    #[error("too many others write at this address")]
    Contended,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a secret does not unseal.
#[derive(Debug, Error)]
pub enum UnsealError {
    #[error("there is no secret at this address")]
    Missing,
    #[error("the secret is erased: its data key is gone")]
    Erased,
    #[error("the secret was changed, or does not belong to this address and origin")]
    Tampered,
    #[error("the data key is wrapped under another root key, {named}")]
    WrongRootKey { named: RootKeyVersion },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Seals and unseals the secrets of one key store under its root keys. All calls may run in parallel; all block on the store.
pub struct Vault {
    pub(crate) keyring: Keyring,
    pub(crate) store: Arc<dyn KeyStore>,
    pub(crate) pepper: Pepper,
    pub(crate) salts: Salts,
    /// Whether a subject's key was to be destroyed since the last [`Vault::sweep_subjects`], and was not.
    pub(crate) is_erase_unfinished: AtomicBool,
}

impl Vault {
    /// Opens the vault. The first open of an empty store draws the pepper; every later one proves the root key on it, so that a wrong root
    /// key is refused here and not at the first request.
    pub fn open(root: impl Into<RootKeys>, store: Arc<dyn KeyStore>) -> Result<Self, OpenError> {
        Self::with_pepper(&root.into(), store, Self::load_or_draw_pepper)
    }

    /// Opens the vault of a cluster that is founded: its pepper is there, and an empty store is refused rather than given another one, under which
    /// every fingerprint would be another.
    pub fn open_existing(root: impl Into<RootKeys>, store: Arc<dyn KeyStore>) -> Result<Self, OpenError> {
        Self::with_pepper(&root.into(), store, Self::load_pepper)
    }

    fn with_pepper(root: &RootKeys, store: Arc<dyn KeyStore>, pepper: fn(&Self) -> Result<Pepper, OpenError>) -> Result<Self, OpenError> {
        let keyring = Keyring::new(root);
        let is_erase_unfinished = AtomicBool::new(false);
        let mut vault = Self { keyring, store, pepper: Pepper::none(), salts: Salts::default(), is_erase_unfinished };
        vault.pepper = pepper(&vault)?;
        Ok(vault)
    }

    /// The root key that data keys are wrapped under.
    pub fn root_key_version(&self) -> RootKeyVersion {
        self.keyring.active()
    }

    /// Whether data keys under this root key open.
    pub fn holds_root_key(&self, version: RootKeyVersion) -> bool {
        self.keyring.holds(version)
    }

    /// Takes another root key: data keys under it open from now on.
    pub fn hold_root_key(&self, key: &RootKey) {
        self.keyring.hold(key);
    }

    /// Wraps data keys under a root key that is held from now on. Those under the one before still open.
    pub fn activate_root_key(&self, version: RootKeyVersion) -> Result<(), NotHeld> {
        self.keyring.activate(version)
    }

    /// Forgets a root key, unless data keys are wrapped under it: what lies under it opens no more.
    pub fn forget_root_key(&self, version: RootKeyVersion) {
        self.keyring.forget(version);
    }

    /// Seals a secret where there is none. It is durable when this returns.
    pub fn seal(&self, address: &SecretAddress, plaintext: &[u8], lifetime: Lifetime) -> Result<Sealing, SealError> {
        if plaintext.len() > SECRET_BYTES_MAX {
            return Err(SealError::TooLarge { bytes: plaintext.len() });
        }
        let slot = address.slot();
        for _ in 0..SWAP_ATTEMPTS {
            let exists = self.store.read(Entry::Sealed, &slot)?.is_some();
            let Some(key) = self.claim_key(&slot, exists, lifetime)? else {
                continue;
            };
            if exists {
                return Ok(Sealing::Exists);
            }
            let sealed = seal::seal(&key, address, plaintext)?;
            return Ok(match self.store.put_sealed(&slot, &sealed)? {
                Put::Stored => Sealing::Sealed,
                Put::Exists => Sealing::Exists,
            });
        }
        Err(SealError::Contended)
    }

    /// The data key to seal with, written again with the present time so that no sweep takes it for an old orphan; none if another writer
    /// was quicker. Who finds a key uses it and never replaces it: its owner may be about to put bytes under it.
    fn claim_key(&self, slot: &Slot, exists: bool, lifetime: Lifetime) -> Result<Option<DataKey>, SealError> {
        let found = self.store.read(Entry::Wrapped, slot)?;
        let (key, times) = match &found {
            None if exists => return Err(SealError::Erased),
            None => (DataKey::generate()?, Times { touched_at: lifetime.sealed_at, expires_at: lifetime.expires_at }),
            Some(wrapped) => {
                let (key, times) = self.keyring.unwrap(wrapped, slot)?;
                let expires_at = if exists { times.expires_at } else { lifetime.expires_at };
                (key, Times { touched_at: times.touched_at.max(lifetime.sealed_at), expires_at })
            }
        };
        let wrapped = self.keyring.wrap(&key, slot, times)?;
        match self.store.swap_wrapped(slot, found.as_deref(), Some(&wrapped))? {
            Swap::Swapped => Ok(Some(key)),
            Swap::Conflict => Ok(None),
        }
    }

    /// Opens a secret.
    pub fn unseal(&self, address: &SecretAddress) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let slot = address.slot();
        let sealed = self.store.read(Entry::Sealed, &slot)?.ok_or(UnsealError::Missing)?;
        let wrapped = self.store.read(Entry::Wrapped, &slot)?.ok_or(UnsealError::Erased)?;
        let (key, _) = self.keyring.unwrap(&wrapped, &slot)?;
        seal::unseal(&key, address, &sealed).map_err(|Forged| UnsealError::Tampered)
    }

    /// Opens a secret that may be on its way, as one is that a cluster's store lost and is about to get back: asks again until it is there
    /// or the time is over.
    pub fn unseal_within(&self, address: &SecretAddress, wait: Duration) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let deadline = Instant::now() + wait;
        loop {
            match self.unseal(address) {
                Err(UnsealError::Missing | UnsealError::Store(StoreError::Unavailable { .. })) if Instant::now() + ASK_AGAIN < deadline => {
                    thread::sleep(ASK_AGAIN);
                }
                opened => return opened,
            }
        }
    }

    /// Destroys the data key, then the bytes. Doing it again is safe, and is how an erase that failed half way is finished.
    pub fn erase(&self, address: &SecretAddress) -> Result<(), StoreError> {
        self.erase_slots(&[address.slot()])
    }

    /// Erases every secret of one owner.
    pub fn erase_owner(&self, tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Result<(), StoreError> {
        self.erase_slots(&self.store.owner_slots(tenant, owner_kind, owner_id)?)
    }

    pub(crate) fn erase_slots(&self, slots: &[Slot]) -> Result<(), StoreError> {
        for slot in slots {
            let sealed = self.store.read(Entry::Sealed, slot)?;
            // Each conflict means that another writer got on; it ends when they do.
            while let Some(wrapped) = self.store.read(Entry::Wrapped, slot)? {
                self.store.swap_wrapped(slot, Some(&wrapped), None)?;
            }
            if let Some(sealed) = sealed {
                self.store.delete_sealed(slot, &sealed)?;
            }
        }
        self.store.scrub(slots)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("root_key", &self.root_key_version()).finish_non_exhaustive()
    }
}

impl From<UnwrapError> for SealError {
    fn from(error: UnwrapError) -> Self {
        match error {
            UnwrapError::Forged => Self::Tampered,
            UnwrapError::WrongRootKey(named) => Self::WrongRootKey { named },
        }
    }
}

impl From<UnwrapError> for UnsealError {
    fn from(error: UnwrapError) -> Self {
        match error {
            UnwrapError::Forged => Self::Tampered,
            UnwrapError::WrongRootKey(named) => Self::WrongRootKey { named },
        }
    }
}
