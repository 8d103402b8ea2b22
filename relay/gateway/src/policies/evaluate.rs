//! One policy and one question: whether it is run at all, the run, and what is kept of it.

use std::sync::Arc;
use std::time::Duration;

use policy_host::active::{ActiveBinding, ActivePolicy};
use policy_host::breaker::{Pass, Version};
use policy_host::chain::{Member, Said};
use policy_host::contract::{Effect, Obligation};
use policy_host::{Evaluation, Input, Module, Output, PolicyFault};
use schemas::binding::{Mode, OnFault, Scope};
use schemas::decision::{DecisionEffect, DecisionMode};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::{Digest, Timestamp};

use super::Policies;

/// What came of one policy of a binding.
#[derive(Debug)]
pub(super) struct Evaluated {
    pub(super) binding: Arc<ActiveBinding>,
    pub(super) policy: Digest,
    pub(super) settings: Digest,
    pub(super) class: Option<PolicyClass>,
    pub(super) on_fault: OnFault,
    pub(super) mode: DecisionMode,
    pub(super) input: Arc<Input>,
    pub(super) answer: Result<Output, Failure>,
    pub(super) fuel: u64,
    pub(super) elapsed: Duration,
}

/// Why there is no verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: &'static str,
    pub(super) detail: String,
    pub(super) is_replayable: bool,
}

impl Failure {
    pub(super) fn new(fault: &PolicyFault) -> Self {
        Self { code: fault.code(), detail: fault.detail(), is_replayable: fault.is_replayable() }
    }

    fn open() -> Self {
        Self { code: "breaker_open", detail: String::new(), is_replayable: false }
    }
}

impl Evaluated {
    pub(super) fn member(&self) -> Member<'_> {
        let ActiveBinding { id, scope, kind, .. } = *self.binding;
        let said = match &self.answer {
            Ok(Output::Expiry(output)) => Said::Expiry(output),
            Ok(Output::Quota(output)) => Said::Quota(output),
            Ok(Output::Route(output)) => Said::Route(output),
            Err(_) => Said::Fault(kind),
        };
        Member { binding: id, scope, on_fault: self.on_fault, said }
    }

    pub(super) fn kind(&self) -> PolicyKind {
        self.binding.kind
    }

    pub(super) fn effect(&self) -> DecisionEffect {
        match self.answer.as_ref().map(|output| output.verdict().effect) {
            Ok(Effect::Permit) => DecisionEffect::Permit,
            Ok(Effect::Deny) => DecisionEffect::Deny,
            Ok(Effect::NotApplicable) => DecisionEffect::NotApplicable,
            Err(_) => DecisionEffect::Fault,
        }
    }

    /// Whether nothing that the other members of the stage say can let the request go on.
    pub(super) fn is_final(&self) -> bool {
        self.effect() == DecisionEffect::Deny && !matches!(self.binding.scope, Scope::Pool(_))
    }

    /// Whether the usage of the request carries a tag for it, which only the decision's record can say.
    pub(super) fn tags_usage(&self) -> bool {
        let is_tag = |obligation: &Obligation| matches!(obligation, Obligation::TagUsage(_));
        self.answer.as_ref().is_ok_and(|output| output.verdict().obligations.iter().any(is_tag))
    }
}

/// A policy in force for a request, and whether it is to be run now.
#[derive(Clone, Copy)]
pub(super) enum Runnable<'a> {
    Run(&'a ActivePolicy, &'a Arc<Module>, Pass),
    NotLoaded(&'a ActivePolicy),
    /// It failed too often, and there is nothing to fall back to.
    Open(&'a ActivePolicy),
}

impl<'a> Runnable<'a> {
    pub(super) const fn policy(&self) -> &'a ActivePolicy {
        match self {
            Self::Run(policy, ..) | Self::NotLoaded(policy) | Self::Open(policy) => policy,
        }
    }

    pub(super) fn module(&self) -> Option<&'a Arc<Module>> {
        self.policy().module.as_ref()
    }
}

