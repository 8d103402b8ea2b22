//! The chain for one request: stages, what they leave of it, and what follows.

use std::sync::Arc;

use policy_host::Input;
use policy_host::active::{Active, ActiveBinding, ActivePolicy};
use policy_host::chain::{self, Baseline, Denial, Outcome, Part, Standing};
use policy_host::contract::{Demand, Price, Subject, expiry, quota, route};
use schemas::PoolId;
use schemas::binding::{Mode, Scope};
use schemas::decision::DecisionMode;
use schemas::key::{Endpoint, Key};
use schemas::policy::PolicyKind;
use schemas::upstream::Dialect;

use super::evaluate::{Evaluated, Runnable};
use super::facts::{self, Ceiling};
use super::records::{Lot, Occasion};
use super::shadow::{Shadow, Stage};
use crate::choose::{Candidate, Selection};
use crate::exchange::Arrival;
use crate::gateway::State;
use crate::limits::Permit;
use crate::meters::{Estimate, Life, MeterName, Reservation};
use crate::refusal::{PolicyDenial, Refusal};
use crate::request_head::RequestHead;
use crate::targets::{Snapshot, Target};

/// What is asked of policies.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) state: &'a State,
    pub(crate) key: &'a Arc<Key>,
    pub(crate) dialect: Dialect,
    pub(crate) endpoint: Endpoint,
    pub(crate) head: &'a RequestHead<'a>,
    pub(crate) request_bytes: usize,
    pub(crate) arrival: Arrival,
    pub(crate) snapshot: &'a Snapshot,
}

/// What they leave of it, for all attempts.
pub(crate) struct Decided {
    pub(crate) first: Arc<Target>,
    pub(crate) rest: Selection,
    pub(crate) caps: Caps,
    pub(crate) permit: Permit,
    /// None where no quota policy is bound.
    pub(crate) reservation: Option<Reservation>,
    /// What is left to do for policies on trial, once the answer has begun.
    pub(crate) shadow: Option<Shadow>,
}

/// The most tokens of an answer.
#[derive(Debug, Default)]
pub(crate) struct Caps {
    pub(crate) all: Option<u64>,
    /// Lower ones of pools, for their upstreams alone.
    pub(crate) pools: Vec<(PoolId, u64)>,
}

/// What a stage asks.
#[derive(Clone, Copy)]
enum Question {
    First,
    /// Once more, of the policies that want to know what the chosen upstream costs, and that reach its pool.
    Chosen(Price, PoolId),
}

struct Chain<'a> {
    active: &'a Arc<Active>,
    asked: Asked<'a>,
    candidates: &'a [Candidate],
    /// The same as the combination needs them.
    plain: &'a [chain::Candidate<'a>],
    standing: Standing,
    baseline: Baseline,
    lot: Lot,
    occasion: Occasion,
    subject: Subject,
    /// Made when the first policy that sees it is asked.
    demand: Option<Demand>,
    life: Option<Life>,
    reservation: Option<Reservation>,
    shadow: Option<Shadow>,
    /// What the stages said that let the request pass: what they asked for may refuse it yet.
    passed: Vec<Arc<Vec<Evaluated>>>,
}

/// Asks the policies that are bound. `permit` is what the key's own limits have counted of the request.
pub(crate) async fn decide(
    active: Arc<Active>,
    asked: Asked<'_>,
    mut selection: Selection,
    permit: Option<Permit>,
) -> Result<Decided, Refusal> {
    let Asked { state, key, arrival, .. } = asked;
    let candidates = selection.candidates();
    let plain: Vec<chain::Candidate<'_>> = candidates.iter().map(plain).collect();
    let lot = Lot::of(arrival.request);
    let baseline = Baseline { output_tokens: state.config.baseline_output_tokens, now_ms: facts::ms(arrival.at) };
    let policies = &state.policies;
    let is_sampled = lot.is_sampled(policies.recorder.sample_ppm);
    let (tenant, at) = (key.tenant.clone(), arrival.at);
    let mut chain = Chain {
        active: &active,
        asked,
        candidates,
        plain: &plain,
        standing: Standing::new(candidates.len()),
        baseline,
        lot,
        occasion: Occasion { request: arrival.request, at, tenant, key: key.id, cost_max: None, is_sampled },
        subject: facts::subject(key),
        demand: None,
        life: None,
        reservation: None,
        shadow: None,
        passed: Vec::new(),
    };
    if PolicyKind::ALL.into_iter().flat_map(|kind| active.of(&key.tenant, kind)).any(|binding| binding.current.mode == Mode::Shadow) {
        chain.shadow = Shadow::begin(policies, candidates, baseline, &chain.occasion);
    }
    for kind in PolicyKind::ALL {
        chain.stage(kind, Question::First).await?;
    }
    chain.hold_pools().inspect_err(|_| chain.record_passed())?;
    let (first, rest) = chain.choose().await?;
    chain.finish(first, rest, permit)
}

