//! A node's own copy of the bucket, in the RocksDB of a single node's store.
//!
//! Entries lie where that store has them, so that it reads and scans them. Beside each, below a zero byte, lies what the bucket said of it
//! ([`Mark`]); the mark of a deletion stays, so that what was erased is known as erased. The mirror takes over what is newer and tells of
//! what is behind; it never judges what the bucket ought to hold.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use rocksdb::{Direction, IteratorMode, WriteBatch};
use schemas::TenantId;

use super::entry_key::EntryKey;
use super::state::{Mark, Standing, State};
use crate::address::Slot;
use crate::key_store::{Entry, KeyStore as _, StoreError};
use crate::rocks_store::{self, RocksKeyStore, failed, synced};

/// Before the mark of an entry, whose place follows.
const MARK_PREFIX: &[u8] = b"\0mark:";
/// Holds when this mirror was last level with the bucket, in seconds since 1970.
const LEVEL_KEY: &[u8] = b"\0level";
/// There while something that was deleted may still lie in old files.
const UNSCRUBBED_KEY: &[u8] = b"\0unscrubbed";

/// What the mirror knows of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Live(Vec<u8>),
    Deleted,
    Nothing,
}

/// An entry of the mirror with what the bucket said of it; no content where it was deleted.
pub(crate) struct Held {
    pub(crate) mark: Mark,
    pub(crate) content: Option<Vec<u8>>,
}

/// Which entries of the bucket a comparison has met.
#[derive(Default)]
pub(crate) struct Seen(HashSet<[u8; 16]>);

pub(crate) struct Mirror {
    store: RocksKeyStore,
    /// What was deleted and is not scrubbed yet. Locked by every write that deletes and by every scrub.
    unscrubbed: Mutex<Unscrubbed>,
}

#[derive(Default)]
struct Unscrubbed {
    slots: Vec<Slot>,
    /// After a crash it is not known which.
    all: bool,
}

impl Mirror {
    pub(crate) fn new(store: RocksKeyStore) -> Result<Self, StoreError> {
        let all = store.get(UNSCRUBBED_KEY)?.is_some();
        Ok(Self { store, unscrubbed: Mutex::new(Unscrubbed { slots: Vec::new(), all }) })
    }

    pub(crate) fn known(&self, key: &EntryKey) -> Result<Known, StoreError> {
        let stored = key.stored();
        if let Some(content) = self.store.get(&stored)? {
            return Ok(Known::Live(content));
        }
        Ok(match self.mark(&stored)? {
            Some(_) => Known::Deleted,
            None => Known::Nothing,
        })
    }

    /// What the mirror holds to be the truth of an entry: its mark and its content.
    pub(crate) fn held(&self, key: &EntryKey) -> Result<Option<Held>, StoreError> {
        let stored = key.stored();
        let _writing = self.store.writing.lock();
        let Some(mark) = self.mark(&stored)? else { return Ok(None) };
        Ok(Some(Held { mark, content: self.store.get(&stored)? }))
    }

    /// Takes over what the bucket holds if it is not behind.
    pub(crate) fn adopt(&self, key: &EntryKey, state: &State) -> Result<Standing, StoreError> {
        let behind = self.adopt_all(std::slice::from_ref(&(key.clone(), state.clone())))?;
        Ok(if behind.is_empty() { Standing::Same } else { Standing::Behind })
    }

