#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and waits for the tasks it spawns")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use event_log::MemoryLog;
use event_log::usage::{UsageLog, UsageStream};
use projector::usage::UsageProjector;
use projector::{Config, Memory, Projector};
use schemas::upstream::Dialect;
use schemas::usage::{Outcome, TokenParts, UsageBatch, UsageSource};
use schemas::{RequestId, Sequence, UpstreamId};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Metrics;
use crate::usage::UsageSink;

const PATIENCE: Duration = Duration::from_secs(20);
const KEY: KeyId = KeyId::from_bytes([4; 16]);
pub(crate) const ORIGIN: (WriterId, IncarnationId) = (WriterId::from_bytes([1; 16]), IncarnationId::from_bytes([2; 16]));
const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// Meters over an empty log without prices, the stream they count from, and who folds it.
pub(crate) async fn meters(data: &Path) -> (Meters, Arc<UsageLog>, UsageProjector) {
    let config = Config { data: data.to_owned(), memory: Memory::new(Memory::BYTES_MIN), clock: Arc::new(|| NOW) };
    let (_, models) = Projector::open(config.clone(), Arc::new(MemoryLog::new())).await.unwrap();
    let stream = Arc::new(UsageLog::open(&data.join("usage-log")).unwrap());
    let (projector, usage) = UsageProjector::open(config, stream.clone()).await.unwrap();
    (Meters::new(models, usage, ORIGIN), stream, projector)
}

fn record(key: KeyId, tokens: u64) -> UsageRecord {
    UsageRecord {
        request: RequestId::from_bytes([3; 16]),
        tenant: TenantId::default_tenant(),
        key,
        secret_number: 1,
        upstream: UpstreamId::from_bytes([5; 16]),
        dialect: Dialect::Openai,
        model_requested: "gpt-4o".into(),
        model_billed: None,
        streamed: false,
        attempts: 1,
        status: 200,
        outcome: Outcome::Completed,
        source: UsageSource::Provider,
        tokens: TokenParts { input_uncached: Some(1), output_visible: Some(tokens - 1), ..TokenParts::default() },
        started_at: NOW,
        settled_at: NOW,
        client: None,
    }
}

fn names(texts: &[&str]) -> Vec<MeterName> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn shown(meters: &[quota::Meter]) -> Vec<(u64, u64)> {
    meters.iter().map(|meter| (meter.used, meter.reserved)).collect()
}

#[tokio::test]
async fn what_is_held_becomes_what_was_used_and_stays_when_it_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (meters, stream, projector) = meters(directory.path()).await;
    let (tenant, cancel) = (TenantId::default_tenant(), CancellationToken::new());
    let usage = meters.0.usage.clone();
    let following = tokio::spawn({
        let cancel = cancel.clone();
        async move { projector.run(cancel).await }
    });
    let names = names(&["tenant.tokens.total", "key.requests.hour", "key.tokens.day", "key.micro_usd.month"]);
    let read = || shown(&meters.read(&names, &tenant, KEY, NOW).unwrap());
    assert_eq!(read(), [(0, 0); 4]);

    let mut first = meters.reserve(&tenant, KEY, Estimate { tokens: 10, micro_usd: 7 });
    let second = meters.reserve(&tenant, KEY, Estimate { tokens: 20, micro_usd: 0 });
    let charge = |meter: &str, amount| quota::Charge { meter: meter.into(), amount };
    first.raise(&[charge("key.tokens.day", 15), charge("key.tokens.hour", 12), charge("key.requests.day", 0), charge("odd", 99)]);
    assert_eq!(read(), [(0, 30), (0, 2), (0, 35), (0, 7)]);
    assert_eq!(shown(&first.read(&names, NOW).unwrap()), [(0, 0); 4], "the first has nobody before it");
    assert_eq!(shown(&second.read(&names, NOW).unwrap()), [(0, 10), (0, 1), (0, 15), (0, 7)]);
    drop(second);

    let settled = record(KEY, 12);
    let amounts = meters.settle(&settled, Some(first));
    assert_eq!(read(), [(12, 0), (1, 0), (12, 0), (0, 0)]);
    meters.number(1, [(&settled, &amounts)].into_iter());
    assert_eq!(read(), [(12, 0), (1, 0), (12, 0), (0, 0)]);
    // In one batch with what another node settled.
    let (node, incarnation) = ORIGIN;
    let own = UsageBatch { node, incarnation, number: 1, records: vec![settled] };
    let other = UsageBatch { incarnation: IncarnationId::from_bytes([9; 16]), records: vec![record(KEY, 5)], ..own.clone() };
    for batch in [&own, &other] {
        let _appended = stream.append(batch).await.unwrap();
    }
    assert!(usage.wait_for(Sequence(2), PATIENCE).await);
    assert_eq!(read(), [(17, 0), (2, 0), (17, 0), (0, 0)]);
    assert_eq!(meters.life(&tenant, KEY).unwrap(), Life { requests: 2, tokens: 17, last_used: Some(NOW) });
    let later = NOW.plus_seconds(3_600);
    assert_eq!(shown(&meters.read(&names, &tenant, KEY, later).unwrap())[1], (0, 0), "another hour");
    let unused = KeyId::from_bytes([8; 16]);
    assert_eq!(meters.life(&tenant, unused).unwrap(), Life { requests: 0, tokens: 0, last_used: None });
    cancel.cancel();
    following.await.unwrap().unwrap();
}

