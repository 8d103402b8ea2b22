//! Hot keys, by the hash of their secret.
//!
//! The rule that no stale entry can come back after a revocation: a reader takes its [`Mark`] before it reads the store, and hands it
//! in with what it read; under the shard's lock an insert is refused when its mark is below the shard's last invalidation. The fold
//! commits, invalidates and only then announces, so whoever read the old row has a mark below the invalidation.

use std::sync::Arc;

use parking_lot::RwLock;
use schemas::key::Key;
use schemas::{Digest, Sequence};

const SHARDS: usize = 64;
/// Hashes that share the same bits compete for this many places.
const WAYS: usize = 8;
/// With [`SHARDS`] and [`WAYS`], 65,536 keys: about 64 MiB if all are hot and of usual size.
const SETS_PER_SHARD: usize = 128;

/// What a reader knew before it read: the generation of the model and the sequence announced in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Mark {
    pub generation: u64,
    pub sequence: Sequence,
}

/// A bounded, set-associative cache. Hashes are uniform, so their bits choose shard and set.
pub(crate) struct KeyCache {
    shards: Box<[RwLock<Shard>]>,
}

/// Written by readers that missed and by the fold.
#[derive(Default)]
struct Shard {
    invalidated: Mark,
    /// Empty until the first insert, then `SETS_PER_SHARD * WAYS` places.
    places: Vec<Option<(Digest, Arc<Key>)>>,
    /// Where in a full set the next insert goes.
    hand: usize,
}

impl KeyCache {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    pub(crate) fn get(&self, hash: &Digest) -> Option<Arc<Key>> {
        let shard = self.shard(hash).read();
        shard.set(hash).iter().flatten().find(|(at, _)| at == hash).map(|(_, key)| Arc::clone(key))
    }

    /// Keeps what a reader with this mark has read, unless it may be old.
    pub(crate) fn insert(&self, hash: Digest, key: Arc<Key>, mark: Mark) {
        let mut shard = self.shard(&hash).write();
        if mark >= shard.invalidated {
            shard.insert(hash, key);
        }
    }

    /// The planted bug of the fault tests: [`KeyCache::insert`] without its check.
    #[cfg(feature = "faults")]
    pub(crate) fn insert_unchecked(&self, hash: Digest, key: Arc<Key>) {
        self.shard(&hash).write().insert(hash, key);
    }

    /// Drops entries that a commit has changed, before its sequence is announced.
    pub(crate) fn invalidate(&self, hashes: &[Digest], mark: Mark) {
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("stale-key-cache") {
            return;
        }
        for hash in hashes {
            let mut shard = self.shard(hash).write();
            shard.invalidated = mark;
            let set = shard.range(hash);
            for place in shard.places.get_mut(set).into_iter().flatten() {
                place.take_if(|(at, _)| at == hash);
            }
        }
    }

    /// Drops everything, and whatever readers with an older mark are about to insert.
    pub(crate) fn clear(&self, mark: Mark) {
        for shard in &self.shards {
            *shard.write() = Shard { invalidated: mark, ..Shard::default() };
        }
    }

    fn shard(&self, hash: &Digest) -> &RwLock<Shard> {
        &self.shards[usize::from(hash.as_bytes()[0]) % SHARDS]
    }
}

impl Shard {
    fn range(&self, hash: &Digest) -> std::ops::Range<usize> {
        let [_, high, low, ..] = *hash.as_bytes();
        let set = usize::from(u16::from_be_bytes([high, low])) % SETS_PER_SHARD;
        set * WAYS..(set + 1) * WAYS
    }

    fn set(&self, hash: &Digest) -> &[Option<(Digest, Arc<Key>)>] {
        self.places.get(self.range(hash)).unwrap_or_default()
    }

    fn insert(&mut self, hash: Digest, key: Arc<Key>) {
        if self.places.is_empty() {
            self.places.resize(SETS_PER_SHARD * WAYS, None);
        }
        let range = self.range(&hash);
        let set = &mut self.places[range];
        let own = set.iter().position(|place| place.as_ref().is_some_and(|(at, _)| *at == hash));
        let free = || set.iter().position(Option::is_none);
        let way = own.or_else(free).unwrap_or_else(|| {
            self.hand = (self.hand + 1) % WAYS;
            self.hand
        });
        set[way] = Some((hash, key));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use schemas::aggregate::{At, apply};
    use schemas::key::{Expiry, KeyCreated, KeyDetails, Limits};
    use schemas::{Actor, Aggregate, Event, KeyId, Stream, TenantId, Timestamp};

    use super::*;

    fn key(hash: Digest) -> Arc<Key> {
        let (name, limits) = ("ci".to_owned(), Limits::default());
        let (tags, pools, models, endpoints) = (vec![], vec![], vec![], vec![]);
        let details = KeyDetails { name, description: None, owner: None, tags, pools, models, endpoints, limits };
        let created = Event::KeyCreated(KeyCreated { details, hash, expiry: Expiry::Never });
        let at = At { time: Timestamp::from_micros(1), actor: Actor::Owner };
        match apply(None, &Stream::key(TenantId::default_tenant(), KeyId::from_bytes([1; 16])), &created, &at).unwrap() {
            Aggregate::Key(key) => Arc::from(key),
            _ => unreachable!("a key's event makes a key"),
        }
    }

    fn mark(generation: u64, sequence: u64) -> Mark {
        Mark { generation, sequence: Sequence(sequence) }
    }

    #[test]
    fn what_was_read_before_an_invalidation_is_not_kept() {
        let (cache, hash) = (KeyCache::new(), Digest::from_bytes([7; 32]));
        cache.invalidate(&[hash], mark(0, 9));
        cache.insert(hash, key(hash), mark(0, 8));
        assert_eq!(cache.get(&hash), None);
        cache.insert(hash, key(hash), mark(0, 9));
        assert!(cache.get(&hash).is_some());
        cache.invalidate(&[hash], mark(0, 10));
        assert_eq!(cache.get(&hash), None);
    }

    #[test]
    fn a_switch_refuses_what_was_read_from_the_old_model() {
        let (cache, hash) = (KeyCache::new(), Digest::from_bytes([7; 32]));
        cache.insert(hash, key(hash), mark(0, 50));
        cache.clear(mark(1, 0));
        assert_eq!(cache.get(&hash), None);
        cache.insert(hash, key(hash), mark(0, 50));
        assert_eq!(cache.get(&hash), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = KeyCache::new();
        let one = key(Digest::from_bytes([0; 32]));
        for n in 0..200_u8 {
            let mut hash = [0; 32];
            hash[31] = n;
            cache.insert(Digest::from_bytes(hash), Arc::clone(&one), mark(0, 1));
        }
        assert_eq!(Arc::strong_count(&one), 1 + WAYS);
    }
}