    /// Takes over what is not behind, and gives the keys of what is.
    pub(crate) fn adopt_all(&self, states: &[(EntryKey, State)]) -> Result<Vec<EntryKey>, StoreError> {
        let (mut behind, mut batch) = (Vec::new(), WriteBatch::default());
        // What this batch itself changes.
        let mut changed: HashMap<Vec<u8>, Mark> = HashMap::new();
        let mut unscrubbed = self.unscrubbed.lock();
        let _writing = self.store.writing.lock();
        for (key, state) in states {
            let stored = key.stored();
            let known = match changed.get(&stored) {
                Some(mark) => Some(*mark),
                None => self.mark(&stored)?,
            };
            match self.standing(&stored, state, known)? {
                Standing::Behind => {
                    behind.push(key.clone());
                    continue;
                }
                Standing::Same if known.is_some_and(|mark| mark.revision == state.revision) => continue,
                Standing::Same => {}
                Standing::Newer => match &state.content {
                    Some(content) => batch.put(&stored, content),
                    None => {
                        batch.delete(&stored);
                        if known.is_some_and(|mark| mark.is_live) {
                            batch.put(UNSCRUBBED_KEY, []);
                            unscrubbed.slots.push(key.slot.clone());
                        }
                    }
                },
            }
            batch.put(mark_key(&stored), state.mark().encode());
            changed.insert(stored, state.mark());
        }
        if !batch.is_empty() {
            self.store.db.write_opt(batch, &synced()).map_err(failed("follow the bucket"))?;
        }
        Ok(behind)
    }

    /// As [`State::standing`], and sees that equal content under one revision is one writing: this node may have noted its own before it
    /// learned the server's time of it.
    fn standing(&self, stored: &[u8], state: &State, known: Option<Mark>) -> Result<Standing, StoreError> {
        let standing = state.standing(known);
        if standing == Standing::Behind && known.is_some_and(|mark| mark.revision == state.revision) {
            let same = self.store.get(stored)?.as_deref() == state.content.as_deref();
            return Ok(if same { Standing::Same } else { standing });
        }
        Ok(standing)
    }

    /// What is here and was not seen in the bucket: lost there. Marks of deletions from before `forget_before` are dropped instead, as the
    /// bucket drops its own by then.
    pub(crate) fn lost(&self, seen: &Seen, forget_before: u64) -> Result<Vec<EntryKey>, StoreError> {
        let mut lost = self.lost_entries(seen)?;
        let mut forgotten = WriteBatch::default();
        let _writing = self.store.writing.lock();
        for item in self.store.db.iterator(IteratorMode::From(MARK_PREFIX, Direction::Forward)) {
            let (place, value) = item.map_err(failed("scan its marks"))?;
            let Some(stored) = place.strip_prefix(MARK_PREFIX) else { break };
            let mark = Mark::decode(&value).ok_or(StoreError::ForeignEntry)?;
            if mark.is_live || seen.has(stored) {
                continue;
            }
            if mark.origin.time < forget_before {
                forgotten.delete(&place);
            } else {
                let (slot, entry) = rocks_store::parse_key(stored).ok_or(StoreError::ForeignEntry)?;
                lost.push(EntryKey { slot, entry });
            }
        }
        self.store.db.write_opt(forgotten, &synced()).map_err(failed("forget old deletions"))?;
        Ok(lost)
    }

    fn lost_entries(&self, seen: &Seen) -> Result<Vec<EntryKey>, StoreError> {
        let keys = self.store.entries(&[]).map(|item| item.map(|(slot, entry, _)| EntryKey { slot, entry }));
        keys.filter(|key| key.as_ref().map_or(true, |key| !seen.has(&key.stored()))).collect()
    }

    /// Drops entries that were not seen in the bucket. For a mirror that was away for so long that they may have been erased since.
    pub(crate) fn drop_lost(&self, seen: &Seen) -> Result<usize, StoreError> {
        let lost = self.lost_entries(seen)?;
        let mut unscrubbed = self.unscrubbed.lock();
        let _writing = self.store.writing.lock();
        let mut batch = WriteBatch::default();
        batch.put(UNSCRUBBED_KEY, []);
        for key in &lost {
            let stored = key.stored();
            batch.delete(&stored);
            batch.delete(mark_key(&stored));
            unscrubbed.slots.push(key.slot.clone());
        }
        self.store.db.write_opt(batch, &synced()).map_err(failed("drop entries"))?;
        Ok(lost.len())
    }

    /// When this mirror was last level with the bucket, in seconds since 1970; none if it never was.
    pub(crate) fn level_at(&self) -> Result<Option<u64>, StoreError> {
        let found = self.store.get(LEVEL_KEY)?;
        found.map(|bytes| bytes.as_slice().try_into().map(u64::from_be_bytes).map_err(|_| StoreError::ForeignEntry)).transpose()
    }

