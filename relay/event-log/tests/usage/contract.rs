//! What every backend promises.

use event_log::ReadError;
use event_log::usage::{UsageAppendError, UsageAppended};
use futures_util::StreamExt as _;
use schemas::Sequence;
use schemas::usage::UsageBatch;
use tokio::time::timeout;

use crate::backend::{Backend, PATIENCE, read};
use crate::records::{batch, batches, record, sum};

pub(crate) async fn numbers_follow_and_repetitions_are_harmless(backend: &Backend) {
    let opened = backend.open().await;
    let log = &opened.stream;
    assert_eq!(log.append(&batch(1, 1, 2)).await, Err(UsageAppendError::Gap { expected: 1, found: 2 }));
    assert_eq!(log.append(&batch(1, 1, 0)).await, Err(UsageAppendError::Gap { expected: 1, found: 0 }));
    assert_eq!(log.append(&batch(1, 1, 1)).await, Ok(UsageAppended::Appended));
    assert_eq!(log.append(&batch(1, 1, 1)).await, Ok(UsageAppended::AlreadyAppended));
    assert_eq!(log.append(&batch(1, 2, 1)).await, Ok(UsageAppended::Appended));
    assert_eq!(log.append(&batch(1, 1, 2)).await, Ok(UsageAppended::Appended));
    assert_eq!(log.append(&batch(1, 1, 4)).await, Err(UsageAppendError::Gap { expected: 3, found: 4 }));
    assert_eq!(log.append(&batch(1, 1, u64::MAX)).await, Err(UsageAppendError::Gap { expected: 3, found: u64::MAX }));
    let other = UsageBatch { records: vec![record(9)], ..batch(1, 1, 2) };
    assert_eq!(log.append(&other).await, Err(UsageAppendError::OtherContent { number: 2 }));

    // The same when all of them are where readers find them, and after opening again.
    let stored = [batch(1, 1, 1), batch(1, 2, 1), batch(1, 1, 2)];
    assert_eq!(batches(&read(&**log, 3).await), stored);
    opened.close().await;
    let opened = backend.open().await;
    let log = &opened.stream;
    assert_eq!(log.append(&batch(1, 1, 2)).await, Ok(UsageAppended::AlreadyAppended));
    assert_eq!(log.append(&batch(1, 2, 1)).await, Ok(UsageAppended::AlreadyAppended));
    assert_eq!(log.append(&other).await, Err(UsageAppendError::OtherContent { number: 2 }));
    assert_eq!(log.append(&batch(1, 1, 4)).await, Err(UsageAppendError::Gap { expected: 3, found: 4 }));
    assert_eq!(batches(&read(&**log, 3).await), stored);
}

pub(crate) async fn a_reader_catches_up_and_then_waits(backend: &Backend) {
    let opened = backend.open().await;
    let log = &opened.stream;
    assert_eq!(log.append(&batch(1, 1, 1)).await, Ok(UsageAppended::Appended));
    let mut runs = log.read(Sequence(1));
    let first = timeout(PATIENCE, runs.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(batches(&first), [batch(1, 1, 1)]);
    let (appended, run) = tokio::join!(async { log.append(&batch(1, 1, 2)).await }, timeout(PATIENCE, runs.next()));
    assert_eq!(appended, Ok(UsageAppended::Appended));
    let run = run.unwrap().unwrap().unwrap();
    assert_eq!((run[0].sequence, batches(&run)), (Sequence(2), vec![batch(1, 1, 2)]));
    let mut heard = log.watch();
    timeout(PATIENCE, heard.wait_for(|head| *head == Sequence(2))).await.unwrap().unwrap();
    assert_eq!(log.head().await, Ok(Sequence(2)));
}

pub(crate) async fn a_reader_resumes_after_opening_again(backend: &Backend) {
    let opened = backend.open().await;
    for number in 1..=20 {
        assert_eq!(opened.stream.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    read(&*opened.stream, 20).await;
    opened.close().await;

    let opened = backend.open().await;
    assert_eq!(opened.stream.append(&batch(1, 2, 1)).await, Ok(UsageAppended::Appended));
    let mut runs = opened.stream.read(Sequence(19));
    let mut places = Vec::new();
    while places.len() < 3 {
        places.extend(timeout(PATIENCE, runs.next()).await.unwrap().unwrap().unwrap());
    }
    assert_eq!(places[0].sequence, Sequence(19));
    assert_eq!(batches(&places), [batch(1, 1, 19), batch(1, 1, 20), batch(1, 2, 1)]);
}

pub(crate) async fn ranges_are_bounded(backend: &Backend) {
    let opened = backend.open().await;
    let log = &opened.stream;
    for number in 1..=5 {
        assert_eq!(log.append(&batch(1, 1, number)).await, Ok(UsageAppended::Appended));
    }
    read(&**log, 5).await;
    let range = log.read_range(Sequence(2), 2).await.unwrap();
    assert_eq!((range[0].sequence, batches(&range)), (Sequence(2), vec![batch(1, 1, 2), batch(1, 1, 3)]));
    assert_eq!(log.read_range(Sequence(5), 10).await.unwrap().len(), 1);
    assert_eq!(log.read_range(Sequence(6), 10).await, Ok(vec![]));
}

pub(crate) async fn closing_tells_readers_and_writers(backend: &Backend) {
    let opened = backend.open().await;
    let stream = opened.stream.clone();
    let mut runs = stream.read(Sequence(1));
    let (ended, ()) = tokio::join!(timeout(PATIENCE, runs.next()), opened.close());
    assert_eq!(ended.unwrap(), Some(Err(ReadError::Closed)));
    assert_eq!(stream.append(&batch(1, 1, 1)).await, Err(UsageAppendError::Closed));
}

pub(crate) async fn what_is_appended_is_what_is_read(backend: &Backend) {
    let opened = backend.open().await;
    let appended: Vec<_> = (1..=300).map(|number| batch(1, 1, number)).collect();
    for batch in &appended {
        assert_eq!(opened.stream.append(batch).await, Ok(UsageAppended::Appended));
    }
    let found = batches(&read(&*opened.stream, 300).await);
    assert_eq!(sum(&found), sum(&appended));
    assert_eq!(found, appended);
}
