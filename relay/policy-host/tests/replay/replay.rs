//! Bit for bit: elsewhere, after a restart, and where somebody planted a difference.

use std::time::Instant;

use policy_host::replay::{Difference, Report};
use policy_host::{Host, Module};
use schemas::decision::{DecisionAnswer, DecisionEffect, DecisionRecord};
use schemas::policy::{PolicyClass, PolicyKind};

use crate::guest::price_limit;
use crate::records::{Numbers, admit, host, quota_input, record, tenant, through_batches, timed_out};

/// What is recorded: the number of decisions, some of them faults of the policy, some of the machine.
pub(crate) const DECISIONS: u64 = 100_000;

/// Decisions of [`price_limit`] over varied inputs; every thousandth fault is of the machine.
pub(crate) fn recorded(module: &Module, engine: &str, count: u64) -> Vec<DecisionRecord> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let records = (0..count).map(|n| {
        let tenant = tenant(numbers.below(3));
        let cost = Some(numbers.below(1_200)).filter(|_| n % 7 != 0);
        let input = quota_input(&tenant, numbers.below(u64::MAX), numbers.below(100), cost);
        let record = record(module, engine, n, &tenant, &input, cost);
        if n % 1_000 == 999 { timed_out(&record) } else { record }
    });
    through_batches(records.collect())
}

fn replayed(records: &[DecisionRecord], module: &Module, host: &Host) -> Report {
    let mut report = Report::default();
    for (n, record) in records.iter().enumerate() {
        report.add(&n.to_string(), record, Some(module), host.engine_profile());
    }
    report
}

#[test]
fn a_hundred_thousand_decisions_replay_bit_for_bit_elsewhere_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let here = host(&directory.path().join("here"));
    let (module, component) = admit(&here, &price_limit(500), PolicyKind::Quota);
    let begin = Instant::now();
    let records = recorded(&module, here.engine_profile(), DECISIONS);
    let made = begin.elapsed();
    let of = |effect| records.iter().filter(|record| record.effect == effect).count();
    for effect in [DecisionEffect::Permit, DecisionEffect::Deny, DecisionEffect::NotApplicable, DecisionEffect::Fault] {
        assert!(of(effect) > 500, "{effect:?}: {}", of(effect));
    }
    let expected = Report { decisions: DECISIONS, same: DECISIONS - 100, not_replayable: 100, ..Report::default() };

    // Another node: an engine of its own, which compiles for itself.
    let there = host(&directory.path().join("there"));
    let elsewhere = there.load(module.digest(), PolicyKind::Quota, PolicyClass::Fast, &component).unwrap();
    let begin = Instant::now();
    assert_eq!(replayed(&records, &elsewhere, &there), expected);
    eprintln!("{DECISIONS} decisions: made in {made:?}, replayed in {:?}", begin.elapsed());

    // After a restart: machine code from the cache.
    let digest = *module.digest();
    drop((module, here));
    let again = host(&directory.path().join("here"));
    let module = again.load_cached(&digest, PolicyKind::Quota, PolicyClass::Fast).unwrap().expect("the cache has it");
    assert_eq!(replayed(&records, &module, &again), expected);
}

#[test]
fn a_planted_difference_is_found_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let host = host(directory.path());
    let (module, _) = admit(&host, &price_limit(500), PolicyKind::Quota);
    let honest = recorded(&module, host.engine_profile(), 5_000);
    let found = |records: &[DecisionRecord], module: &Module| {
        let report = replayed(records, module, &host);
        assert_eq!(report.differing, report.named.len() as u64);
        assert_eq!(report.same + report.differing + report.not_replayable, report.decisions);
        assert_eq!(report.is_clean(), report.differing == 0);
        report.named.into_iter().map(|named| (named.id.parse::<usize>().unwrap(), named.difference)).collect::<Vec<_>>()
    };
    assert_eq!(found(&honest, &module), []);

    // One byte of one output; the fuel of one; an input that is none; a fault that was another.
    let mut tampered = honest.clone();
    let DecisionAnswer::Output(output) = &mut tampered[17].answer else { panic!("{:?}", tampered[17]) };
    *output.last_mut().unwrap() ^= 1;
    tampered[100].fuel += 1;
    tampered[200].input[0] = 9;
    let fault = honest.iter().position(|record| matches!(&record.answer, DecisionAnswer::Fault { replayable: true, .. })).unwrap();
    let DecisionAnswer::Fault { code, .. } = &mut tampered[fault].answer else { unreachable!() };
    *code = "out_of_fuel".into();
    let mut named = found(&tampered, &module);
    named.sort_by_key(|(n, _)| *n);
    assert_eq!(named.len(), 4);
    for (n, difference) in named {
        match difference {
            Difference::Answer { recorded, .. } => assert!(n == 17 || n == fault, "{n}: {recorded}"),
            Difference::Fuel { recorded, found } => assert_eq!((n, recorded), (100, found + 1)),
            Difference::Input => assert_eq!(n, 200),
        }
    }

    // Another module under the name of this one: it differs where it decides otherwise, and nowhere else.
    let (other, _) = admit(&host, &price_limit(501), PolicyKind::Quota);
    let is_other = |record: &&DecisionRecord| record.cost_max.is_some_and(|cost| cost == 501 || (1_001..=1_002).contains(&cost));
    let expected = honest.iter().filter(is_other).filter(|record| record.effect != DecisionEffect::Fault).count();
    assert!(expected > 0);
    assert_eq!(found(&honest, &other).len(), expected);

    // On another engine fuel may differ, answers may not.
    let mut upgraded = honest;
    upgraded.iter_mut().for_each(|record| {
        record.fuel += 7;
        record.engine = "another engine".into();
    });
    let report = replayed(&upgraded, &module, &host);
    assert_eq!((report.differing, report.other_engine), (0, 5_000));
}

#[test]
fn a_decision_without_its_module_is_not_taken_for_a_good_one() {
    let directory = tempfile::tempdir().unwrap();
    let host = host(directory.path());
    let (module, _) = admit(&host, &price_limit(500), PolicyKind::Quota);
    let records = recorded(&module, host.engine_profile(), 1_000);
    let mut report = Report::default();
    records.iter().for_each(|record| report.add("x", record, None, host.engine_profile()));
    assert_eq!((report.missing, report.not_replayable, report.is_clean()), (999, 1, false));
}
