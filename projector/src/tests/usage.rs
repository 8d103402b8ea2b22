//! Usage sums: once each, gaps told, absent not zero.

use std::sync::Arc;

use async_trait::async_trait;
use event_log::usage::{StoredBatch, UsageAppendError, UsageAppended, UsageBatches, UsageLog, UsageStream, UsageVoid};
use futures_util::{StreamExt as _, stream};
use proptest::prelude::*;
use schemas::upstream::Dialect;
use schemas::usage::{AddressClass, Outcome, TokenParts, UsageBatch, UsageRecord, UsageSource};
use schemas::{IncarnationId, RequestId, Sequence, Timestamp, UpstreamId, WriterId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::models::{PATIENCE, config};
use super::world::{key_id, tenant};
use crate::Memory;
use crate::store::Row;
use crate::usage::{GroupBy, UsageFolder, UsageFollowError, UsageGroup, UsageOpenError, UsageProjector, UsageQuery};

const DAY_MICROS: u64 = 86_400_000_000;

pub(super) fn record(n: u64, key: u8, day: u64, output: Option<u64>) -> UsageRecord {
    let mut request = [0; 16];
    request[8..].copy_from_slice(&n.to_be_bytes());
    UsageRecord {
        request: RequestId::from_bytes(request),
        tenant: tenant(),
        key: key_id(key),
        secret_number: 1,
        upstream: UpstreamId::from_bytes([key % 2; 16]),
        dialect: Dialect::Openai,
        model_requested: format!("model-{}", key % 3),
        model_billed: None,
        streamed: true,
        attempts: 1,
        status: 200,
        outcome: if output.is_some() { Outcome::Completed } else { Outcome::UpstreamFailed },
        source: if output.is_some() { UsageSource::Provider } else { UsageSource::Estimated },
        tokens: TokenParts { input_uncached: Some(10), output_visible: output, ..TokenParts::default() },
        started_at: Timestamp::from_micros(day * DAY_MICROS),
        settled_at: Timestamp::from_micros(day * DAY_MICROS + n),
        client: None,
    }
}

pub(super) fn batch(node: u8, number: u64, records: Vec<UsageRecord>) -> UsageBatch {
    UsageBatch { node: WriterId::from_bytes([node; 16]), incarnation: IncarnationId::from_bytes([node; 16]), number, records }
}

fn stored(batches: Vec<UsageBatch>) -> Vec<StoredBatch> {
    batches.into_iter().zip(1..).map(|(batch, n)| StoredBatch { sequence: Sequence(n), batch: Ok(batch) }).collect()
}

fn rows_of(runs: &[&[StoredBatch]]) -> Vec<Row> {
    let directory = tempfile::tempdir().unwrap();
    for run in runs {
        let mut folder = UsageFolder::open(directory.path(), &Memory::new(0)).unwrap();
        folder.fold(run).unwrap();
        folder.fold(run).unwrap();
    }
    UsageFolder::open(directory.path(), &Memory::new(0)).unwrap().store().dump().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_way_of_cutting_gives_the_same_rows(
        batches in prop::collection::vec((0..2_u8, 1..9_u64, prop::collection::vec((0..4_u8, 1..4_u64, any::<Option<u8>>()), 0..4)), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let batches = batches.into_iter().map(|(node, number, records)| {
            let records = records.into_iter().map(|(key, day, output)| record(number, key, day, output.map(u64::from)));
            batch(node, number, records.collect())
        });
        let stored = stored(batches.collect());
        let cut = cut.index(stored.len());
        prop_assert_eq!(rows_of(&[&stored[..cut], &stored[cut..]]), rows_of(&[&stored]));
    }
}

#[tokio::test]
async fn usage_is_summed_by_key_model_upstream_and_day() {
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(UsageLog::open(&directory.path().join("usage-log")).unwrap());
    let (projector, models) = UsageProjector::open(config(directory.path()), log.clone()).await.unwrap();
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), async {
        let private = UsageRecord { client: Some(AddressClass::Private), ..record(2, 1, 6, None) };
        let first = batch(1, 1, vec![record(1, 1, 5, Some(3)), private]);
        let second = batch(1, 2, vec![record(3, 2, 6, Some(4))]);
        for batch in [&first, &second] {
            let _appended = log.append(batch).await.unwrap();
        }
        assert!(models.wait_for(Sequence(2), PATIENCE).await);
        cancel.cancel();
    });
    outcome.unwrap();
    let usage = |group_by, days| models.usage(&UsageQuery { tenant: tenant(), group_by, days }).unwrap();

    // Of what the log keeps and gives back: a class where one was noted, for each secret.
    let classes = models.key_secret_clients(&tenant(), key_id(1), 1).unwrap();
    let classes: Vec<_> = classes.into_iter().map(|(class, totals)| (class, totals.requests, totals.last_used)).collect();
    assert_eq!(classes, [(AddressClass::Private, 1, Timestamp::from_micros(6 * DAY_MICROS + 2))]);
    assert_eq!(models.key_secret_clients(&tenant(), key_id(1), 2).unwrap(), []);
    assert_eq!(models.key_secret(&tenant(), key_id(1), 1).unwrap().unwrap().requests, 2);

    let by_key = usage(GroupBy::Key, None);
    assert_eq!(by_key.len(), 2);
    let (group, totals) = &by_key[0];
    assert_eq!(*group, UsageGroup::Key(key_id(1)));
    assert_eq!((totals.requests, totals.tokens.input(), totals.tokens.output()), (2, Some(20), Some(3)));
    assert_eq!((totals.output_unknown, totals.input_unknown, totals.estimated), (1, 0, 1));
    assert_eq!((totals.outcomes.completed, totals.outcomes.upstream_failed), (1, 1));
    assert_eq!(totals.tokens.cache_read, None, "absent is not zero");
    assert_eq!(models.key_total(&tenant(), key_id(1)).unwrap(), Some(*totals));

    let on_day_six = usage(GroupBy::Key, Some(6..=6));
    assert_eq!(on_day_six.iter().map(|(_, totals)| totals.requests).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(on_day_six[0].1.tokens.output(), None);
    assert_eq!(usage(GroupBy::Key, Some(7..=9)), []);
    let days: Vec<_> = usage(GroupBy::Day, None).into_iter().map(|(group, totals)| (group, totals.requests)).collect();
    assert_eq!(days, [(UsageGroup::Day(5), 1), (UsageGroup::Day(6), 2)]);
    let models_used: Vec<_> = usage(GroupBy::Model, Some(0..=u32::MAX)).into_iter().map(|(group, _)| group).collect();
    assert_eq!(models_used, [UsageGroup::Model("model-1".into()), UsageGroup::Model("model-2".into())]);
    assert_eq!(usage(GroupBy::Upstream, None).len(), 2);

    let one = models.key_usage(&tenant(), key_id(1)).unwrap();
    assert_eq!(one.total.requests, 2);
    assert_eq!(one.days.iter().map(|(day, _)| *day).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(one.models.len(), 1);
    assert_eq!(models.request(&record(2, 1, 6, None).request).unwrap(), Some(record(2, 1, 6, None)));
    assert_eq!(models.request(&record(9, 1, 6, None).request).unwrap(), None);
    drop((projector, models));
    let empty = Arc::new(UsageLog::open(&directory.path().join("other-log")).unwrap());
    let refused = UsageProjector::open(config(directory.path()), empty).await.err();
    assert!(matches!(refused, Some(UsageOpenError::LogShorter { position: Sequence(2), head: Sequence(0) })), "{refused:?}");
}

#[test]
fn repeats_are_dropped_and_gaps_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut folder = UsageFolder::open(directory.path(), &Memory::new(0)).unwrap();
    let one = || batch(1, 1, vec![record(1, 1, 5, Some(1))]);
    let other_node = batch(2, 1, vec![record(2, 1, 5, Some(1))]);
    let after_a_gap = batch(1, 4, vec![record(3, 1, 5, Some(1))]);
    folder.fold(&stored(vec![one(), one(), other_node, after_a_gap])).unwrap();
    let position = folder.position();
    assert_eq!((position.requests, position.repeats, position.gaps), (3, 1, 2));
}

#[test]
fn what_is_no_batch_is_written_down_and_passed() {
    let directory = tempfile::tempdir().unwrap();
    let mut folder = UsageFolder::open(directory.path(), &Memory::new(0)).unwrap();
    let mut run =
        stored(vec![batch(1, 1, vec![record(1, 1, 5, Some(1))]), batch(1, 2, vec![]), batch(1, 3, vec![record(3, 1, 5, Some(1))])]);
    let void = UsageVoid::NotABatch { subject: "kr.u.x.y".into() };
    run[1].batch = Err(void);
    folder.fold(&run).unwrap();
    let position = folder.position();
    assert_eq!((position.sequence, position.requests, position.voids, position.gaps), (Sequence(3), 2, 1, 1));
}

/// A usage stream that is out of reach until it has a head, and then holds one place that is no batch.
struct Distant(watch::Sender<Option<Sequence>>);

#[async_trait]
impl UsageStream for Distant {
    async fn append(&self, _: &UsageBatch) -> Result<UsageAppended, UsageAppendError> {
        unreachable!("the projector never appends")
    }

    fn read(&self, from: Sequence) -> UsageBatches {
        if from > Sequence(1) {
            return stream::pending().boxed();
        }
        let void = StoredBatch { sequence: from, batch: Err(UsageVoid::Missing) };
        stream::iter([Ok(vec![void])]).chain(stream::pending()).boxed()
    }

    async fn read_range(&self, _: Sequence, _: usize) -> Result<Vec<StoredBatch>, event_log::ReadError> {
        unreachable!("the projector reads on")
    }

    async fn head(&self) -> Result<Sequence, event_log::ReadError> {
        self.0.borrow().ok_or(event_log::ReadError::Unavailable { reason: "a test says so".into() })
    }

    fn watch(&self) -> watch::Receiver<Sequence> {
        unreachable!("the projector reads on")
    }

    async fn close(&self) {}
}

#[tokio::test]
async fn a_stream_out_of_reach_is_compared_at_first_contact() {
    let directory = tempfile::tempdir().unwrap();
    let distant = Arc::new(Distant(watch::Sender::new(None)));
    let (projector, models) = UsageProjector::open(config(directory.path()), distant.clone()).await.unwrap();
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), async {
        distant.0.send_replace(Some(Sequence(1)));
        assert!(models.wait_for(Sequence(1), PATIENCE).await);
        cancel.cancel();
    });
    outcome.unwrap();
    assert_eq!(models.voids(Sequence(1), 10).unwrap(), [(Sequence(1), UsageVoid::Missing)]);
    assert_eq!(models.voids(Sequence(2), 10).unwrap(), []);
    assert_eq!(models.status().voids, 1);
    drop((projector, models));

    distant.0.send_replace(None);
    let (projector, models) = UsageProjector::open(config(directory.path()), distant.clone()).await.unwrap();
    distant.0.send_replace(Some(Sequence(0)));
    let refused = projector.run(CancellationToken::new()).await;
    assert!(matches!(refused, Err(UsageFollowError::LogShorter { position: Sequence(1), head: Sequence(0) })), "{refused:?}");
    assert!(!models.status().following);

    // It stays so while it is tried again, and until the stream is whole.
    let mut announced = models.announced.clone();
    announced.mark_unchanged();
    assert!(projector.run(CancellationToken::new()).await.is_err());
    assert!(!announced.has_changed().unwrap(), "{:?}", announced.borrow());
    distant.0.send_replace(Some(Sequence(1)));
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), async {
        tokio::time::timeout(PATIENCE, announced.wait_for(|at| at.following)).await.unwrap().unwrap();
        cancel.cancel();
    });
    outcome.unwrap();
}

#[cfg(feature = "faults")]
#[test]
fn a_failed_commit_counts_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut folder = UsageFolder::open(directory.path(), &Memory::new(0)).unwrap();
    let run = stored(vec![batch(1, 1, vec![record(1, 1, 5, Some(1))])]);
    folder.store().faults.fail_commits(1);
    assert!(folder.fold(&run).is_err());
    assert_eq!(folder.store().dump().unwrap(), []);
    folder.fold(&run).unwrap();
    assert_eq!(folder.position().requests, 1);
}
