//! How the policies of a request are combined. Pure: it knows results, not modules, and no clock but the one it is given.
//!
//! A request passes the stages expiry, quota, route, and perhaps quota again. [`Standing`] is what the stages so far leave of it, and every
//! stage only takes away: candidates go, caps fall, expiry comes forward. Deny wins over every permit, a member that is not applicable is as
//! if it were not there, and what is combined does not depend on the order of the members, but for the order of the lists that people read.
//!
//! A member reaches the candidates of its scope: those of a tenant or a key reach all, those of a pool reach that pool alone. So what holds
//! for one candidate is what the members that reach it say together, and a pool's denial costs the request no more than that pool.

use schemas::binding::{OnFault, Scope};
use schemas::decision::DecisionEffect;
use schemas::policy::PolicyKind;
use schemas::{BindingId, PoolId};

use crate::contract::{Advice, Effect, Obligation, Reason, Verdict, expiry, quota, route};
use order::Rankers;

mod canary;
mod order;
#[cfg(test)]
mod planted;
mod terms;
#[cfg(test)]
mod tests;

pub use canary::{Part, part};
pub use order::{Order, Rank};
pub use terms::{Tag, Terms};

/// The most reasons and the most pieces of advice that are kept of a chain.
pub const LIST_MAX: usize = 16;

/// An upstream that could serve the request, as far as the combination needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    pub id: &'a str,
    pub pool: PoolId,
    pub region: Option<&'a str>,
}

/// One policy of a stage, and what came of it.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    pub binding: BindingId,
    pub scope: Scope,
    pub on_fault: OnFault,
    pub said: Said<'a>,
}

/// What a policy answered.
#[derive(Debug, Clone, Copy)]
pub enum Said<'a> {
    Expiry(&'a expiry::Output),
    Quota(&'a quota::Output),
    Route(&'a route::Output),
    /// Nothing that counts: the policy failed, or is not to be run.
    Fault(PolicyKind),
}

impl Said<'_> {
    fn verdict(&self) -> Option<&Verdict> {
        match self {
            Self::Expiry(output) => Some(&output.verdict),
            Self::Quota(output) => Some(&output.verdict),
            Self::Route(output) => Some(&output.verdict),
            Self::Fault(_) => None,
        }
    }
}

/// What the host falls back to, and the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Baseline {
    /// What a quota policy that fails and falls back to the baseline caps an answer at; none caps nothing.
    pub output_tokens: Option<u64>,
    /// Milliseconds since the Unix epoch. A permit whose `valid-until` is not later is a denial.
    pub now_ms: i64,
}

/// Why a request is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denial {
    /// Of those that deny, in the order of the chain; none where all permit and no candidate suits them all.
    pub reasons: Vec<Reason>,
    /// The longest wait that one of them asks for.
    pub retry_ms: Option<u64>,
    /// Nobody denied outright: the key's time, as policies brought it forward, is over.
    pub is_expired: bool,
}

impl Denial {
    /// What denials are added to.
    const fn of_nobody() -> Self {
        Self { reasons: Vec::new(), retry_ms: None, is_expired: true }
    }
}

/// What came of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// At least one policy permits. The reasons are those of the permits.
    Permit(Vec<Reason>),
    Deny(Denial),
    /// No policy had anything to say.
    NotApplicable,
    /// A policy failed whose binding denies then, and no other denied.
    Fault,
}

impl Outcome {
    pub const fn effect(&self) -> DecisionEffect {
        match self {
            Self::Permit(_) => DecisionEffect::Permit,
            Self::Deny(_) => DecisionEffect::Deny,
            Self::NotApplicable => DecisionEffect::NotApplicable,
            Self::Fault => DecisionEffect::Fault,
        }
    }
}

/// What the stages so far leave of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// For each candidate, in the order in which they were given.
    kept: Vec<bool>,
    all: Terms,
    /// What pools add to that for themselves, in the order of their ids.
    pools: Vec<(PoolId, Terms)>,
    rankers: Rankers,
    reserve: Vec<quota::Charge>,
    advice: Vec<Advice>,
    /// The denials that cost the request a pool.
    lost: Option<Denial>,
}

/// What one stage adds up before it is judged.
#[derive(Default)]
struct Tally {
    permits: Vec<Reason>,
    denial: Option<Denial>,
    /// Denials of pools in this stage.
    is_pool_denied: bool,
    is_fault: bool,
    is_pool_fault: bool,
    is_permitted: bool,
}

impl Standing {
    /// Nothing is taken away yet.
    pub fn new(candidates: usize) -> Self {
        Self {
            kept: vec![true; candidates],
            all: Terms::default(),
            pools: Vec::new(),
            rankers: Rankers::default(),
            reserve: Vec::new(),
            advice: Vec::new(),
            lost: None,
        }
    }