    pub(crate) fn set_level_at(&self, seconds: u64) -> Result<(), StoreError> {
        self.store.db.put_opt(LEVEL_KEY, seconds.to_be_bytes(), &synced()).map_err(failed("note when it was level"))
    }

    pub(crate) fn scan(&self, entry: Entry, after: Option<&Slot>, limit: usize) -> Result<Vec<(Slot, Vec<u8>)>, StoreError> {
        self.store.scan(entry, after, limit)
    }

    pub(crate) fn owner_slots(&self, tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Result<Vec<Slot>, StoreError> {
        self.store.owner_slots(tenant, owner_kind, owner_id)
    }

    /// Removes deleted entries of these slots from the files.
    pub(crate) fn scrub(&self, slots: &[Slot]) -> Result<(), StoreError> {
        self.store.scrub(slots)?;
        let mut unscrubbed = self.unscrubbed.lock();
        let scrubbed: HashSet<&Slot> = slots.iter().collect();
        unscrubbed.slots.retain(|slot| !scrubbed.contains(slot));
        self.note_scrubbed(&unscrubbed)
    }

    /// Removes from the files what was deleted by following the bucket.
    pub(crate) fn scrub_deleted(&self) -> Result<(), StoreError> {
        let Unscrubbed { slots, all } = std::mem::take(&mut *self.unscrubbed.lock());
        let done = if all { self.store.scrub_all() } else { self.store.scrub(&slots) };
        let mut unscrubbed = self.unscrubbed.lock();
        if done.is_err() {
            unscrubbed.all = true;
        }
        done?;
        self.note_scrubbed(&unscrubbed)
    }

    pub(crate) fn is_scrubbed(&self) -> bool {
        let unscrubbed = self.unscrubbed.lock();
        unscrubbed.slots.is_empty() && !unscrubbed.all
    }

    fn note_scrubbed(&self, unscrubbed: &Unscrubbed) -> Result<(), StoreError> {
        if unscrubbed.slots.is_empty() && !unscrubbed.all && self.store.get(UNSCRUBBED_KEY)?.is_some() {
            self.store.db.delete_opt(UNSCRUBBED_KEY, &synced()).map_err(failed("note a scrub"))?;
        }
        Ok(())
    }

    /// The mark of an entry, as far as it fits what lies there: a store that served a single node meanwhile changed entries without marks.
    fn mark(&self, stored: &[u8]) -> Result<Option<Mark>, StoreError> {
        let has_entry = self.store.get(stored)?.is_some();
        let mark = match self.store.get(&mark_key(stored))? {
            Some(bytes) => Some(Mark::decode(&bytes).ok_or(StoreError::ForeignEntry)?),
            None => None,
        };
        Ok(mark.filter(|mark| mark.is_live == has_entry).or(has_entry.then_some(Mark::UNSEEN)))
    }
}

impl Seen {
    pub(crate) fn insert(&mut self, key: &EntryKey) {
        self.0.insert(Self::digest(&key.stored()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, stored: &[u8]) -> bool {
        self.0.contains(&Self::digest(stored))
    }

    /// Sixteen bytes instead of a whole key: a comparison may meet some million of them.
    fn digest(stored: &[u8]) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&blake3::hash(stored).as_bytes()[..16]);
        out
    }
}

fn mark_key(stored: &[u8]) -> Vec<u8> {
    [MARK_PREFIX, stored].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use bytes::Bytes;

    use super::*;
    use crate::nats_store::state::Origin;

    fn mirror(dir: &std::path::Path) -> Mirror {
        Mirror::new(RocksKeyStore::open(&dir.join("keys")).unwrap()).unwrap()
    }

    fn key(id: u8) -> EntryKey {
        let slot =
            Slot { tenant: "a".parse().unwrap(), owner_kind: "credential".into(), owner_id: [id; 16], field: "secret".into(), version: 1 };
        EntryKey { slot, entry: Entry::Sealed }
    }

    fn state(revision: u64, content: Option<&'static [u8]>) -> State {
        let origin = Origin { time: revision * 10, revision };
        State { revision, origin, is_restored: false, content: content.map(Bytes::from_static), write_id: None }
    }

    #[test]
    fn a_batch_is_taken_over_in_its_order_and_what_is_behind_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = mirror(dir.path());
        let batch = [
            (key(1), state(5, Some(b"five"))),
            (key(1), state(6, None)),
            (key(2), state(7, Some(b"seven"))),
            (key(1), state(5, Some(b"five"))),
        ];
        assert_eq!(mirror.adopt_all(&batch).unwrap(), [key(1)]);
        assert_eq!((mirror.known(&key(1)).unwrap(), mirror.known(&key(2)).unwrap()), (Known::Deleted, Known::Live(b"seven".to_vec())));
        assert_eq!(mirror.known(&key(3)).unwrap(), Known::Nothing);
        assert_eq!(mirror.scan(Entry::Sealed, None, 9).unwrap(), [(key(2).slot, b"seven".to_vec())]);
    }

