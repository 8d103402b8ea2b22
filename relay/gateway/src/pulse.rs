//! How an upstream does, as this node sees it: what is under way, and how long it takes to begin an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A new time counts for an eighth, as in TCP's smoothed round trip: one slow answer is noticed, and forgotten after a few quick ones.
const SMOOTHING: u32 = 8;
/// No time yet.
const NONE: u32 = u32::MAX;

/// What is seen of one upstream. It outlives the snapshots that name it.
#[derive(Debug)]
pub(crate) struct Pulse {
    in_flight: AtomicU32,
    /// Milliseconds until the first byte, smoothed; [`NONE`] before the first answer.
    latency_ms: AtomicU32,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { in_flight: AtomicU32::new(0), latency_ms: AtomicU32::new(NONE) }
    }
}

/// One request at an upstream, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Pulse>);

impl Pulse {
    pub(crate) fn begin(self: &Arc<Self>) -> UnderWay {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn latency_ms(&self) -> Option<u32> {
        Some(self.latency_ms.load(Ordering::Relaxed)).filter(|latency| *latency != NONE)
    }

    /// An answer began after so long. Of two that begin at once one may be lost, which a smoothed number bears.
    pub(crate) fn answered(&self, first_byte: Duration) {
        let latest = u32::try_from(first_byte.as_millis()).unwrap_or(NONE).min(NONE - 1);
        let smoothed = match self.latency_ms() {
            None => latest,
            // Towards the latest by an eighth of the difference, and by at least one.
            Some(before) if latest >= before => before + (latest - before).div_ceil(SMOOTHING),
            Some(before) => before - (before - latest).div_ceil(SMOOTHING),
        };
        self.latency_ms.store(smoothed, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_counted_until_dropped() {
        let pulse = Arc::new(Pulse::default());
        let (first, _second) = (pulse.begin(), pulse.begin());
        assert_eq!(pulse.in_flight(), 2);
        drop(first);
        assert_eq!(pulse.in_flight(), 1);
    }

    #[test]
    fn latency_follows_what_is_seen_and_reaches_it() {
        let pulse = Pulse::default();
        assert_eq!(pulse.latency_ms(), None);
        pulse.answered(Duration::from_millis(80));
        assert_eq!(pulse.latency_ms(), Some(80));
        pulse.answered(Duration::from_millis(160));
        assert_eq!(pulse.latency_ms(), Some(90));
        (0..100).for_each(|_| pulse.answered(Duration::from_millis(20)));
        assert_eq!(pulse.latency_ms(), Some(20));
        (0..100).for_each(|_| pulse.answered(Duration::from_millis(23)));
        assert_eq!(pulse.latency_ms(), Some(23));
    }
}
