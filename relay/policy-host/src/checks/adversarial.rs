//! Whatever a guest says, what is left of it only narrows.

use std::collections::BTreeSet;

use proptest::prelude::*;
use schemas::policy::PolicyKind;

use super::*;
use crate::contract::{Attribute, Demand, Reason, Subject};
use crate::manifest::{ADVICE, DeclaredReason, OBLIGATIONS};

/// Names of which some are in the input or the manifest, some are not, and some are not fit to be shown.
fn name() -> impl Strategy<Value = String> + Clone {
    prop_oneof![4 => "[a-d]", 1 => Just(String::new()), 1 => Just("\u{1b}[2J".into()), 1 => (60_usize..600).prop_map(|n| "x".repeat(n))]
}

fn some(strategy: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set(strategy, 0..4).prop_map(|set| set.into_iter().collect())
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let effect = prop_oneof![3 => Just(Effect::Permit), 1 => Just(Effect::Deny), 1 => Just(Effect::NotApplicable)];
    let reason = (name(), prop::option::of(name()), any::<bool>()).prop_map(|(code, text, is_public)| Reason { code, text, is_public });
    let obligation = prop_oneof![
        any::<u64>().prop_map(Obligation::CapOutput),
        any::<u32>().prop_map(Obligation::CapParallel),
        (name(), name()).prop_map(|(name, value)| Obligation::TagUsage(Attribute { name, value })),
        name().prop_map(Obligation::PinRegion),
    ];
    let advice = prop_oneof![any::<i64>().prop_map(Advice::RotateKeyBy), name().prop_map(Advice::Warn)];
    let few = |max: usize| 0..=max;
    let reasons = prop_oneof![9 => prop::collection::vec(reason.clone(), few(1)), 1 => prop::collection::vec(reason, few(20))];
    let obligations = prop_oneof![9 => prop::collection::vec(obligation.clone(), few(1)), 1 => prop::collection::vec(obligation, few(20))];
    let advice = prop::collection::vec(advice, few(1));
    (effect, reasons, obligations, advice).prop_map(|(effect, reasons, obligations, advice)| Verdict {
        effect,
        reasons,
        obligations,
        advice,
    })
}

fn subset(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(of, 0..=of.len()).prop_map(|names| names.into_iter().map(String::from).collect())
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let effects = prop::sample::subsequence(vec![Effect::Permit, Effect::Deny, Effect::NotApplicable], 1..=3);
    (effects, some("[a-d]"), subset(&OBLIGATIONS), subset(&ADVICE)).prop_map(|(effects, reasons, obligations, advice)| Manifest {
        name: "a".into(),
        version: "1".into(),
        kind: PolicyKind::Route,
        description: String::new(),
        effects,
        reasons: reasons.into_iter().map(|code| DeclaredReason { code, text: String::new() }).collect(),
        obligations,
        advice,
        meters: vec![],
        asks_for_price: false,
        settings: serde_json::Value::Bool(true),
    })
}

fn bounded(max: u32) -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..10_u32, 1 => max - 1..=max + 1, 1 => any::<u32>()]
}

fn route_exchange() -> impl Strategy<Value = (Input, Output)> {
    let pick = (name(), bounded(RANK_MAX), bounded(WEIGHT_MAX)).prop_map(|(id, rank, weight)| route::Pick { id, rank, weight });
    (some("[a-d]"), verdict(), prop::collection::vec(pick, 0..3)).prop_map(|(ids, verdict, picks)| {
        let candidate = |id| route::Candidate {
            id,
            name: String::new(),
            pool: String::new(),
            pool_name: String::new(),
            region: None,
            tags: vec![],
            priority: 0,
            weight: 0,
            is_cooling: false,
            in_flight: 0,
            latency_ms: None,
            price: None,
            more: vec![],
        };
        let candidates = ids.into_iter().map(candidate).collect();
        let (subject, demand) = (Subject::default(), Demand::default());
        let input = route::Input { now_ms: 0, seed: 0, settings: String::new(), subject, demand, candidates, more: vec![] };
        (Input::Route(input), Output::Route(route::Output { verdict, picks }))
    })
}

fn quota_exchange() -> impl Strategy<Value = (Input, Output)> {
    let amount = prop_oneof![0..10_u64, CHARGE_MAX - 1..=CHARGE_MAX + 1, any::<u64>()];
    let charge = (name(), amount).prop_map(|(meter, amount)| quota::Charge { meter, amount });
    let retry = prop::option::weighted(0.3, prop_oneof![0..10_u64, any::<u64>()]);
    (some("[a-d]"), verdict(), prop::collection::vec(charge, 0..3), retry).prop_map(|(names, verdict, reserve, retry_ms)| {
        let meter = |name| quota::Meter { name, unit: quota::Unit::Tokens, used: 0, reserved: 0, resets_ms: None };
        let meters = names.into_iter().map(meter).collect();
        let (subject, demand) = (Subject::default(), Demand::default());
        let (settings, more) = (String::new(), vec![]);
        let input = quota::Input { now_ms: 0, seed: 0, settings, subject, demand, meters, cost_max: None, chosen: None, more };
        (Input::Quota(input), Output::Quota(quota::Output { verdict, reserve, retry_ms }))
    })
}

