//! The chain as its text reads, one candidate at a time and one question at a time, with no thought for speed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use schemas::PoolId;
use schemas::binding::{OnFault, Scope};
use schemas::policy::PolicyKind;

use super::{Drawn, NOW};
use crate::chain::{Candidate, Order};
use crate::contract::{Advice, Effect, Obligation, Reason};

pub(super) struct Request<'a> {
    pub(super) candidates: &'a [Candidate<'a>],
    pub(super) stages: &'a [Vec<Drawn>],
}

/// What one member comes to, once its text is read.
#[derive(PartialEq)]
enum Word {
    Nothing,
    Permits,
    Denies,
    /// Its policy failed and that is to refuse.
    Breaks,
    /// Its policy failed and the host's own is to stand in.
    Baseline,
}

fn word(member: &Drawn) -> Word {
    match (&member.verdict, member.on_fault) {
        (None, OnFault::Skip) => Word::Nothing,
        (None, OnFault::Deny) => Word::Breaks,
        (None, OnFault::Baseline) => Word::Baseline,
        (Some(verdict), _) => match verdict.effect {
            Effect::NotApplicable => Word::Nothing,
            Effect::Deny => Word::Denies,
            Effect::Permit if member.kind == PolicyKind::Route && member.picks.is_empty() => Word::Denies,
            Effect::Permit if member.kind == PolicyKind::Expiry && member.valid_until_ms.is_some_and(|until| until <= NOW) => Word::Denies,
            Effect::Permit => Word::Permits,
        },
    }
}

fn is_whole(member: &Drawn) -> bool {
    !matches!(member.scope, Scope::Pool(_))
}

fn reaches(member: &Drawn, pool: PoolId) -> bool {
    is_whole(member) || member.scope == Scope::Pool(pool)
}

/// Key, pool, tenant; then ids.
fn narrow_first(members: &mut [&Drawn]) {
    members.sort_by_key(|member| {
        let scope = match member.scope {
            Scope::Key(_) => 1,
            Scope::Pool(_) => 2,
            Scope::Tenant => 3,
        };
        (scope, member.binding)
    });
}

