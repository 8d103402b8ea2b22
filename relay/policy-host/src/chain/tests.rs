//! The combination against the [`model`], which is written from the contract's text and shares no code with it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use schemas::binding::{OnFault, Scope};
use schemas::policy::PolicyKind;
use schemas::{BindingId, KeyId, PoolId};

use super::planted::Bug;
use super::*;
use crate::contract::{Attribute, quota::Charge, route::Pick};

mod model;

const NOW: i64 = 1_000;
const BASELINE: Baseline = Baseline { output_tokens: Some(50), now_ms: NOW };
const IDS: [&str; 6] = ["up_0", "up_1", "up_2", "up_3", "up_4", "up_5"];
const REGIONS: [&str; 2] = ["eu", "us"];

/// A member as drawn, owning what it says.
#[derive(Debug, Clone)]
struct Drawn {
    binding: BindingId,
    scope: Scope,
    on_fault: OnFault,
    kind: PolicyKind,
    verdict: Option<Verdict>,
    valid_until_ms: Option<i64>,
    reserve: Vec<Charge>,
    retry_ms: Option<u64>,
    picks: Vec<Pick>,
}

/// What a member says, in the contract's words.
enum Answer {
    Expiry(expiry::Output),
    Quota(quota::Output),
    Route(route::Output),
    Fault(PolicyKind),
}

impl Drawn {
    fn answer(&self) -> Answer {
        let Some(verdict) = self.verdict.clone() else { return Answer::Fault(self.kind) };
        match self.kind {
            PolicyKind::Expiry => Answer::Expiry(expiry::Output { verdict, valid_until_ms: self.valid_until_ms }),
            PolicyKind::Quota => Answer::Quota(quota::Output { verdict, reserve: self.reserve.clone(), retry_ms: self.retry_ms }),
            PolicyKind::Route => Answer::Route(route::Output { verdict, picks: self.picks.clone() }),
        }
    }
}

fn pool(n: u8) -> PoolId {
    PoolId::from_bytes([n; 16])
}

fn candidates(places: &[(u8, Option<usize>)]) -> Vec<Candidate<'static>> {
    let candidate = |(id, (of, region)): (&&'static str, &(u8, Option<usize>))| Candidate {
        id,
        pool: pool(*of),
        region: region.map(|region| REGIONS[region]),
    };
    IDS.iter().zip(places).map(candidate).collect()
}

/// Combines stages and gives what came of each, up to the first that refuses.
fn combined(stages: &[Vec<Drawn>], candidates: &[Candidate<'_>]) -> (Standing, Vec<Outcome>) {
    let (mut standing, mut outcomes) = (Standing::new(candidates.len()), Vec::new());
    for stage in stages {
        let answers: Vec<Answer> = stage.iter().map(Drawn::answer).collect();
        let members: Vec<Member<'_>> = stage
            .iter()
            .zip(&answers)
            .map(|(drawn, answer)| Member {
                binding: drawn.binding,
                scope: drawn.scope,
                on_fault: drawn.on_fault,
                said: match answer {
                    Answer::Expiry(output) => Said::Expiry(output),
                    Answer::Quota(output) => Said::Quota(output),
                    Answer::Route(output) => Said::Route(output),
                    Answer::Fault(kind) => Said::Fault(*kind),
                },
            })
            .collect();
        let outcome = standing.combine(&members, candidates, BASELINE);
        let is_refused = matches!(outcome, Outcome::Deny(_) | Outcome::Fault);
        outcomes.push(outcome);
        if is_refused {
            break;
        }
    }
    (standing, outcomes)
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        3 => Just(Scope::Tenant),
        3 => Just(Scope::Key(KeyId::from_bytes([9; 16]))),
        3 => (0_u8..3).prop_map(|n| Scope::Pool(pool(n))),
    ]
}

