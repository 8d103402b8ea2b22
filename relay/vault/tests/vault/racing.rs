//! Seals that race, and one that is cut short.

use super::*;

#[test]
fn of_racing_seals_one_seals_and_all_read_the_same() {
    const SEALERS: u8 = 4;
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::open(root(), Arc::new(RocksKeyStore::open(&dir.path().join("keys")).unwrap())).unwrap();
    for round in 0..20 {
        let (address, barrier) = (address(round), Barrier::new(SEALERS.into()));
        let done: Vec<(Sealing, Vec<u8>)> = thread::scope(|scope| {
            let threads: Vec<_> = (0..SEALERS)
                .map(|n| {
                    let (vault, address, barrier) = (&vault, &address, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let sealing = vault.seal(address, &[n; 40], LASTING).unwrap();
                        (sealing, vault.unseal(address).unwrap().to_vec())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(done.iter().filter(|(sealing, _)| *sealing == Sealing::Sealed).count(), 1);
        let winner = done.iter().position(|(sealing, _)| *sealing == Sealing::Sealed).unwrap();
        assert!(done.iter().all(|(_, read)| *read == [winner as u8; 40]));
    }
}

/// A store whose sealed bytes are lost: the crash between the two writes of a seal.
struct CrashesBetween(Arc<MemoryKeyStore>);

impl KeyStore for CrashesBetween {
    fn put_sealed(&self, _: &Slot, _: &[u8]) -> Result<Put, StoreError> {
        Err(StoreError::Engine { operation: "put sealed bytes", source: "crashed".into() })
    }
    fn delete_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.delete_sealed(slot, bytes)
    }
    fn swap_wrapped(&self, slot: &Slot, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Swap, StoreError> {
        self.0.swap_wrapped(slot, from, to)
    }
    fn read(&self, entry: Entry, slot: &Slot) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.read(entry, slot)
    }
    fn scan(&self, entry: Entry, after: Option<&Slot>, limit: usize) -> Result<Vec<(Slot, Vec<u8>)>, StoreError> {
        self.0.scan(entry, after, limit)
    }
    fn owner_slots(&self, tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Result<Vec<Slot>, StoreError> {
        self.0.owner_slots(tenant, owner_kind, owner_id)
    }
    fn scrub(&self, slots: &[Slot]) -> Result<(), StoreError> {
        self.0.scrub(slots)
    }
}

#[test]
fn a_crash_between_the_two_writes_leaves_an_orphan_that_a_seal_takes_over() {
    let (store, root) = (Arc::new(MemoryKeyStore::default()), root());
    // The first open crashes too, while it seals the pepper.
    let crashing = || Vault::open(again(&root), Arc::new(CrashesBetween(store.clone())));
    assert!(matches!(crashing(), Err(OpenError::Store(_))));
    let vault = Vault::open(again(&root), store.clone()).unwrap();
    assert!(crashing().unwrap().seal(&address(1), b"sk-lost", LASTING).is_err());
    assert!(matches!(vault.unseal(&address(1)), Err(UnsealError::Missing)));
    assert_eq!(vault.seal(&address(1), b"sk-kept", LASTING).unwrap(), Sealing::Sealed);
    assert_eq!(**vault.unseal(&address(1)).unwrap(), b"sk-kept"[..]);
}
