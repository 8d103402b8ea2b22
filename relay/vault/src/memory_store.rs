//! The key store in memory: the reference model for tests. It keeps the contract but for durability.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

use parking_lot::Mutex;
use schemas::TenantId;

use crate::address::Slot;
use crate::key_store::{Entry, KeyStore, Put, StoreError, Swap};

/// A key store that forgets everything when dropped.
#[derive(Default)]
pub struct MemoryKeyStore {
    /// Guards both kinds of entry; written by every call that changes one.
    entries: Mutex<BTreeMap<(Slot, Entry), Vec<u8>>>,
}

impl KeyStore for MemoryKeyStore {
    fn put_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<Put, StoreError> {
        match self.entries.lock().entry((slot.clone(), Entry::Sealed)) {
            btree_map::Entry::Occupied(_) => Ok(Put::Exists),
            btree_map::Entry::Vacant(place) => {
                place.insert(bytes.to_vec());
                Ok(Put::Stored)
            }
        }
    }

    fn delete_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<(), StoreError> {
        if let btree_map::Entry::Occupied(place) = self.entries.lock().entry((slot.clone(), Entry::Sealed))
            && place.get() == bytes
        {
            place.remove();
        }
        Ok(())
    }

    fn swap_wrapped(&self, slot: &Slot, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Swap, StoreError> {
        let mut entries = self.entries.lock();
        let key = (slot.clone(), Entry::Wrapped);
        if entries.get(&key).map(Vec::as_slice) != from {
            return Ok(Swap::Conflict);
        }
        match to {
            Some(bytes) => entries.insert(key, bytes.to_vec()),
            None => entries.remove(&key),
        };
        Ok(Swap::Swapped)
    }

    fn read(&self, entry: Entry, slot: &Slot) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.entries.lock().get(&(slot.clone(), entry)).cloned())
    }

    fn scan(&self, entry: Entry, after: Option<&Slot>, limit: usize) -> Result<Vec<(Slot, Vec<u8>)>, StoreError> {
        let start = after.map_or(Bound::Unbounded, |slot| Bound::Excluded((slot.clone(), Entry::Sealed)));
        let entries = self.entries.lock();
        let found = entries.range((start, Bound::Unbounded)).filter(|((_, kind), _)| *kind == entry);
        Ok(found.take(limit).map(|((slot, _), bytes)| (slot.clone(), bytes.clone())).collect())
    }

    fn owner_slots(&self, tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Result<Vec<Slot>, StoreError> {
        let entries = self.entries.lock();
        let of_owner = |slot: &&Slot| slot.tenant == *tenant && slot.owner_kind == owner_kind && slot.owner_id == *owner_id;
        let mut slots: Vec<Slot> = entries.keys().map(|(slot, _)| slot).filter(of_owner).cloned().collect();
        slots.dedup();
        Ok(slots)
    }

    fn scrub(&self, _: &[Slot]) -> Result<(), StoreError> {
        Ok(())
    }
}
