//! Which upstreams are left alone for a while, and until when.
//!
//! What is kept are facts: what failed, when, how often in a row. The end of a cool-down is a function of them and of the clock, so
//! there is nothing to reset; a success or a change of the upstream makes the facts void. A cool-down never takes an upstream out of
//! the candidates, it only puts it last.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::RwLock;
use schemas::{Timestamp, UpstreamId, Version};

/// However often something failed, it is tried again within this many times the class's base.
const GROWTH_MAX: u32 = 6;
/// A provider's own `Retry-After` is believed up to here.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Facts are kept for this many upstreams; beyond it the oldest half goes.
const UPSTREAMS_MAX: usize = 10_000;

/// Why an attempt says something about the upstream and not about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// 429, with the provider's `Retry-After` if it gave one.
    RateLimited(Option<Duration>),
    /// 401, 402, 403 or a credential that cannot be read.
    Credential,
    /// 5xx, with the provider's `Retry-After` if it gave one.
    Server(Option<Duration>),
    Unreachable,
    Timeout,
}

impl Failure {
    fn base(self) -> Duration {
        match self {
            Self::RateLimited(_) => Duration::from_secs(5),
            Self::Credential => Duration::from_secs(60),
            Self::Server(_) | Self::Unreachable => Duration::from_secs(5),
            Self::Timeout => Duration::from_secs(10),
        }
    }

    fn asked(self) -> Option<Duration> {
        match self {
            Self::RateLimited(asked) | Self::Server(asked) => asked,
            Self::Credential | Self::Unreachable | Self::Timeout => None,
        }
    }
}

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) upstream: Version,
    /// The version of its credential's secret.
    pub(crate) secret: u32,
}

#[derive(Debug, Clone, Copy)]
struct Fact {
    /// Of the upstream when it failed: facts about an earlier one say nothing.
    standing: Standing,
    failure: Failure,
    at: Timestamp,
    in_a_row: u32,
}

impl Fact {
    fn ends_at(&self) -> Timestamp {
        let pause = match self.failure.asked() {
            Some(asked) => asked.min(RETRY_AFTER_MAX),
            None => self.failure.base() * self.in_a_row.min(GROWTH_MAX),
        };
        Timestamp::from_micros(self.at.as_micros().saturating_add(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// The facts about upstreams that failed last time.
#[derive(Default)]
pub(crate) struct Cooling {
    /// Written at failures and at the first success after one; empty on a good day.
    facts: RwLock<HashMap<UpstreamId, Fact>>,
}

impl Cooling {
    /// When the cool-down of an upstream ends, if it is in one.
    pub(crate) fn until(&self, upstream: UpstreamId, standing: Standing, now: Timestamp) -> Option<Timestamp> {
        let facts = self.facts.read();
        let fact = facts.get(&upstream).filter(|fact| fact.standing == standing)?;
        Some(fact.ends_at()).filter(|end| *end > now)
    }

    pub(crate) fn failed(&self, upstream: UpstreamId, standing: Standing, failure: Failure, now: Timestamp) {
        let mut facts = self.facts.write();
        if facts.len() >= UPSTREAMS_MAX {
            let mut times: Vec<_> = facts.values().map(|fact| fact.at).collect();
            let (_, median, _) = times.select_nth_unstable(UPSTREAMS_MAX / 2);
            let median = *median;
            facts.retain(|_, fact| fact.at > median);
        }
        let earlier = facts.get(&upstream).filter(|fact| fact.standing == standing).map_or(0, |fact| fact.in_a_row);
        facts.insert(upstream, Fact { standing, failure, at: now, in_a_row: earlier.saturating_add(1) });
    }

    pub(crate) fn succeeded(&self, upstream: UpstreamId) {
        if self.facts.read().contains_key(&upstream) {
            self.facts.write().remove(&upstream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: UpstreamId = UpstreamId::from_bytes([1; 16]);
    const STANDING: Standing = Standing { upstream: Version(1), secret: 1 };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_pause_grows_with_failures_in_a_row_and_ends_with_a_success_or_a_new_version() {
        let cooling = Cooling::default();
        assert_eq!(cooling.until(UP, STANDING, at(100)), None);
        cooling.failed(UP, STANDING, Failure::Unreachable, at(100));
        assert_eq!(cooling.until(UP, STANDING, at(100)), Some(at(105)));
        assert_eq!(cooling.until(UP, STANDING, at(105)), None);
        cooling.failed(UP, STANDING, Failure::Unreachable, at(110));
        assert_eq!(cooling.until(UP, STANDING, at(111)), Some(at(120)));
        assert_eq!(cooling.until(UP, Standing { upstream: Version(2), ..STANDING }, at(111)), None);
        assert_eq!(cooling.until(UP, Standing { secret: 2, ..STANDING }, at(111)), None);
        for _ in 0..20 {
            cooling.failed(UP, STANDING, Failure::Unreachable, at(200));
        }
        assert_eq!(cooling.until(UP, STANDING, at(200)), Some(at(230)));
        cooling.succeeded(UP);
        assert_eq!(cooling.until(UP, STANDING, at(200)), None);
    }

    #[test]
    fn the_provider_knows_best_when_to_come_again() {
        let cooling = Cooling::default();
        cooling.failed(UP, STANDING, Failure::RateLimited(Some(Duration::from_secs(42))), at(0));
        assert_eq!(cooling.until(UP, STANDING, at(1)), Some(at(42)));
        cooling.failed(UP, STANDING, Failure::RateLimited(Some(Duration::from_secs(1_000_000))), at(0));
        assert_eq!(cooling.until(UP, STANDING, at(1)), Some(at(3600)));
    }
}
