//! What the data plane exports. Labels are closed enums and reason codes; never a key, a request, a model or any text of a client.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use schemas::upstream::Dialect;
use schemas::usage::{Outcome, TokenParts};

use crate::refusal::Refusal;

pub(crate) use policies::PolicyMetrics;

mod policies;

/// Seconds; the relay's own share of a request is a fraction of a millisecond.
const OVERHEAD_BUCKETS: [f64; 9] = [0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1];
/// Seconds; models take their time.
const FIRST_BYTE_BUCKETS: [f64; 11] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// The data plane's metrics. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Series>);

struct Series {
    requests: Family<RequestLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    fallbacks: Family<DialectLabel, Counter>,
    tokens: Family<TokenLabels, Counter>,
    first_byte: Histogram,
    overhead: Histogram,
    in_flight: Gauge,
    usage_queued: Gauge,
    outbox_dropped: Counter,
    decisions: Family<DecisionLabels, Counter>,
    policies: PolicyMetrics,
}

/// Each value is the text of a closed enum.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    dialect: &'static str,
    outcome: &'static str,
    /// The code of the relay's own answer, empty where an upstream's was passed on.
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    dialect: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DialectLabel {
    dialect: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    dialect: &'static str,
    part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    fate: &'static str,
}

/// What became of a decision record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecisionFate {
    Written,
    /// There was no room in the queue, or the stream took nothing.
    Dropped,
    /// A sample that a spool did not take.
    Shed,
    /// It was dropped from the old end of what is kept on this machine.
    Expired,
}

impl DecisionFate {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Dropped => "dropped",
            Self::Shed => "shed",
            Self::Expired => "expired",
        }
    }
}

/// What came of one attempt at one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptResult {
    Answered,
    /// 429.
    RateLimited,
    /// 401, 402, 403, or no credential at hand.
    Credential,
    /// 408, 5xx, a redirect.
    ServerError,
    Unreachable,
    Timeout,
}

impl AttemptResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::RateLimited => "rate_limited",
            Self::Credential => "credential",
            Self::ServerError => "server_error",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
        }
    }
}

const fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::UpstreamError => "upstream_error",
        Outcome::UpstreamFailed => "upstream_failed",
        Outcome::ClientLeft => "client_left",
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self(Arc::new(Series {
            requests: Family::default(),
            attempts: Family::default(),
            fallbacks: Family::default(),
            tokens: Family::default(),
            first_byte: Histogram::new(FIRST_BYTE_BUCKETS),
            overhead: Histogram::new(OVERHEAD_BUCKETS),
            in_flight: Gauge::default(),
            usage_queued: Gauge::default(),
            outbox_dropped: Counter::default(),
            decisions: Family::default(),
            policies: PolicyMetrics::new(),
        }))
    }

    /// Names all of them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.0.policies.register(registry);
        let relay = registry.sub_registry_with_prefix("keyrelay_relay");
        relay.register("requests", "Requests by dialect, outcome and the reason of a refusal", self.0.requests.clone());
        relay.register("upstream_attempts", "Attempts at upstreams by what came of them", self.0.attempts.clone());
        let fallbacks = self.0.fallbacks.clone();
        relay.register(
            "previous_credential_uses",
            "Requests for which an upstream refused the new credential of a rotation and took the old one",
            fallbacks,
        );
        relay.register("tokens", "Tokens settled, in disjoint parts", self.0.tokens.clone());
        let first_byte = self.0.first_byte.clone();
        relay.register_with_unit("upstream_first_byte", "From sending to an upstream to its first byte", Unit::Seconds, first_byte);
        relay.register_with_unit("overhead", "The relay's own time before the first byte", Unit::Seconds, self.0.overhead.clone());
        relay.register("in_flight", "Requests whose last byte is not sent yet", self.0.in_flight.clone());
        relay.register("usage_queued", "Settled requests that are not in the usage log yet", self.0.usage_queued.clone());
        let dropped = self.0.outbox_dropped.clone();
        relay.register(
            "outbox_dropped",
            "Commands that requests gave rise to and that found no room; a later request offers them again",
            dropped,
        );
        relay.register("decisions", "Decision records by what became of them", self.0.decisions.clone());
    }

    /// The relay answered by itself.
    pub(crate) fn refused(&self, dialect: Dialect, refusal: &Refusal) {
        let outcome = match refusal {
            Refusal::UpstreamFailed | Refusal::UpstreamTimeout => outcome_text(Outcome::UpstreamFailed),
            _ => "refused",
        };
        self.0.requests.get_or_create(&RequestLabels { dialect: dialect.as_str(), outcome, reason: refusal.code() }).inc();
    }

    /// An upstream's answer was passed on.
    pub(crate) fn settled(&self, dialect: Dialect, outcome: Outcome, tokens: &TokenParts) {
        let dialect = dialect.as_str();
        self.0.requests.get_or_create(&RequestLabels { dialect, outcome: outcome_text(outcome), reason: "" }).inc();
        for (part, count) in [
            ("input_uncached", tokens.input_uncached),
            ("cache_read", tokens.cache_read),
            ("cache_write_5m", tokens.cache_write_5m),
            ("cache_write_1h", tokens.cache_write_1h),
            ("output_visible", tokens.output_visible),
            ("output_reasoning", tokens.output_reasoning),
        ] {
            if let Some(count) = count.filter(|count| *count > 0) {
                self.0.tokens.get_or_create(&TokenLabels { dialect, part }).inc_by(count);
            }
        }
    }

    /// So many decision records came to this.
    pub(crate) fn decided(&self, fate: DecisionFate, count: u64) {
        if count > 0 {
            self.0.decisions.get_or_create(&DecisionLabels { fate: fate.as_str() }).inc_by(count);
        }
    }

    /// How many decision records came to this.
    #[cfg(test)]
    pub(crate) fn decisions(&self, fate: DecisionFate) -> u64 {
        self.0.decisions.get_or_create(&DecisionLabels { fate: fate.as_str() }).get()
    }

    pub(crate) fn attempted(&self, dialect: Dialect, result: AttemptResult) {
        self.0.attempts.get_or_create(&AttemptLabels { dialect: dialect.as_str(), result: result.as_str() }).inc();
    }

    /// The old credential of a rotation was needed.
    pub(crate) fn fell_back(&self, dialect: Dialect) {
        self.0.fallbacks.get_or_create(&DialectLabel { dialect: dialect.as_str() }).inc();
    }

    pub(crate) fn answered(&self, first_byte_seconds: f64, overhead_seconds: f64) {
        self.0.first_byte.observe(first_byte_seconds);
        self.0.overhead.observe(overhead_seconds);
    }
}

impl Metrics {
    pub(crate) fn policies(&self) -> &PolicyMetrics {
        &self.0.policies
    }

    /// Requests whose last byte is not sent yet.
    pub(crate) fn in_flight(&self) -> &Gauge {
        &self.0.in_flight
    }

    /// Commands that requests gave rise to and that found no room.
    pub(crate) fn outbox_dropped(&self) -> &Counter {
        &self.0.outbox_dropped
    }

    /// Settled requests that are not in the usage log yet.
    pub(crate) fn usage_queued(&self) -> &Gauge {
        &self.0.usage_queued
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