fn obligation() -> impl Strategy<Value = Obligation> {
    prop_oneof![
        (1_u64..100).prop_map(Obligation::CapOutput),
        (1_u32..10).prop_map(Obligation::CapParallel),
        (0_u8..2, 0_u8..3)
            .prop_map(|(name, value)| Obligation::TagUsage(Attribute { name: format!("t{name}"), value: format!("v{value}") })),
        (0_usize..2).prop_map(|region| Obligation::PinRegion(REGIONS[region].into())),
    ]
}

fn verdict() -> impl Strategy<Value = Option<Verdict>> {
    let effect = prop_oneof![6 => Just(Some(Effect::Permit)), 1 => Just(Some(Effect::Deny)), 1 => Just(Some(Effect::NotApplicable)), 1 => Just(None)];
    let reasons = prop::collection::vec(0_u8..5, 0..2)
        .prop_map(|codes| codes.into_iter().map(|code| Reason { code: format!("test.r{code}"), text: None, is_public: false }).collect());
    let advice = prop::collection::vec((0_i64..5).prop_map(Advice::RotateKeyBy), 0..2);
    (effect, reasons, prop::collection::vec(obligation(), 0..3), advice)
        .prop_map(|(effect, reasons, obligations, advice)| effect.map(|effect| Verdict { effect, reasons, obligations, advice }))
}

fn drawn(kind: PolicyKind) -> impl Strategy<Value = Drawn> {
    let on_fault = prop_oneof![Just(OnFault::Deny), Just(OnFault::Baseline), Just(OnFault::Skip)];
    let reserve =
        prop::collection::vec((0_u8..2, 1_u64..9).prop_map(|(meter, amount)| Charge { meter: format!("m{meter}"), amount }), 0..3);
    // A route policy narrows to most of what there is, so that permits of several leave something.
    let pick = |id: &'static str| {
        (prop::bool::weighted(0.85), 0_u32..3, 0_u32..3)
            .prop_map(move |(is_in, rank, weight)| is_in.then(|| Pick { id: id.into(), rank, weight }))
    };
    let picks = IDS.map(pick).prop_map(|picks: [Option<Pick>; 6]| picks.into_iter().flatten().collect::<Vec<_>>());
    let numbers = (prop::option::of(prop_oneof![1 => Just(NOW), 9 => NOW + 1..NOW + 50]), prop::option::of(0_u64..99), any::<u64>());
    (scope(), on_fault, verdict(), reserve, picks, numbers).prop_map(move |(scope, on_fault, verdict, reserve, picks, numbers)| {
        let (valid_until_ms, retry_ms, id) = numbers;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&id.to_be_bytes());
        Drawn { binding: BindingId::from_bytes(bytes), scope, on_fault, kind, verdict, valid_until_ms, reserve, retry_ms, picks }
    })
}

fn stage(kind: PolicyKind) -> impl Strategy<Value = Vec<Drawn>> {
    prop::collection::vec(drawn(kind), 0..4)
}

fn stages() -> impl Strategy<Value = Vec<Vec<Drawn>>> {
    let kinds = [PolicyKind::Expiry, PolicyKind::Quota, PolicyKind::Route, PolicyKind::Quota];
    kinds.map(stage).prop_map(|stages: [Vec<Drawn>; 4]| stages.into())
}

fn places() -> impl Strategy<Value = Vec<(u8, Option<usize>)>> {
    prop::collection::vec((0_u8..3, prop::option::of(0_usize..2)), 1..=6)
}

/// Without the order of lists that people read.
fn unordered(outcomes: &[Outcome]) -> Vec<Outcome> {
    let sorted = |reasons: &[Reason]| {
        let mut reasons = reasons.to_vec();
        reasons.sort_by(|a, b| a.code.cmp(&b.code));
        reasons
    };
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Permit(reasons) => Outcome::Permit(sorted(reasons)),
        Outcome::Deny(denial) => Outcome::Deny(Denial { reasons: sorted(&denial.reasons), ..denial.clone() }),
        other @ (Outcome::NotApplicable | Outcome::Fault) => other.clone(),
    };
    outcomes.iter().map(outcome).collect()
}

/// What every property is about: the members of each stage, and where the candidates are.
type Case = (Vec<Vec<Drawn>>, Vec<(u8, Option<usize>)>);
type Judged = Result<(), TestCaseError>;

