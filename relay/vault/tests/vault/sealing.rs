//! What is sealed opens at its address, for its origin, under its root key, and nowhere else.

use super::*;

#[test]
fn a_secret_is_sealed_once_and_read_by_all() {
    let (vault, _) = open();
    assert!(matches!(vault.unseal(&address(1)), Err(UnsealError::Missing)));
    assert_eq!(vault.seal(&address(1), b"sk-first", LASTING).unwrap(), Sealing::Sealed);
    assert_eq!(vault.seal(&address(1), b"sk-second", LASTING).unwrap(), Sealing::Exists);
    assert_eq!(**vault.unseal(&address(1)).unwrap(), b"sk-first"[..]);
    assert!(matches!(vault.unseal(&address(2)), Err(UnsealError::Missing)));
}

#[test]
fn a_secret_has_a_longest_length() {
    let (vault, _) = open();
    assert_eq!(vault.seal(&address(1), &[7; SECRET_BYTES_MAX], LASTING).unwrap(), Sealing::Sealed);
    assert!(matches!(vault.seal(&address(2), &[7; SECRET_BYTES_MAX + 1], LASTING), Err(SealError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn what_was_sealed_is_unsealed(plaintext in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (vault, store) = open();
        prop_assert_eq!(vault.seal(&address(1), &plaintext, LASTING).unwrap(), Sealing::Sealed);
        prop_assert_eq!(&*vault.unseal(&address(1)).unwrap(), &plaintext);
        let sealed = bytes(&*store, Entry::Sealed, &address(1).slot());
        prop_assert!(plaintext.len() < 8 || !sealed.windows(plaintext.len()).any(|window| window == plaintext));
    }

    #[test]
    fn a_flipped_bit_in_either_entry_is_refused(bit in any::<prop::sample::Index>(), sealed in any::<bool>()) {
        let (vault, store) = open();
        prop_assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
        let (entry, slot) = (if sealed { Entry::Sealed } else { Entry::Wrapped }, address(1).slot());
        let mut wrong = bytes(&*store, entry, &slot);
        let bit = bit.index(wrong.len() * 8);
        wrong[bit / 8] ^= 1 << (bit % 8);
        replace(&*store, entry, &slot, &wrong);
        // A flipped bit in the name of the root key reads as the name of another.
        let named = matches!(vault.unseal(&address(1)), Err(UnsealError::WrongRootKey { .. })) && !sealed;
        prop_assert!(named || matches!(vault.unseal(&address(1)), Err(UnsealError::Tampered)));
    }
}

#[test]
fn entries_moved_to_another_address_are_refused() {
    let (vault, store) = open();
    let here = address(1);
    assert_eq!(vault.seal(&here, b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    for there in [
        SecretAddress { tenant: "other".parse().unwrap(), ..here.clone() },
        SecretAddress { owner_kind: "record", ..here.clone() },
        SecretAddress { owner_id: [2; 16], ..here.clone() },
        SecretAddress { field: "client_key", ..here.clone() },
        SecretAddress { version: 2, ..here.clone() },
    ] {
        for entry in [Entry::Sealed, Entry::Wrapped] {
            replace(&*store, entry, &there.slot(), &bytes(&*store, entry, &here.slot()));
        }
        assert!(matches!(vault.unseal(&there), Err(UnsealError::Tampered)), "{there:?}");
        // Nor do the sealed bytes open with the data key of the place they were moved to.
        vault.erase(&there).unwrap();
        assert_eq!(vault.seal(&there, b"sk-other", LASTING).unwrap(), Sealing::Sealed);
        replace(&*store, Entry::Sealed, &there.slot(), &bytes(&*store, Entry::Sealed, &here.slot()));
        assert!(matches!(vault.unseal(&there), Err(UnsealError::Tampered)), "{there:?}");
    }
    assert_eq!(**vault.unseal(&here).unwrap(), b"sk-secret"[..]);
}

#[test]
fn a_secret_opens_for_no_other_origin() {
    let (vault, _) = open();
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    for origin in ["", "https://evil.example", "https://api.example.com.evil.example", "https://api.example.co"] {
        let other = SecretAddress { origin: origin.to_owned(), ..address(1) };
        assert!(matches!(vault.unseal(&other), Err(UnsealError::Tampered)), "{origin}");
    }
}

#[test]
fn a_wrong_root_key_is_refused_at_open_and_voids_nothing() {
    let store = Arc::new(MemoryKeyStore::default());
    let root = root();
    let vault = Vault::open(again(&root), store.clone()).unwrap();
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    assert!(matches!(Vault::open(RootKey::generate().unwrap(), store.clone()), Err(OpenError::WrongRootKey { .. })));
    let vault = Vault::open(root, store).unwrap();
    assert_eq!(**vault.unseal(&address(1)).unwrap(), b"sk-secret"[..]);
}

#[test]
fn a_data_key_under_another_root_key_is_told() {
    let ((vault, store), (other, other_store)) = (open(), open());
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    assert_eq!(other.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    let slot = address(1).slot();
    replace(&*store, Entry::Wrapped, &slot, &bytes(&*other_store, Entry::Wrapped, &slot));
    let named = other.root_key_version();
    assert!(matches!(vault.unseal(&address(1)), Err(UnsealError::WrongRootKey { named: found }) if found == named));
    assert!(matches!(vault.seal(&address(1), b"x", LASTING), Err(SealError::WrongRootKey { named: found }) if found == named));
}

/// Looks for a text in every file below a directory.
fn assert_in_no_file(dir: &Path, needle: &str) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_in_no_file(&path, needle);
        } else {
            let content = fs::read(&path).unwrap();
            assert!(!content.windows(needle.len()).any(|window| window == needle.as_bytes()), "{} holds {needle}", path.display());
        }
    }
}

#[test]
fn no_plaintext_and_no_key_is_in_any_file_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let root = root();
    let (text, canary, personal) = (root.text(), "sk-canary-8f2c1d7e90ab", "canary for Ada Lovelace");
    {
        let vault = Vault::open(again(&root), Arc::new(RocksKeyStore::open(&path).unwrap())).unwrap();
        assert_eq!(vault.seal(&address(1), canary.as_bytes(), LASTING).unwrap(), Sealing::Sealed);
        vault.seal_field(&key_stream(1), personal).unwrap();
        assert!(!format!("{vault:?} {:?} {:?}", vault.unseal(&address(2)), root).contains("canary"));
    }
    for needle in [canary, personal, &text["kr-root-1:".len()..]] {
        assert_in_no_file(dir.path(), needle);
    }
    // And what is there opens again.
    let vault = Vault::open(root, Arc::new(RocksKeyStore::open(&path).unwrap())).unwrap();
    assert_eq!(**vault.unseal(&address(1)).unwrap(), *canary.as_bytes());
    assert_in_no_file(dir.path(), canary);
}