impl Request<'_> {
    fn members(&self, upto: usize) -> Vec<&Drawn> {
        self.stages[..upto].iter().flatten().collect()
    }

    fn all(&self) -> Vec<&Drawn> {
        self.members(self.stages.len())
    }

    /// The stage that refuses, and whether it does for a fault.
    pub(super) fn refused(&self) -> Option<(usize, bool)> {
        for (number, stage) in self.stages.iter().enumerate() {
            let whole_with = |wanted: Word| stage.iter().any(|member| is_whole(member) && word(member) == wanted);
            if whole_with(Word::Denies) {
                return Some((number, false));
            }
            if whole_with(Word::Breaks) {
                return Some((number, true));
            }
            if !self.candidates.iter().any(|candidate| self.is_kept_upto(candidate, number + 1)) {
                let pool_with = |wanted: Word| stage.iter().any(|member| !is_whole(member) && word(member) == wanted);
                return Some((number, pool_with(Word::Breaks) && !pool_with(Word::Denies)));
            }
        }
        None
    }

    /// The reasons that the client of a request refused at this stage is given.
    pub(super) fn reasons(&self, stage: usize) -> Vec<Reason> {
        let texts = |members: Vec<&Drawn>| -> Vec<Reason> {
            members.iter().filter_map(|member| member.verdict.clone()).flat_map(|verdict| verdict.reasons).collect()
        };
        let of_stage = || self.stages[stage].iter();
        if of_stage().any(|member| is_whole(member) && word(member) == Word::Denies) {
            return texts(of_stage().filter(|member| is_whole(member) && word(member) == Word::Denies).collect());
        }
        // No permit is the reason of a refusal, though together they may leave nothing.
        texts(self.members(stage + 1).into_iter().filter(|member| !is_whole(member) && word(member) == Word::Denies).collect())
    }

    pub(super) fn is_kept(&self, candidate: &Candidate<'_>) -> bool {
        self.is_kept_upto(candidate, self.stages.len())
    }

    fn is_kept_upto(&self, candidate: &Candidate<'_>, stages: usize) -> bool {
        self.members(stages).into_iter().filter(|member| reaches(member, candidate.pool)).all(|member| match word(member) {
            Word::Denies | Word::Breaks => false,
            Word::Nothing | Word::Baseline => true,
            Word::Permits => {
                let pins = obligations(member)
                    .into_iter()
                    .all(|one| !matches!(one, Obligation::PinRegion(region) if Some(&region[..]) != candidate.region));
                pins && (member.kind != PolicyKind::Route || member.picks.iter().any(|pick| pick.id == candidate.id))
            }
        })
    }

    fn permits(&self, candidate: &Candidate<'_>) -> Vec<&Drawn> {
        self.all().into_iter().filter(|member| reaches(member, candidate.pool) && word(member) == Word::Permits).collect()
    }

    pub(super) fn output_max(&self, candidate: &Candidate<'_>) -> Option<u64> {
        let caps = self
            .permits(candidate)
            .into_iter()
            .flat_map(obligations)
            .filter_map(|one| if let Obligation::CapOutput(cap) = one { Some(cap) } else { None });
        let fell_back = self
            .all()
            .into_iter()
            .any(|member| member.kind == PolicyKind::Quota && word(member) == Word::Baseline && reaches(member, candidate.pool));
        caps.chain(fell_back.then_some(50)).min()
    }

    pub(super) fn parallel_max(&self, candidate: &Candidate<'_>) -> Option<u64> {
        self.permits(candidate)
            .into_iter()
            .flat_map(obligations)
            .filter_map(|one| if let Obligation::CapParallel(cap) = one { Some(u64::from(cap)) } else { None })
            .min()
    }

    pub(super) fn valid_until(&self, candidate: &Candidate<'_>) -> Option<i64> {
        self.permits(candidate)
            .into_iter()
            .filter(|member| member.kind == PolicyKind::Expiry)
            .filter_map(|member| member.valid_until_ms)
            .min()
    }

    pub(super) fn tags(&self, candidate: &Candidate<'_>) -> Vec<(String, String)> {
        let mut members = self.permits(candidate);
        narrow_first(&mut members);
        let mut tags = BTreeMap::new();
        for member in members {
            let mut own: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for obligation in obligations(member) {
                if let Obligation::TagUsage(tag) = obligation {
                    own.entry(tag.name).or_default().insert(tag.value);
                }
            }
            for (name, values) in own {
                tags.entry(name).or_insert_with(|| values.into_iter().next().unwrap());
            }
        }
        tags.into_iter().collect()
    }

    pub(super) fn reserve(&self) -> Vec<(String, u64)> {
        let mut most: BTreeMap<String, u64> = BTreeMap::new();
        for member in self.all().into_iter().filter(|member| member.kind == PolicyKind::Quota && word(member) == Word::Permits) {
            for charge in &member.reserve {
                let held = most.entry(charge.meter.clone()).or_default();
                *held = (*held).max(charge.amount);
            }
        }
        most.into_iter().collect()
    }

    pub(super) fn advice(&self) -> Vec<Advice> {
        let heard = |member: &&Drawn| matches!(word(member), Word::Permits | Word::Denies);
        let spoken = self.all().into_iter().filter(heard).filter_map(|member| member.verdict.clone());
        spoken.flat_map(|verdict| verdict.advice).take(super::LIST_MAX).collect()
    }

    /// Who has the word about the order of a candidate: the first route policy that permits, key, pool, tenant.
    fn ranker(&self, candidate: &Candidate<'_>) -> Option<&Drawn> {
        let fell_back = |scope| {
            self.all().into_iter().any(|member| member.scope == scope && member.kind == PolicyKind::Route && word(member) == Word::Baseline)
        };
        if fell_back(Scope::Pool(candidate.pool)) {
            return None;
        }
        let mut rankers: Vec<&Drawn> = self.permits(candidate).into_iter().filter(|member| member.kind == PolicyKind::Route).collect();
        narrow_first(&mut rankers);
        rankers.first().copied()
    }

    pub(super) fn check_order(&self, order: &Order) -> Result<(), TestCaseError> {
        let routes = |member: &&&Drawn| member.kind == PolicyKind::Route;
        let all = self.all();
        let falls_back = |member: &&Drawn| word(member) == Word::Baseline;
        if all.iter().filter(routes).any(|member| falls_back(member) && is_whole(member)) {
            prop_assert_eq!(order, &Order::Host);
            return Ok(());
        }
        // Ranks of different policies are never compared: if one policy does not have the word about all, pools come as the key names them.
        let has_own_order = |member: &&&Drawn| !is_whole(member) && (falls_back(member) || word(member) == Word::Permits);
        let has_key = all.iter().filter(routes).any(|member| matches!(member.scope, Scope::Key(_)) && word(member) == Word::Permits);
        let is_split = all.iter().filter(routes).filter(has_own_order).any(|member| falls_back(member) || !has_key);
        let given = match order {
            Order::Host => vec![None; self.candidates.len()],
            Order::Across(ranks) => {
                prop_assert!(!is_split);
                ranks.clone()
            }
            Order::Within(ranks) => {
                prop_assert!(is_split);
                ranks.clone()
            }
        };
        for (candidate, given) in self.candidates.iter().zip(given).filter(|(candidate, _)| self.is_kept(candidate)) {
            let pick = self.ranker(candidate).and_then(|member| member.picks.iter().find(|pick| pick.id == candidate.id));
            prop_assert_eq!(given.map(|rank| (rank.rank, rank.weight)), pick.map(|pick| (pick.rank, pick.weight)), "{}", candidate.id);
        }
        Ok(())
    }
}

fn obligations(member: &Drawn) -> Vec<Obligation> {
    member.verdict.as_ref().map(|verdict| verdict.obligations.clone()).unwrap_or_default()
}
