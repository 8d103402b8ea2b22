#![allow(clippy::unwrap_used, reason = "a test may panic")]

use futures_util::StreamExt;
use schemas::{IncarnationId, WriterId};

use super::*;

fn batch(incarnation: u8, number: u64) -> UsageBatch {
    let incarnation = IncarnationId::from_bytes([incarnation; 16]);
    UsageBatch { node: WriterId::from_bytes([1; 16]), incarnation, number, records: vec![] }
}

#[tokio::test]
async fn batches_are_numbered_per_incarnation() {
    let directory = tempfile::tempdir().unwrap();
    let log = UsageLog::open(directory.path()).unwrap();
    assert_eq!(log.append(&batch(1, 2)).await, Err(UsageAppendError::Gap { expected: 1, found: 2 }));
    assert_eq!(log.append(&batch(1, 0)).await, Err(UsageAppendError::Gap { expected: 1, found: 0 }));
    assert_eq!(log.append(&batch(1, 1)).await, Ok(UsageAppended::Appended));
    assert_eq!(log.append(&batch(2, 1)).await, Ok(UsageAppended::Appended));
    assert_eq!(log.append(&batch(1, 2)).await, Ok(UsageAppended::Appended));
    assert_eq!(log.append(&batch(1, 4)).await, Err(UsageAppendError::Gap { expected: 3, found: 4 }));
    assert_eq!(log.append(&batch(1, u64::MAX)).await, Err(UsageAppendError::Gap { expected: 3, found: u64::MAX }));
}

#[tokio::test]
async fn a_number_that_comes_again_must_bring_the_same_batch() {
    let directory = tempfile::tempdir().unwrap();
    let log = UsageLog::open(directory.path()).unwrap();
    assert_eq!(log.append(&batch(1, 1)).await, Ok(UsageAppended::Appended));
    assert_eq!(log.append(&batch(1, 2)).await, Ok(UsageAppended::Appended));
    drop(log);

    let log = UsageLog::open(directory.path()).unwrap();
    assert_eq!(log.append(&batch(1, 1)).await, Ok(UsageAppended::AlreadyAppended));
    let other = UsageBatch { records: vec![record()], ..batch(1, 1) };
    assert_eq!(log.append(&other).await, Err(UsageAppendError::OtherContent { number: 1 }));
    assert_eq!(log.head().await, Ok(Sequence(2)));
}

#[tokio::test]
async fn a_reader_catches_up_and_then_waits() {
    let directory = tempfile::tempdir().unwrap();
    let log = UsageLog::open(directory.path()).unwrap();
    let first = UsageBatch { records: vec![record()], ..batch(1, 1) };
    assert_eq!(log.append(&first).await, Ok(UsageAppended::Appended));
    let mut batches = log.read(Sequence(1));
    assert_eq!(batches.next().await, Some(Ok(vec![StoredBatch { sequence: Sequence(1), batch: Ok(first) }])));
    let (appended, run) = tokio::join!(async { log.append(&batch(1, 2)).await }, batches.next());
    assert_eq!(appended, Ok(UsageAppended::Appended));
    assert_eq!(run, Some(Ok(vec![StoredBatch { sequence: Sequence(2), batch: Ok(batch(1, 2)) }])));
    log.close().await;
    assert_eq!(log.append(&batch(1, 3)).await, Err(UsageAppendError::Closed));
    assert_eq!(batches.next().await, Some(Err(ReadError::Closed)));
}

#[tokio::test]
async fn a_directory_of_another_kind_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(crate::EmbeddedLog::open(directory.path()).unwrap());
    assert!(matches!(UsageLog::open(directory.path()), Err(OpenError::Foreign { .. })));
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_failed_write_is_resolved_after_opening_again() {
    use crate::faults::{Fault, fail_next_write};

    for (fault, resolved) in [(Fault::NotKept, UsageAppended::Appended), (Fault::Kept, UsageAppended::AlreadyAppended)] {
        let directory = tempfile::tempdir().unwrap();
        let log = UsageLog::open(directory.path()).unwrap();
        fail_next_write(fault);
        assert_eq!(log.append(&batch(1, 1)).await, Ok(UsageAppended::Unknown));
        assert!(matches!(log.append(&batch(1, 1)).await, Err(UsageAppendError::Failed(_))));
        assert_eq!(log.head().await, Ok(Sequence::ZERO));
        drop(log);
        let log = UsageLog::open(directory.path()).unwrap();
        assert_eq!(log.append(&batch(1, 1)).await, Ok(resolved));
    }
}

fn record() -> schemas::usage::UsageRecord {
    use schemas::usage::{Outcome, TokenParts, UsageRecord, UsageSource};
    use schemas::{KeyId, RequestId, TenantId, Timestamp, UpstreamId};

    UsageRecord {
        request: RequestId::from_bytes([3; 16]),
        tenant: TenantId::default_tenant(),
        key: KeyId::from_bytes([4; 16]),
        secret_number: 1,
        upstream: UpstreamId::from_bytes([5; 16]),
        dialect: schemas::upstream::Dialect::Openai,
        model_requested: "gpt-4o".into(),
        model_billed: None,
        streamed: true,
        attempts: 1,
        status: 200,
        outcome: Outcome::Completed,
        source: UsageSource::Provider,
        tokens: TokenParts::default(),
        started_at: Timestamp::from_micros(1),
        settled_at: Timestamp::from_micros(2),
        client: None,
    }
}
