#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and waits for the tasks it spawns")]

use event_log::decisions::DecisionLog;
use futures_util::StreamExt as _;
use schemas::decision::{DecisionAnswer, DecisionEffect, DecisionMode};
use schemas::policy::PolicyKind;
use schemas::{BindingId, Digest, KeyId, RequestId, Sequence, TenantId, Timestamp};

use super::*;

fn record(effect: DecisionEffect) -> DecisionRecord {
    DecisionRecord {
        request: RequestId::from_bytes([1; 16]),
        at: Timestamp::from_micros(1),
        tenant: TenantId::default_tenant(),
        key: KeyId::from_bytes([2; 16]),
        kind: PolicyKind::Route,
        binding: BindingId::from_bytes([3; 16]),
        policy: Digest::from_bytes([4; 32]),
        class: None,
        settings: Digest::from_bytes([5; 32]),
        mode: DecisionMode::Enforced,
        input: vec![1, 2, 3],
        answer: DecisionAnswer::Output(vec![4]),
        effect,
        reasons: vec![],
        combined: effect,
        cost_max: None,
        fuel: 0,
        elapsed_ns: 0,
        engine: "test".to_owned(),
    }
}

fn sink(directory: &std::path::Path) -> (DecisionSink, DecisionWriter, Arc<DecisionLog>, Metrics) {
    let (stream, metrics) = (Arc::new(DecisionLog::open(directory).unwrap()), Metrics::default());
    let (sink, writer) = DecisionSink::new(stream.clone(), WriterId::from_bytes([6; 16]), IncarnationId::from_bytes([7; 16]), &metrics);
    (sink, writer, stream, metrics)
}

#[tokio::test]
async fn a_burst_of_samples_leaves_room_for_denials_and_what_was_taken_is_written_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (sink, writer, stream, metrics) = sink(directory.path());
    for _ in 0..QUEUE_RECORDS_MAX {
        sink.offer(record(DecisionEffect::Permit));
    }
    let half = QUEUE_RECORDS_MAX as u64 / 2;
    assert_eq!(metrics.decisions(DecisionFate::Dropped), half);
    for _ in 0..half + 1 {
        sink.offer(record(DecisionEffect::Deny));
    }
    assert_eq!(metrics.decisions(DecisionFate::Dropped), half + 1);

    let finish = CancellationToken::new();
    finish.cancel();
    writer.run(finish).await;
    assert_eq!(metrics.decisions(DecisionFate::Written), 2 * half);
    let (mut found, mut numbers) = (0, vec![]);
    let mut runs = stream.read(Sequence(1));
    while found < 2 * half {
        for batch in runs.next().await.unwrap().unwrap().into_iter().map(|stored| stored.batch.unwrap()) {
            found += batch.records.len() as u64;
            numbers.push(batch.number);
        }
    }
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(sink.bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn large_records_are_bounded_in_bytes_and_a_stream_that_fails_costs_records_only() {
    let directory = tempfile::tempdir().unwrap();
    let (sink, writer, stream, metrics) = sink(directory.path());
    let large = DecisionRecord { input: vec![0; QUEUE_BYTES_MAX / 8], ..record(DecisionEffect::Fault) };
    for _ in 0..8 {
        sink.offer(large.clone());
    }
    assert_eq!(metrics.decisions(DecisionFate::Dropped), 1);
    stream.close().await;
    let finish = CancellationToken::new();
    finish.cancel();
    writer.run(finish).await;
    assert_eq!((metrics.decisions(DecisionFate::Dropped), metrics.decisions(DecisionFate::Written)), (8, 0));
    sink.offer(record(DecisionEffect::Deny));
    assert_eq!(metrics.decisions(DecisionFate::Dropped), 9);
}