fn expiry_exchange() -> impl Strategy<Value = (Input, Output)> {
    (prop::option::of(any::<i64>()), verdict(), prop::option::of(any::<i64>())).prop_map(|(expires_ms, verdict, valid_until_ms)| {
        let key = expiry::KeyFacts { expires_ms, ..expiry::KeyFacts::default() };
        let input = expiry::Input { now_ms: 0, seed: 0, settings: String::new(), subject: Subject::default(), key, more: vec![] };
        (Input::Expiry(input), Output::Expiry(expiry::Output { verdict, valid_until_ms }))
    })
}

/// What holds of every verdict that is let through.
fn holds(manifest: &Manifest, verdict: &Verdict) {
    assert!(manifest.effects.contains(&verdict.effect));
    assert!(verdict.obligations.is_empty() || verdict.effect == Effect::Permit);
    assert!(verdict.reasons.len() <= 16 && verdict.obligations.len() <= 16 && verdict.advice.len() <= 16);
    let declared: BTreeSet<_> = manifest.reasons.iter().map(|reason| &reason.code).collect();
    assert!(verdict.reasons.iter().all(|reason| declared.contains(&reason.code)));
    let mut texts: Vec<&String> = verdict.reasons.iter().filter_map(|reason| reason.text.as_ref()).collect();
    let value = serde_json::to_value(verdict).unwrap();
    for (list, declared) in [("obligations", &manifest.obligations), ("advice", &manifest.advice)] {
        for entry in value[list].as_array().unwrap() {
            let (kind, _) = entry.as_object().unwrap().iter().next().unwrap();
            assert!(declared.contains(kind), "{kind}");
        }
    }
    for obligation in &verdict.obligations {
        match obligation {
            Obligation::TagUsage(tag) => texts.extend([&tag.name, &tag.value]),
            Obligation::PinRegion(region) => texts.push(region),
            Obligation::CapOutput(_) | Obligation::CapParallel(_) => {}
        }
    }
    for advice in &verdict.advice {
        if let Advice::Warn(warning) = advice {
            texts.push(warning);
        }
    }
    assert!(texts.iter().all(|text| text.len() <= 512 && !text.contains('\u{1b}')));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn what_is_let_through_only_narrows(
        manifest in manifest(),
        (input, output) in prop_oneof![route_exchange(), quota_exchange(), expiry_exchange()],
    ) {
        let Ok(counted) = check(&manifest, &input, output.clone()) else { return Ok(()) };
        holds(&manifest, counted.verdict());
        match (&input, &counted) {
            (Input::Route(input), Output::Route(route)) => {
                prop_assert_eq!(&counted, &output);
                let ids: BTreeSet<_> = input.candidates.iter().map(|candidate| &candidate.id).collect();
                let picked: BTreeSet<_> = route.picks.iter().map(|pick| &pick.id).collect();
                prop_assert!(picked.is_subset(&ids) && picked.len() == route.picks.len());
                prop_assert!(route.picks.iter().all(|pick| pick.rank <= 1_000_000 && pick.weight <= 1_000_000));
                prop_assert!(route.picks.is_empty() || route.verdict.effect == Effect::Permit);
            }
            (Input::Quota(input), Output::Quota(quota)) => {
                prop_assert_eq!(&counted, &output);
                let names: BTreeSet<_> = input.meters.iter().map(|meter| &meter.name).collect();
                let charged: BTreeSet<_> = quota.reserve.iter().map(|charge| &charge.meter).collect();
                prop_assert!(charged.is_subset(&names) && charged.len() == quota.reserve.len());
                // Sums of sixty thousand of them stay within an integer.
                prop_assert!(quota.reserve.iter().all(|charge| charge.amount.checked_mul(60_000).is_some()));
            }
            (Input::Expiry(input), Output::Expiry(expiry)) => {
                if let (Some(until), Some(host)) = (expiry.valid_until_ms, input.key.expires_ms) {
                    prop_assert!(until <= host);
                }
            }
            _ => prop_assert!(false, "another kind"),
        }
    }
}

#[test]
fn an_answer_of_another_kind_is_refused() {
    let output = Output::Expiry(expiry::Output { verdict: Verdict::plain(Effect::Permit), valid_until_ms: None });
    let manifest = Manifest::parse(r#"{"name":"a","version":"1","kind":"quota","effects":["permit"]}"#, PolicyKind::Quota).unwrap();
    let input = quota::Input {
        now_ms: 0,
        seed: 0,
        settings: String::new(),
        subject: Subject::default(),
        demand: Demand::default(),
        meters: vec![],
        cost_max: None,
        chosen: None,
        more: vec![],
    };
    assert_eq!(check(&manifest, &Input::Quota(input), output), Err(InvalidOutput::Abi));
}
