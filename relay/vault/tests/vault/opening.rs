//! The first open of a store: whoever comes first draws the pepper, and everybody has it.

use super::*;

const ROUNDS: usize = 300;

/// Opens a fresh store under each of the root keys at once.
fn open_at_once(roots: &[RootKey]) -> Vec<Result<Vault, OpenError>> {
    let store: Arc<dyn KeyStore> = Arc::new(MemoryKeyStore::default());
    let start = Barrier::new(roots.len());
    thread::scope(|scope| {
        let opening = roots.iter().map(|root| {
            let (root, store, start) = (root.clone(), store.clone(), &start);
            scope.spawn(move || {
                start.wait();
                Vault::open(root, store)
            })
        });
        opening.collect::<Vec<_>>().into_iter().map(|opened| opened.join().unwrap()).collect()
    })
}

#[test]
fn vaults_that_open_an_empty_store_at_once_agree_on_one_pepper() {
    for _ in 0..ROUNDS {
        let root = RootKey::generate().unwrap();
        let opened = open_at_once(&[root.clone(), root.clone(), root]);
        let fingerprints: Vec<_> = opened.into_iter().map(|vault| vault.unwrap().fingerprint(b"secret")).collect();
        assert!(fingerprints.iter().all(|fingerprint| *fingerprint == fingerprints[0]), "{fingerprints:?}");
    }
}

#[test]
fn of_two_root_keys_at_an_empty_store_one_is_refused() {
    for _ in 0..ROUNDS {
        let opened = open_at_once(&[RootKey::generate().unwrap(), RootKey::generate().unwrap()]);
        assert_eq!(opened.iter().filter(|vault| vault.is_ok()).count(), 1);
        assert!(opened.iter().any(|vault| matches!(vault, Err(OpenError::WrongRootKey { .. }))), "{opened:?}");
    }
}

#[test]
fn an_empty_store_is_not_taken_for_one_that_secrets_were_sealed_in() {
    let (root, store) = (RootKey::generate().unwrap(), Arc::new(MemoryKeyStore::default()));
    assert!(matches!(Vault::open_existing(root.clone(), store.clone()), Err(OpenError::Empty)));
    let first = Vault::open(root.clone(), store.clone()).unwrap();
    let second = Vault::open_existing(root, store.clone()).unwrap();
    assert_eq!(first.fingerprint(b"secret"), second.fingerprint(b"secret"));
    assert!(matches!(Vault::open_existing(RootKey::generate().unwrap(), store), Err(OpenError::WrongRootKey { .. })));
}
