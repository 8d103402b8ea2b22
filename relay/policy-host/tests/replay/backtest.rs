//! A candidate's report against counts that were made without any policy.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use policy_host::backtest::{Backtest, Report, Tally};
use schemas::RequestId;
use schemas::decision::{DecisionAnswer, DecisionEffect, DecisionRecord};
use schemas::policy::PolicyKind;

use crate::guest::{one_pick, price_limit};
use crate::records::{Numbers, admit, host, record, route_input, tenant};
use crate::replay::{DECISIONS, recorded};

/// Decisions, requests, money, requests without a price.
type Sum = (u64, u64, u64, u64);

fn sum(tally: &Tally) -> Sum {
    (tally.decisions, tally.requests, tally.cost_max_microusd, tally.unpriced)
}

/// Counted over, by other means than the report's.
fn counted<'a>(records: impl Iterator<Item = &'a DecisionRecord>) -> Sum {
    let records: Vec<_> = records.collect();
    // The first decision on a request says what it could cost.
    let mut requests: BTreeMap<RequestId, Option<u64>> = BTreeMap::new();
    for record in &records {
        requests.entry(record.request).or_insert(record.cost_max);
    }
    let unpriced = requests.values().filter(|cost| cost.is_none()).count() as u64;
    (records.len() as u64, requests.len() as u64, requests.values().flatten().sum(), unpriced)
}

/// What [`price_limit`] says, in Rust.
fn says(limit: u64, record: &DecisionRecord) -> (DecisionEffect, Option<&'static str>) {
    match record.cost_max {
        None => (DecisionEffect::NotApplicable, None),
        Some(cost) if cost > 2 * limit => (DecisionEffect::Deny, Some("test.far")),
        Some(cost) if cost > limit => (DecisionEffect::Deny, Some("test.over")),
        Some(_) => (DecisionEffect::Permit, None),
    }
}

#[test]
fn counts_over_a_hundred_thousand_decisions_agree_with_an_independent_computation() {
    let directory = tempfile::tempdir().unwrap();
    let host = host(directory.path());
    let (module, _) = admit(&host, &price_limit(500), PolicyKind::Quota);
    let records = recorded(&module, host.engine_profile(), DECISIONS);
    let machine = |record: &&DecisionRecord| matches!(record.answer, DecisionAnswer::Fault { replayable: false, .. });

    // One that is stricter, over all of them; one that is laxer and the same one, over a part.
    for (limit, count) in [(300, DECISIONS), (800, DECISIONS / 10), (500, DECISIONS / 10)] {
        let records = &records[..usize::try_from(count).unwrap()];
        // Both trap for the same bodies.
        let decided = || records.iter().filter(|record| record.effect != DecisionEffect::Fault);
        let (candidate, _) = admit(&host, &price_limit(limit), PolicyKind::Quota);
        let mut backtest = Backtest::new(candidate, None);
        let begin = Instant::now();
        records.iter().enumerate().for_each(|(n, record)| backtest.add(&n.to_string(), record));
        let report = backtest.finish();
        eprintln!("{count} decisions under a candidate in {:?}", begin.elapsed());

        let flips = |record: &&DecisionRecord| says(limit, record).0 != says(500, record).0;
        let undecided = records.iter().filter(machine).count() as u64;
        assert_eq!((report.compared, report.undecided), (count - undecided, undecided));
        assert_eq!(sum(&report.flipped), counted(decided().filter(flips)));
        let details = |record: &&DecisionRecord| !flips(record) && says(limit, record) != says(500, record);
        assert_eq!(sum(&report.details_changed), counted(decided().filter(details)));
        assert_eq!(report.picks_changed, Tally::default());
        assert_eq!(report.same, report.compared - report.flipped.decisions - report.details_changed.decisions);

        let effects = match limit {
            300 => vec![(DecisionEffect::Permit, DecisionEffect::Deny)],
            800 => vec![(DecisionEffect::Deny, DecisionEffect::Permit)],
            _ => vec![],
        };
        assert_eq!(report.flips.iter().map(|flip| (flip.before, flip.after)).collect::<Vec<_>>(), effects);
        report.flips.iter().for_each(|flip| assert_eq!(sum(&flip.tally), sum(&report.flipped)));
        assert_eq!(report.flipped.decisions == 0, limit == 500);
        for reason in ["test.over", "test.far"] {
            // The side that denies says why.
            let denier = if limit < 500 { limit } else { 500 };
            let expected = counted(decided().filter(flips).filter(|record| says(denier, record).1 == Some(reason)));
            assert_eq!(report.by_reason.get(reason).map(sum).unwrap_or_default(), expected, "{reason}");
        }
        for n in 0..3 {
            let expected = counted(decided().filter(flips).filter(|record| record.tenant == tenant(n)));
            assert_eq!(report.by_tenant.get(&tenant(n)).map(sum).unwrap_or_default(), expected);
        }
        let named: HashSet<_> = report.named.iter().map(|changed| changed.id.parse::<usize>().unwrap()).collect();
        assert!(named.iter().all(|n| flips(&&records[*n])));
        assert_eq!(named.len() as u64, report.flipped.decisions.min(100));
    }
}

#[test]
fn other_picks_are_told_from_other_effects() {
    let directory = tempfile::tempdir().unwrap();
    let host = host(directory.path());
    let (first, _) = admit(&host, &one_pick(false), PolicyKind::Route);
    let (last, _) = admit(&host, &one_pick(true), PolicyKind::Route);
    let mut numbers = Numbers(7);
    let (mut records, mut with_choice) = (vec![], 0);
    for n in 0..500 {
        let count = 1 + numbers.below(3);
        with_choice += u64::from(count > 1);
        let input = route_input(&tenant(1), n, count);
        let record = record(&first, host.engine_profile(), n, &tenant(1), &input, Some(10));
        assert_eq!(record.effect, DecisionEffect::Permit, "{:?}", record.answer);
        records.push(record);
    }
    let run = |candidate: &Arc<policy_host::Module>| {
        let mut backtest = Backtest::new(candidate.clone(), None);
        records.iter().for_each(|record| backtest.add("x", record));
        backtest.finish()
    };
    let report = run(&last);
    assert_eq!((report.picks_changed.decisions, report.flipped.decisions), (with_choice, 0));
    assert_eq!(report.same, 500 - with_choice);
    assert_eq!(run(&first).same, 500);

    let (quota, _) = admit(&host, &price_limit(1), PolicyKind::Quota);
    let report = run(&quota);
    assert_eq!(report, Report { other_kind: 500, ..Report::default() });
}