fn plain(candidate: &Candidate) -> chain::Candidate<'_> {
    let facts = &candidate.target.facts;
    chain::Candidate { id: &facts.id, pool: candidate.target.route.upstream.details.pool, region: facts.region.as_deref() }
}

impl<'a> Chain<'a> {
    async fn stage(&mut self, kind: PolicyKind, question: Question) -> Result<(), Refusal> {
        let bindings = self.active.of(&self.asked.key.tenant, kind);
        if !bindings.iter().any(|binding| self.reaches(binding.scope)) {
            return Ok(());
        }
        self.prepare(kind)?;
        let evaluated = match self.remembered(bindings, kind)? {
            Some(evaluated) => evaluated,
            None => {
                let evaluated = Arc::new(self.ask(bindings, question).await?);
                if kind == PolicyKind::Expiry && !has_pools(bindings) {
                    let Asked { state, key, arrival, .. } = self.asked;
                    state.policies.expiry.keep(self.active, key, &evaluated, arrival.at);
                }
                evaluated
            }
        };
        let members: Vec<_> = evaluated.iter().map(Evaluated::member).collect();
        let outcome = self.standing.combine(&members, self.plain, self.baseline);
        drop(members);
        self.asked.state.policies.recorder.record(&self.occasion, &evaluated, &outcome);
        if let Some(shadow) = &mut self.shadow {
            shadow.passed(Stage { evaluated: Arc::clone(&evaluated) });
        }
        match outcome {
            Outcome::Permit(_) | Outcome::NotApplicable => {
                self.passed.push(evaluated);
                Ok(())
            }
            Outcome::Fault => Err(Refusal::PolicyFault),
            Outcome::Deny(denial) => Err(refusal(kind, &denial)),
        }
    }

    /// Asks each policy of the stage, from broad to narrow, up to the first that refuses the request.
    async fn ask(&mut self, bindings: &[Arc<ActiveBinding>], question: Question) -> Result<Vec<Evaluated>, Refusal> {
        let Asked { state, key, arrival, .. } = self.asked;
        let (policies, mut evaluated) = (&state.policies, Vec::new());
        for binding in bindings.iter().filter(|binding| self.is_reached(binding.scope, question)) {
            let (policy, mode) = match chain::part(binding.current.mode, binding.id, key.id) {
                Part::Enforced => (&binding.current, DecisionMode::Enforced),
                Part::Canary => (&binding.current, DecisionMode::Canary),
                Part::Previous => match binding.previous.as_ref().filter(|previous| previous.mode == Mode::Enforce) {
                    Some(previous) => (previous, DecisionMode::Enforced),
                    None => continue,
                },
                Part::Off | Part::Shadow => continue,
            };
            if !is_asked(question, policy) {
                continue;
            }
            let runnable = policies.runnable(binding, policy, arrival.at);
            let input = Arc::new(self.input(binding, runnable, question)?);
            let one = policies.evaluate(binding, policy.on_fault, runnable, mode, input, arrival.at).await;
            let is_final = one.is_final();
            evaluated.push(one);
            if is_final {
                break;
            }
        }
        self.ask_shadows(bindings, question)?;
        Ok(evaluated)
    }

    /// Gives policies on trial the input that they would have if they were enforced.
    fn ask_shadows(&mut self, bindings: &[Arc<ActiveBinding>], question: Question) -> Result<(), Refusal> {
        let Some(mut shadow) = self.shadow.take() else { return Ok(()) };
        for binding in bindings.iter().filter(|binding| binding.current.mode == Mode::Shadow && self.is_reached(binding.scope, question)) {
            if let Some(module) = binding.current.module.as_ref().filter(|_| is_asked(question, &binding.current)) {
                let runnable = Runnable::Run(&binding.current, module, policy_host::breaker::Pass::Run);
                shadow.ask(binding, self.input(binding, runnable, question)?);
            }
        }
        self.shadow = Some(shadow);
        Ok(())
    }

    /// Whether a binding is to be asked. What an upstream costs is no matter of other pools than its own.
    fn is_reached(&self, scope: Scope, question: Question) -> bool {
        match (question, scope) {
            (Question::Chosen(_, chosen), Scope::Pool(pool)) if pool != chosen => false,
            _ => self.reaches(scope),
        }
    }

    /// Whether a binding has anything to decide about the request.
    fn reaches(&self, scope: Scope) -> bool {
        match scope {
            Scope::Tenant => true,
            Scope::Key(key) => key == self.asked.key.id,
            Scope::Pool(pool) => self.plain.iter().enumerate().any(|(place, one)| one.pool == pool && self.standing.keeps(place)),
        }
    }

