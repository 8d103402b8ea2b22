//! How much a key may do at once and per minute.
//!
//! State is kept only for keys that have a limit and were used in the last minute or are in use; it is found by key id, so a renewed
//! or rotated key keeps it. A request that is refused here counts nowhere.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use schemas::key::Limits;
use schemas::{KeyId, Timestamp};

use window::Window;

mod window;

const SHARDS: usize = 16;
/// A shard with fewer keys is not worth a sweep.
const SWEEP_MIN: usize = 64;

/// The state of all limited keys.
pub(crate) struct Allowances {
    shards: [Mutex<Shard>; SHARDS],
}

/// Guarded by its shard's lock, held for a few look-ups only.
#[derive(Default)]
struct Shard {
    keys: HashMap<KeyId, Allowance>,
    /// The number of keys at which idle ones are swept out.
    sweep_at: usize,
}

#[derive(Default)]
struct Allowance {
    window: Window,
    in_flight: u32,
}

/// What a key has left of its requests per minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// When the next used request is given back.
    pub(crate) reset_at: Timestamp,
    pub(crate) now: Timestamp,
}

impl Rate {
    /// At least one, so that a client that waits as long is not refused for rounding.
    pub(crate) fn reset_after_ms(&self) -> u64 {
        self.reset_at.as_micros().saturating_sub(self.now.as_micros()).div_ceil(1000).max(1)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Rate(Rate),
    Concurrency(u32),
}

/// What an admitted request holds.
pub(crate) struct Allowed {
    pub(crate) rate: Option<Rate>,
    pub(crate) permit: Option<Permit>,
}

/// One of a key's concurrent requests, until it is dropped.
pub(crate) struct Permit {
    allowances: Arc<Allowances>,
    key: KeyId,
}

impl Allowances {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { shards: Default::default() })
    }

    /// Takes one request out of the key's limits, or nothing.
    pub(crate) fn admit(self: &Arc<Self>, key: KeyId, limits: &Limits, now: Timestamp) -> Result<Allowed, Exceeded> {
        if limits.requests_per_minute.is_none() && limits.concurrency.is_none() {
            return Ok(Allowed { rate: None, permit: None });
        }
        let mut shard = self.shard(key).lock();
        shard.sweep(now);
        let allowance = shard.keys.entry(key).or_default();
        if let Some(limit) = limits.concurrency.filter(|limit| allowance.in_flight >= *limit) {
            return Err(Exceeded::Concurrency(limit));
        }
        let rate = match limits.requests_per_minute {
            Some(limit) => Some(allowance.window.take(limit, now).map_err(Exceeded::Rate)?),
            None => None,
        };
        let permit = limits.concurrency.map(|_| {
            allowance.in_flight += 1;
            Permit { allowances: Arc::clone(self), key }
        });
        Ok(Allowed { rate, permit })
    }

    /// Counts a request of a key that policies decide on as under way, unless a limit of the key's own has it counted already (`permit`).
    /// Refused with the cap if so many others are under way as it allows.
    pub(crate) fn hold(self: &Arc<Self>, key: KeyId, permit: Option<Permit>, cap: Option<u32>, now: Timestamp) -> Result<Permit, u32> {
        let mut shard = self.shard(key).lock();
        shard.sweep(now);
        let allowance = shard.keys.entry(key).or_default();
        let others = allowance.in_flight.saturating_sub(u32::from(permit.is_some()));
        if let Some(cap) = cap.filter(|cap| others >= *cap) {
            // Dropping the permit takes the lock.
            drop(shard);
            return Err(cap);
        }
        allowance.in_flight = others + 1;
        Ok(permit.unwrap_or_else(|| Permit { allowances: Arc::clone(self), key }))
    }

    /// The key's requests under way that are counted.
    pub(crate) fn under_way(&self, key: KeyId) -> u32 {
        self.shard(key).lock().keys.get(&key).map_or(0, |allowance| allowance.in_flight)
    }

    fn shard(&self, key: KeyId) -> &Mutex<Shard> {
        // The last byte of an id is as random as any.
        &self.shards[usize::from(key.as_bytes()[15]) % SHARDS]
    }
}

impl Shard {
    /// Amortised: a sweep comes only after the shard has doubled since the last one.
    fn sweep(&mut self, now: Timestamp) {
        if self.keys.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.keys.retain(|_, allowance| allowance.in_flight > 0 || !allowance.window.is_empty(now));
            self.sweep_at = self.keys.len() * 2;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut shard = self.allowances.shard(self.key).lock();
        if let Entry::Occupied(mut entry) = shard.keys.entry(self.key) {
            entry.get_mut().in_flight = entry.get().in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const KEY: KeyId = KeyId::from_bytes([7; 16]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_permit_is_given_back_when_dropped() {
        let allowances = Allowances::new();
        let limits = Limits { requests_per_minute: None, concurrency: Some(2) };
        let first = allowances.admit(KEY, &limits, at(1)).unwrap();
        let _second = allowances.admit(KEY, &limits, at(1)).unwrap();
        assert_eq!(allowances.admit(KEY, &limits, at(1)).err(), Some(Exceeded::Concurrency(2)));
        drop(first);
        assert!(allowances.admit(KEY, &limits, at(1)).is_ok());
    }

    #[test]
    fn a_request_over_the_concurrency_uses_no_rate() {
        let allowances = Allowances::new();
        let limits = Limits { requests_per_minute: Some(2), concurrency: Some(1) };
        let first = allowances.admit(KEY, &limits, at(1)).unwrap();
        for _ in 0..5 {
            assert!(matches!(allowances.admit(KEY, &limits, at(1)), Err(Exceeded::Concurrency(1))));
        }
        drop(first);
        assert_eq!(allowances.admit(KEY, &limits, at(1)).unwrap().rate.unwrap().remaining, 0);
    }

    #[test]
    fn a_cap_of_policies_counts_every_request_once() {
        let allowances = Allowances::new();
        let limits = Limits { requests_per_minute: None, concurrency: Some(5) };
        let counted = allowances.admit(KEY, &limits, at(1)).unwrap().permit;
        let first = allowances.hold(KEY, counted, Some(2), at(1)).unwrap();
        let second = allowances.hold(KEY, None, None, at(1)).unwrap();
        assert_eq!(allowances.under_way(KEY), 2);
        assert_eq!(allowances.hold(KEY, None, Some(2), at(1)).err(), Some(2));
        drop(first);
        assert!(allowances.hold(KEY, None, Some(2), at(1)).is_ok());
        drop(second);
        assert_eq!(allowances.under_way(KEY), 0);
    }

    #[test]
    fn idle_keys_are_swept_out() {
        let allowances = Allowances::new();
        let limits = Limits { requests_per_minute: Some(1), concurrency: None };
        let key = |n: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            KeyId::from_bytes(id)
        };
        for n in 0..10_000 {
            let minute_by_minute = at(n * 61);
            assert!(allowances.admit(key(n), &limits, minute_by_minute).is_ok());
        }
        let kept: usize = allowances.shards.iter().map(|shard| shard.lock().keys.len()).sum();
        assert!(kept <= SWEEP_MIN * SHARDS, "{kept}");
    }
}
