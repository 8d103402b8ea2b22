//! The cluster's own secrets.

use super::*;

#[test]
fn fingerprints_tell_equal_secrets_and_outlive_a_restart() {
    let (store, root) = (Arc::new(MemoryKeyStore::default()), root());
    let first = Vault::open(again(&root), store.clone()).unwrap();
    let fingerprint = first.fingerprint(b"sk-secret");
    let (version, hex) = fingerprint.split_once(':').unwrap();
    assert_eq!((version, hex.len()), ("1", 32));
    assert!(hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    assert_eq!(Vault::open(root, store).unwrap().fingerprint(b"sk-secret"), fingerprint);
    assert_ne!(first.fingerprint(b"sk-secreu"), fingerprint);
    let (elsewhere, _) = open();
    assert_ne!(elsewhere.fingerprint(b"sk-secret"), fingerprint);
}

#[test]
fn a_lost_pepper_is_told_and_not_drawn_anew() {
    let (store, root) = (Arc::new(MemoryKeyStore::default()), root());
    let vault = Vault::open(again(&root), store.clone()).unwrap();
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    vault.erase_owner(&TenantId::none(), "cluster", &[0; 16]).unwrap();
    assert!(matches!(Vault::open(root, store), Err(OpenError::PepperDamaged)));
}

#[test]
fn the_cluster_key_is_sealed_under_its_cluster() {
    let (vault, _) = open();
    let (ours, other) = (ClusterId::from_bytes([1; 16]), ClusterId::from_bytes([2; 16]));
    assert_eq!(vault.seal_cluster_key(&ours, &[9; 32], NOW).unwrap(), Sealing::Sealed);
    assert_eq!(vault.seal_cluster_key(&ours, &[8; 32], NOW).unwrap(), Sealing::Exists);
    assert_eq!(*vault.cluster_key(&ours).unwrap(), [9; 32]);
    assert!(matches!(vault.cluster_key(&other), Err(UnsealError::Missing)));
    vault.erase_cluster_key(&ours).unwrap();
    assert!(matches!(vault.cluster_key(&ours), Err(UnsealError::Missing)));
}

#[test]
fn a_brought_client_key_has_one_hash_under_one_pepper_and_it_is_no_other_digest() {
    let (store, root) = (Arc::new(MemoryKeyStore::default()), root());
    let first = Vault::open(again(&root), store.clone()).unwrap();
    let (hash, pepper) = first.client_key_hash("cr_brought");
    assert_eq!(pepper, 1);
    assert_eq!(Vault::open(root, store).unwrap().client_key_hash("cr_brought"), (hash, pepper));
    assert_ne!(first.client_key_hash("cr_broughu").0, hash);
    assert_ne!(first.keyed_digest(b"cr_brought"), hash);
    let (elsewhere, _) = open();
    assert_ne!(elsewhere.client_key_hash("cr_brought").0, hash);
}