    /// Finds out what the policies of a stage are told, once.
    fn prepare(&mut self, kind: PolicyKind) -> Result<(), Refusal> {
        let Asked { state, key, dialect, endpoint, head, request_bytes, snapshot, .. } = self.asked;
        if kind == PolicyKind::Expiry || self.demand.is_some() {
            return Ok(());
        }
        let demand = facts::demand(dialect, endpoint, head, request_bytes);
        let prices = self.candidates.iter().map(|one| snapshot.price(&one.target.route.upstream, &head.model));
        let ceiling = Ceiling::new(prices, &demand);
        self.occasion.cost_max = ceiling.cost_max;
        if let Some(shadow) = &mut self.shadow {
            shadow.costs(ceiling.cost_max);
        }
        if kind == PolicyKind::Quota {
            let tokens = demand.input_tokens.saturating_add(demand.output_tokens_max.unwrap_or(facts::OUTPUT_TOKENS_DEFAULT));
            let estimate = Estimate { tokens, micro_usd: ceiling.known };
            self.reservation = Some(state.meters.reserve(&key.tenant, key.id, estimate));
        }
        self.demand = Some(demand);
        Ok(())
    }

    /// Verdicts about the key that are still what would be said.
    fn remembered(&mut self, bindings: &[Arc<ActiveBinding>], kind: PolicyKind) -> Result<Option<Arc<Vec<Evaluated>>>, Refusal> {
        if kind != PolicyKind::Expiry {
            return Ok(None);
        }
        let Asked { state, key, arrival, .. } = self.asked;
        let remembered = state.policies.expiry.get(self.active, key, arrival.at);
        self.life = Some(match remembered.life {
            Some(life) => life,
            None => {
                let life = state.meters.life(&key.tenant, key.id).map_err(|error| unreadable(&error))?;
                state.policies.expiry.put(self.active, key, life, arrival.at);
                life
            }
        });
        // Whether a pool is reached depends on the request and not on the key.
        let verdicts = remembered.verdicts.filter(|_| !has_pools(bindings));
        if verdicts.is_some() {
            self.ask_shadows(bindings, Question::First)?;
        }
        Ok(verdicts)
    }

    fn input(&self, binding: &ActiveBinding, runnable: Runnable<'_>, question: Question) -> Result<Input, Refusal> {
        let (now_ms, seed, subject) = (self.baseline.now_ms, self.lot.seed, self.subject.clone());
        let settings = runnable.policy().settings.to_string();
        let demand = || self.demand.clone().unwrap_or_default();
        Ok(match binding.kind {
            PolicyKind::Expiry => {
                let life = self.life.unwrap_or(Life { requests: 0, tokens: 0, last_used: None });
                let key = facts::key_facts(self.asked.key, &life);
                Input::Expiry(expiry::Input { now_ms, seed, settings, subject, key, more: Vec::new() })
            }
            PolicyKind::Quota => Input::Quota(quota::Input {
                now_ms,
                seed,
                settings,
                subject,
                demand: demand(),
                meters: self.meters(runnable)?,
                cost_max: self.occasion.cost_max,
                chosen: match question {
                    Question::First => None,
                    Question::Chosen(price, _) => Some(price),
                },
                more: Vec::new(),
            }),
            PolicyKind::Route => {
                let candidates = self.visible(binding.scope);
                Input::Route(route::Input { now_ms, seed, settings, subject, demand: demand(), candidates, more: Vec::new() })
            }
        })
    }

    /// The candidates that are left, as far as a scope sees them.
    fn visible(&self, scope: Scope) -> Vec<route::Candidate> {
        let Asked { snapshot, head, .. } = self.asked;
        let is_seen = |pool: PoolId| !matches!(scope, Scope::Pool(seen) if seen != pool);
        let left = self.candidates.iter().enumerate().filter(|(place, _)| self.standing.keeps(*place) && is_seen(self.plain[*place].pool));
        left.map(|(_, candidate)| facts::candidate(candidate, snapshot, &head.model)).collect()
    }

