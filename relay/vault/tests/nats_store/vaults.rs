//! The vault over the store of a cluster: two nodes, one root key.

use std::sync::Barrier;
use std::thread;

use schemas::{KeyId, Stream, TenantId, Timestamp};

use super::*;

const DAY: u64 = 24 * 3600;
const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);

fn two() -> (Cluster, tempfile::TempDir, [Node; 2], [Vault; 2]) {
    let (cluster, dir, root) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap(), RootKey::generate().unwrap());
    let nodes = ["one", "two"].map(|name| Node::start(&cluster.url(), &dir.path().join(name), 1));
    let vaults = nodes.each_ref().map(|node| Vault::open(RootKey::parse(&root.text()).unwrap(), node.store.clone()).unwrap());
    (cluster, dir, nodes, vaults)
}

fn end(nodes: [Node; 2], vaults: [Vault; 2]) {
    drop(vaults);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn two_new_nodes_at_once_draw_one_pepper() {
    let (cluster, dir, root) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap(), RootKey::generate().unwrap());
    let nodes = ["one", "two"].map(|name| Node::start(&cluster.url(), &dir.path().join(name), 1));
    let barrier = Barrier::new(2);
    let fingerprints: Vec<String> = thread::scope(|scope| {
        let openers = nodes.each_ref().map(|node| {
            let (barrier, root) = (&barrier, RootKey::parse(&root.text()).unwrap());
            scope.spawn(move || {
                barrier.wait();
                Vault::open(root, node.store.clone()).unwrap().fingerprint(b"sk-secret")
            })
        });
        openers.into_iter().map(|opener| opener.join().unwrap()).collect()
    });
    assert_eq!(fingerprints[0], fingerprints[1]);
    let other = Vault::open(RootKey::generate().unwrap(), nodes[0].store.clone());
    assert!(matches!(other, Err(vault::OpenError::WrongRootKey { .. })));
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn what_one_seals_the_other_unseals_and_erases() {
    let (_cluster, _dir, nodes, vaults) = two();
    for id in 0..20 {
        let (one, other) = (&vaults[id as usize % 2], &vaults[(id as usize + 1) % 2]);
        assert!(matches!(other.unseal(&address(id)), Err(UnsealError::Missing)));
        assert_eq!(one.seal(&address(id), &[id; 40], LASTING).unwrap(), Sealing::Sealed);
        assert_eq!(other.seal(&address(id), b"sk-other", LASTING).unwrap(), Sealing::Exists);
        assert_eq!(**other.unseal(&address(id)).unwrap(), [id; 40]);
    }
    vaults[0].erase_owner(&"a".parse().unwrap(), "credential", &[1; 16]).unwrap();
    assert!(matches!(vaults[1].unseal(&address(1)), Err(UnsealError::Missing | UnsealError::Erased)));
    // A sweep on one node keeps what it is told to, and takes what another node sealed.
    let kept = |slot: &Slot| slot.owner_id == [2; 16];
    assert_eq!(vaults[1].sweep(NOW.plus_seconds(DAY + 1), DAY, kept).unwrap(), 18);
    assert_eq!(**vaults[0].unseal(&address(2)).unwrap(), [2; 40]);
    assert!(matches!(vaults[0].unseal(&address(3)), Err(UnsealError::Missing | UnsealError::Erased)));
    end(nodes, vaults);
}

#[test]
fn of_seals_that_race_on_two_nodes_one_seals_and_both_read_the_same() {
    let (_cluster, _dir, nodes, vaults) = two();
    for round in 0..20 {
        let barrier = Barrier::new(2);
        let done: Vec<(Sealing, Vec<u8>)> = thread::scope(|scope| {
            let sealers = [0, 1].map(|n| {
                let (vault, barrier) = (&vaults[n], &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let sealing = vault.seal(&address(round), &[n as u8; 40], LASTING).unwrap();
                    (sealing, vault.unseal(&address(round)).unwrap().to_vec())
                })
            });
            sealers.into_iter().map(|sealer| sealer.join().unwrap()).collect()
        });
        assert_eq!(done.iter().filter(|(sealing, _)| *sealing == Sealing::Sealed).count(), 1);
        assert_eq!(done[0].1, done[1].1);
    }
    end(nodes, vaults);
}

#[test]
fn personal_texts_end_with_their_key_on_every_node() {
    let (_cluster, _dir, nodes, vaults) = two();
    let subject = Stream::key(TenantId::default_tenant(), KeyId::from_bytes([1; 16]));
    let sealed = vaults[0].seal_field(&subject, "for Ada").unwrap();
    assert_eq!(&**vaults[1].unseal_field(&sealed).unwrap(), "for Ada");
    vaults[1].erase_subject(&subject).unwrap();
    assert!(matches!(vaults[0].unseal_field(&sealed), Err(vault::UnsealFieldError::Erased)));
    end(nodes, vaults);
}

#[test]
fn a_secret_that_is_on_its_way_is_waited_for() {
    let (_cluster, _dir, nodes, vaults) = two();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| vaults[1].unseal_within(&address(1), Duration::from_secs(5)).unwrap().to_vec());
        thread::sleep(Duration::from_millis(300));
        assert_eq!(vaults[0].seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
        assert_eq!(waiting.join().unwrap(), b"sk-secret");
    });
    let begin = Instant::now();
    assert!(matches!(vaults[1].unseal_within(&address(2), Duration::from_millis(500)), Err(UnsealError::Missing)));
    assert!(begin.elapsed() < Duration::from_secs(1));
    end(nodes, vaults);
}