fn case() -> impl Strategy<Value = Case> {
    (stages(), places())
}

fn reads_as_the_text((stages, places): Case) -> Judged {
    let candidates = candidates(&places);
    let (standing, outcomes) = combined(&stages, &candidates);
    let expected = model::Request { candidates: &candidates, stages: &stages };
    let refused = expected.refused();
    prop_assert_eq!(matches!(outcomes.last(), Some(Outcome::Deny(_) | Outcome::Fault)), refused.is_some());
    if let Some((stage, is_fault)) = refused {
        prop_assert_eq!(outcomes.len(), stage + 1);
        prop_assert_eq!(matches!(outcomes.last(), Some(Outcome::Fault)), is_fault);
        if let Some(Outcome::Deny(denial)) = outcomes.last() {
            prop_assert_eq!(&denial.reasons, &expected.reasons(stage));
        }
        return Ok(());
    }
    for (place, candidate) in candidates.iter().enumerate() {
        prop_assert_eq!(standing.keeps(place), expected.is_kept(candidate), "{}", candidate.id);
        let own = standing.pool_terms(candidate.pool);
        let least = |all: Option<u64>, pool: Option<u64>| all.into_iter().chain(pool).min();
        prop_assert_eq!(least(standing.terms().output_max, own.and_then(|own| own.output_max)), expected.output_max(candidate));
        let parallel = least(standing.terms().parallel_max.map(u64::from), own.and_then(|own| own.parallel_max).map(u64::from));
        prop_assert_eq!(parallel, expected.parallel_max(candidate));
        let until = standing.terms().valid_until_ms.into_iter().chain(own.and_then(|own| own.valid_until_ms)).min();
        prop_assert_eq!(until, expected.valid_until(candidate));
        prop_assert_eq!(standing.tags(candidate.pool), expected.tags(candidate));
    }
    let reserve: Vec<(String, u64)> = standing.reserve().iter().map(|charge| (charge.meter.clone(), charge.amount)).collect();
    prop_assert_eq!(reserve, expected.reserve());
    prop_assert_eq!(standing.advice(), expected.advice());
    expected.check_order(&standing.order(&candidates))?;
    Ok(())
}

fn only_narrows(((stages, places), at, more): (Case, usize, prop::sample::Index)) -> Judged {
    let candidates = candidates(&places);
    let (with, with_outcomes) = combined(&stages, &candidates);
    let mut fewer = stages;
    if fewer[at].is_empty() {
        return Ok(());
    }
    let left_out = more.index(fewer[at].len());
    fewer[at].remove(left_out);
    let (without, without_outcomes) = combined(&fewer, &candidates);
    let is_refused = |outcomes: &[Outcome]| matches!(outcomes.last(), Some(Outcome::Deny(_) | Outcome::Fault));
    prop_assert!(is_refused(&with_outcomes) || !is_refused(&without_outcomes), "a member turned a refusal into a permit");
    if is_refused(&with_outcomes) {
        return Ok(());
    }
    for (place, candidate) in candidates.iter().enumerate() {
        prop_assert!(without.keeps(place) || !with.keeps(place), "a member brought {} back", candidate.id);
    }
    let caps = |terms: &Terms| {
        (terms.output_max.unwrap_or(u64::MAX), terms.parallel_max.unwrap_or(u32::MAX), terms.valid_until_ms.unwrap_or(i64::MAX))
    };
    let pairs = std::iter::once((with.terms().clone(), without.terms().clone())).chain((0..3).map(|n| {
        let of = |standing: &Standing| standing.pool_terms(pool(n)).cloned().unwrap_or_default();
        (of(&with), of(&without))
    }));
    for (with, without) in pairs {
        let (with, without) = (caps(&with), caps(&without));
        prop_assert!(with.0 <= without.0 && with.1 <= without.1 && with.2 <= without.2, "a member raised a cap");
    }
    Ok(())
}