    fn meters(&self, runnable: Runnable<'_>) -> Result<Vec<quota::Meter>, Refusal> {
        let (Some(reservation), Some(module)) = (&self.reservation, runnable.module()) else { return Ok(Vec::new()) };
        // A name that is no meter's was refused when the policy was bound; the policy is given what there is.
        let names: Vec<MeterName> = module.manifest().meters.iter().filter_map(|name| name.parse().ok()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        reservation.read(&names, self.asked.arrival.at).map_err(|error| unreadable(&error))
    }

    /// Takes pools away in which the key has as many requests under way as their policies allow.
    fn hold_pools(&mut self) -> Result<(), Refusal> {
        let Asked { state, key, .. } = self.asked;
        let caps: Vec<(PoolId, u32)> = self.standing.pools().filter_map(|(pool, terms)| Some((pool, terms.parallel_max?))).collect();
        if caps.is_empty() {
            return Ok(());
        }
        let own = u32::from(key.details.limits.concurrency.is_some());
        let others = state.allowances.under_way(key.id).saturating_sub(own);
        let mut reached = None;
        for (pool, cap) in caps.into_iter().filter(|(_, cap)| others >= *cap) {
            self.standing.drop_pool(pool, self.plain);
            reached = Some(cap);
        }
        match reached {
            Some(cap) if !self.standing.has_candidates() => Err(Refusal::ConcurrencyLimited(cap)),
            Some(_) | None => Ok(()),
        }
    }

    /// Writes down what the policies said whose caps refuse the request, though none of them denied it.
    fn record_passed(&self) {
        let recorder = &self.asked.state.policies.recorder;
        self.passed.iter().for_each(|evaluated| recorder.record_refused(&self.occasion, evaluated));
    }

    /// The upstream to begin with, after the policies that want to know its price were asked again.
    async fn choose(&mut self) -> Result<(Arc<Target>, Selection), Refusal> {
        let Asked { state, snapshot, head, .. } = self.asked;
        let order = self.standing.order(self.plain);
        let mut rest = Selection::decided(self.candidates, |place| self.standing.keeps(place), &order, self.lot.seed);
        loop {
            let first = rest.next(&state.random).ok_or(Refusal::NoUpstream)?;
            if !self.asks_for_price() {
                return Ok((first, rest));
            }
            let pool = first.route.upstream.details.pool;
            if let Some(price) = snapshot.price(&first.route.upstream, &head.model) {
                self.stage(PolicyKind::Quota, Question::Chosen(price, pool)).await?;
            }
            let left = |target: &Arc<Target>| self.candidates.iter().position(|one| Arc::ptr_eq(&one.target, target));
            let is_left = |target: &Arc<Target>| left(target).is_some_and(|place| self.standing.keeps(place));
            rest.retain(is_left);
            if is_left(&first) {
                return Ok((first, rest));
            }
        }
    }

    /// Whether a quota policy that is not off wants the second question.
    fn asks_for_price(&self) -> bool {
        let policies = |binding: &'a Arc<ActiveBinding>| std::iter::once(&binding.current).chain(&binding.previous);
        let bindings = self.active.of(&self.asked.key.tenant, PolicyKind::Quota).iter();
        bindings.filter(|binding| binding.current.mode != Mode::Off).flat_map(policies).any(wants_price)
    }

    fn finish(self, first: Arc<Target>, rest: Selection, permit: Option<Permit>) -> Result<Decided, Refusal> {
        let Asked { state, key, arrival, .. } = self.asked;
        let held = state.allowances.hold(key.id, permit, self.standing.terms().parallel_max, arrival.at);
        let permit = held.map_err(Refusal::ConcurrencyLimited).inspect_err(|_| self.record_passed())?;
        let Self { standing, mut reservation, shadow, .. } = self;
        let terms = standing.terms();
        if let Some(reservation) = &mut reservation {
            reservation.raise(standing.reserve());
        }
        for advice in standing.advice() {
            tracing::debug!(request.id = %arrival.request, key.id = %key.id, ?advice, "a policy advises");
        }
        let all = terms.output_max;
        let lower = |(pool, cap): (PoolId, Option<u64>)| Some((pool, cap.filter(|cap| all.is_none_or(|all| *cap < all))?));
        let pools = standing.pools().map(|(pool, terms)| (pool, terms.output_max)).filter_map(lower).collect();
        Ok(Decided { first, rest, caps: Caps { all, pools }, permit, reservation, shadow })
    }
}

fn has_pools(bindings: &[Arc<ActiveBinding>]) -> bool {
    bindings.iter().any(|binding| matches!(binding.scope, Scope::Pool(_)))
}

fn is_asked(question: Question, policy: &ActivePolicy) -> bool {
    match question {
        Question::First => true,
        Question::Chosen(..) => wants_price(policy),
    }
}

fn wants_price(policy: &ActivePolicy) -> bool {
    policy.module.as_ref().is_some_and(|module| module.manifest().asks_for_price)
}

fn refusal(kind: PolicyKind, denial: &Denial) -> Refusal {
    match kind {
        PolicyKind::Expiry if denial.is_expired => Refusal::KeyExpired,
        PolicyKind::Expiry => Refusal::PolicyDenied(PolicyDenial::new(denial)),
        PolicyKind::Route => Refusal::PolicyDenied(PolicyDenial::of_route(denial)),
        PolicyKind::Quota => Refusal::QuotaDenied(PolicyDenial::new(denial)),
    }
}

/// What was used cannot be told, so nothing can be decided by it.
fn unreadable(error: &projector::ReadError) -> Refusal {
    tracing::error!(error = error as &dyn std::error::Error, "usage could not be read for a policy");
    Refusal::Unavailable
}
