//! Test calls of upstreams, by the clock and by hand, and what they came to.
//!
//! What is kept is soft state: shared by the nodes of a cluster, bounded, and gone with the process of a single machine. It is no record of who
//! did what, so it is not in the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coordination::Coordination;
use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use projector::{ReadModels, Route};
use schemas::{TenantId, Timestamp, UpstreamId};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::Clock;
use crate::http::{Probe, ProbeOutcome};

const LEASE: &str = "upstream-tests";
const REJECTED: &str = "upstream-tests-rejected";
const LEASE_TTL: Duration = Duration::from_secs(60);
/// How often it is looked whose time has come, at the least.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
const TESTS_AT_ONCE: usize = 4;
/// Failed tests that are remembered of an upstream.
const ERRORS_MAX: usize = 20;
/// How long what a test came to is remembered: 30 days.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Rejected credentials that notices are made of.
const REJECTED_MAX: usize = 150;

/// What was wrong with an answer, or that there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TestFault {
    /// 401 or 403: the provider does not take the credential.
    Rejected,
    /// 429.
    RateLimited,
    /// Any other answer that is neither a success nor from 500 on.
    Refused,
    /// A status from 500 on.
    Failed,
    /// There was no answer, or nothing to ask with.
    Unreachable,
}

/// One test call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct MadeTest {
    pub at: Timestamp,
    /// Null where the answer was a success.
    #[schema(inline)]
    pub fault: Option<TestFault>,
    pub status: Option<u16>,
    pub elapsed_ms: u64,
}

/// What is remembered of an upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct TestHistory {
    pub last: Option<MadeTest>,
    /// Since when its credential is rejected without a success in between.
    pub rejected_since: Option<Timestamp>,
    /// The last failures, newest first, at most 20.
    #[schema(value_type = Vec<MadeTest>)]
    pub errors: VecDeque<MadeTest>,
}

/// An upstream whose credential is rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejected {
    pub(crate) tenant: TenantId,
    pub(crate) upstream: UpstreamId,
    pub(crate) since: Timestamp,
}

/// Tests upstreams.
pub struct UpstreamTests {
    pub probe: Probe,
    pub models: ReadModels,
    pub coordination: Arc<dyn Coordination>,
    pub clock: Clock,
    /// How old the last test of an upstream may be; none where nothing is tested by the clock.
    pub interval: Option<Duration>,
}

impl MadeTest {
    fn of(outcome: &ProbeOutcome, at: Timestamp) -> Self {
        let fault = match outcome.status {
            None => Some(TestFault::Unreachable),
            Some(200..300) => None,
            Some(401 | 403) => Some(TestFault::Rejected),
            Some(429) => Some(TestFault::RateLimited),
            Some(500..) => Some(TestFault::Failed),
            Some(_) => Some(TestFault::Refused),
        };
        Self { at, fault, status: outcome.status, elapsed_ms: outcome.elapsed_ms }
    }
}

impl TestHistory {
    fn add(&mut self, made: MadeTest) {
        self.rejected_since = match made.fault {
            None => None,
            Some(TestFault::Rejected) => Some(self.rejected_since.unwrap_or(made.at)),
            // What says nothing of the credential leaves it as it was.
            Some(_) => self.rejected_since,
        };
        if made.fault.is_some() {
            self.errors.truncate(ERRORS_MAX - 1);
            self.errors.push_front(made.clone());
        }
        self.last = Some(made);
    }
}

impl UpstreamTests {
    /// Tests an upstream and remembers what it came to. Where that cannot be remembered it is told all the same.
    pub(crate) async fn test(&self, upstream: UpstreamId) -> ProbeOutcome {
        let outcome = (self.probe)(upstream).await;
        let mut history = self.history(upstream).await;
        history.add(MadeTest::of(&outcome, (self.clock)()));
        let text = serde_json::to_vec(&history).expect("numbers and times are JSON");
        if let Err(error) = self.coordination.put(&name_of(upstream), Bytes::from(text), KEPT).await {
            tracing::debug!(upstream.id = %upstream, error = &error as &dyn std::error::Error, "what a test came to is forgotten");
        }
        outcome
    }

