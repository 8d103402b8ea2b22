//! How long ago the rows were last known to hold all that the log held.
//!
//! Known is what a head says: rows that have reached a head are level as of the moment at which that head was asked for. Time is that of
//! the machine since its boot, which never goes backwards and goes on while the machine is suspended: a revocation may come meanwhile. The wall
//! clock plays no part but at start, for the time in which no process ran.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use schemas::Sequence;

/// How often the log is asked for its head.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Rows that were level within two heartbeats are level as far as anybody can know.
const LEVEL: Duration = Duration::from_secs(2 * HEARTBEAT.as_secs());

/// A moment of the process: microseconds since it began. Before that, negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

impl Moment {
    const NEVER: Self = Self(i64::MIN);
}

/// Read by every request, written by the fold.
pub(crate) struct Freshness {
    since_boot: fn() -> Duration,
    /// By that clock.
    begun: Duration,
    /// The last [`Moment`] at which the rows are known to have been level. Only ever raised.
    level: AtomicI64,
    /// The oldest head that was heard of and not reached yet, and when it was asked for.
    due: Mutex<Option<(Sequence, Moment)>>,
}

impl Freshness {
    /// Begins with rows that have not been level for so long; none if they never were.
    pub(crate) fn new(staleness: Option<Duration>) -> Self {
        Self::on(since_boot, staleness)
    }

    fn on(since_boot: fn() -> Duration, staleness: Option<Duration>) -> Self {
        let before = |staleness: Duration| i64::try_from(staleness.as_micros()).ok().map(|micros| Moment(-micros));
        let level = staleness.and_then(before).unwrap_or(Moment::NEVER);
        Self { since_boot, begun: since_boot(), level: AtomicI64::new(level.0), due: Mutex::default() }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment(i64::try_from((self.since_boot)().saturating_sub(self.begun).as_micros()).unwrap_or(i64::MAX))
    }

    /// Takes in a head. `position` is asked after everybody who announces one would find the head due.
    pub(crate) fn hear(&self, head: Sequence, asked: Moment, position: impl FnOnce() -> Sequence) {
        let mut due = self.due.lock();
        if position() >= head {
            self.raise(asked);
        } else {
            // The oldest stays: a newer one in its place, each time, might never be reached.
            due.get_or_insert((head, asked));
        }
    }

    /// Takes in a position that readers see already.
    pub(crate) fn reach(&self, position: Sequence) {
        if let Some((_, asked)) = self.due.lock().take_if(|(head, _)| *head <= position) {
            self.raise(asked);
        }
    }

    /// How long the rows have not been known to be level: zero if that is a matter of heartbeats, [`Duration::MAX`] if they never were.
    pub(crate) fn staleness(&self) -> Duration {
        self.unrounded().map_or(Duration::MAX, |staleness| if staleness <= LEVEL { Duration::ZERO } else { staleness })
    }

    /// The same to the microsecond; none if the rows never were level.
    pub(crate) fn unrounded(&self) -> Option<Duration> {
        let level = Moment(self.level.load(Ordering::Relaxed));
        let since = || Duration::from_micros(self.now().0.saturating_sub(level.0).try_into().unwrap_or_default());
        (level != Moment::NEVER).then(since)
    }

    fn raise(&self, level: Moment) {
        self.level.fetch_max(level.0, Ordering::Relaxed);
    }
}

/// The time since the machine was booted, in which it was suspended included.
fn since_boot() -> Duration {
    // Elsewhere the monotonic clock counts that time, or nothing does.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = ClockId::Monotonic;
    clock_gettime(clock).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn hear(freshness: &Freshness, head: u64, asked: Moment, position: u64) {
        freshness.hear(Sequence(head), asked, || Sequence(position));
    }

    #[test]
    fn what_was_never_level_is_stale_without_bound() {
        let freshness = Freshness::new(None);
        assert_eq!((freshness.staleness(), freshness.unrounded()), (Duration::MAX, None));
        hear(&freshness, 9, freshness.now(), 8);
        assert_eq!(freshness.staleness(), Duration::MAX);
    }

    #[test]
    fn time_in_which_the_machine_is_suspended_counts() {
        thread_local!(static CLOCK: std::cell::Cell<Duration> = const { std::cell::Cell::new(HOUR) });
        let freshness = Freshness::on(|| CLOCK.get(), None);
        hear(&freshness, 9, freshness.now(), 9);
        assert_eq!(freshness.staleness(), Duration::ZERO);
        // The process sees nothing of it but the clock.
        CLOCK.set(HOUR * 3);
        assert_eq!(freshness.staleness(), HOUR * 2);
    }

    /// The kernel tells the same clock in a file.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_clock_is_the_one_that_goes_on_while_the_machine_is_suspended() {
        let told = std::fs::read_to_string("/proc/uptime").unwrap();
        let told = Duration::from_secs_f64(told.split(' ').next().unwrap().parse().unwrap());
        let passed = since_boot().abs_diff(told);
        assert!(passed < Duration::from_secs(5), "{passed:?}");
    }

    #[test]
    fn staleness_goes_on_from_the_last_process() {
        let freshness = Freshness::new(Some(HOUR));
        assert!(freshness.staleness() >= HOUR && freshness.staleness() < 2 * HOUR);
    }

    #[test]
    fn a_head_that_is_reached_at_once_or_later_is_fresh_as_of_its_question() {
        let freshness = Freshness::new(Some(HOUR));
        hear(&freshness, 9, freshness.now(), 9);
        assert_eq!(freshness.staleness(), Duration::ZERO);

        let freshness = Freshness::new(Some(HOUR));
        let asked = Moment(-60_000_000);
        hear(&freshness, 9, asked, 8);
        // A newer head, not reached either, does not put the older one off.
        hear(&freshness, 20, freshness.now(), 8);
        assert!(freshness.staleness() >= HOUR);
        freshness.reach(Sequence(8));
        assert!(freshness.staleness() >= HOUR);
        freshness.reach(Sequence(10));
        assert!(freshness.staleness() >= Duration::from_secs(60) && freshness.staleness() < HOUR);
    }

    #[test]
    fn an_old_answer_takes_nothing_back() {
        let freshness = Freshness::new(None);
        hear(&freshness, 9, freshness.now(), 9);
        hear(&freshness, 9, Moment(-1), 9);
        assert_eq!(freshness.staleness(), Duration::ZERO);
    }
}
