//! How often accounts are tried.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use schemas::{CredentialId, WriterId};

/// The first pause after a failure; each further one is up to twice as long ...
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// ... up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// A provider's own `Retry-After` is believed up to here.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// When this node tries accounts again that failed. Another node knows nothing of it: the log's own interval holds for all.
#[derive(Default)]
pub(super) struct Pauses(HashMap<CredentialId, Instant>);

impl Pauses {
    pub(super) fn is_over(&self, id: CredentialId, now: Instant) -> bool {
        self.0.get(&id).is_none_or(|until| *until <= now)
    }

    pub(super) fn set(&mut self, id: CredentialId, now: Instant, pause: Duration) {
        self.0.retain(|_, until| *until > now);
        self.0.insert(id, now + pause);
    }
}

/// How long to wait after so many failures in a row: anything up to the back-off, so that many accounts that failed together do not come
/// again together, but no less than the provider asked for.
pub(super) fn pause(failures: u32, chance: u64, asked: Option<Duration>) -> Duration {
    let ceiling = BACK_OFF_MIN.saturating_mul(1 << failures.min(6)).min(BACK_OFF_MAX);
    let jittered = ceiling.mul_f64((chance % 1024) as f64 / 1024.0);
    jittered.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX))
}

/// How much earlier than at 80 % of its life this node refreshes this secret, in thousandths of what is allowed. Nodes differ, so that they do not
/// claim at once.
pub(super) fn jitter(node: WriterId, id: CredentialId, secret_version: u32) -> u16 {
    let mut hasher = blake3::Hasher::new_derive_key("keyrelay 2026 refresh jitter v1");
    hasher.update(node.as_bytes()).update(id.as_bytes()).update(&secret_version.to_be_bytes());
    let bytes = hasher.finalize();
    u16::from_be_bytes([bytes.as_bytes()[0], bytes.as_bytes()[1]]) % 1001
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_never_fall_short_of_what_was_asked() {
        let longest = |failures| pause(failures, 1023, None).as_secs_f64();
        for (failures, ceiling) in [(0, 1.0), (1, 2.0), (3, 8.0), (6, 60.0), (u32::MAX, 60.0)] {
            assert!(longest(failures) <= ceiling && longest(failures) > ceiling * 0.99, "{failures}");
        }
        assert_eq!(pause(3, 0, None), Duration::ZERO);
        assert_eq!(pause(0, 0, Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(pause(0, 0, Some(Duration::from_secs(1_000_000))), RETRY_AFTER_MAX);
    }

    #[test]
    fn nodes_and_secrets_differ_in_jitter() {
        let (node, id) = (|n| WriterId::from_bytes([n; 16]), CredentialId::from_bytes([7; 16]));
        let all: std::collections::BTreeSet<u16> = (0..100).map(|n| jitter(node(n as u8), id, n)).collect();
        assert!(all.len() > 80 && all.iter().all(|jitter| *jitter <= 1000), "{all:?}");
    }
}
