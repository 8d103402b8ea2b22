//! A sliding window of 60 seconds, exact: in no 60 seconds are there more requests than the limit.

use std::collections::VecDeque;

use schemas::Timestamp;

use super::Rate;

const LENGTH_MICROS: u64 = 60_000_000;

/// The requests of the last 60 seconds, oldest first.
///
/// Requests of the same millisecond share one entry that leaves with the last of them. So there are at most 60,001 entries whatever
/// the limit, and the window errs by less than a millisecond, towards refusing.
#[derive(Default)]
pub(super) struct Window {
    runs: VecDeque<Run>,
    count: u32,
}

struct Run {
    last_micros: u64,
    count: u32,
}

impl Window {
    /// Takes one of `limit` requests, or tells when there is one again.
    pub(super) fn take(&mut self, limit: u32, now: Timestamp) -> Result<Rate, Rate> {
        // A clock that was set back must not open the window twice.
        let now_micros = self.runs.back().map_or(0, |run| run.last_micros).max(now.as_micros());
        self.expire(now_micros);
        if self.count >= limit {
            return Err(self.rate(limit, self.count - limit, now));
        }
        match self.runs.back_mut() {
            Some(run) if run.last_micros / 1000 == now_micros / 1000 => {
                run.last_micros = now_micros;
                run.count += 1;
            }
            _ => self.runs.push_back(Run { last_micros: now_micros, count: 1 }),
        }
        self.count += 1;
        Ok(self.rate(limit, 0, now))
    }

    pub(super) fn is_empty(&self, now: Timestamp) -> bool {
        self.runs.back().is_none_or(|run| run.last_micros + LENGTH_MICROS <= now.as_micros())
    }

    fn expire(&mut self, now_micros: u64) {
        while let Some(run) = self.runs.front().filter(|run| run.last_micros + LENGTH_MICROS <= now_micros) {
            self.count -= run.count;
            self.runs.pop_front();
        }
    }

    /// `excess` is how many requests there are above the limit: more than none after the limit was lowered.
    fn rate(&self, limit: u32, excess: u32, now: Timestamp) -> Rate {
        let mut to_leave = u64::from(excess) + 1;
        let frees = self.runs.iter().find(|run| {
            to_leave = to_leave.saturating_sub(u64::from(run.count));
            to_leave == 0
        });
        let reset_at = frees.map_or(now, |run| Timestamp::from_micros(run.last_micros + LENGTH_MICROS));
        Rate { limit, remaining: limit.saturating_sub(self.count), reset_at, now }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

    fn micros(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn the_request_after_the_last_is_refused_until_the_first_is_a_minute_old() {
        let mut window = Window::default();
        for n in 0..3 {
            assert_eq!(window.take(3, micros(n * 1_000_000)).unwrap().remaining, 2 - n as u32);
        }
        let refused = window.take(3, micros(59_999_999)).unwrap_err();
        assert_eq!((refused.remaining, refused.reset_after_ms()), (0, 1));
        assert!(window.take(3, micros(60_000_000)).is_ok());
        assert!(window.take(3, micros(60_999_999)).is_err());
        assert!(window.take(3, micros(61_000_000)).is_ok());
    }

    #[test]
    fn a_lowered_limit_waits_for_more_to_leave() {
        let mut window = Window::default();
        for n in 0..4 {
            window.take(4, micros(n * 1_000_000)).unwrap();
        }
        assert_eq!(window.take(2, micros(4_000_000)).unwrap_err().reset_at, micros(62_000_000));
    }

    #[test]
    fn a_clock_set_back_opens_nothing() {
        let mut window = Window::default();
        window.take(1, micros(100_000_000)).unwrap();
        assert!(window.take(1, micros(10_000_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_sixty_seconds_hold_more_than_the_limit(steps in proptest::collection::vec(0u64..2_000_000, 1..300), limit in 1u32..40) {
            let mut window = Window::default();
            let mut taken: Vec<u64> = Vec::new();
            let mut now = 0;
            for step in steps {
                now += step;
                let held = taken.iter().filter(|at| **at + LENGTH_MICROS > now).count();
                let expected = held < limit as usize;
                let got = window.take(limit, micros(now)).is_ok();
                prop_assert!(!got || expected, "one too many at {}", now);
                // Refused without need only for a request of the same millisecond as one that is still held.
                let held_to_the_millisecond = taken.iter().filter(|at| **at + LENGTH_MICROS + 1000 > now).count();
                prop_assert!(got || held_to_the_millisecond >= limit as usize, "refused too early at {}", now);
                if got {
                    taken.push(now);
                }
            }
        }
    }
}
