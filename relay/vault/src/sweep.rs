//! Sweeping: removing secrets that no one will ask for. What is known to the log is the caller's to say; the time is an argument.

use std::sync::atomic::Ordering;

use schemas::{Stream, Timestamp};

use crate::address::Slot;
use crate::cluster_secrets;
use crate::field;
use crate::key_store::{Entry, KeyStore, StoreError, Swap};
use crate::vault::Vault;
use crate::wrap::{Header, Times};

/// How long a secret may lie without an event before it counts as an orphan: far longer than an append can stay unresolved.
pub const ORPHAN_SECONDS: u64 = 24 * 3600;

/// Slots looked at between two reads of the store.
const PAGE: usize = 512;

impl Vault {
    /// Removes secrets that were sealed longer ago than `older_than_seconds` and that `keep` does not claim, and what an erase that was cut
    /// short left behind. Gives their number. `keep` must claim every secret that the log refers to, as of a position not older than `now`
    /// less that age. Secrets that expire, the cluster's own and subject keys are not asked about and stay.
    pub fn sweep(&self, now: Timestamp, older_than_seconds: u64, keep: impl Fn(&Slot) -> bool) -> Result<usize, StoreError> {
        let orphans = self.sweep_wrapped(|slot, times| {
            let old = times.touched_at.plus_seconds(older_than_seconds) < now;
            old && times.expires_at.is_none() && is_swept(slot) && !keep(slot)
        })?;
        Ok(orphans + self.sweep_leftovers()?)
    }

    /// Removes secrets whose time is over. Gives their number. Until then they unseal, so the caller runs this often enough.
    pub fn sweep_expired(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.sweep_wrapped(|_, times| times.expires_at.is_some_and(|time| time <= now))
    }

    /// Destroys the keys of subjects that are gone, where that was not done when they went: the store was away, or the node was. Gives
    /// their number. `is_gone` is asked about every subject that has a key.
    pub fn sweep_subjects(&self, is_gone: impl Fn(&Stream) -> bool) -> Result<usize, StoreError> {
        let mut gone = Vec::new();
        // Whatever fails from here on is for the next sweep.
        self.is_erase_unfinished.store(false, Ordering::Relaxed);
        let swept = self.each(Entry::Wrapped, |slot, _| {
            if field::subject(slot).is_some_and(|subject| is_gone(&subject)) {
                gone.push(slot.clone());
            }
            Ok(())
        });
        let swept = swept.and_then(|()| self.erase_slots(&gone));
        swept.inspect_err(|_| self.is_erase_unfinished.store(true, Ordering::Relaxed))?;
        Ok(gone.len())
    }

    /// Whether [`Vault::sweep_subjects`] has something left to do that this vault knows of.
    pub fn is_erase_unfinished(&self) -> bool {
        self.is_erase_unfinished.load(Ordering::Relaxed)
    }

    fn sweep_wrapped(&self, is_over: impl Fn(&Slot, &Times) -> bool) -> Result<usize, StoreError> {
        let mut swept = Vec::new();
        self.each(Entry::Wrapped, |slot, wrapped| {
            // What does not parse is left for an unseal to report.
            if !Header::parse(wrapped).is_ok_and(|header| is_over(slot, &header.times)) {
                return Ok(());
            }
            let sealed = self.store.read(Entry::Sealed, slot)?;
            // A conflict means that someone seals here just now: no orphan after all.
            if self.store.swap_wrapped(slot, Some(wrapped), None)? == Swap::Swapped {
                if let Some(sealed) = sealed {
                    self.store.delete_sealed(slot, &sealed)?;
                }
                swept.push(slot.clone());
            }
            Ok(())
        })?;
        self.store.scrub(&swept)?;
        Ok(swept.len())
    }

    /// Sealed bytes without a data key: no one can open them, and sealing never makes them, for it writes the data key first.
    fn sweep_leftovers(&self) -> Result<usize, StoreError> {
        let (mut count, mut keys) = (0, Slots { store: &*self.store, page: Vec::new().into_iter(), after: None });
        let mut key = keys.next()?;
        self.each(Entry::Sealed, |slot, sealed| {
            while key.as_ref().is_some_and(|key| key < slot) {
                key = keys.next()?;
            }
            // A page is older than what is asked for now, so it only spares the asking.
            if key.as_ref() != Some(slot) && self.store.read(Entry::Wrapped, slot)?.is_none() {
                self.store.delete_sealed(slot, sealed)?;
                count += 1;
            }
            Ok(())
        })?;
        Ok(count)
    }

    pub(crate) fn each(&self, entry: Entry, mut visit: impl FnMut(&Slot, &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut after: Option<Slot> = None;
        loop {
            let page = self.store.scan(entry, after.as_ref(), PAGE)?;
            for (slot, bytes) in &page {
                visit(slot, bytes)?;
            }
            match page.into_iter().last() {
                Some((last, _)) => after = Some(last),
                None => return Ok(()),
            }
        }
    }
}

/// The slots that hold a data key, in order.
struct Slots<'a> {
    store: &'a dyn KeyStore,
    page: std::vec::IntoIter<(Slot, Vec<u8>)>,
    after: Option<Slot>,
}

impl Slots<'_> {
    fn next(&mut self) -> Result<Option<Slot>, StoreError> {
        if self.page.len() == 0 {
            self.page = self.store.scan(Entry::Wrapped, self.after.as_ref(), PAGE)?.into_iter();
        }
        let next = self.page.next().map(|(slot, _)| slot);
        self.after.clone_from(&next);
        Ok(next)
    }
}

fn is_swept(slot: &Slot) -> bool {
    slot.owner_kind != cluster_secrets::OWNER_KIND && !slot.owner_kind.starts_with(field::OWNER_KIND_PREFIX)
}
