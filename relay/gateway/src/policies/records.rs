//! Which decisions are written down, and how.

use std::sync::Arc;

use policy_host::Output;
use policy_host::chain::Outcome;
use schemas::decision::{DecisionAnswer, DecisionEffect, DecisionRecord};
use schemas::{Digest, KeyId, RequestId, TenantId, Timestamp};

use super::evaluate::Evaluated;
use crate::decisions::DecisionSink;

const MILLION: u64 = 1_000_000;

/// Writes decisions down. Cheap to clone.
#[derive(Clone)]
pub(super) struct Recorder {
    pub(super) decisions: DecisionSink,
    pub(super) engine: Arc<str>,
    pub(super) sample_ppm: u32,
}

/// Whose decisions they are.
#[derive(Debug, Clone)]
pub(super) struct Occasion {
    pub(super) request: RequestId,
    pub(super) at: Timestamp,
    pub(super) tenant: TenantId,
    pub(super) key: KeyId,
    pub(super) cost_max: Option<u64>,
    /// Whether all decisions of the request are recorded.
    pub(super) is_sampled: bool,
}

/// What chance a request has: it follows from its id alone, so that it can be worked out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lot {
    /// What policies and the choice among equals draw from.
    pub(super) seed: u64,
    sample: u64,
}

impl Lot {
    pub(super) fn of(request: RequestId) -> Self {
        let digest = Digest::blake3(request.as_bytes());
        let half = |from: usize| u64::from_be_bytes(std::array::from_fn(|place| digest.as_bytes()[from + place]));
        Self { seed: half(0), sample: half(8) % MILLION }
    }

    pub(super) fn is_sampled(self, ppm: u32) -> bool {
        self.sample < u64::from(ppm)
    }
}

impl Recorder {
    /// Records what the members of a stage said, as far as it is to be: denials, faults and tags always, the rest of sampled requests. A request
    /// may be refused though everybody permits it, for no upstream suits all of them: then all of them are denials.
    pub(super) fn record(&self, occasion: &Occasion, evaluated: &[Evaluated], outcome: &Outcome) {
        let combined = outcome.effect();
        for one in evaluated {
            if occasion.is_sampled || is_refusal(combined) || is_always_recorded(one) {
                self.decisions.offer(self.decision(occasion, one, combined));
            }
        }
    }

    /// Records what the members of a stage said that let the request pass, when what they asked for refuses it later. What [`Self::record`]
    /// wrote down of the stage is not written twice.
    pub(super) fn record_refused(&self, occasion: &Occasion, evaluated: &[Evaluated]) {
        for one in evaluated.iter().filter(|one| !occasion.is_sampled && !is_always_recorded(one)) {
            self.decisions.offer(self.decision(occasion, one, DecisionEffect::Deny));
        }
    }

    fn decision(&self, occasion: &Occasion, one: &Evaluated, combined: DecisionEffect) -> DecisionRecord {
        let answer = match &one.answer {
            Ok(output) => DecisionAnswer::Output(output.encode()),
            Err(failure) => {
                DecisionAnswer::Fault { code: failure.code.into(), detail: failure.detail.clone(), replayable: failure.is_replayable }
            }
        };
        let reasons = |output: &Output| output.verdict().reasons.iter().map(|reason| reason.code.clone()).collect();
        DecisionRecord {
            request: occasion.request,
            at: occasion.at,
            tenant: occasion.tenant.clone(),
            key: occasion.key,
            kind: one.kind(),
            binding: one.binding.id,
            policy: one.policy,
            class: one.class,
            settings: one.settings,
            mode: one.mode,
            input: one.input.encode(),
            answer,
            effect: one.effect(),
            reasons: one.answer.as_ref().map(reasons).unwrap_or_default(),
            combined,
            cost_max: occasion.cost_max,
            fuel: one.fuel,
            elapsed_ns: u64::try_from(one.elapsed.as_nanos()).unwrap_or(u64::MAX),
            engine: self.engine.to_string(),
        }
    }
}

fn is_always_recorded(one: &Evaluated) -> bool {
    is_refusal(one.effect()) || one.tags_usage()
}

const fn is_refusal(effect: DecisionEffect) -> bool {
    matches!(effect, DecisionEffect::Deny | DecisionEffect::Fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_about_as_large_as_it_says_and_the_same_each_time() {
        let request = |n: u64| {
            let mut id = [0; 16];
            id[8..].copy_from_slice(&n.to_be_bytes());
            RequestId::from_bytes(id)
        };
        let sampled = (0..20_000).filter(|n| Lot::of(request(*n)).is_sampled(100_000)).count();
        // Six standard deviations of a binomial are below 260.
        assert!(sampled.abs_diff(2_000) < 260, "{sampled}");
        assert_eq!(Lot::of(request(1)), Lot::of(request(1)));
        assert!(!Lot::of(request(1)).is_sampled(0) && Lot::of(request(1)).is_sampled(1_000_000));
    }
}