    /// What is remembered of an upstream; nothing where nothing is, or nobody can be asked.
    pub(crate) async fn history(&self, upstream: UpstreamId) -> TestHistory {
        let text = self.coordination.get(&name_of(upstream)).await.ok().flatten().unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Tests by the clock until the node stops, on one node of the cluster at a time.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(interval) = self.interval else { return };
        let mut looks = tokio::time::interval(interval.min(LOOK_INTERVAL));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if stop.run_until_cancelled(looks.tick()).await.is_none() || stop.run_until_cancelled(self.look(interval)).await.is_none() {
                return;
            }
        }
    }

    async fn look(&self, interval: Duration) {
        let status = self.models.status();
        if !status.is_ready() || status.lag > 0 || !matches!(self.coordination.lease(LEASE, LEASE_TTL).await, Ok(Some(_))) {
            return;
        }
        let routes = self.models.routes();
        let is_tested = |route: &&Arc<Route>| route.upstream.is_enabled() && route.credential.is_some();
        let tested: Vec<Arc<Route>> = routes.upstreams.iter().filter(is_tested).cloned().collect();
        let looked = stream::iter(tested).map(|route| self.look_at(route, interval).boxed()).buffer_unordered(TESTS_AT_ONCE);
        // All are tested, however many of them are rejected.
        let mut rejected: Vec<_> = looked.filter_map(std::future::ready).collect().await;
        rejected.truncate(REJECTED_MAX);
        let text = serde_json::to_vec(&rejected).expect("ids and times are JSON");
        if let Err(error) = self.coordination.put(REJECTED, Bytes::from(text), KEPT).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "which credentials are rejected could not be told");
        }
    }

    /// Tests an upstream if its time has come, and says whether its credential is rejected.
    async fn look_at(&self, route: Arc<Route>, interval: Duration) -> Option<Rejected> {
        let (upstream, now) = (&route.upstream, (self.clock)());
        let mut history = self.history(upstream.id).await;
        if history.last.as_ref().is_none_or(|last| last.at.plus_seconds(interval.as_secs()) <= now) {
            self.test(upstream.id).await;
            history = self.history(upstream.id).await;
        }
        Some(Rejected { tenant: upstream.tenant.clone(), upstream: upstream.id, since: history.rejected_since? })
    }
}

/// The rejected credentials; none where nobody has tested yet, or nobody can be asked.
pub(crate) async fn rejected(coordination: &dyn Coordination) -> Option<Vec<Rejected>> {
    serde_json::from_slice(&coordination.get(REJECTED).await.ok()??).ok()
}

fn name_of(upstream: UpstreamId) -> String {
    format!("upstream-test-{}", &blake3::hash(upstream.to_string().as_bytes()).to_hex()[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(status: Option<u16>, second: u64) -> MadeTest {
        let outcome = ProbeOutcome { status, elapsed_ms: 1, error: None, account: None };
        MadeTest::of(&outcome, Timestamp::from_micros(second * 1_000_000))
    }

    #[test]
    fn only_a_success_ends_that_a_credential_is_rejected() {
        let mut history = TestHistory::default();
        let at = |second: u64| Some(Timestamp::from_micros(second * 1_000_000));
        let rows = [
            (Some(401), at(1)),
            (Some(403), at(1)),
            (Some(503), at(1)),
            (None, at(1)),
            (Some(429), at(1)),
            (Some(200), None),
            (Some(401), at(7)),
        ];
        for (second, (status, since)) in (1..).zip(rows) {
            history.add(made(status, second));
            assert_eq!(history.rejected_since, since, "{second}");
        }
    }

    #[test]
    fn the_last_failures_are_kept_newest_first_and_no_success_is_among_them() {
        let mut history = TestHistory::default();
        for second in 0..100 {
            history.add(made(if second % 2 == 0 { Some(500) } else { Some(204) }, second));
        }
        let seconds: Vec<_> = history.errors.iter().map(|made| made.at.as_seconds()).collect();
        assert_eq!(seconds, (0..20).map(|n| 98 - 2 * n).collect::<Vec<_>>());
    }
}
