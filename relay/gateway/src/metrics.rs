//! What the data plane exports. Labels are closed enums and reason codes; never a key, a request, a model or any text of a client.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use schemas::upstream::Dialect;
use schemas::usage::{Outcome, TokenParts};

/// Seconds; the relay's own share of a request is a fraction of a millisecond.
const OVERHEAD_BUCKETS: [f64; 9] = [0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1];
/// Seconds; models take their time.
const FIRST_BYTE_BUCKETS: [f64; 11] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// The data plane's metrics. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    first_byte: Histogram,
    overhead: Histogram,
    /// Requests whose last byte is not sent yet.
    pub(crate) in_flight: Gauge,
    /// Settled requests that are not in the usage log yet.
    pub(crate) usage_queued: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    dialect: DialectLabel,
    outcome: OutcomeLabel,
    /// A refusal's code, else empty.
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    dialect: DialectLabel,
    result: AttemptResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    dialect: DialectLabel,
    part: TokenPart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum DialectLabel {
    Openai,
    Anthropic,
}

impl From<Dialect> for DialectLabel {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Openai => Self::Openai,
            Dialect::Anthropic => Self::Anthropic,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum OutcomeLabel {
    Completed,
    UpstreamError,
    UpstreamFailed,
    ClientLeft,
    Refused,
}

impl From<Outcome> for OutcomeLabel {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::UpstreamError => Self::UpstreamError,
            Outcome::UpstreamFailed => Self::UpstreamFailed,
            Outcome::ClientLeft => Self::ClientLeft,
        }
    }
}

/// What came of one attempt at one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum TokenPart {
    InputUncached,
    CacheRead,
    CacheWrite5m,
    CacheWrite1h,
    OutputVisible,
    OutputReasoning,
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            requests: Family::default(),
            attempts: Family::default(),
            tokens: Family::default(),
            first_byte: Histogram::new(FIRST_BYTE_BUCKETS),
            overhead: Histogram::new(OVERHEAD_BUCKETS),
            in_flight: Gauge::default(),
            usage_queued: Gauge::default(),
        }
    }

    /// Names all of them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        let relay = registry.sub_registry_with_prefix("keyrelay_relay");
        relay.register("requests", "Requests by dialect, outcome and the reason of a refusal", self.requests.clone());
        relay.register("upstream_attempts", "Attempts at upstreams by what came of them", self.attempts.clone());
        relay.register("tokens", "Tokens settled, in disjoint parts", self.tokens.clone());
        let first_byte = self.first_byte.clone();
        relay.register_with_unit("upstream_first_byte", "From sending to an upstream to its first byte", Unit::Seconds, first_byte);
        relay.register_with_unit("overhead", "The relay's own time before the first byte", Unit::Seconds, self.overhead.clone());
        relay.register("in_flight", "Requests whose last byte is not sent yet", self.in_flight.clone());
        relay.register("usage_queued", "Settled requests that are not in the usage log yet", self.usage_queued.clone());
    }

    pub(crate) fn refused(&self, dialect: Dialect, reason: &'static str) {
        self.requests.get_or_create(&RequestLabels { dialect: dialect.into(), outcome: OutcomeLabel::Refused, reason }).inc();
    }

    pub(crate) fn settled(&self, dialect: Dialect, outcome: Outcome, tokens: &TokenParts) {
        self.requests.get_or_create(&RequestLabels { dialect: dialect.into(), outcome: outcome.into(), reason: "" }).inc();
        for (part, count) in [
            (TokenPart::InputUncached, tokens.input_uncached),
            (TokenPart::CacheRead, tokens.cache_read),
            (TokenPart::CacheWrite5m, tokens.cache_write_5m),
            (TokenPart::CacheWrite1h, tokens.cache_write_1h),
            (TokenPart::OutputVisible, tokens.output_visible),
            (TokenPart::OutputReasoning, tokens.output_reasoning),
        ] {
            if let Some(count) = count.filter(|count| *count > 0) {
                self.tokens.get_or_create(&TokenLabels { dialect: dialect.into(), part }).inc_by(count);
            }
        }
    }

    pub(crate) fn attempted(&self, dialect: Dialect, result: AttemptResult) {
        self.attempts.get_or_create(&AttemptLabels { dialect: dialect.into(), result }).inc();
    }

    pub(crate) fn answered(&self, first_byte_seconds: f64, overhead_seconds: f64) {
        self.first_byte.observe(first_byte_seconds);
        self.overhead.observe(overhead_seconds);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
