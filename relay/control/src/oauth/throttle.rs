//! How many wrong answers somebody may paste. Each node counts what it is shown itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use schemas::{Actor, TenantId, Timestamp};

/// So many in [`WINDOW_SECONDS`] are too many.
const WRONG_MAX: usize = 10;
const WINDOW_SECONDS: u64 = 600;

/// Wrong pastes of the last ten minutes, by whoever brought them.
#[derive(Default)]
pub(crate) struct Throttle {
    /// Written by [`Throttle::count`] only.
    wrong: Mutex<HashMap<(TenantId, Actor), VecDeque<Timestamp>>>,
}

impl Throttle {
    /// Whether nothing more is taken from this actor now.
    pub(crate) fn is_closed(&self, tenant: &TenantId, actor: Actor, now: Timestamp) -> bool {
        let mut wrong = self.lock();
        wrong.retain(|_, times| {
            times.retain(|time| now < time.plus_seconds(WINDOW_SECONDS));
            !times.is_empty()
        });
        wrong.get(&(tenant.clone(), actor)).is_some_and(|times| times.len() >= WRONG_MAX)
    }

    /// Counts a wrong paste; whether it was the one too many.
    pub(crate) fn count(&self, tenant: &TenantId, actor: Actor, now: Timestamp) -> bool {
        let mut wrong = self.lock();
        let times = wrong.entry((tenant.clone(), actor)).or_default();
        times.retain(|time| now < time.plus_seconds(WINDOW_SECONDS));
        times.push_back(now);
        times.len() >= WRONG_MAX
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(TenantId, Actor), VecDeque<Timestamp>>> {
        self.wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_wrong_pastes_in_ten_minutes_are_too_many_for_whoever_brought_them() {
        let (throttle, tenant) = (Throttle::default(), TenantId::default_tenant());
        let at = |seconds| Timestamp::from_micros(1_800_000_000_000_000).plus_seconds(seconds);
        for second in 0..9 {
            assert!(!throttle.count(&tenant, Actor::Owner, at(second)));
        }
        assert!(!throttle.is_closed(&tenant, Actor::Owner, at(9)));
        assert!(throttle.count(&tenant, Actor::Owner, at(9)));
        assert!(throttle.is_closed(&tenant, Actor::Owner, at(599)));
        assert!(!throttle.is_closed(&tenant, Actor::Scheduler, at(599)));
        assert!(!throttle.is_closed(&tenant, Actor::Owner, at(600)));
    }
}