/// Requests from many threads against one budget, through the real queue, writer, stream and fold.
async fn over_run(limit: u64, estimate: u64, used_of: fn(u64) -> u64) -> u64 {
    const THREADS: u64 = 8;
    const REQUESTS: u64 = 400;
    let directory = tempfile::tempdir().unwrap();
    let (meters, stream, projector) = meters(directory.path()).await;
    let (sink, writer) = UsageSink::new(stream, ORIGIN, meters.clone(), &Metrics::new());
    let (cancel, finish) = (CancellationToken::new(), CancellationToken::new());
    let following = tokio::spawn({
        let cancel = cancel.clone();
        async move { projector.run(cancel).await }
    });
    let writing = tokio::spawn(writer.run(finish.clone()));
    let (begun, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let request = {
        let (meters, names, done) = (meters.clone(), names(&["tenant.tokens.day", "key.tokens.day"]), done.clone());
        move |number: u64| {
            let (key, tenant) = (KeyId::from_bytes([(number % 3) as u8; 16]), TenantId::default_tenant());
            let reservation = meters.reserve(&tenant, key, Estimate { tokens: estimate, micro_usd: 0 });
            let at_least = done.load(Ordering::SeqCst);
            let seen = shown(&reservation.read(&names, NOW).unwrap());
            let (used, reserved) = seen[0];
            assert!(used >= at_least, "{used} shown of at least {at_least}");
            assert!(used <= begun.load(Ordering::SeqCst), "more shown than was used");
            assert!(seen[1].0 <= used);
            if used + reserved + estimate > limit {
                return false;
            }
            let used = used_of(number);
            begun.fetch_add(used, Ordering::SeqCst);
            sink.reserve().unwrap().fill(record(key, used), Some(reservation));
            done.fetch_add(used, Ordering::SeqCst);
            true
        }
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let request = request.clone();
            tokio::task::spawn_blocking(move || {
                (0..REQUESTS).for_each(|number| {
                    request(thread + number * THREADS);
                    // Long enough that batches are written and counted meanwhile.
                    std::thread::yield_now();
                });
            })
        })
        .collect();
    for thread in threads {
        thread.await.unwrap();
    }
    // Those who were refused for the sake of others under way leave room; one after another they fill it.
    while request(0) {}
    drop(request);
    finish.cancel();
    writing.await.unwrap().unwrap();
    cancel.cancel();
    following.await.unwrap().unwrap();
    done.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_at_once_never_over_run_a_budget() {
    let used = over_run(10_000, 10, |_| 10).await;
    assert_eq!(used, 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_budget_is_over_run_by_the_error_of_estimates_under_way_only() {
    let used = over_run(10_000, 10, |number| 8 + number % 6).await;
    // Each of eight may use three more than it was let in for.
    assert!((9_991..=10_000 + 8 * 3).contains(&used), "{used}");
}

#[tokio::test]
async fn idle_accounts_are_swept_out() {
    let directory = tempfile::tempdir().unwrap();
    let (meters, ..) = meters(directory.path()).await;
    let tenant = TenantId::default_tenant();
    for n in 0..50_000_u64 {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&n.to_be_bytes());
        drop(meters.reserve(&tenant, KeyId::from_bytes(id), Estimate::default()));
    }
    let kept: usize = meters.0.shards.iter().map(|shard| shard.lock().accounts.len()).sum();
    assert!(kept <= SWEEP_MIN * SHARDS, "{kept}");
}

/// A generous ceiling, for a build that is not optimised on a machine that does other things.
#[tokio::test]
async fn a_cached_read_takes_microseconds() {
    const READS: u32 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let (meters, ..) = meters(directory.path()).await;
    let tenant = TenantId::default_tenant();
    let names = names(&["key.tokens.day", "key.micro_usd.month", "tenant.micro_usd.month"]);
    let begin = Instant::now();
    for _ in 0..READS {
        let reservation = meters.reserve(&tenant, KEY, Estimate { tokens: 100, micro_usd: 100 });
        assert_eq!(reservation.read(&names, NOW).unwrap().len(), 3);
    }
    let each = begin.elapsed() / READS;
    assert!(each < Duration::from_micros(500), "{each:?}");
}
