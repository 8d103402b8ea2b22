//! What readers see, and in which order.

use bytes::Bytes;
use event_log::{EventLog, RECORD_BYTES_MAX, RUN_BYTES_MAX, RUN_RECORDS_MAX, Stored};
use futures_util::{StreamExt, TryStreamExt};
use schemas::Sequence;

use crate::backend::Backend;
use crate::records::{SUBJECT, appended, bytes, fill, last};

fn sequences(run: &[Stored]) -> Vec<u64> {
    run.iter().map(|stored| stored.sequence.0).collect()
}

/// The next records of a log, from a sequence on, as a tailing reader gets them.
async fn take(log: &dyn EventLog, from: u64, count: usize) -> Vec<Stored> {
    let mut batches = log.read(Sequence(from)).await.unwrap();
    let mut records = Vec::new();
    while records.len() < count {
        let run = batches.try_next().await.unwrap().unwrap();
        assert!(!run.is_empty());
        records.extend(run);
    }
    records
}

pub(crate) async fn ranges_and_subjects_are_read_in_order(backend: &Backend) {
    let log = backend.open().await;
    // `kr.e.a.b` begins with the text of `kr.e.a`, and must not be taken for it.
    for (n, subject) in ["kr.e.a", "kr.e.a.b", "kr.e.a", "kr.e.b", "kr.e.a"].into_iter().enumerate() {
        let expect = last(log.last(subject).await.unwrap().0);
        assert_eq!(log.append(subject, expect, bytes(n.to_string())).await, Ok(appended(n as u64 + 1)));
    }
    let range = |from, limit| log.read_range(Sequence(from), limit);
    assert_eq!(sequences(&range(0, 2).await.unwrap()), [1, 2]);
    assert_eq!(sequences(&range(2, 10).await.unwrap()), [2, 3, 4, 5]);
    assert_eq!(range(6, 10).await.unwrap(), []);
    assert_eq!(range(1, 0).await.unwrap(), []);
    assert_eq!(range(3, 1).await.unwrap(), [Stored { sequence: Sequence(3), subject: "kr.e.a".into(), bytes: bytes("2") }]);

    let subject = |subject: &'static str, after, limit| log.read_subject(subject, Sequence(after), limit);
    assert_eq!(sequences(&subject("kr.e.a", 0, 10).await.unwrap()), [1, 3, 5]);
    assert_eq!(sequences(&subject("kr.e.a", 1, 1).await.unwrap()), [3]);
    assert_eq!(subject("kr.e.a", u64::MAX, 1).await.unwrap(), []);
    assert_eq!(sequences(&subject("kr.e.a.b", 0, 10).await.unwrap()), [2]);
    assert_eq!(subject("kr.e.c", 0, 10).await.unwrap(), []);
}

pub(crate) async fn runs_are_bounded(backend: &Backend) {
    let log = backend.open().await;
    let large = Bytes::from(vec![1; RECORD_BYTES_MAX]);
    let run = RUN_BYTES_MAX.div_ceil(RECORD_BYTES_MAX);
    let count = 2 * run;
    for n in 0..count as u64 {
        assert_eq!(log.append(SUBJECT, last(n), large.clone()).await, Ok(appended(n + 1)));
    }
    assert_eq!(log.read_range(Sequence(1), usize::MAX).await.unwrap().len(), run);
    assert_eq!(log.read_subject(SUBJECT, Sequence::ZERO, usize::MAX).await.unwrap().len(), run);
    fill(log.as_ref(), "kr.e.small", RUN_RECORDS_MAX as u64 + 1).await;
    assert_eq!(log.read_range(Sequence(count as u64 + 1), usize::MAX).await.unwrap().len(), RUN_RECORDS_MAX);
    let all = count + RUN_RECORDS_MAX + 1;
    assert_eq!(sequences(&take(log.as_ref(), 1, all).await), (1..=all as u64).collect::<Vec<_>>());
}

pub(crate) async fn a_reader_catches_up_and_then_waits(backend: &Backend) {
    let log = backend.open().await;
    fill(log.as_ref(), SUBJECT, 5).await;
    let mut batches = log.read(Sequence(4)).await.unwrap();
    // One run or two: records may be on their way one by one.
    let mut caught_up = Vec::new();
    while caught_up.len() < 2 {
        caught_up.extend(sequences(&batches.next().await.unwrap().unwrap()));
    }
    assert_eq!(caught_up, [4, 5]);
    let (_, run) = tokio::join!(fill(log.as_ref(), "kr.e.other", 1), batches.next());
    assert_eq!(sequences(&run.unwrap().unwrap()), [6]);

    // A place that the log has not reached yet is waited for.
    let mut later = log.read(Sequence(8)).await.unwrap();
    let (_, run) = tokio::join!(fill(log.as_ref(), "kr.e.other", 2), later.next());
    assert_eq!(run.unwrap().unwrap()[0].sequence, Sequence(8));
}

pub(crate) async fn a_reader_resumes_across_a_restart(backend: &Backend) {
    let before = {
        let log = backend.open().await;
        fill(log.as_ref(), SUBJECT, 10).await;
        take(log.as_ref(), 1, 10).await
    };
    let log = backend.open().await;
    assert_eq!(log.head().await, Ok(Sequence(10)));
    assert_eq!(take(log.as_ref(), 1, 10).await, before);
    let (_, after) = tokio::join!(fill(log.as_ref(), SUBJECT, 1), take(log.as_ref(), 11, 1));
    assert_eq!(sequences(&after), [11]);
    assert_eq!(log.last(SUBJECT).await, Ok(Sequence(11)));
}

pub(crate) async fn readers_never_see_a_later_record_first(backend: &Backend) {
    let log = backend.open().await;
    let writers = (0..8).map(|writer| {
        let log = log.clone();
        tokio::spawn(async move { fill(log.as_ref(), &format!("kr.e.writer.{writer}"), 50).await })
    });
    let readers = (0..4).map(|_| {
        let log = log.clone();
        tokio::spawn(async move { take(log.as_ref(), 1, 400).await })
    });
    let (writers, readers): (Vec<_>, Vec<_>) = (writers.collect(), readers.collect());
    for writer in writers {
        writer.await.unwrap();
    }
    let mut seen = Vec::new();
    for reader in readers {
        let records = reader.await.unwrap();
        assert_eq!(sequences(&records), (1..=400).collect::<Vec<_>>());
        seen.push(records);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}