impl Policies {
    /// What is run of a binding: the policy in force, or the last good one while that is not loaded or its breaker is open.
    pub(super) fn runnable<'a>(&self, binding: &'a ActiveBinding, policy: &'a ActivePolicy, now: Timestamp) -> Runnable<'a> {
        let runnable = |policy: &'a ActivePolicy| match &policy.module {
            None => Runnable::NotLoaded(policy),
            Some(module) => match self.breaker.pass(&version(binding, policy), now) {
                Pass::Open => Runnable::Open(policy),
                pass @ (Pass::Run | Pass::Trial) => Runnable::Run(policy, module, pass),
            },
        };
        match runnable(policy) {
            run @ Runnable::Run(..) => run,
            other @ (Runnable::Open(_) | Runnable::NotLoaded(_)) => {
                let is_good =
                    |previous: &&ActivePolicy| previous.mode == Mode::Enforce && version(binding, previous) != version(binding, policy);
                match binding.previous.as_ref().filter(is_good).map(runnable) {
                    Some(previous @ Runnable::Run(..)) => previous,
                    _ => other,
                }
            }
        }
    }

    /// Runs it on its input, and tells breaker and metrics how it went.
    pub(super) async fn evaluate(
        &self,
        binding: &Arc<ActiveBinding>,
        on_fault: OnFault,
        runnable: Runnable<'_>,
        mode: DecisionMode,
        input: Arc<Input>,
        now: Timestamp,
    ) -> Evaluated {
        let policy = runnable.policy();
        let (answer, fuel, elapsed) = match runnable {
            Runnable::Run(_, module, pass) => {
                #[cfg(feature = "faults")]
                let given = crate::faults::given(&input);
                #[cfg(not(feature = "faults"))]
                let given = Arc::clone(&input);
                let Evaluation { result, fuel, elapsed, .. } = run(module, &given).await;
                self.heed(binding, policy, pass, result.as_ref().err(), now);
                self.metrics.ran(binding.kind, fuel, elapsed);
                (result.map_err(|fault| Failure::new(&fault)), fuel, elapsed)
            }
            Runnable::NotLoaded(_) => (Err(Failure::new(&PolicyFault::NotLoaded)), 0, Duration::ZERO),
            Runnable::Open(_) => (Err(Failure::open()), 0, Duration::ZERO),
        };
        let evaluated = Evaluated {
            binding: Arc::clone(binding),
            policy: policy.digest,
            settings: policy.settings_digest,
            class: policy.module.as_ref().map(|module| module.class()),
            on_fault,
            mode,
            input,
            answer,
            fuel,
            elapsed,
        };
        self.metrics.evaluated(binding.kind, mode, evaluated.effect());
        if let Err(failure) = &evaluated.answer {
            self.metrics.failed(binding.kind, failure.code);
        }
        evaluated
    }

    fn heed(&self, binding: &ActiveBinding, policy: &ActivePolicy, pass: Pass, fault: Option<&PolicyFault>, now: Timestamp) {
        match fault {
            None => self.breaker.succeeded(&version(binding, policy), pass),
            // These say something about the node or the request, not about the module.
            Some(PolicyFault::Busy | PolicyFault::NotLoaded | PolicyFault::InvalidInput) => {}
            Some(fault) => {
                if self.breaker.failed(&version(binding, policy), pass, now) {
                    self.metrics.breaker_opened(binding.kind);
                    let fault: &dyn std::error::Error = fault;
                    tracing::error!(binding.id = %binding.id, policy.digest = %policy.digest, error = fault, "a policy failed too often and rests");
                }
            }
        }
    }
}

/// What the breaker knows a policy of a binding by.
fn version(binding: &ActiveBinding, policy: &ActivePolicy) -> Version {
    Version { binding: binding.id, policy: policy.digest, settings: policy.settings_digest }
}

/// Fast policies run inline, as fuel bounds them; slow ones on threads of their own.
pub(super) async fn run(module: &Arc<Module>, input: &Arc<Input>) -> Evaluation {
    match module.class() {
        #[cfg(feature = "faults")]
        PolicyClass::Slow if crate::faults::is_planted("slow-inline") => module.decide(input),
        PolicyClass::Fast => module.decide(input),
        PolicyClass::Slow => module.decide_slow(Arc::clone(input)).await,
    }
}
