//! What is erased, swept or expired is gone, and nothing else is.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn an_erased_secret_is_gone_and_erasing_again_is_safe() {
    let (vault, store) = open();
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    // Half an erase: the data key is gone, the bytes are not yet.
    let slot = address(1).slot();
    let wrapped = bytes(&*store, Entry::Wrapped, &slot);
    store.swap_wrapped(&slot, Some(&wrapped), None).unwrap();
    assert!(matches!(vault.unseal(&address(1)), Err(UnsealError::Erased)));
    assert!(matches!(vault.seal(&address(1), b"sk-new", LASTING), Err(SealError::Erased)));
    for _ in 0..2 {
        vault.erase(&address(1)).unwrap();
        assert!(matches!(vault.unseal(&address(1)), Err(UnsealError::Missing)));
    }
}

#[test]
fn an_owner_is_erased_with_all_its_secrets_and_no_other() {
    let (vault, _) = open();
    let versions = [1, 2, 3].map(|version| SecretAddress { version, ..address(1) });
    for address in versions.iter().chain([&address(2), &record(1)]) {
        assert_eq!(vault.seal(address, b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    }
    vault.erase_owner(&TenantId::default_tenant(), "credential", &[1; 16]).unwrap();
    assert!(versions.iter().all(|address| matches!(vault.unseal(address), Err(UnsealError::Missing))));
    assert!(vault.unseal(&address(2)).is_ok() && vault.unseal(&record(1)).is_ok());
}

#[test]
fn orphans_are_swept_after_a_day_and_what_is_kept_or_young_stays() {
    let (vault, store) = open();
    let cluster = ClusterId::from_bytes([5; 16]);
    assert_eq!(vault.seal_cluster_key(&cluster, &[9; 32], NOW).unwrap(), Sealing::Sealed);
    let field = vault.seal_field(&key_stream(1), "for Ada").unwrap();
    for id in [1, 2, 3] {
        assert_eq!(vault.seal(&address(id), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    }
    let keep = |slot: &Slot| slot.owner_id == [1; 16];
    assert_eq!(vault.sweep(NOW.plus_seconds(DAY), DAY, keep).unwrap(), 0);

    // Who found the secret sealed means to use it: its age begins again.
    let later = NOW.plus_seconds(DAY / 2);
    assert_eq!(vault.seal(&address(3), b"sk-again", Lifetime::lasting(later)).unwrap(), Sealing::Exists);
    assert_eq!(vault.sweep(NOW.plus_seconds(DAY + 1), DAY, keep).unwrap(), 1);
    assert!(vault.unseal(&address(1)).is_ok() && vault.unseal(&address(3)).is_ok());
    assert!(matches!(vault.unseal(&address(2)), Err(UnsealError::Missing)));
    assert_eq!(vault.sweep(later.plus_seconds(DAY + 1), DAY, keep).unwrap(), 1);
    assert!(vault.cluster_key(&cluster).is_ok() && vault.unseal_field(&field).is_ok());

    // What half an erase left is swept too.
    let slot = address(1).slot();
    let wrapped = bytes(&*store, Entry::Wrapped, &slot);
    store.swap_wrapped(&slot, Some(&wrapped), None).unwrap();
    assert_eq!(vault.sweep(NOW, DAY, keep).unwrap(), 1);
    assert!(matches!(vault.unseal(&address(1)), Err(UnsealError::Missing)));
}

#[test]
fn a_secret_that_expires_is_swept_then_and_not_as_an_orphan() {
    let (vault, _) = open();
    assert_eq!(vault.seal(&record(1), b"sk-kr-answer", Lifetime::of_seconds(NOW, DAY)).unwrap(), Sealing::Sealed);
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    // Finding it there does not prolong it.
    let later = NOW.plus_seconds(DAY / 2);
    assert_eq!(vault.seal(&record(1), b"sk-kr-other", Lifetime::of_seconds(later, DAY)).unwrap(), Sealing::Exists);
    assert_eq!(vault.sweep_expired(NOW.plus_seconds(DAY - 1)).unwrap(), 0);
    assert_eq!(vault.sweep(NOW.plus_seconds(3 * DAY), DAY, |slot| slot.owner_kind == "credential").unwrap(), 0);
    assert_eq!(**vault.unseal(&record(1)).unwrap(), b"sk-kr-answer"[..]);
    assert_eq!(vault.sweep_expired(NOW.plus_seconds(DAY)).unwrap(), 1);
    assert!(matches!(vault.unseal(&record(1)), Err(UnsealError::Missing)));
    assert!(vault.unseal(&address(1)).is_ok());
}

/// A store that lets nothing be removed while it is away.
#[derive(Default)]
struct Shaky {
    store: MemoryKeyStore,
    is_away: AtomicBool,
}

impl KeyStore for Shaky {
    fn put_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<Put, StoreError> {
        self.store.put_sealed(slot, bytes)
    }

    fn delete_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.delete_sealed(slot, bytes)
    }

    fn swap_wrapped(&self, slot: &Slot, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Swap, StoreError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: "a test asked for this".to_owned() });
        }
        self.store.swap_wrapped(slot, from, to)
    }

    fn read(&self, entry: Entry, slot: &Slot) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.read(entry, slot)
    }

    fn scan(&self, entry: Entry, after: Option<&Slot>, limit: usize) -> Result<Vec<(Slot, Vec<u8>)>, StoreError> {
        self.store.scan(entry, after, limit)
    }

    fn owner_slots(&self, tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Result<Vec<Slot>, StoreError> {
        self.store.owner_slots(tenant, owner_kind, owner_id)
    }

    fn scrub(&self, slots: &[Slot]) -> Result<(), StoreError> {
        self.store.scrub(slots)
    }
}

#[test]
fn a_subject_that_could_not_be_erased_is_erased_by_a_later_sweep_and_no_other_is() {
    let store = Arc::new(Shaky::default());
    let vault = Vault::open(root(), store.clone()).unwrap();
    let texts = [1, 2].map(|id| vault.seal_field(&key_stream(id), "for Ada").unwrap());
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    assert!(!vault.is_erase_unfinished());
    let is_gone = |subject: &Stream| *subject == key_stream(1);

    store.is_away.store(true, Ordering::Relaxed);
    assert!(vault.erase_subject(&key_stream(1)).is_err() && vault.is_erase_unfinished());
    assert!(vault.sweep_subjects(is_gone).is_err() && vault.is_erase_unfinished());
    assert!(vault.unseal_field(&texts[0]).is_ok());

    store.is_away.store(false, Ordering::Relaxed);
    assert_eq!((vault.sweep_subjects(is_gone).unwrap(), vault.is_erase_unfinished()), (1, false));
    assert!(matches!(vault.unseal_field(&texts[0]), Err(UnsealFieldError::Erased)));
    assert!(vault.unseal_field(&texts[1]).is_ok() && vault.unseal(&address(1)).is_ok());
    assert_eq!(vault.sweep_subjects(is_gone).unwrap(), 0);
}
