//! The contract of the key store, shown by every implementation.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

#[path = "nats_store/node.rs"]
mod node;

use std::path::Path;
use std::sync::Barrier;
use std::{fs, thread};

use nats_server::{Cluster, Sync};
use schemas::TenantId;
use vault::{Entry, KeyStore, MemoryKeyStore, Put, RocksKeyStore, Slot, Swap};

fn slot(tenant: &str, kind: &'static str, id: u8, version: u32) -> Slot {
    Slot { tenant: tenant.parse().unwrap(), owner_kind: kind.into(), owner_id: [id; 16], field: "secret".into(), version }
}

/// Runs a case on an empty store of each kind.
fn on_each(case: impl Fn(&dyn KeyStore)) {
    case(&MemoryKeyStore::default());
    let dir = tempfile::tempdir().unwrap();
    case(&RocksKeyStore::open(&dir.path().join("keys")).unwrap());
    for replicas in [1, 3] {
        let cluster = Cluster::start(replicas, Sync::Default).unwrap();
        let node = node::Node::level(&cluster.url(), &dir.path().join(format!("of {replicas}")), replicas);
        case(&*node.store);
        node.stop();
    }
}

#[test]
fn sealed_bytes_are_put_once_and_only_they_are_deleted() {
    on_each(|store| {
        let slot = slot("a", "credential", 1, 1);
        assert_eq!(store.put_sealed(&slot, b"one").unwrap(), Put::Stored);
        assert_eq!(store.put_sealed(&slot, b"two").unwrap(), Put::Exists);
        assert_eq!(store.read(Entry::Sealed, &slot).unwrap().unwrap(), b"one");
        assert_eq!(store.read(Entry::Wrapped, &slot).unwrap(), None);
        store.delete_sealed(&slot, b"two").unwrap();
        assert_eq!(store.read(Entry::Sealed, &slot).unwrap().unwrap(), b"one");
        for _ in 0..2 {
            store.delete_sealed(&slot, b"one").unwrap();
            assert_eq!(store.read(Entry::Sealed, &slot).unwrap(), None);
        }
    });
}

#[test]
fn wrapped_keys_change_only_from_what_is_expected() {
    on_each(|store| {
        let slot = slot("a", "credential", 1, 1);
        let swap = |from: Option<&[u8]>, to: Option<&[u8]>| store.swap_wrapped(&slot, from, to).unwrap();
        assert_eq!(swap(Some(b"one"), Some(b"two")), Swap::Conflict);
        assert_eq!(swap(None, Some(b"one")), Swap::Swapped);
        assert_eq!(swap(None, Some(b"two")), Swap::Conflict);
        assert_eq!(swap(Some(b"two"), None), Swap::Conflict);
        assert_eq!(swap(Some(b"one"), Some(b"two")), Swap::Swapped);
        assert_eq!(store.read(Entry::Wrapped, &slot).unwrap().unwrap(), b"two");
        assert_eq!(swap(Some(b"two"), None), Swap::Swapped);
        assert_eq!(store.read(Entry::Wrapped, &slot).unwrap(), None);
    });
}

#[test]
fn a_scan_pages_in_slot_order_through_one_kind() {
    on_each(|store| {
        let mut slots = Vec::new();
        for tenant in ["a", "a-b", "ab", "b"] {
            for id in [0, 7, 255] {
                slots.extend([1, 2, u32::MAX].map(|version| slot(tenant, "credential", id, version)));
            }
        }
        for slot in slots.iter().rev() {
            store.put_sealed(slot, b"sealed").unwrap();
            store.swap_wrapped(slot, None, Some(b"wrapped")).unwrap();
        }
        slots.sort();
        for (entry, bytes) in [(Entry::Sealed, &b"sealed"[..]), (Entry::Wrapped, b"wrapped")] {
            for limit in [1, 5, 1000] {
                let mut found: Vec<Slot> = Vec::new();
                loop {
                    let page = store.scan(entry, found.last(), limit).unwrap();
                    assert!(page.len() <= limit && page.iter().all(|(_, content)| content == bytes));
                    if page.is_empty() {
                        break;
                    }
                    found.extend(page.into_iter().map(|(slot, _)| slot));
                }
                assert_eq!(found, slots);
            }
        }
    });
}

#[test]
fn an_owner_has_its_own_slots_only() {
    on_each(|store| {
        let (tenant, id) = (TenantId::default_tenant(), [7; 16]);
        let ours = [slot("default", "credential", 7, 1), slot("default", "credential", 7, 2), slot("default", "credential", 7, 3)];
        store.put_sealed(&ours[0], b"x").unwrap();
        store.swap_wrapped(&ours[0], None, Some(b"x")).unwrap();
        store.swap_wrapped(&ours[1], None, Some(b"x")).unwrap();
        store.put_sealed(&ours[2], b"x").unwrap();
        for other in [slot("default", "credential", 8, 1), slot("default", "credentials", 7, 1), slot("defaul", "credential", 7, 1)] {
            store.put_sealed(&other, b"x").unwrap();
        }
        assert_eq!(store.owner_slots(&tenant, "credential", &id).unwrap(), ours);
        assert_eq!(store.owner_slots(&tenant, "record", &id).unwrap(), []);
    });
}

#[test]
fn of_racing_writers_one_wins() {
    const WRITERS: usize = 8;
    on_each(|store| {
        let slot = slot("a", "credential", 1, 1);
        let barrier = Barrier::new(WRITERS);
        let won: Vec<(bool, bool)> = thread::scope(|scope| {
            let threads: Vec<_> = (0..WRITERS as u8)
                .map(|n| {
                    let (slot, barrier) = (&slot, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let put = store.put_sealed(slot, &[n]).unwrap() == Put::Stored;
                        let swapped = store.swap_wrapped(slot, None, Some(&[n])).unwrap() == Swap::Swapped;
                        (put, swapped)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|(put, _)| *put).count(), 1);
        assert_eq!(won.iter().filter(|(_, swapped)| *swapped).count(), 1);
        let winner = won.iter().position(|(put, _)| *put).unwrap() as u8;
        assert_eq!(store.read(Entry::Sealed, &slot).unwrap().unwrap(), [winner]);
    });
}

/// Whether any file below a directory holds these bytes.
fn holds(dir: &Path, needle: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { holds(&path, needle) } else { fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle) }
    })
}

#[test]
fn what_was_written_is_there_after_reopening_and_what_was_scrubbed_is_in_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let (kept, gone) = (slot("a", "credential", 1, 1), slot("a", "credential", 2, 1));
    let (kept_bytes, gone_bytes): (Vec<u8>, Vec<u8>) = ((0..=255).collect(), (0..=255).rev().collect());
    let store = RocksKeyStore::open(&path).unwrap();
    store.swap_wrapped(&kept, None, Some(&kept_bytes)).unwrap();
    store.swap_wrapped(&gone, None, Some(&gone_bytes)).unwrap();
    drop(store);

    let store = RocksKeyStore::open(&path).unwrap();
    assert!(holds(&path, &gone_bytes), "the search finds what is there");
    store.swap_wrapped(&gone, Some(&gone_bytes), None).unwrap();
    store.scrub(std::slice::from_ref(&gone)).unwrap();
    assert!(!holds(&path, &gone_bytes));
    assert_eq!(store.read(Entry::Wrapped, &kept).unwrap().unwrap(), kept_bytes);
    assert_eq!(store.scan(Entry::Wrapped, None, 9).unwrap().len(), 1);
}
