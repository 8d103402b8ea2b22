//! Re-wrapping: every data key is wrapped again under the active root key. Secrets are not touched.
//!
//! An entry names the root key that it lies under, so that the entries themselves say how far a re-wrap came: one that was cut short goes on
//! where it was by passing over what is done. Every entry is replaced by compare-and-swap, so that a seal, an erase or another node that was
//! quicker is never undone.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::address::Slot;
use crate::aead::NoRandomness;
use crate::key_store::{Entry, StoreError, Swap, Swapping};
use crate::root_key::RootKeyVersion;
use crate::seal;
use crate::vault::Vault;
use crate::wrap::{Header, UnwrapError};

/// The most slots of entries at fault that are named; all are counted.
const NAMED_MAX: usize = 20;

/// What came of a part of a re-wrap or a scan; parts add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrap {
    /// Data keys that were looked at.
    pub seen: u64,
    /// Those that lay under another root key and now lie under the active one.
    pub rewrapped: u64,
    /// Those that were changed or destroyed by another writer meanwhile; the next pass looks at them again.
    pub overtaken: u64,
    /// Entries that do not open, though their root key is held: changed from outside.
    pub damaged: u64,
    /// Entries under a root key that this vault does not hold.
    pub unheld: u64,
    /// Where the first of the damaged and unheld lie.
    pub at_fault: Vec<Slot>,
}

impl Rewrap {
    /// Adds another part.
    pub fn add(&mut self, part: Self) {
        self.seen += part.seen;
        self.rewrapped += part.rewrapped;
        self.overtaken += part.overtaken;
        self.damaged += part.damaged;
        self.unheld += part.unheld;
        self.at_fault.extend(part.at_fault);
        self.at_fault.truncate(NAMED_MAX);
    }

    fn fault(&mut self, slot: &Slot, error: UnwrapError) {
        match error {
            UnwrapError::Forged => self.damaged += 1,
            UnwrapError::WrongRootKey(_) => self.unheld += 1,
        }
        if self.at_fault.len() < NAMED_MAX {
            self.at_fault.push(slot.clone());
        }
    }
}

/// Why a re-wrap stopped. What was done stays done.
#[derive(Debug, Error)]
pub enum RewrapError {
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Vault {
    /// How many data keys lie under each root key, by what they say of themselves.
    pub fn count_wrapped(&self) -> Result<BTreeMap<RootKeyVersion, u64>, StoreError> {
        let mut counts = BTreeMap::new();
        self.each(Entry::Wrapped, |_, wrapped| {
            if let Ok(header) = Header::parse(wrapped) {
                *counts.entry(header.version).or_default() += 1;
            }
            Ok(())
        })?;
        Ok(counts)
    }

    /// Wraps the next data keys beyond `after` again, at most `limit`. Gives what came of it and where to go on, none at the end.
    pub fn rewrap(&self, after: Option<&Slot>, limit: usize) -> Result<(Rewrap, Option<Slot>), RewrapError> {
        let page = self.store.scan(Entry::Wrapped, after, limit)?;
        let (active, mut part) = (self.root_key_version(), Rewrap { seen: page.len() as u64, ..Rewrap::default() });
        let mut swaps = Vec::new();
        for (slot, wrapped) in &page {
            match Header::parse(wrapped) {
                Ok(header) if header.version == active => continue,
                _ => {}
            }
            match self.keyring.unwrap(wrapped, slot) {
                Ok((key, times)) => swaps.push(Swapping { slot, from: wrapped, to: self.keyring.wrap(&key, slot, times)? }),
                Err(error) => part.fault(slot, error),
            }
        }
        for swap in self.store.swap_each(&swaps)? {
            match swap {
                Swap::Swapped => part.rewrapped += 1,
                Swap::Conflict => part.overtaken += 1,
            }
        }
        Ok((part, page.into_iter().next_back().map(|(slot, _)| slot)))
    }

    /// Opens the next data keys beyond `after`, at most `limit`, and holds each against the secret it is the key of, whatever root key it lies
    /// under. Nothing is changed; `rewrapped` counts those that do not lie under the active root key.
    pub fn verify_wrapped(&self, after: Option<&Slot>, limit: usize) -> Result<(Rewrap, Option<Slot>), StoreError> {
        let page = self.store.scan(Entry::Wrapped, after, limit)?;
        let (active, mut part) = (self.root_key_version(), Rewrap { seen: page.len() as u64, ..Rewrap::default() });
        for (slot, wrapped) in &page {
            let opened = match self.keyring.unwrap(wrapped, slot) {
                Ok((key, _)) => match self.store.read(Entry::Sealed, slot)? {
                    Some(sealed) if !seal::is_key_of(&key, &sealed) => Err(UnwrapError::Forged),
                    _ => Ok(()),
                },
                Err(error) => Err(error),
            };
            match opened {
                Ok(()) if Header::parse(wrapped).is_ok_and(|header| header.version == active) => {}
                Ok(()) => part.rewrapped += 1,
                Err(error) => part.fault(slot, error),
            }
        }
        Ok((part, page.into_iter().next_back().map(|(slot, _)| slot)))
    }
}
