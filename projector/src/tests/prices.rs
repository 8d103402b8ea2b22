//! What use cost: by the prices of the moment of the question, exactly.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_log::usage::{UsageLog, UsageStream as _};
use proptest::prelude::*;
use schemas::pool::{ModelPrice, PoolPriced, PoolRemoved};
use schemas::upstream::{Dialect, UpstreamRemoved};
use schemas::usage::{Outcome, TokenParts, UsageBatch, UsageRecord, UsageSource};
use schemas::{Event, IncarnationId, PoolId, RequestId, Sequence, Stream, Timestamp, UpstreamId, WriterId};
use tokio_util::sync::CancellationToken;

use super::models::{PATIENCE, config};
use super::world::{World, key_id, tenant};
use crate::usage::{GroupBy, PricedUsage, UsageGroup, UsageProjector, UsageQuery};
use crate::{Prices, Projector, ReadModels, UsageModels};

const DAY_MICROS: u64 = 86_400_000_000;
const ORIGIN: (WriterId, IncarnationId) = (WriterId::from_bytes([1; 16]), IncarnationId::from_bytes([1; 16]));
const REQUESTED: [&str; 3] = ["gpt-4o", "gpt-4o-mini", "o1"];
const BILLED: [Option<&str>; 3] = [None, Some("gpt-4o-2026"), Some("o1")];

fn price(model: &str, input: u64) -> ModelPrice {
    ModelPrice { model: model.into(), input, output: 3 * input, cache_read: Some(input / 10), cache_write: None }
}

fn pool() -> Stream {
    Stream::pool(tenant(), PoolId::from_bytes([1; 16]))
}

fn record(n: u64, (key, upstream, model, billed, day, tokens): (u8, u8, usize, usize, u64, Option<u16>)) -> UsageRecord {
    let mut request = [0; 16];
    request[8..].copy_from_slice(&n.to_be_bytes());
    let parts = |tokens: u64| TokenParts {
        input_uncached: Some(tokens),
        cache_read: Some(tokens / 3),
        cache_write_1h: tokens.is_multiple_of(2).then_some(tokens / 5),
        output_visible: Some(tokens / 7),
        ..TokenParts::default()
    };
    UsageRecord {
        request: RequestId::from_bytes(request),
        tenant: tenant(),
        key: key_id(key),
        secret_number: 1,
        upstream: UpstreamId::from_bytes([upstream; 16]),
        dialect: Dialect::Openai,
        model_requested: REQUESTED[model].into(),
        model_billed: BILLED[billed].map(str::to_owned),
        streamed: true,
        attempts: 1,
        status: 200,
        outcome: Outcome::Completed,
        source: UsageSource::Provider,
        tokens: tokens.map(u64::from).map(parts).unwrap_or_default(),
        started_at: Timestamp::from_micros(day * DAY_MICROS),
        settled_at: Timestamp::from_micros(day * DAY_MICROS + n),
        client: None,
    }
}

/// Read models of a log, and usage models of one batch.
struct Node {
    directory: tempfile::TempDir,
    models: ReadModels,
    usage: UsageModels,
}

impl Node {
    async fn new(world: &World, records: Vec<UsageRecord>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (projector, models) = Projector::open(config(directory.path()), Arc::new(world.log().await)).await.unwrap();
        let stream = Arc::new(UsageLog::open(&directory.path().join("usage-log")).unwrap());
        let (usage_projector, usage) = UsageProjector::open(config(directory.path()), stream.clone()).await.unwrap();
        let batch = UsageBatch { node: ORIGIN.0, incarnation: ORIGIN.1, number: 1, records };
        let _appended = stream.append(&batch).await.unwrap();
        let cancel = CancellationToken::new();
        let (followed, summed, ()) = tokio::join!(projector.run(cancel.clone()), usage_projector.run(cancel.clone()), async {
            assert!(models.wait_for(world.head(), PATIENCE).await && usage.wait_for(Sequence(1), PATIENCE).await);
            cancel.cancel();
        });
        followed.unwrap();
        summed.unwrap();
        Self { directory, models, usage }
    }

    fn usage(&self, group_by: GroupBy, days: Option<std::ops::RangeInclusive<u32>>) -> Vec<PricedUsage> {
        self.usage.priced_usage(&UsageQuery { tenant: tenant(), group_by, days }, &Prices::new(&self.models)).unwrap()
    }
}

fn world(prices: Vec<ModelPrice>) -> World {
    let mut world = World::founded();
    world.create_pool(1);
    world.add_upstream(1);
    world.append(&pool(), &[Event::PoolPriced(PoolPriced { prices })]);
    world
}

