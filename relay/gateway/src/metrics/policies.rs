//! What is counted of policies. Labels are closed sets; never a tenant, a binding, a policy or any text of a guest.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use schemas::decision::{DecisionEffect, DecisionMode};
use schemas::policy::PolicyKind;

/// Seconds; a compiled policy takes some ten microseconds, an interpreted one milliseconds.
const TIME_BUCKETS: [f64; 10] = [0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_5, 0.002, 0.01, 0.1, 1.0];
/// The fast class has two million, the slow one fifty.
const FUEL_BUCKETS: [f64; 8] = [1e3, 1e4, 5e4, 2e5, 1e6, 2e6, 1e7, 5e7];

/// The metrics of policies. Cheap to clone; clones count together.
#[derive(Clone)]
pub(crate) struct PolicyMetrics(Arc<Series>);

struct Series {
    evaluations: Family<EvaluationLabels, Counter>,
    faults: Family<FaultLabels, Counter>,
    breaker_openings: Family<KindLabels, Counter>,
    disagreements: Family<KindLabels, Counter>,
    shed: Counter,
    time: Family<KindLabels, Histogram>,
    fuel: Family<KindLabels, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EvaluationLabels {
    kind: &'static str,
    mode: &'static str,
    effect: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    kind: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

impl PolicyMetrics {
    pub(super) fn new() -> Self {
        Self(Arc::new(Series {
            evaluations: Family::default(),
            faults: Family::default(),
            breaker_openings: Family::default(),
            disagreements: Family::default(),
            shed: Counter::default(),
            time: Family::new_with_constructor(|| Histogram::new(TIME_BUCKETS)),
            fuel: Family::new_with_constructor(|| Histogram::new(FUEL_BUCKETS)),
        }))
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let policy = registry.sub_registry_with_prefix("keyrelay_policy");
        let series = &self.0;
        policy.register("evaluations", "Evaluations of policies by what came of them", series.evaluations.clone());
        policy.register("faults", "Policies that gave no verdict, by why", series.faults.clone());
        policy.register("breaker_openings", "Policies that failed too often and rest", series.breaker_openings.clone());
        policy.register("shadow_disagreements", "Policies on trial that would have changed their stage", series.disagreements.clone());
        policy.register("shadow_shed", "Requests whose policies on trial were not run, as too many waited", series.shed.clone());
        policy.register_with_unit("evaluation", "From a policy's input to its output", Unit::Seconds, series.time.clone());
        policy.register("fuel", "What an evaluation used", series.fuel.clone());
    }

    pub(crate) fn evaluated(&self, kind: PolicyKind, mode: DecisionMode, effect: DecisionEffect) {
        let labels = EvaluationLabels { kind: kind.as_str(), mode: mode_text(mode), effect: effect_text(effect) };
        self.0.evaluations.get_or_create(&labels).inc();
    }

    /// `code` is one of [`policy_host::PolicyFault::code`], or of the few that the gateway has itself.
    pub(crate) fn failed(&self, kind: PolicyKind, code: &'static str) {
        self.0.faults.get_or_create(&FaultLabels { kind: kind.as_str(), code }).inc();
    }

    pub(crate) fn ran(&self, kind: PolicyKind, fuel: u64, elapsed: Duration) {
        let labels = KindLabels { kind: kind.as_str() };
        self.0.time.get_or_create(&labels).observe(elapsed.as_secs_f64());
        self.0.fuel.get_or_create(&labels).observe(fuel as f64);
    }

    pub(crate) fn breaker_opened(&self, kind: PolicyKind) {
        self.0.breaker_openings.get_or_create(&KindLabels { kind: kind.as_str() }).inc();
    }

    pub(crate) fn shadow_disagreed(&self, kind: PolicyKind) {
        self.0.disagreements.get_or_create(&KindLabels { kind: kind.as_str() }).inc();
    }

    pub(crate) fn shadow_shed(&self) {
        self.0.shed.inc();
    }
}

const fn mode_text(mode: DecisionMode) -> &'static str {
    match mode {
        DecisionMode::Enforced => "enforced",
        DecisionMode::Canary => "canary",
        DecisionMode::Shadow => "shadow",
    }
}

const fn effect_text(effect: DecisionEffect) -> &'static str {
    match effect {
        DecisionEffect::Permit => "permit",
        DecisionEffect::Deny => "deny",
        DecisionEffect::NotApplicable => "not_applicable",
        DecisionEffect::Fault => "fault",
    }
}
