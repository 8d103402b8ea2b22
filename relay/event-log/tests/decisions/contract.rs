//! What every backend promises.

use event_log::ReadError;
use event_log::decisions::{BATCH_BYTES_MAX, DecisionAppendError};
use futures_util::StreamExt as _;
use schemas::Sequence;
use tokio::time::timeout;

use crate::backend::{BYTES_MAX, Backend, PATIENCE, batch, numbers, read_until};

pub(crate) async fn what_is_appended_is_what_is_read(backend: &Backend) {
    let opened = backend.open().await;
    for number in 1..=20 {
        opened.stream.append(&batch(number, 10)).await.unwrap();
    }
    let found = read_until(&*opened.stream, Sequence(1), 20).await;
    assert_eq!(found, (1..=20).map(|number| (Sequence(number), batch(number, 10))).collect::<Vec<_>>());
    let too_large = opened.stream.append(&batch(21, BATCH_BYTES_MAX)).await;
    assert!(matches!(too_large, Err(DecisionAppendError::TooLarge { .. })), "{too_large:?}");
    assert_eq!(numbers(&read_until(&*opened.stream, Sequence(19), 20).await), [19, 20]);
}

pub(crate) async fn a_reader_catches_up_and_then_waits(backend: &Backend) {
    let opened = backend.open().await;
    opened.stream.append(&batch(1, 10)).await.unwrap();
    let mut runs = opened.stream.read(Sequence(1));
    let first = timeout(PATIENCE, runs.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first[0].batch, Some(batch(1, 10)));
    let (appended, run) = tokio::join!(async { opened.stream.append(&batch(2, 10)).await }, timeout(PATIENCE, runs.next()));
    appended.unwrap();
    let run = run.unwrap().unwrap().unwrap();
    assert_eq!((run[0].sequence, &run[0].batch), (Sequence(2), &Some(batch(2, 10))));
    assert_eq!(opened.stream.head().await, Ok(Sequence(2)));
}

pub(crate) async fn what_was_appended_survives_opening_again(backend: &Backend) {
    let opened = backend.open().await;
    for number in 1..=5 {
        opened.stream.append(&batch(number, 10)).await.unwrap();
    }
    opened.close().await;
    let opened = backend.open().await;
    opened.stream.append(&batch(6, 10)).await.unwrap();
    assert_eq!(numbers(&read_until(&*opened.stream, Sequence(1), 6).await), [1, 2, 3, 4, 5, 6]);
}

pub(crate) async fn the_oldest_is_dropped_and_passed_over(backend: &Backend) {
    let opened = backend.open().await;
    let mut runs = opened.stream.read(Sequence(1));
    // Three times what the stream holds, with a reader that has begun before.
    let last = 3 * BYTES_MAX / 1024;
    for number in 1..=last {
        opened.stream.append(&batch(number, 1024)).await.unwrap();
    }
    let mut reached = 0;
    while reached < last {
        for stored in timeout(PATIENCE, runs.next()).await.unwrap().unwrap().unwrap() {
            assert!(stored.sequence.0 > reached);
            reached = stored.sequence.0;
            assert_eq!(stored.batch.unwrap().number, reached);
        }
    }
    let found = read_until(&*opened.stream, Sequence(1), last).await;
    let held: u64 = found.iter().map(|(_, batch)| batch.encode().len() as u64).sum();
    assert!(found.len() as u64 <= last / 2 && held <= BYTES_MAX, "{held} bytes in {} batches", found.len());
    assert!(found.len() as u64 >= last / 6, "{} batches", found.len());
    let first = found[0].0.0;
    assert_eq!(numbers(&found), (first..=last).collect::<Vec<_>>());
    drop(runs);
    opened.close().await;
    let opened = backend.open().await;
    assert_eq!(read_until(&*opened.stream, Sequence(2), last).await, found);
}

pub(crate) async fn closing_tells_readers_and_writers(backend: &Backend) {
    let opened = backend.open().await;
    let stream = opened.stream.clone();
    let mut runs = stream.read(Sequence(1));
    let (ended, ()) = tokio::join!(timeout(PATIENCE, runs.next()), opened.close());
    assert_eq!(ended.unwrap().map(|ended| ended.err()), Some(Some(ReadError::Closed)));
    assert_eq!(stream.append(&batch(1, 10)).await, Err(DecisionAppendError::Closed));
}