fn is_free_of_order(((stages, places), seed): (Case, u64)) -> Judged {
    let candidates = candidates(&places);
    let (mut standing, outcomes) = combined(&stages, &candidates);
    let mut turned = stages;
    for stage in &mut turned {
        let by = seed as usize % stage.len().max(1);
        stage.rotate_left(by);
        if seed % 2 == 0 {
            stage.reverse();
        }
    }
    let (mut other, other_outcomes) = combined(&turned, &candidates);
    prop_assert_eq!(unordered(&outcomes), unordered(&other_outcomes));
    for standing in [&mut standing, &mut other] {
        standing.advice.sort_by_key(|advice| format!("{advice:?}"));
        if let Some(lost) = &mut standing.lost {
            lost.reasons.sort_by(|a, b| a.code.cmp(&b.code));
        }
    }
    prop_assert_eq!(standing, other);
    Ok(())
}

fn passes_over_the_silent(((stages, places), at, neutral, is_fault): (Case, usize, Drawn, bool)) -> Judged {
    let candidates = candidates(&places);
    let mut more = stages.clone();
    let kind = [PolicyKind::Expiry, PolicyKind::Quota, PolicyKind::Route, PolicyKind::Quota][at];
    let verdict = neutral.verdict.clone().unwrap_or_else(|| Verdict::plain(Effect::Permit));
    let neutral = if is_fault {
        Drawn { kind, on_fault: OnFault::Skip, verdict: None, ..neutral }
    } else {
        Drawn { kind, verdict: Some(Verdict { effect: Effect::NotApplicable, ..verdict }), ..neutral }
    };
    more[at].push(neutral);
    prop_assert_eq!(combined(&stages, &candidates), combined(&more, &candidates));
    Ok(())
}

fn lets_deny_win(((stages, places), denier, is_of_key): (Case, Drawn, bool)) -> Judged {
    let candidates = candidates(&places);
    let scope = if is_of_key { Scope::Key(KeyId::from_bytes([9; 16])) } else { Scope::Tenant };
    let mut stages = stages;
    stages[1].push(Drawn { scope, verdict: Some(Verdict::plain(Effect::Deny)), ..denier });
    let (_, outcomes) = combined(&stages, &candidates);
    prop_assert!(outcomes.len() <= 2 && matches!(outcomes.last(), Some(Outcome::Deny(_) | Outcome::Fault)));
    prop_assert!(outcomes.len() < 2 || matches!(outcomes[1], Outcome::Deny(_)), "a fault hid a denial");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_is_what_the_text_says(case in case()) {
        reads_as_the_text(case)?;
    }

    #[test]
    fn another_member_only_narrows(case in (case(), 0_usize..4, any::<prop::sample::Index>())) {
        only_narrows(case)?;
    }

    #[test]
    fn the_order_of_members_changes_nothing_but_lists(case in (case(), any::<u64>())) {
        is_free_of_order(case)?;
    }

    #[test]
    fn what_is_not_applicable_or_skipped_is_as_if_it_were_not_there(case in (case(), 0_usize..4, drawn(PolicyKind::Quota), any::<bool>())) {
        passes_over_the_silent(case)?;
    }

    #[test]
    fn deny_wins(case in (case(), drawn(PolicyKind::Quota), any::<bool>())) {
        lets_deny_win(case)?;
    }
}

/// Whether a property holds of so many cases with a bug.
fn holds<S: Strategy>(bug: Bug, cases: S, judge: impl Fn(S::Value) -> Judged) -> bool {
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::with_cases(2_000) };
    planted::with(bug, || TestRunner::new(config).run(&cases, judge)).is_ok()
}

