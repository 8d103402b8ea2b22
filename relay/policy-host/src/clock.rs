//! When an evaluation has taken too long: by the time that it really ran.
//!
//! The epoch is a wall clock. On a machine with more to do than it has processors a thread may stand still for longer than a policy has, and
//! a fault for that would be the machine's, not the policy's. So at the epoch's deadline the thread's processor time decides, and only that.

use std::time::{Duration, Instant};

use wasmtime::UpdateDeadline;

use crate::limits::Limits;

/// The deadlines of one evaluation. It begins at the first, so that an evaluation that meets none pays nothing.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    first: Option<(Instant, Duration)>,
}

impl Clock {
    /// What happens at a deadline: the end, or another stretch as long as the first one.
    pub(crate) fn deadline(&mut self, limits: &Limits) -> UpdateDeadline {
        let Some(now) = processor_time() else { return UpdateDeadline::Interrupt };
        let (since, then) = *self.first.get_or_insert((Instant::now(), now));
        // The stretch before the first deadline is not known, and counts as not run: at most twice the time is given.
        if now - then < limits.time_max && since.elapsed() < limits.wall_max {
            UpdateDeadline::Continue(limits.ticks())
        } else {
            UpdateDeadline::Interrupt
        }
    }
}

/// How long this thread has run. None where the system does not say; then the wall clock decides.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = text.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use schemas::policy::PolicyClass;

    use super::*;

    /// Deadlines until the end, with this between them.
    fn deadlines(mut between: impl FnMut(Duration)) -> (u32, Duration) {
        let (limits, mut clock, start) = (Limits::of(PolicyClass::Fast), Clock::default(), Instant::now());
        for n in 1.. {
            match clock.deadline(limits) {
                UpdateDeadline::Interrupt => return (n, start.elapsed()),
                _ => between(limits.time_max),
            }
        }
        unreachable!("the wall clock ends it")
    }

    #[test]
    fn a_thread_that_runs_is_stopped_after_its_time() {
        let run = |time: Duration| {
            let until = processor_time().unwrap() + time;
            while processor_time().unwrap() < until {}
        };
        assert_eq!(deadlines(run).0, 2);
    }

    #[test]
    fn a_thread_that_was_held_up_goes_on_until_the_wall_clock_ends_it() {
        let (count, elapsed) = deadlines(std::thread::sleep);
        assert!(count > 2 && elapsed >= Limits::of(PolicyClass::Fast).wall_max, "{count} {elapsed:?}");
    }
}
