//! Sealed secrets and wrapped keys from one key store into another, as they lie there: nothing is opened.

use anyhow::{Result, ensure};
use vault::{Entry, KeyStore, Put, Slot, Swap};

/// Entries of one read of a store.
const PAGE: usize = 256;

/// Makes the target hold what the source does, and nothing else; gives how many entries that is. A target that holds other sealed bytes in a
/// place is another cluster's: it is refused before anything is written. Blocking.
pub(super) fn copy(from: &dyn KeyStore, to: &dyn KeyStore) -> Result<u64> {
    let foreign = "the target key store holds another secret for the same place: it is another cluster's; nothing was written";
    each(from, Entry::Sealed, |slot, bytes| {
        let present = to.read(Entry::Sealed, slot)?;
        ensure!(present.is_none_or(|present| present == bytes), foreign);
        Ok(())
    })?;
    // Wrapped keys first: sealed bytes without one would look like what an interrupted erase leaves.
    let wrapped = each(from, Entry::Wrapped, |slot, bytes| swap(to, slot, Some(bytes)))?;
    let sealed = each(from, Entry::Sealed, |slot, bytes| {
        let is_there = to.put_sealed(slot, bytes)? == Put::Stored || to.read(Entry::Sealed, slot)?.as_deref() == Some(bytes);
        ensure!(is_there, foreign);
        Ok(())
    })?;
    erase_others(from, to)?;
    Ok(wrapped + sealed)
}

/// What the source does not hold was erased there, and must not come back by way of the target.
fn erase_others(from: &dyn KeyStore, to: &dyn KeyStore) -> Result<()> {
    let mut erased = Vec::new();
    each(to, Entry::Wrapped, |slot, _| {
        if from.read(Entry::Wrapped, slot)?.is_none() {
            swap(to, slot, None)?;
            erased.push(slot.clone());
        }
        Ok(())
    })?;
    each(to, Entry::Sealed, |slot, bytes| {
        if from.read(Entry::Sealed, slot)?.is_none() {
            to.delete_sealed(slot, bytes)?;
            erased.push(slot.clone());
        }
        Ok(())
    })?;
    Ok(to.scrub(&erased)?)
}

fn swap(to: &dyn KeyStore, slot: &Slot, bytes: Option<&[u8]>) -> Result<()> {
    let present = to.read(Entry::Wrapped, slot)?;
    let is_same = present.as_deref() == bytes;
    ensure!(is_same || to.swap_wrapped(slot, present.as_deref(), bytes)? == Swap::Swapped, "something else writes to the target key store");
    Ok(())
}

fn each(store: &dyn KeyStore, entry: Entry, mut visit: impl FnMut(&Slot, &[u8]) -> Result<()>) -> Result<u64> {
    let (mut after, mut count): (Option<Slot>, u64) = (None, 0);
    loop {
        let page = store.scan(entry, after.as_ref(), PAGE)?;
        for (slot, bytes) in &page {
            visit(slot, bytes)?;
            count += 1;
        }
        match page.into_iter().last() {
            Some((slot, _)) => after = Some(slot),
            None => return Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]
    use schemas::TenantId;
    use vault::MemoryKeyStore;

    use super::*;

    fn slot(version: u32) -> Slot {
        Slot { tenant: TenantId::default_tenant(), owner_kind: "credential".into(), owner_id: [7; 16], field: "secret".into(), version }
    }

    fn store(entries: &[(u32, &[u8])]) -> MemoryKeyStore {
        let store = MemoryKeyStore::default();
        for (version, bytes) in entries {
            store.swap_wrapped(&slot(*version), None, Some(bytes)).unwrap();
            store.put_sealed(&slot(*version), bytes).unwrap();
        }
        store
    }

    #[test]
    fn the_target_holds_what_the_source_does_and_nothing_else() {
        let (from, to) = (store(&[(1, b"a"), (2, b"b")]), store(&[(1, b"a"), (3, b"erased")]));
        assert_eq!(copy(&from, &to).unwrap(), 4);
        for entry in [Entry::Wrapped, Entry::Sealed] {
            assert_eq!(from.scan(entry, None, 9).unwrap(), to.scan(entry, None, 9).unwrap());
        }
    }

    #[test]
    fn another_clusters_key_store_is_left_as_it_is() {
        let (from, to) = (store(&[(1, b"ours"), (2, b"b")]), store(&[(1, b"theirs")]));
        let before = (to.scan(Entry::Wrapped, None, 9).unwrap(), to.scan(Entry::Sealed, None, 9).unwrap());
        assert!(copy(&from, &to).unwrap_err().to_string().contains("nothing was written"));
        assert_eq!((to.scan(Entry::Wrapped, None, 9).unwrap(), to.scan(Entry::Sealed, None, 9).unwrap()), before);
    }
}