/// A property that holds whatever the chain does shows nothing.
#[test]
fn each_property_turns_red_with_a_bug_of_its_kind_and_the_text_with_all_of_them() {
    let bugs = [Bug::PermitOverrides, Bug::Revival, Bug::HighestCap, Bug::LastRanks, Bug::LoudSilence];
    for bug in bugs {
        assert!(!holds(bug, case(), reads_as_the_text), "{bug:?} is as the text says");
    }
    assert!(!holds(Bug::PermitOverrides, (case(), drawn(PolicyKind::Quota), any::<bool>()), lets_deny_win));
    for bug in [Bug::PermitOverrides, Bug::Revival, Bug::HighestCap] {
        assert!(!holds(bug, (case(), 0_usize..4, any::<prop::sample::Index>()), only_narrows), "{bug:?} narrows");
    }
    assert!(!holds(Bug::LastRanks, (case(), any::<u64>()), is_free_of_order));
    assert!(!holds(Bug::LoudSilence, (case(), 0_usize..4, drawn(PolicyKind::Quota), any::<bool>()), passes_over_the_silent));
}

#[test]
fn a_denial_of_a_pool_costs_that_pool_and_of_all_pools_the_request() {
    let candidates = candidates(&[(0, None), (1, None)]);
    let deny = |n: u8, retry_ms| Drawn {
        binding: BindingId::from_bytes([n; 16]),
        scope: Scope::Pool(pool(n)),
        on_fault: OnFault::Deny,
        kind: PolicyKind::Quota,
        verdict: Some(Verdict {
            reasons: vec![Reason { code: format!("quota.pool{n}"), text: None, is_public: false }],
            ..Verdict::plain(Effect::Deny)
        }),
        valid_until_ms: None,
        reserve: vec![],
        retry_ms,
        picks: vec![],
    };
    let (standing, outcomes) = combined(&[vec![deny(0, Some(5))]], &candidates);
    assert_eq!(([standing.keeps(0), standing.keeps(1)], outcomes), ([false, true], vec![Outcome::NotApplicable]));
    let (_, outcomes) = combined(&[vec![deny(0, Some(5))], vec![deny(1, Some(3))]], &candidates);
    let Some(Outcome::Deny(denial)) = outcomes.last() else { panic!("{outcomes:?}") };
    assert_eq!(denial.reasons.iter().map(|reason| &reason.code[..]).collect::<Vec<_>>(), ["quota.pool0", "quota.pool1"]);
    assert_eq!((denial.retry_ms, denial.is_expired), (Some(5), false));
}

#[test]
fn permits_that_leave_nothing_in_common_are_no_reason() {
    let candidates = candidates(&[(0, None), (0, None)]);
    let picks = |id: &str| Drawn {
        binding: BindingId::from_bytes([1; 16]),
        scope: Scope::Tenant,
        on_fault: OnFault::Deny,
        kind: PolicyKind::Route,
        verdict: Some(Verdict {
            reasons: vec![Reason { code: "route.near".into(), text: None, is_public: true }],
            ..Verdict::plain(Effect::Permit)
        }),
        valid_until_ms: None,
        reserve: vec![],
        retry_ms: None,
        picks: vec![Pick { id: id.into(), rank: 0, weight: 1 }],
    };
    let (_, outcomes) = combined(&[vec![picks(IDS[0]), picks(IDS[1])]], &candidates);
    assert_eq!(outcomes, [Outcome::Deny(Denial::default())]);
}

#[test]
fn a_time_that_policies_brought_forward_is_told_from_a_denial() {
    let candidates = candidates(&[(0, None)]);
    let said = |effect, valid_until_ms| Drawn {
        binding: BindingId::from_bytes([1; 16]),
        scope: Scope::Tenant,
        on_fault: OnFault::Deny,
        kind: PolicyKind::Expiry,
        verdict: Some(Verdict::plain(effect)),
        valid_until_ms,
        reserve: vec![],
        retry_ms: None,
        picks: vec![],
    };
    let is_expired = |stage: Vec<Drawn>| match &combined(&[stage], &candidates).1[..] {
        [Outcome::Deny(denial)] => Some(denial.is_expired),
        [Outcome::Permit(_)] => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(is_expired(vec![said(Effect::Permit, Some(NOW + 1))]), None);
    assert_eq!(is_expired(vec![said(Effect::Permit, Some(NOW))]), Some(true));
    assert_eq!(is_expired(vec![said(Effect::Permit, Some(NOW)), said(Effect::Deny, None)]), Some(false));
}
