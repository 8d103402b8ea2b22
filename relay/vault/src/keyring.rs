//! The root keys that a vault holds: one that it wraps under, and any that it unwraps under.
//!
//! A wrapped data key names its root key, so that there is nothing to try out: it opens under the one it names, or does not open. Of every root
//! key only what wraps and what names it stay in memory.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use thiserror::Error;

use crate::address::Slot;
use crate::aead::{DataKey, NoRandomness};
use crate::root_key::{RootKey, RootKeyVersion};
use crate::wrap::{Header, Times, UnwrapError, WrappingKey};

/// The root keys that a vault opens with.
pub struct RootKeys {
    active: RootKey,
    others: Vec<RootKey>,
}

impl RootKeys {
    /// Data keys are wrapped under `active`, and open under it and the others.
    pub fn new(active: RootKey, others: impl IntoIterator<Item = RootKey>) -> Self {
        Self { active, others: others.into_iter().collect() }
    }
}

impl From<RootKey> for RootKeys {
    fn from(active: RootKey) -> Self {
        Self::new(active, [])
    }
}

/// The vault does not hold a root key that it was to wrap under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the vault does not hold the root key {0}")]
pub struct NotHeld(pub RootKeyVersion);

pub(crate) struct Keyring {
    /// Written when the log says that a root key comes, changes or goes; read with every secret.
    held: RwLock<Held>,
}

struct Held {
    active: Arc<WrappingKey>,
    others: Vec<Arc<WrappingKey>>,
}

impl Keyring {
    pub(crate) fn new(keys: &RootKeys) -> Self {
        let active = Arc::new(WrappingKey::of(&keys.active));
        let mut others: Vec<Arc<WrappingKey>> = Vec::new();
        for key in &keys.others {
            let key = WrappingKey::of(key);
            if key.version() != active.version() && others.iter().all(|other| other.version() != key.version()) {
                others.push(Arc::new(key));
            }
        }
        Self { held: RwLock::new(Held { active, others }) }
    }

    /// The version that is wrapped under.
    pub(crate) fn active(&self) -> RootKeyVersion {
        self.held.read().active.version()
    }

    pub(crate) fn holds(&self, version: RootKeyVersion) -> bool {
        self.held.read().get(version).is_some()
    }

    pub(crate) fn hold(&self, key: &RootKey) {
        let mut held = self.held.write();
        if held.get(key.version()).is_none() {
            held.others.push(Arc::new(WrappingKey::of(key)));
        }
    }

    pub(crate) fn activate(&self, version: RootKeyVersion) -> Result<(), NotHeld> {
        let mut held = self.held.write();
        if held.active.version() == version {
            return Ok(());
        }
        let index = held.others.iter().position(|key| key.version() == version).ok_or(NotHeld(version))?;
        let Held { active, others } = &mut *held;
        std::mem::swap(active, &mut others[index]);
        Ok(())
    }

    /// Forgets a root key, unless it is the one that is wrapped under.
    pub(crate) fn forget(&self, version: RootKeyVersion) {
        self.held.write().others.retain(|key| key.version() != version);
    }

    /// Wraps under the active root key.
    pub(crate) fn wrap(&self, key: &DataKey, slot: &Slot, times: Times) -> Result<Vec<u8>, NoRandomness> {
        let active = self.held.read().active.clone();
        active.wrap(key, slot, times)
    }

    /// Unwraps under the root key that the wrapped key names, if it is held.
    pub(crate) fn unwrap(&self, wrapped: &[u8], slot: &Slot) -> Result<(DataKey, Times), UnwrapError> {
        let version = Header::parse(wrapped).map_err(|_| UnwrapError::Forged)?.version;
        let key = self.held.read().get(version).cloned().ok_or(UnwrapError::WrongRootKey(version))?;
        key.unwrap(wrapped, slot)
    }
}

impl Held {
    fn get(&self, version: RootKeyVersion) -> Option<&Arc<WrappingKey>> {
        [&self.active].into_iter().chain(&self.others).find(|key| key.version() == version)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({})", self.active())
    }
}
