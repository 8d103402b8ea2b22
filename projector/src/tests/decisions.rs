//! The decision models: found by whatever is asked, newest first, bounded, each once.

use std::sync::Arc;

use event_log::decisions::{DecisionLog, DecisionStream as _, StoredDecisions};
use proptest::prelude::*;
use schemas::decision::{DecisionAnswer, DecisionBatch, DecisionEffect, DecisionMode, DecisionRecord};
use schemas::policy::PolicyKind;
use schemas::{BindingId, Digest, IncarnationId, RequestId, Sequence, TenantId, Timestamp, WriterId};
use tokio_util::sync::CancellationToken;

use super::models::{PATIENCE, config};
use super::world::{key_id, tenant};
use crate::Memory;
use crate::decisions::{DecisionBounds, DecisionFolder, DecisionModels, DecisionPage, DecisionProjector, DecisionQuery};
use crate::store::Row;

const KINDS: [PolicyKind; 3] = PolicyKind::ALL;
const EFFECTS: [DecisionEffect; 4] = [DecisionEffect::Permit, DecisionEffect::Deny, DecisionEffect::NotApplicable, DecisionEffect::Fault];

/// A decision whose members follow from its number; `at` too, with ties.
fn record(n: u64) -> DecisionRecord {
    let byte = |of: u64| u8::try_from(of).unwrap();
    let mut request = [0; 16];
    request[8..].copy_from_slice(&(n / 2).to_be_bytes());
    DecisionRecord {
        request: RequestId::from_bytes(request),
        at: Timestamp::from_micros(1_000 + n / 3),
        tenant: tenant(),
        key: key_id(byte(n % 5)),
        kind: KINDS[usize::try_from(n % 3).unwrap()],
        binding: BindingId::from_bytes([byte(n % 4); 16]),
        policy: Digest::from_bytes([byte(n % 2); 32]),
        class: None,
        settings: Digest::from_bytes([0; 32]),
        mode: if n.is_multiple_of(7) { DecisionMode::Shadow } else { DecisionMode::Enforced },
        input: vec![byte(n % 251); 40],
        answer: DecisionAnswer::Output(vec![1]),
        effect: EFFECTS[usize::try_from(n / 3 % 4).unwrap()],
        reasons: vec![],
        combined: DecisionEffect::Permit,
        cost_max: Some(n),
        fuel: n,
        elapsed_ns: 0,
        engine: "test".to_owned(),
    }
}

fn batch(node: u8, number: u64, records: impl IntoIterator<Item = u64>) -> DecisionBatch {
    let (node, incarnation) = (WriterId::from_bytes([node; 16]), IncarnationId::from_bytes([node; 16]));
    DecisionBatch { node, incarnation, number, records: records.into_iter().map(record).collect() }
}

fn stored(batches: Vec<DecisionBatch>) -> Vec<StoredDecisions> {
    batches.into_iter().zip(1..).map(|(batch, n)| StoredDecisions { sequence: Sequence(n), batch: Some(batch) }).collect()
}

fn folder(path: &std::path::Path, bounds: DecisionBounds) -> DecisionFolder {
    DecisionFolder::open(path, &Memory::new(0), bounds).unwrap()
}

fn rows_of(runs: &[&[StoredDecisions]], bounds: DecisionBounds) -> Vec<Row> {
    let directory = tempfile::tempdir().unwrap();
    for run in runs {
        let mut folder = folder(directory.path(), bounds);
        folder.fold(run).unwrap();
        folder.fold(run).unwrap();
    }
    folder(directory.path(), bounds).store().dump().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_way_of_cutting_gives_the_same_rows_bounded_or_not(
        batches in prop::collection::vec((0..2_u8, 1..9_u64, prop::collection::vec(0..200_u64, 0..6)), 1..20),
        cut in any::<prop::sample::Index>(),
        records in 1..40_u64,
    ) {
        let stored = stored(batches.into_iter().map(|(node, number, records)| batch(node, number, records)).collect());
        let cut = cut.index(stored.len());
        for bounds in [DecisionBounds::default(), DecisionBounds { records, bytes: 1 << 30 }] {
            prop_assert_eq!(rows_of(&[&stored[..cut], &stored[cut..]], bounds), rows_of(&[&stored], bounds));
        }
    }
}

/// Folds the numbers 1 to `last` through a stream of its own.
async fn folded(directory: &std::path::Path, last: u64, bounds: DecisionBounds) -> DecisionModels {
    let log = Arc::new(DecisionLog::open(&directory.join("decision-log")).unwrap());
    let (projector, models) = DecisionProjector::open_bounded(config(directory), log.clone(), bounds).await.unwrap();
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), async {
        for (number, first) in (1..).zip((1..=last).step_by(10)) {
            log.append(&batch(1, number, first..=(first + 9).min(last))).await.unwrap();
        }
        assert!(models.wait_for(log.head().await.unwrap(), PATIENCE).await);
        cancel.cancel();
    });
    outcome.unwrap();
    models
}

/// The numbers of all pages of a query.
fn numbers(models: &DecisionModels, mut query: DecisionQuery) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let DecisionPage { decisions, next } = models.page(&query).unwrap();
        assert!(decisions.len() <= query.limit);
        numbers.extend(decisions.iter().map(|decision| decision.record.fuel));
        let Some(next) = next else { return numbers };
        // A place survives being a text.
        query.after = Some(next.to_string().parse().unwrap());
    }
}

