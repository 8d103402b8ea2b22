//! Sealed secrets and wrapped keys from one key store into another, as they lie there: nothing is opened.

use anyhow::{Result, ensure};
use vault::{Entry, KeyStore, Put, Slot, Swap};

/// Entries of one read of the source.
const PAGE: usize = 256;

/// Copies every entry that the target lacks; gives how many there are. A target that holds other sealed bytes in a slot is refused. Blocking.
pub(super) fn copy(from: &dyn KeyStore, to: &dyn KeyStore) -> Result<u64> {
    // Wrapped keys first: sealed bytes without one would look like what an interrupted erase leaves.
    let wrapped = each(from, Entry::Wrapped, |slot, bytes| {
        let present = to.read(Entry::Wrapped, slot)?;
        if present.as_deref() != Some(bytes) {
            let swapped = to.swap_wrapped(slot, present.as_deref(), Some(bytes))?;
            ensure!(swapped == Swap::Swapped, "something else writes to the target key store");
        }
        Ok(())
    })?;
    let sealed = each(from, Entry::Sealed, |slot, bytes| {
        if to.put_sealed(slot, bytes)? == Put::Exists {
            ensure!(
                to.read(Entry::Sealed, slot)?.as_deref() == Some(bytes),
                "the target key store holds another secret for the same place"
            );
        }
        Ok(())
    })?;
    Ok(wrapped + sealed)
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
