//! Several root keys at once: what opens under which, and how all data keys come to lie under the newest.

use super::*;

const PAGE: usize = 7;

/// A store with some secrets under a first root key.
fn filled(count: u8) -> (Arc<MemoryKeyStore>, RootKey) {
    let (store, root) = (Arc::new(MemoryKeyStore::default()), root());
    let vault = Vault::open(root.clone(), store.clone()).unwrap();
    for id in 0..count {
        assert_eq!(vault.seal(&address(id), &[id; 9], LASTING).unwrap(), Sealing::Sealed);
    }
    (store, root)
}

/// A vault that wraps under `new` and still opens what lies under `old`.
fn changing(store: &Arc<MemoryKeyStore>, old: &RootKey, new: &RootKey) -> Vault {
    Vault::open_existing(RootKeys::new(new.clone(), [old.clone()]), store.clone()).unwrap()
}

fn rewrap_all(vault: &Vault) -> Rewrap {
    let (mut whole, mut after) = (Rewrap::default(), None);
    loop {
        let (part, next) = vault.rewrap(after.as_ref(), PAGE).unwrap();
        whole.add(part);
        after = match next {
            Some(next) => Some(next),
            None => return whole,
        };
    }
}

fn verify_all(vault: &Vault) -> Rewrap {
    let (mut whole, mut after) = (Rewrap::default(), None);
    loop {
        let (part, next) = vault.verify_wrapped(after.as_ref(), PAGE).unwrap();
        whole.add(part);
        after = match next {
            Some(next) => Some(next),
            None => return whole,
        };
    }
}

fn assert_opens(vault: &Vault, count: u8) {
    for id in 0..count {
        assert_eq!(vault.unseal(&address(id)).unwrap().as_slice(), [id; 9]);
    }
}

#[test]
fn a_secret_opens_under_any_root_key_that_is_held_and_new_ones_lie_under_the_active() {
    let (store, old) = filled(3);
    let new = root();
    let vault = changing(&store, &old, &new);
    assert_opens(&vault, 3);
    assert_eq!(vault.seal(&address(9), b"later", LASTING).unwrap(), Sealing::Sealed);
    // The pepper and three secrets lie under the old one.
    let counts = vault.count_wrapped().unwrap();
    assert_eq!((counts[&old.version()], counts[&new.version()]), (4, 1));
    let other = Vault::open_existing(old, store).unwrap();
    assert!(matches!(other.unseal(&address(9)), Err(UnsealError::WrongRootKey { named }) if named == new.version()));
}

#[test]
fn a_root_key_is_taken_activated_and_forgotten_while_the_vault_is_open() {
    let (store, old) = filled(3);
    let (vault, new) = (Vault::open_existing(old.clone(), store).unwrap(), root());
    assert_eq!(vault.activate_root_key(new.version()).unwrap_err().0, new.version());
    vault.hold_root_key(&new);
    assert!(vault.holds_root_key(new.version()) && vault.root_key_version() == old.version());
    vault.activate_root_key(new.version()).unwrap();
    assert_opens(&vault, 3);
    rewrap_all(&vault);
    vault.forget_root_key(old.version());
    assert!(!vault.holds_root_key(old.version()));
    assert_opens(&vault, 3);
    // The active one is never forgotten.
    vault.forget_root_key(new.version());
    assert_opens(&vault, 3);
}

#[test]
fn after_a_re_wrap_the_new_root_key_is_enough_and_the_old_one_is_refused() {
    let (store, old) = filled(40);
    let new = root();
    let (vault, pepper) = (changing(&store, &old, &new), Vault::open_existing(old.clone(), store.clone()).unwrap().fingerprint(b"x"));
    let whole = rewrap_all(&vault);
    assert_eq!((whole.seen, whole.rewrapped, whole.overtaken), (41, 41, 0));
    assert_eq!(verify_all(&vault), Rewrap { seen: 41, ..Rewrap::default() });
    let alone = Vault::open_existing(new, store.clone()).unwrap();
    assert_opens(&alone, 40);
    // What was derived from the vault's secrets is as it was.
    assert_eq!(alone.fingerprint(b"x"), pepper);
    assert!(matches!(Vault::open_existing(old, store), Err(OpenError::WrongRootKey { .. })));
}

#[test]
fn a_re_wrap_that_was_cut_short_goes_on_where_it_was() {
    let (store, old) = filled(40);
    let new = root();
    let (first, _) = changing(&store, &old, &new).rewrap(None, PAGE).unwrap();
    assert_eq!(first.rewrapped, PAGE as u64);
    // Everything about it is gone but the entries.
    let whole = rewrap_all(&changing(&store, &old, &new));
    assert_eq!((whole.seen, whole.rewrapped), (41, 41 - PAGE as u64));
    assert_opens(&Vault::open_existing(new, store).unwrap(), 40);
}

