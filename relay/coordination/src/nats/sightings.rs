//! How long a revision has been seen unchanged, by this node's monotonic clock.
//!
//! Nodes' wall clocks may differ by any amount. What another node wrote with a ttl is over when this node has seen it unchanged for that ttl:
//! it saw it after it was written, so it never ends early, whatever the clocks say.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The most keys that are remembered. One that is dropped is seen anew, so what lies under it ends later, never earlier.
const KEYS_MAX: usize = 4_096;

#[derive(Default)]
pub(crate) struct Sightings {
    /// The last revision seen of each key, and when it was first seen.
    seen: Mutex<HashMap<String, (u64, Instant)>>,
}

impl Sightings {
    /// Notes that this revision is there, and tells for how long it was.
    pub(crate) fn see(&self, key: &str, revision: u64, now: Instant) -> Duration {
        let mut seen = self.seen.lock();
        match seen.get(key) {
            Some((known, since)) if *known == revision => return now - *since,
            None if seen.len() >= KEYS_MAX => {
                let oldest = seen.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| key.clone());
                oldest.and_then(|key| seen.remove(&key));
            }
            _ => {}
        }
        seen.insert(key.to_owned(), (revision, now));
        Duration::ZERO
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use super::*;

    #[test]
    fn a_revision_ages_until_it_changes() {
        let (sightings, mut now) = (Sightings::default(), Instant::now());
        assert_eq!(sightings.see("a", 1, now), Duration::ZERO);
        now += Duration::from_secs(3);
        assert_eq!(sightings.see("a", 1, now), Duration::from_secs(3));
        assert_eq!(sightings.see("a", 2, now), Duration::ZERO);
    }

    #[test]
    fn the_oldest_makes_room() {
        let (sightings, mut now) = (Sightings::default(), Instant::now());
        for key in 0..=KEYS_MAX {
            sightings.see(&key.to_string(), 1, now);
            now += Duration::from_millis(1);
        }
        assert_eq!(sightings.seen.lock().len(), KEYS_MAX);
        assert_eq!(sightings.see("0", 1, now), Duration::ZERO);
        assert!(sightings.see(&KEYS_MAX.to_string(), 1, now) > Duration::ZERO);
    }
}
