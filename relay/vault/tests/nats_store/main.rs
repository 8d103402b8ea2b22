//! The key store over NATS on real servers: who wins, what stays when servers go away, and what comes back when they forget.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod away;
mod bucket;
mod erasing;
mod healing;
mod node;
mod outcomes;
mod proxy;
mod racing;
mod vaults;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nats_server::{Cluster, Server, Sync};
use tempfile::tempdir;
use vault::{Entry, KeyStore, Lifetime, Put, RocksKeyStore, RootKey, Sealing, SecretAddress, Slot, StoreError, Swap, UnsealError, Vault};

use node::{Node, until};

const LASTING: Lifetime = Lifetime::lasting(schemas::Timestamp::from_micros(1_790_000_000_000_000));

fn slot(id: u8) -> Slot {
    Slot { tenant: "a".parse().unwrap(), owner_kind: "credential".into(), owner_id: [id; 16], field: "secret".into(), version: 1 }
}

fn address(id: u8) -> SecretAddress {
    SecretAddress {
        tenant: "a".parse().unwrap(),
        owner_kind: "credential",
        owner_id: [id; 16],
        field: "secret",
        version: 1,
        origin: "https://api.example.com".to_owned(),
    }
}

fn sealed(node: &Node, id: u8) -> Option<Vec<u8>> {
    node.store.read(Entry::Sealed, &slot(id)).unwrap()
}

fn wrapped(node: &Node, id: u8) -> Option<Vec<u8>> {
    node.store.read(Entry::Wrapped, &slot(id)).unwrap()
}

fn put(node: &Node, id: u8, bytes: &[u8]) {
    assert_eq!(node.store.put_sealed(&slot(id), bytes).unwrap(), Put::Stored);
}

fn swap(node: &Node, id: u8, from: Option<&[u8]>, to: Option<&[u8]>) {
    assert_eq!(node.store.swap_wrapped(&slot(id), from, to).unwrap(), Swap::Swapped);
}

/// Whether any file below a directory holds these bytes.
fn holds(dir: &Path, needle: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        // Files of a running store come and go.
        fs::read(&path).is_ok_and(|content| content.windows(needle.len()).any(|window| window == needle))
    })
}
