//! What policies have to say about a request, between its head and its first upstream.
//!
//! ```text
//! expiry ──> quota ──> route ──> (quota, with the price of the upstream that was chosen)
//!   facts: what they are told       evaluate: one policy, its breaker, its fault       request: the chain, and what it comes to
//! ```
//!
//! A tenant without bindings pays for one load and one look-up. What counts is decided by [`policy_host::chain`]; here are the facts, the
//! calls and the consequences. A policy that is only on trial (`shadow`) is given its input here and is run elsewhere, see [`shadow`]; nothing
//! a client gets waits for it. `GET /v1/models` asks no policy.

use std::sync::Arc;

use arc_swap::ArcSwap;
use policy_host::active::Active;
use policy_host::breaker::Breaker;
use schemas::TenantId;
use schemas::policy::PolicyKind;
use tokio::sync::mpsc;

use crate::decisions::DecisionSink;
use crate::metrics::PolicyMetrics;
use expiry_cache::ExpiryCache;
use shadow::{JOBS_MAX, ShadowJob};

mod evaluate;
mod expiry_cache;
mod facts;
mod records;
mod request;
mod shadow;

pub use shadow::ShadowWorker;

pub(crate) use request::{Asked, Caps, Decided, decide};
pub(crate) use shadow::Shadow;

/// What all requests share.
pub(crate) struct Policies {
    active: Arc<ArcSwap<Active>>,
    breaker: Breaker,
    expiry: ExpiryCache,
    shadow: mpsc::Sender<ShadowJob>,
    recorder: records::Recorder,
    metrics: PolicyMetrics,
}

/// What policies need of the composition root and the configuration.
pub(crate) struct PoliciesParts {
    pub(crate) active: Arc<ArcSwap<Active>>,
    pub(crate) decisions: DecisionSink,
    /// Version and settings of the engine, for the records.
    pub(crate) engine: String,
    pub(crate) sample_ppm: u32,
    pub(crate) metrics: PolicyMetrics,
}

impl Policies {
    pub(crate) fn new(parts: PoliciesParts) -> (Self, ShadowWorker) {
        let PoliciesParts { active, decisions, engine, sample_ppm, metrics } = parts;
        let (shadow, jobs) = mpsc::channel(JOBS_MAX);
        let recorder = records::Recorder { decisions, engine: engine.into(), sample_ppm };
        let worker = ShadowWorker::new(jobs, recorder.clone(), metrics.clone());
        (Self { active, breaker: Breaker::default(), expiry: ExpiryCache::default(), shadow, recorder, metrics }, worker)
    }

    /// The bindings of this moment if the tenant has any.
    pub(crate) fn bound(&self, tenant: &TenantId) -> Option<Arc<Active>> {
        let active = self.active.load();
        let is_bound = !active.bindings.is_empty() && PolicyKind::ALL.into_iter().any(|kind| !active.of(tenant, kind).is_empty());
        is_bound.then(|| Arc::clone(&active))
    }
}