    /// Adds what the members of one stage say, in the order of the chain. `candidates` are those that this was made for.
    pub fn combine(&mut self, members: &[Member<'_>], candidates: &[Candidate<'_>], baseline: Baseline) -> Outcome {
        debug_assert_eq!(candidates.len(), self.kept.len(), "the candidates are the same in every stage");
        let had_candidates = self.has_candidates();
        let mut tally = Tally::default();
        for member in members {
            match member.said.verdict() {
                None => self.fail(member, candidates, baseline, &mut tally),
                Some(verdict) => match verdict.effect {
                    #[cfg(test)]
                    Effect::NotApplicable if planted::is(planted::Bug::LoudSilence) => {
                        self.deny(member, verdict, false, candidates, &mut tally);
                    }
                    Effect::NotApplicable => {}
                    Effect::Deny => self.deny(member, verdict, false, candidates, &mut tally),
                    Effect::Permit if is_over(member.said, baseline.now_ms) => self.deny(member, verdict, true, candidates, &mut tally),
                    Effect::Permit if is_empty(member.said) => self.deny(member, verdict, false, candidates, &mut tally),
                    Effect::Permit => self.permit(member, verdict, candidates, &mut tally),
                },
            }
        }
        let is_exhausted = had_candidates && !self.has_candidates();
        #[cfg(test)]
        if planted::is(planted::Bug::PermitOverrides) && tally.is_permitted {
            return Outcome::Permit(tally.permits);
        }
        match tally {
            Tally { denial: Some(denial), .. } => Outcome::Deny(denial),
            Tally { is_fault: true, .. } => Outcome::Fault,
            Tally { is_pool_fault: true, is_pool_denied: false, .. } if is_exhausted => Outcome::Fault,
            Tally { is_permitted, .. } if is_exhausted => Outcome::Deny(self.exhausted(is_permitted)),
            Tally { is_permitted: true, permits, .. } => Outcome::Permit(permits),
            _ => Outcome::NotApplicable,
        }
    }

    /// Whether a candidate is still there.
    pub fn keeps(&self, candidate: usize) -> bool {
        self.kept.get(candidate).copied().unwrap_or(false)
    }

    pub fn has_candidates(&self) -> bool {
        self.kept.contains(&true)
    }

    /// What holds whichever candidate serves the request.
    pub fn terms(&self) -> &Terms {
        &self.all
    }

    /// What holds beside that if a candidate of the pool serves it.
    pub fn pool_terms(&self, pool: PoolId) -> Option<&Terms> {
        self.pools.binary_search_by_key(&pool, |(id, _)| *id).ok().map(|place| &self.pools[place].1)
    }