#[test]
fn a_wrapped_key_that_is_rolled_back_is_refused_once_its_root_key_is_gone() {
    let (store, old) = filled(2);
    let (new, slot) = (root(), address(0).slot());
    let before = store.read(Entry::Wrapped, &slot).unwrap().unwrap();
    let vault = changing(&store, &old, &new);
    rewrap_all(&vault);
    let after = store.read(Entry::Wrapped, &slot).unwrap().unwrap();
    assert_eq!(store.swap_wrapped(&slot, Some(&after), Some(&before)).unwrap(), Swap::Swapped);
    // As long as the old root key is held the scan tells, and another pass mends it.
    assert_eq!(verify_all(&vault).rewrapped, 1);
    vault.forget_root_key(old.version());
    assert!(matches!(vault.unseal(&address(0)), Err(UnsealError::WrongRootKey { named }) if named == old.version()));
    assert_eq!(verify_all(&vault).unheld, 1);
    assert_eq!(vault.unseal(&address(1)).unwrap().as_slice(), [1; 9]);
}

#[test]
fn the_scan_names_a_data_key_that_was_swapped_or_changed() {
    let (store, root) = filled(3);
    let vault = Vault::open_existing(root, store.clone()).unwrap();
    let wrapped = |id| store.read(Entry::Wrapped, &address(id).slot()).unwrap().unwrap();
    let (first, second) = (wrapped(0), wrapped(1));
    // The data key of another secret.
    store.swap_wrapped(&address(0).slot(), Some(&first), Some(&second)).unwrap();
    let mut changed = second.clone();
    *changed.last_mut().unwrap() ^= 1;
    store.swap_wrapped(&address(1).slot(), Some(&second), Some(&changed)).unwrap();
    let scan = verify_all(&vault);
    assert_eq!((scan.seen, scan.damaged), (4, 2));
    assert_eq!(scan.at_fault, [address(0).slot(), address(1).slot()]);
    // A re-wrap leaves them as they are.
    let new = self::root();
    vault.hold_root_key(&new);
    vault.activate_root_key(new.version()).unwrap();
    let whole = rewrap_all(&vault);
    assert_eq!((whole.rewrapped, whole.damaged), (2, 2));
}

#[test]
fn a_sealed_value_that_was_rolled_back_to_an_earlier_one_is_refused() {
    let store = Arc::new(MemoryKeyStore::default());
    let vault = Vault::open(root(), store.clone()).unwrap();
    let second = SecretAddress { version: 2, ..address(1) };
    assert_eq!(vault.seal(&address(1), b"first", LASTING).unwrap(), Sealing::Sealed);
    assert_eq!(vault.seal(&second, b"second", LASTING).unwrap(), Sealing::Sealed);
    let entry = |entry, address: &SecretAddress| store.read(entry, &address.slot()).unwrap().unwrap();
    // The older secret with its own data key, in the place of the newer.
    let (sealed, wrapped) = (entry(Entry::Sealed, &address(1)), entry(Entry::Wrapped, &address(1)));
    store.delete_sealed(&second.slot(), &entry(Entry::Sealed, &second)).unwrap();
    assert_eq!(store.put_sealed(&second.slot(), &sealed).unwrap(), Put::Stored);
    assert!(matches!(vault.unseal(&second), Err(UnsealError::Tampered)));
    store.swap_wrapped(&second.slot(), Some(&entry(Entry::Wrapped, &second)), Some(&wrapped)).unwrap();
    assert!(matches!(vault.unseal(&second), Err(UnsealError::Tampered)));
}

#[test]
fn secrets_that_are_sealed_read_and_erased_during_a_re_wrap_are_neither_lost_nor_brought_back() {
    const COUNT: u8 = 120;
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn KeyStore> = Arc::new(RocksKeyStore::open(&directory.path().join("keys")).unwrap());
    let (old, new) = (root(), root());
    let before = Vault::open(old.clone(), store.clone()).unwrap();
    for id in 0..COUNT {
        assert_eq!(before.seal(&address(id), &[id; 9], LASTING).unwrap(), Sealing::Sealed);
    }
    let vault = Vault::open_existing(RootKeys::new(old.clone(), [new.clone()]), store.clone()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (0..COUNT / 2).for_each(|id| vault.erase(&address(id)).unwrap()));
        scope.spawn(|| (0..3).for_each(|_| (COUNT / 2..COUNT).for_each(|id| assert_eq!(vault.unseal(&address(id)).unwrap()[..], [id; 9]))));
        scope.spawn(|| (0..60).for_each(|id| assert_eq!(vault.seal(&record(id), &[id; 5], LASTING).unwrap(), Sealing::Sealed)));
        vault.activate_root_key(new.version()).unwrap();
        let _: Rewrap = rewrap_all(&vault);
    });
    // Another pass takes what was overtaken.
    let last = rewrap_all(&vault);
    assert_eq!((last.damaged, last.unheld), (0, 0));
    vault.forget_root_key(old.version());
    assert_eq!(verify_all(&vault), Rewrap { seen: u64::from(COUNT / 2) + 60 + 1, ..Rewrap::default() });
    (0..COUNT / 2).for_each(|id| assert!(matches!(vault.unseal(&address(id)), Err(UnsealError::Missing))));
    (0..60).for_each(|id| assert_eq!(vault.unseal(&record(id)).unwrap()[..], [id; 5]));
}
