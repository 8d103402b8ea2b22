//! What was found about a key a moment ago: what it used, and verdicts that still are what a policy would say again.
//!
//! Expiry holds for every request. A verdict is used again only before the `valid-until` that it states, for the same key, bindings and facts;
//! facts are read anew each second, so no verdict is older than that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use policy_host::Output;
use policy_host::active::Active;
use schemas::key::Key;
use schemas::{KeyId, Timestamp};

use super::evaluate::Evaluated;
use super::facts::ms;
use crate::meters::Life;

const SHARDS: usize = 16;
/// A shard with more keys is emptied: what it knew is found again within a second anyway.
const KEYS_MAX: usize = 4_096;
/// For how long facts count as of now.
const FACTS_AGE_MAX_MICROS: u64 = 1_000_000;

/// What is known of keys that were used in the last second.
#[derive(Default)]
pub(super) struct ExpiryCache {
    /// Guards look-ups in memory only.
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// What the verdicts are of. With any other they are all void.
    active: Option<Arc<Active>>,
    keys: HashMap<KeyId, Known>,
}

struct Known {
    /// As it was: a key that has changed is another.
    key: Arc<Key>,
    at: Timestamp,
    life: Life,
    verdicts: Option<Verdicts>,
}

struct Verdicts {
    until_ms: i64,
    evaluated: Arc<Vec<Evaluated>>,
}

/// What the cache has for a request.
#[derive(Default)]
pub(super) struct Remembered {
    pub(super) life: Option<Life>,
    pub(super) verdicts: Option<Arc<Vec<Evaluated>>>,
}

impl ExpiryCache {
    pub(super) fn get(&self, active: &Arc<Active>, key: &Arc<Key>, now: Timestamp) -> Remembered {
        let mut shard = self.shard(key.id).lock();
        shard.void_unless(active);
        let Some(known) = shard.keys.get(&key.id).filter(|known| known.is_of(key, now)) else { return Remembered::default() };
        let verdicts = known.verdicts.as_ref().filter(|verdicts| ms(now) < verdicts.until_ms);
        Remembered { life: Some(known.life), verdicts: verdicts.map(|verdicts| Arc::clone(&verdicts.evaluated)) }
    }

    /// Keeps what was read at `now`.
    pub(super) fn put(&self, active: &Arc<Active>, key: &Arc<Key>, life: Life, now: Timestamp) {
        let mut shard = self.shard(key.id).lock();
        shard.void_unless(active);
        if shard.keys.len() >= KEYS_MAX {
            shard.keys.clear();
        }
        shard.keys.insert(key.id, Known { key: Arc::clone(key), at: now, life, verdicts: None });
    }

    /// Keeps the verdicts of all expiry policies of a key that were found from the facts it holds, if each says until when it holds.
    pub(super) fn keep(&self, active: &Arc<Active>, key: &Arc<Key>, evaluated: &Arc<Vec<Evaluated>>, now: Timestamp) {
        let until = |one: &Evaluated| match &one.answer {
            Ok(Output::Expiry(output)) => output.valid_until_ms,
            _ => None,
        };
        let untils: Option<Vec<i64>> = evaluated.iter().map(until).collect();
        let Some(until_ms) = untils.and_then(|untils| untils.into_iter().min()) else { return };
        let mut shard = self.shard(key.id).lock();
        shard.void_unless(active);
        if let Some(known) = shard.keys.get_mut(&key.id).filter(|known| known.is_of(key, now)) {
            known.verdicts = Some(Verdicts { until_ms, evaluated: Arc::clone(evaluated) });
        }
    }

    fn shard(&self, key: KeyId) -> &Mutex<Shard> {
        // The last byte of an id is as random as any.
        &self.shards[usize::from(key.as_bytes()[15]) % SHARDS]
    }
}

impl Shard {
    fn void_unless(&mut self, active: &Arc<Active>) {
        if !self.active.as_ref().is_some_and(|known| Arc::ptr_eq(known, active)) {
            self.active = Some(Arc::clone(active));
            self.keys.values_mut().for_each(|known| known.verdicts = None);
        }
    }
}

impl Known {
    /// A clock that was set back makes it void.
    fn is_of(&self, key: &Arc<Key>, now: Timestamp) -> bool {
        let age = now.as_micros().checked_sub(self.at.as_micros());
        Arc::ptr_eq(&self.key, key) && age.is_some_and(|age| age < FACTS_AGE_MAX_MICROS)
    }
}
