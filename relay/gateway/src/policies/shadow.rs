//! Policies on trial: run after the answer has begun, on a budget of their own, and dropped when there are too many.
//!
//! A policy on trial is given the input that it would have if it were enforced: what the enforced policies of the stages before it leave, and
//! nothing of what others on trial say. What it would have changed is found by combining its stage once with it and once without. Where it
//! asks for the price of the chosen upstream, it is given that of the upstream that was really chosen.

use std::sync::Arc;
use std::time::Duration;

use policy_host::active::ActiveBinding;
use policy_host::chain::{self, Baseline, Standing};
use policy_host::{Evaluation, Input};
use schemas::decision::DecisionMode;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Policies;
use super::evaluate::{Evaluated, Failure, run};
use super::records::{Occasion, Recorder};
use crate::choose::Candidate;
use crate::metrics::PolicyMetrics;
use crate::targets::Target;

/// The most requests whose trials wait. Beyond it trials are dropped, and counted.
pub(super) const JOBS_MAX: usize = 1_024;
/// For each moment of running, so many of rest: trials take a tenth of one core at the most.
const REST: u32 = 9;
/// Shorter rests are saved up, as a timer has no finer grain.
const REST_MIN: Duration = Duration::from_millis(5);

/// What is left to do for the policies on trial of one request. It goes to the worker when it is dropped: once the answer has begun, or the
/// request is refused.
pub(crate) struct Shadow {
    permit: Option<mpsc::OwnedPermit<ShadowJob>>,
    job: Option<ShadowJob>,
}

/// The trials of one request, and what its enforced policies said.
pub(super) struct ShadowJob {
    occasion: Occasion,
    candidates: Vec<Arc<Target>>,
    baseline: Baseline,
    stages: Vec<Stage>,
    trials: Vec<Trial>,
}

/// A stage as it was enforced.
pub(super) struct Stage {
    pub(super) evaluated: Arc<Vec<Evaluated>>,
}

struct Trial {
    /// Which stage it belongs to, by its place among those passed.
    stage: usize,
    binding: Arc<ActiveBinding>,
    input: Arc<Input>,
}

impl Shadow {
    /// None, and counted, if there are too many.
    pub(super) fn begin(policies: &Policies, candidates: &[Candidate], baseline: Baseline, occasion: &Occasion) -> Option<Self> {
        let Ok(permit) = policies.shadow.clone().try_reserve_owned() else {
            policies.metrics.shadow_shed();
            return None;
        };
        let candidates = candidates.iter().map(|candidate| Arc::clone(&candidate.target)).collect();
        let job = ShadowJob { occasion: occasion.clone(), candidates, baseline, stages: Vec::new(), trials: Vec::new() };
        Some(Self { permit: Some(permit), job: Some(job) })
    }

    /// To be called before the stage is [`Self::passed`].
    pub(super) fn ask(&mut self, binding: &Arc<ActiveBinding>, input: Input) {
        if let Some(job) = &mut self.job {
            job.trials.push(Trial { stage: job.stages.len(), binding: Arc::clone(binding), input: Arc::new(input) });
        }
    }

    pub(super) fn passed(&mut self, stage: Stage) {
        if let Some(job) = &mut self.job {
            job.stages.push(stage);
        }
    }

    pub(super) fn costs(&mut self, cost_max: Option<u64>) {
        if let Some(job) = &mut self.job {
            job.occasion.cost_max = cost_max;
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if let (Some(permit), Some(job)) = (self.permit.take(), self.job.take())
            && !job.trials.is_empty()
        {
            permit.send(job);
        }
    }
}

/// Runs what is on trial. The composition root runs it as a task.
pub struct ShadowWorker {
    jobs: mpsc::Receiver<ShadowJob>,
    recorder: Recorder,
    metrics: PolicyMetrics,
}

impl ShadowWorker {
    pub(super) fn new(jobs: mpsc::Receiver<ShadowJob>, recorder: Recorder, metrics: PolicyMetrics) -> Self {
        Self { jobs, recorder, metrics }
    }

    /// Works until it is cancelled, or the gateway is gone. What waits then is dropped.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut rest = Duration::ZERO;
        while let Some(Some(job)) = cancel.run_until_cancelled(self.jobs.recv()).await {
            for trial in &job.trials {
                rest += self.try_one(&job, trial).await * REST;
                #[cfg(feature = "faults")]
                if crate::faults::is_planted("restless-shadow") {
                    rest = Duration::ZERO;
                }
                if rest >= REST_MIN {
                    if cancel.run_until_cancelled(sleep(rest)).await.is_none() {
                        return;
                    }
                    rest = Duration::ZERO;
                }
            }
        }
    }

    /// Gives the time it took.
    async fn try_one(&self, job: &ShadowJob, trial: &Trial) -> Duration {
        let Trial { stage, binding, input } = trial;
        let policy = &binding.current;
        let Some(module) = &policy.module else { return Duration::ZERO };
        let Evaluation { result, fuel, elapsed, .. } = run(module, input).await;
        self.metrics.ran(binding.kind, fuel, elapsed);
        let one = Evaluated {
            binding: Arc::clone(binding),
            policy: policy.digest,
            settings: policy.settings_digest,
            class: Some(module.class()),
            on_fault: policy.on_fault,
            mode: DecisionMode::Shadow,
            input: Arc::clone(input),
            answer: result.map_err(|fault| Failure::new(&fault)),
            fuel,
            elapsed,
        };
        self.metrics.evaluated(binding.kind, DecisionMode::Shadow, one.effect());
        if let Err(failure) = &one.answer {
            self.metrics.failed(binding.kind, failure.code);
        }
        self.compare(job, *stage, one);
        elapsed
    }

    /// Records it with what its stage would have come to, and counts it if that is another thing.
    fn compare(&self, job: &ShadowJob, stage: usize, one: Evaluated) {
        let candidates: Vec<chain::Candidate<'_>> = job.candidates.iter().map(plain).collect();
        let mut before = Standing::new(candidates.len());
        for passed in job.stages.iter().take(stage) {
            let members: Vec<_> = passed.evaluated.iter().map(Evaluated::member).collect();
            before.combine(&members, &candidates, job.baseline);
        }
        // A stage that refused is there as any other; one that read nothing of the request is not, and has no members.
        let enforced = job.stages.get(stage).map_or(&[][..], |passed| passed.evaluated.as_slice());
        let combined = |others: &[&Evaluated]| {
            let mut members: Vec<_> = enforced.iter().chain(others.iter().copied()).map(Evaluated::member).collect();
            members.sort_by_key(|member| (member.scope, member.binding));
            let mut standing = before.clone();
            let outcome = standing.combine(&members, &candidates, job.baseline);
            (outcome, standing)
        };
        let (with, without) = (combined(&[&one]), combined(&[]));
        if (with.0.effect(), &with.1) != (without.0.effect(), &without.1) {
            self.metrics.shadow_disagreed(one.kind());
        }
        self.recorder.record(&job.occasion, &[one], &with.0);
    }
}

fn plain(target: &Arc<Target>) -> chain::Candidate<'_> {
    chain::Candidate { id: &target.facts.id, pool: target.route.upstream.details.pool, region: target.facts.region.as_deref() }
}