#[tokio::test]
async fn decisions_are_found_by_whatever_is_asked_newest_first() {
    let directory = tempfile::tempdir().unwrap();
    let models = folded(directory.path(), 200, DecisionBounds::default()).await;
    let expected = |fits: &dyn Fn(&DecisionRecord) -> bool| (1..=200).rev().filter(|n| fits(&record(*n))).collect::<Vec<u64>>();
    let all = |limit| DecisionQuery::all(tenant(), limit);
    for limit in [1, 7, 1000] {
        assert_eq!(numbers(&models, all(limit)), expected(&|_| true));
    }
    let example = record(77);
    type Fits<'a> = &'a dyn Fn(&DecisionRecord) -> bool;
    let asked: [(DecisionQuery, Fits<'_>); 9] = [
        (DecisionQuery { request: Some(example.request), ..all(1) }, &|record| record.request == example.request),
        (DecisionQuery { key: Some(example.key), ..all(3) }, &|record| record.key == example.key),
        (DecisionQuery { binding: Some(example.binding), ..all(3) }, &|record| record.binding == example.binding),
        (DecisionQuery { policy: Some(example.policy), ..all(3) }, &|record| record.policy == example.policy),
        (DecisionQuery { kind: Some(example.kind), ..all(3) }, &|record| record.kind == example.kind),
        (DecisionQuery { effect: Some(DecisionEffect::Fault), ..all(3) }, &|record| record.effect == DecisionEffect::Fault),
        (DecisionQuery { mode: Some(DecisionMode::Shadow), ..all(3) }, &|record| record.mode == DecisionMode::Shadow),
        (DecisionQuery { key: Some(example.key), kind: Some(example.kind), effect: Some(example.effect), ..all(2) }, &|record| {
            record.key == example.key && record.kind == example.kind && record.effect == example.effect
        }),
        (DecisionQuery { from: Some(Timestamp::from_micros(1_010)), to: Some(Timestamp::from_micros(1_020)), ..all(4) }, &|record| {
            (1_010..=1_020).contains(&record.at.as_micros())
        }),
    ];
    for (query, fits) in asked {
        let found = numbers(&models, query.clone());
        assert!(!found.is_empty());
        assert_eq!(found, expected(fits), "{query:?}");
    }
    let other: TenantId = "other".parse().unwrap();
    assert_eq!(numbers(&models, DecisionQuery::all(other, 10)), [0_u64; 0]);
}

#[tokio::test]
async fn the_oldest_go_and_leave_nothing_behind() {
    let by_number = DecisionBounds { records: 50, bytes: 1 << 30 };
    let directory = tempfile::tempdir().unwrap();
    let models = folded(directory.path(), 300, by_number).await;
    assert_eq!(numbers(&models, DecisionQuery::all(tenant(), 100)), (251..=300).rev().collect::<Vec<_>>());
    assert_eq!(models.status().records, 50);
    let rows = models.dump().unwrap();
    let count = |family| rows.iter().filter(|row| row.family == family).count();
    for family in ["records", "ring", "by_request", "by_key", "by_binding", "by_policy"] {
        assert_eq!(count(family), 50, "{family}");
    }
    let gone = DecisionQuery { request: Some(record(100).request), ..DecisionQuery::all(tenant(), 10) };
    assert_eq!(numbers(&models, gone), [0_u64; 0]);

    let size = record(1).bytes() as u64;
    let directory = tempfile::tempdir().unwrap();
    let models = folded(directory.path(), 300, DecisionBounds { records: 1_000, bytes: 20 * size }).await;
    assert_eq!(numbers(&models, DecisionQuery::all(tenant(), 100)), (281..=300).rev().collect::<Vec<_>>());
    assert_eq!((models.status().records, models.status().bytes), (20, 20 * size));
}

#[test]
fn repeats_are_dropped_and_losses_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut folder = folder(directory.path(), DecisionBounds::default());
    // An incarnation whose beginning the stream has dropped is no loss of ours; a hole in it is.
    let mut run = stored(vec![batch(1, 5, [1]), batch(1, 5, [1]), batch(2, 1, [2]), batch(1, 8, [3]), batch(2, 2, [])]);
    run.push(StoredDecisions { sequence: Sequence(9), batch: None });
    folder.fold(&run).unwrap();
    let position = folder.position();
    assert_eq!((position.last, position.repeats, position.missing, position.voids), (3, 1, 2, 1));
    assert_eq!(position.sequence, Sequence(9));
}

#[tokio::test]
async fn a_stream_that_began_anew_is_folded_from_its_beginning_and_what_was_there_stays() {
    let directory = tempfile::tempdir().unwrap();
    drop(folded(directory.path(), 30, DecisionBounds::default()).await);
    std::fs::remove_dir_all(directory.path().join("decision-log")).unwrap();
    let log = Arc::new(DecisionLog::open(&directory.path().join("decision-log")).unwrap());
    let (projector, models) = DecisionProjector::open(config(directory.path()), log.clone()).await.unwrap();
    // Of another node, and once more of the first.
    log.append(&batch(2, 1, [31])).await.unwrap();
    log.append(&batch(1, 3, 21..=30)).await.unwrap();
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), async {
        while models.status().repeats == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    outcome.unwrap();
    assert_eq!(models.position(), Sequence(2));
    assert_eq!(numbers(&models, DecisionQuery::all(tenant(), 100)), (1..=31).rev().collect::<Vec<_>>());
}