    #[test]
    fn the_servers_time_of_a_write_replaces_this_nodes_guess_and_never_the_other_way() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = mirror(dir.path());
        let told = state(5, Some(b"five"));
        let guessed = State { origin: Origin { time: 1, revision: 5 }, ..told.clone() };
        for (first, second) in [(&guessed, &told), (&told, &guessed)] {
            assert_eq!(mirror.adopt(&key(1), first).unwrap(), Standing::Same);
            assert_eq!(mirror.adopt(&key(1), second).unwrap(), Standing::Same);
            assert_eq!(mirror.held(&key(1)).unwrap().unwrap().mark, told.mark());
        }
    }

    #[test]
    fn what_is_not_in_the_bucket_is_lost_and_an_old_deletion_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = mirror(dir.path());
        let states =
            [(key(1), state(1, Some(b"seen"))), (key(2), state(2, Some(b"lost"))), (key(3), state(3, None)), (key(4), state(4, None))];
        mirror.adopt_all(&states).unwrap();
        let mut seen = Seen::default();
        seen.insert(&key(1));
        assert_eq!(mirror.lost(&seen, 35).unwrap(), [key(2), key(4)]);
        assert_eq!((mirror.known(&key(3)).unwrap(), mirror.known(&key(4)).unwrap()), (Known::Nothing, Known::Deleted));
        assert_eq!(mirror.drop_lost(&seen).unwrap(), 1);
        assert_eq!((mirror.known(&key(1)).unwrap(), mirror.known(&key(2)).unwrap()), (Known::Live(b"seen".to_vec()), Known::Nothing));
    }

    #[test]
    fn what_a_crash_left_unscrubbed_is_scrubbed_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = mirror(dir.path());
        first.adopt(&key(1), &state(1, Some(b"one"))).unwrap();
        assert!(first.is_scrubbed());
        first.adopt(&key(1), &state(2, None)).unwrap();
        assert!(!first.is_scrubbed());
        drop(first);
        let second = mirror(dir.path());
        assert!(!second.is_scrubbed());
        second.scrub_deleted().unwrap();
        assert!(second.is_scrubbed());
        drop(second);
        assert!(mirror(dir.path()).is_scrubbed());
    }

    #[test]
    fn marks_do_not_outlive_what_a_single_node_changed() {
        let dir = tempfile::tempdir().unwrap();
        mirror(dir.path()).adopt_all(&[(key(1), state(1, Some(b"one"))), (key(2), state(2, None))]).unwrap();
        let alone = RocksKeyStore::open(&dir.path().join("keys")).unwrap();
        alone.delete_sealed(&key(1).slot, b"one").unwrap();
        alone.put_sealed(&key(2).slot, b"two").unwrap();
        drop(alone);
        let mirror = mirror(dir.path());
        assert_eq!(mirror.known(&key(1)).unwrap(), Known::Nothing);
        assert_eq!(mirror.held(&key(2)).unwrap().unwrap().mark, Mark::UNSEEN);
    }
}
