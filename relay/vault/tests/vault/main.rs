//! What callers of the vault may rely on.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod cluster;
mod erasing;
mod fields;
mod opening;
mod racing;
mod root_keys;
mod sealing;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;

use proptest::prelude::*;
use schemas::{ClusterId, KeyId, Sealed, Stream, TenantId, Timestamp};
use vault::vault::SECRET_BYTES_MAX;
use vault::{
    Entry, KeyStore, Lifetime, MemoryKeyStore, OpenError, Put, Rewrap, RocksKeyStore, RootKey, RootKeys, SealError, SealFieldError,
    Sealing, SecretAddress, Slot, StoreError, Swap, UnsealError, UnsealFieldError, Vault,
};

const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);
const LASTING: Lifetime = Lifetime::lasting(NOW);
const DAY: u64 = 24 * 3600;

fn address(id: u8) -> SecretAddress {
    SecretAddress {
        tenant: TenantId::default_tenant(),
        owner_kind: "credential",
        owner_id: [id; 16],
        field: "secret",
        version: 1,
        origin: "https://api.example.com".to_owned(),
    }
}

fn record(id: u8) -> SecretAddress {
    SecretAddress { owner_kind: "record", field: "client_key", origin: String::new(), ..address(id) }
}

fn key_stream(id: u8) -> Stream {
    Stream::key(TenantId::default_tenant(), KeyId::from_bytes([id; 16]))
}

fn root() -> RootKey {
    RootKey::generate().unwrap()
}

fn again(root: &RootKey) -> RootKey {
    RootKey::parse(&root.text()).unwrap()
}

/// A vault over memory, and the store to look and reach into.
fn open() -> (Vault, Arc<MemoryKeyStore>) {
    let store = Arc::new(MemoryKeyStore::default());
    (Vault::open(root(), store.clone()).unwrap(), store)
}

fn bytes(store: &dyn KeyStore, entry: Entry, slot: &Slot) -> Vec<u8> {
    store.read(entry, slot).unwrap().unwrap()
}

/// Puts other bytes into a slot, as one who reaches into the store would.
fn replace(store: &dyn KeyStore, entry: Entry, slot: &Slot, to: &[u8]) {
    let there = store.read(entry, slot).unwrap();
    match entry {
        Entry::Wrapped => assert_eq!(store.swap_wrapped(slot, there.as_deref(), Some(to)).unwrap(), Swap::Swapped),
        Entry::Sealed => {
            store.delete_sealed(slot, &there.unwrap_or_default()).unwrap();
            assert_eq!(store.put_sealed(slot, to).unwrap(), Put::Stored);
        }
    }
}