/// What records cost, worked out one by one: the cost, and how many have no price. Only upstream 1 is in a pool.
fn expected(prices: &[ModelPrice], records: &[&UsageRecord]) -> (Option<u64>, u64) {
    let (mut exact, mut unpriced) = (None::<u128>, 0);
    for record in records.iter().filter(|record| record.tokens != TokenParts::default()) {
        let price_of = |model: &str| prices.iter().find(|price| schemas::name::matches(&price.model, model));
        let price = record.model_billed.as_deref().and_then(price_of).or_else(|| price_of(&record.model_requested));
        match price.filter(|_| record.upstream == UpstreamId::from_bytes([1; 16])) {
            None => unpriced += 1,
            Some(price) => {
                let tokens = |part: Option<u64>| u128::from(part.unwrap_or(0));
                let (input, cached) = (tokens(record.tokens.input_uncached), tokens(record.tokens.cache_read));
                let cost = (input + tokens(record.tokens.cache_write_1h)) * u128::from(price.input)
                    + cached * u128::from(price.input / 10)
                    + tokens(record.tokens.output_visible) * u128::from(price.output);
                exact = Some(exact.unwrap_or(0) + cost);
            }
        }
    }
    (exact.map(|exact| u64::try_from(exact.div_ceil(1_000_000)).unwrap()), unpriced)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn every_sum_costs_what_its_requests_cost_together(
        shapes in prop::collection::vec((0..3_u8, 1..3_u8, 0..3_usize, 0..3_usize, 1..4_u64, any::<Option<u16>>()), 1..60),
    ) {
        let prices = vec![price("gpt-4o-2026", 2_500_001), price("gpt-4o*", 333_333)];
        let records: Vec<_> = shapes.into_iter().zip(1..).map(|(shape, n)| record(n, shape)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let node = runtime.block_on(Node::new(&world(prices.clone()), records.clone()));
        for days in [None, Some(2..=3)] {
            for group_by in [GroupBy::Key, GroupBy::Model, GroupBy::Upstream, GroupBy::Day] {
                let mut groups: BTreeMap<UsageGroup, Vec<&UsageRecord>> = BTreeMap::new();
                for record in records.iter().filter(|record| days.as_ref().is_none_or(|days| days.contains(&record.settled_at.day()))) {
                    let group = match group_by {
                        GroupBy::Key => UsageGroup::Key(record.key),
                        GroupBy::Model => UsageGroup::Model(record.model_requested.clone()),
                        GroupBy::Upstream => UsageGroup::Upstream(record.upstream),
                        GroupBy::Day => UsageGroup::Day(record.settled_at.day()),
                    };
                    groups.entry(group).or_default().push(record);
                }
                let expected: Vec<_> = groups.iter().map(|(group, of)| (group.clone(), expected(&prices, of))).collect();
                let found = node.usage(group_by, days.clone()).into_iter();
                let found: Vec<_> = found.map(|usage| (usage.group, (usage.cost.micro_usd(), usage.cost.unpriced))).collect();
                prop_assert_eq!(found, expected);
            }
        }
        let prices_now = Prices::new(&node.models);
        for key in 0..3 {
            for usage in node.usage.priced_key_days(&tenant(), key_id(key), &prices_now).unwrap() {
                let of: Vec<_> = records.iter().filter(|record| record.key == key_id(key) && UsageGroup::Day(record.settled_at.day()) == usage.group).collect();
                prop_assert_eq!((usage.cost.micro_usd(), usage.cost.unpriced), expected(&prices, &of));
            }
        }
        for one in &records {
            prop_assert_eq!(prices_now.cost(one).unwrap(), expected(&prices, &[one]).0);
        }
    }
}

#[tokio::test]
async fn a_new_price_holds_for_what_was_used_before_and_a_removed_pool_keeps_its_last() {
    let mut world = world(vec![price("gpt*", 1_000_000)]);
    let records = vec![record(1, (1, 1, 0, 0, 5, Some(10))), record(2, (1, 1, 2, 0, 5, Some(10))), record(3, (1, 1, 0, 0, 6, None))];
    let node = Node::new(&world, records).await;
    let cost = |node: &Node| node.usage(GroupBy::Key, None)[0].cost;
    // 10 plain, 3 read from the cache at a tenth, 2 written to it, 1 in the answer at three times as much: 15.3.
    assert_eq!((cost(&node).micro_usd(), cost(&node).unpriced), (Some(16), 1));
    assert_eq!(node.usage(GroupBy::Day, None)[1].cost.micro_usd(), None, "absent is not zero");

    world.append(&pool(), &[Event::PoolPriced(PoolPriced { prices: vec![price("*", 2_000_000)] })]);
    world.append(&Stream::upstream(tenant(), UpstreamId::from_bytes([1; 16])), &[Event::UpstreamRemoved(UpstreamRemoved {})]);
    world.append(&pool(), &[Event::PoolRemoved(PoolRemoved {})]);
    let cancel = CancellationToken::new();
    let Node { directory, usage, .. } = node;
    let (projector, models) = reopened(directory.path(), &world).await;
    let (followed, ()) = tokio::join!(projector.run(cancel.clone()), async {
        assert!(models.wait_for(world.head(), PATIENCE).await);
        cancel.cancel();
    });
    followed.unwrap();
    let node = Node { directory, models, usage };
    // Two requests at twice the price: 61.2.
    assert_eq!((cost(&node).micro_usd(), cost(&node).unpriced), (Some(62), 0));
}

/// The read models of a longer log, in a directory of their own.
async fn reopened(data: &std::path::Path, world: &World) -> (Projector, ReadModels) {
    let data = data.join("again");
    std::fs::create_dir(&data).unwrap();
    Projector::open(config(&data), Arc::new(world.log().await)).await.unwrap()
}

#[tokio::test]
async fn prices_are_current_until_a_pool_changes() {
    let mut world = world(vec![price("*", 1)]);
    let directory = tempfile::tempdir().unwrap();
    let log = world.log().await;
    let (projector, models) = Projector::open(config(directory.path()), Arc::new(log.clone())).await.unwrap();
    let cancel = CancellationToken::new();
    let (followed, ()) = tokio::join!(projector.run(cancel.clone()), async {
        assert!(models.wait_for(world.head(), PATIENCE).await);
        let prices = Prices::new(&models);
        world.create_key(1);
        world.write_to(&log).await;
        assert!(models.wait_for(world.head(), PATIENCE).await && prices.is_current(), "a key is none of their business");
        world.append(&pool(), &[Event::PoolPriced(PoolPriced { prices: vec![] })]);
        world.write_to(&log).await;
        assert!(models.wait_for(world.head(), PATIENCE).await && !prices.is_current());
        cancel.cancel();
    });
    followed.unwrap();
}
