//! What an operator may choose about the data plane; the defaults, each with its reason.

use std::time::Duration;

/// Long enough for a distant handshake, short enough that failover is felt as a pause and not as a failure.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A long answer that is not streamed has its first byte only when the model is done.
pub(crate) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(300);
/// Reasoning models are silent for minutes; providers that ping do it every 15 s or so.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// No request outlives it, however lively.
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(3600);
/// Room for a few images in base64; the largest body a provider of these dialects accepts is of this order.
pub(crate) const BODY_BYTES_MAX: usize = 32 << 20;
/// What all bodies that are held for failover may take together.
pub(crate) const BODIES_BYTES_MAX: usize = 256 << 20;
/// The most of a refused request's body that is read so that the client sees the refusal.
pub(crate) const REFUSED_BODY_BYTES_MAX: usize = 1 << 20;
/// For how long.
pub(crate) const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest silence inside a request's body.
pub(crate) const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a relay that hears nothing of its log goes on with what it knows: a key that was revoked elsewhere stays good here at most this
/// long, and an outage of the log up to this long is none of the clients' business.
pub(crate) const STALENESS_MAX: Duration = Duration::from_secs(15 * 60);

/// One request in a hundred: enough to compare a policy with its successor, little enough to keep for days.
pub(crate) const DECISION_SAMPLE_PPM: u32 = 10_000;

/// The data plane's settings.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Whether an upstream may stand on a loopback, private, link-local or metadata address.
    pub allow_private_upstreams: bool,
    pub connect_timeout: Duration,
    /// From sending a request to an upstream to the head of its answer.
    pub first_byte_timeout: Duration,
    /// Between two chunks of an answer.
    pub idle_timeout: Duration,
    /// From a request's arrival to its last byte.
    pub total_timeout: Duration,
    /// A larger request body is refused.
    pub body_bytes_max: usize,
    /// The process's budget for request bodies; beyond it requests are refused until others finish.
    pub bodies_bytes_max: usize,
    /// What an answer is capped at, in tokens, where a quota policy fails and its binding falls back to the baseline; none caps nothing.
    pub baseline_output_tokens: Option<u64>,
    /// Of a million requests so many have all their decisions recorded; denials and faults are recorded of every request.
    pub decision_sample_ppm: u32,
    /// How old the read models may be: beyond it requests are refused until the log is heard of again.
    pub staleness_max: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            allow_private_upstreams: false,
            connect_timeout: CONNECT_TIMEOUT,
            first_byte_timeout: FIRST_BYTE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            total_timeout: TOTAL_TIMEOUT,
            body_bytes_max: BODY_BYTES_MAX,
            bodies_bytes_max: BODIES_BYTES_MAX,
            baseline_output_tokens: None,
            decision_sample_ppm: DECISION_SAMPLE_PPM,
            staleness_max: STALENESS_MAX,
        }
    }
}
