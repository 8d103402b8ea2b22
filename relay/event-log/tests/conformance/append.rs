//! What is stored, and what is refused.

use bytes::Bytes;
use event_log::{AppendError, Appended, Expect, RECORD_BYTES_MAX, ReadError};
use schemas::{Sequence, Stream};

use crate::backend::Backend;
use crate::records::{SUBJECT, appended, bytes, cluster_id, conflict, fill, last, signed};

pub(crate) async fn sequences_are_dense_from_1(backend: &Backend) {
    let log = backend.open().await;
    assert_eq!(log.head().await, Ok(Sequence::ZERO));
    assert_eq!(log.last(SUBJECT).await, Ok(Sequence::ZERO));
    for n in 1..=20 {
        assert_eq!(log.append(&format!("kr.e.subject.{n}"), last(0), bytes("a")).await, Ok(appended(n)));
        assert_eq!(log.head().await, Ok(Sequence(n)));
    }
    // What is refused leaves no hole.
    assert_eq!(log.append("kr.e.subject.1", last(0), bytes("b")).await, Ok(conflict(1)));
    assert_eq!(log.append("kr.e.subject.1", last(1), bytes("b")).await, Ok(appended(21)));
    assert_eq!(log.last("kr.e.subject.1").await, Ok(Sequence(21)));
}

pub(crate) async fn an_expectation_must_be_exact(backend: &Backend) {
    let log = backend.open().await;
    assert_eq!(log.append(SUBJECT, last(1), bytes("future")).await, Ok(conflict(0)));
    assert_eq!(fill(log.as_ref(), SUBJECT, 3).await, Sequence(3));
    for stale_or_future in [0, 1, 2, 4, u64::MAX] {
        assert_eq!(log.append(SUBJECT, last(stale_or_future), bytes("new")).await, Ok(conflict(3)));
    }
    assert_eq!(log.head().await, Ok(Sequence(3)));
    assert_eq!(log.append(SUBJECT, last(3), bytes("new")).await, Ok(appended(4)));
}

pub(crate) async fn the_whole_log_can_be_expected(backend: &Backend) {
    let log = backend.open().await;
    let expect = |log| Expect { subject: Sequence::ZERO, log: Some(Sequence(log)) };
    let found = |log| Appended::Conflict { subject_last: Sequence::ZERO, log_last: Some(Sequence(log)) };
    assert_eq!(log.append("kr.e.a", expect(1), bytes("a")).await, Ok(found(0)));
    assert_eq!(log.append("kr.e.a", expect(0), bytes("a")).await, Ok(appended(1)));
    assert_eq!(log.append("kr.e.b", expect(0), bytes("b")).await, Ok(found(1)));
    assert_eq!(log.append("kr.e.b", expect(u64::MAX), bytes("b")).await, Ok(found(1)));
    assert_eq!(log.append("kr.e.b", expect(1), bytes("b")).await, Ok(appended(2)));
}

pub(crate) async fn the_largest_record_is_stored_and_a_larger_one_is_refused(backend: &Backend) {
    let log = backend.open().await;
    let largest = Bytes::from(vec![7; RECORD_BYTES_MAX]);
    let too_large = Bytes::from(vec![7; RECORD_BYTES_MAX + 1]);
    assert_eq!(log.append(SUBJECT, last(0), too_large).await, Err(AppendError::RecordTooLarge { bytes: RECORD_BYTES_MAX + 1 }));
    assert_eq!(log.append(SUBJECT, last(0), largest.clone()).await, Ok(appended(1)));
    assert_eq!(log.read_range(Sequence(1), 1).await.unwrap()[0].bytes, largest);
}

pub(crate) async fn any_bytes_are_stored(backend: &Backend) {
    let log = backend.open().await;
    let all: Vec<Bytes> = vec![Bytes::new(), Bytes::from_static(&[0]), Bytes::from((0..=255).collect::<Vec<u8>>()), bytes("{}")];
    for (n, record) in all.iter().enumerate() {
        assert_eq!(log.append(SUBJECT, last(n as u64), record.clone()).await, Ok(appended(n as u64 + 1)));
    }
    let stored = log.read_range(Sequence(1), 10).await.unwrap();
    assert_eq!(stored.into_iter().map(|stored| stored.bytes).collect::<Vec<_>>(), all);
}

pub(crate) async fn a_subject_that_is_no_subject_is_refused(backend: &Backend) {
    let log = backend.open().await;
    for wrong in ["", "a..b", "a.*", ">", "a b", "a\0b"] {
        assert_eq!(log.append(wrong, last(0), bytes("a")).await, Err(AppendError::Subject { subject: wrong.to_owned() }));
    }
    assert_eq!(log.head().await, Ok(Sequence::ZERO));
}

pub(crate) async fn identity_is_the_founded_cluster(backend: &Backend) {
    let log = backend.open().await;
    assert_eq!(log.identity().await, Ok(None));
    assert_eq!(log.append(&Stream::CLUSTER.subject(), last(0), signed(1)).await, Ok(appended(1)));
    assert_eq!(log.identity().await, Ok(Some(cluster_id())));

    let garbage = crate::backend::memory().await.open().await;
    assert_eq!(garbage.append(SUBJECT, last(0), bytes("garbage")).await, Ok(appended(1)));
    assert_eq!(garbage.identity().await, Err(ReadError::NotFounded));
}