    /// The pools that have terms of their own.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, &Terms)> {
        self.pools.iter().map(|(pool, terms)| (*pool, terms))
    }

    /// The tags of a request that a candidate of the pool serves, by name. Where a name has two values it is the narrower scope's.
    pub fn tags(&self, pool: PoolId) -> Vec<(String, String)> {
        let mut all = self.all.clone();
        if let Some(own) = self.pool_terms(pool) {
            own.tags.iter().for_each(|tag| all.add_tag(tag.clone()));
        }
        all.tags.into_iter().map(|tag| (tag.name, tag.value)).collect()
    }

    /// The order in which the candidates that are left are tried.
    pub fn order(&self, candidates: &[Candidate<'_>]) -> Order {
        self.rankers.order(candidates)
    }

    /// What the request holds of meters until it is settled: of each the most that a policy asks for. In the order of names.
    pub fn reserve(&self) -> &[quota::Charge] {
        &self.reserve
    }

    /// In the order of the chain, at most [`LIST_MAX`].
    pub fn advice(&self) -> &[Advice] {
        &self.advice
    }

    /// Takes the candidates of a pool away for a reason of the host's own.
    pub fn drop_pool(&mut self, pool: PoolId, candidates: &[Candidate<'_>]) {
        self.retain(Scope::Pool(pool), candidates, |_| false);
    }

    fn fail(&mut self, member: &Member<'_>, candidates: &[Candidate<'_>], baseline: Baseline, tally: &mut Tally) {
        let Said::Fault(kind) = member.said else { return };
        match (member.on_fault, kind) {
            (OnFault::Skip, _) | (OnFault::Baseline, PolicyKind::Expiry) => {}
            (OnFault::Baseline, PolicyKind::Quota) => {
                if let Some(tokens) = baseline.output_tokens {
                    self.terms_of(member.scope).cap_output(tokens);
                }
            }
            (OnFault::Baseline, PolicyKind::Route) => self.rankers.fall_back(member.scope),
            (OnFault::Deny, _) => match member.scope {
                Scope::Tenant | Scope::Key(_) => tally.is_fault = true,
                Scope::Pool(pool) => {
                    tally.is_pool_fault = true;
                    self.lost.get_or_insert_default().is_expired = false;
                    self.drop_pool(pool, candidates);
                }
            },
        }
    }

    fn deny(&mut self, member: &Member<'_>, verdict: &Verdict, is_expired: bool, candidates: &[Candidate<'_>], tally: &mut Tally) {
        extend(&mut self.advice, &verdict.advice);
        let retry_ms = if let Said::Quota(output) = member.said { output.retry_ms } else { None };
        let denial = match member.scope {
            Scope::Tenant | Scope::Key(_) => tally.denial.get_or_insert_with(Denial::of_nobody),
            Scope::Pool(pool) => {
                tally.is_pool_denied = true;
                self.drop_pool(pool, candidates);
                self.lost.get_or_insert_with(Denial::of_nobody)
            }
        };
        extend(&mut denial.reasons, &verdict.reasons);
        denial.retry_ms = denial.retry_ms.max(retry_ms);
        denial.is_expired &= is_expired;
    }

    fn permit(&mut self, member: &Member<'_>, verdict: &Verdict, candidates: &[Candidate<'_>], tally: &mut Tally) {
        tally.is_permitted = true;
        extend(&mut tally.permits, &verdict.reasons);
        extend(&mut self.advice, &verdict.advice);
        for obligation in &verdict.obligations {
            match obligation {
                Obligation::CapOutput(tokens) => self.terms_of(member.scope).cap_output(*tokens),
                Obligation::CapParallel(requests) => self.terms_of(member.scope).cap_parallel(*requests),
                Obligation::TagUsage(tag) => self.terms_of(member.scope).tag(tag, member.scope, member.binding),
                Obligation::PinRegion(region) => self.retain(member.scope, candidates, |candidate| candidate.region == Some(region)),
            }
        }
        match member.said {
            Said::Expiry(output) => {
                if let Some(until) = output.valid_until_ms {
                    self.terms_of(member.scope).end_at(until);
                }
            }
            Said::Quota(output) => output.reserve.iter().for_each(|charge| self.charge(charge)),
            Said::Route(output) => {
                let pick = |candidate: &Candidate<'_>| output.picks.iter().find(|pick| pick.id == candidate.id);
                self.retain(member.scope, candidates, |candidate| pick(candidate).is_some());
                self.rankers.rank(member.scope, member.binding, || candidates.iter().map(|one| pick(one).map(Rank::of)).collect());
            }
            Said::Fault(_) => {}
        }
    }

    /// Only takes away, and only where the scope reaches.
    fn retain(&mut self, scope: Scope, candidates: &[Candidate<'_>], stays: impl Fn(&Candidate<'_>) -> bool) {
        for (kept, candidate) in self.kept.iter_mut().zip(candidates) {
            let is_reached = match scope {
                Scope::Tenant | Scope::Key(_) => true,
                Scope::Pool(pool) => pool == candidate.pool,
            };
            let stays = !is_reached || stays(candidate);
            #[cfg(test)]
            if planted::is(planted::Bug::Revival) && is_reached && stays {
                *kept = true;
            }
            *kept &= stays;
        }
    }

    fn terms_of(&mut self, scope: Scope) -> &mut Terms {
        let Scope::Pool(pool) = scope else { return &mut self.all };
        let place = self.pools.binary_search_by_key(&pool, |(id, _)| *id).unwrap_or_else(|place| {
            self.pools.insert(place, (pool, Terms::default()));
            place
        });
        &mut self.pools[place].1
    }

    fn charge(&mut self, charge: &quota::Charge) {
        match self.reserve.binary_search_by(|one| one.meter.cmp(&charge.meter)) {
            Ok(place) => self.reserve[place].amount = self.reserve[place].amount.max(charge.amount),
            Err(place) => self.reserve.insert(place, charge.clone()),
        }
    }

    /// No candidate is left: the reasons are those that cost the request its pools. A permit's is not among them, it says why to go on.
    fn exhausted(&self, is_permitted: bool) -> Denial {
        let mut denial = self.lost.clone().unwrap_or_default();
        denial.is_expired &= !is_permitted;
        denial
    }
}

/// Whether a permit says of itself that it holds no more.
fn is_over(said: Said<'_>, now_ms: i64) -> bool {
    matches!(said, Said::Expiry(output) if output.valid_until_ms.is_some_and(|until| until <= now_ms))
}

/// Whether a permit leaves no candidate, which is a denial.
fn is_empty(said: Said<'_>) -> bool {
    matches!(said, Said::Route(output) if output.picks.is_empty())
}

fn extend<T: Clone>(list: &mut Vec<T>, more: &[T]) {
    list.extend_from_slice(&more[..more.len().min(LIST_MAX.saturating_sub(list.len()))]);
}
