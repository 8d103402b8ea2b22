//! An exact retry, and what only looks like one.

use event_log::{Appended, EventLog, Expect};
use schemas::{Sequence, Stream};

use crate::backend::Backend;
use crate::records::{SUBJECT, appended, bytes, conflict, fill, last, signed};

fn already(sequence: u64) -> Appended {
    Appended::AlreadyAppended(Sequence(sequence))
}

pub(crate) async fn an_exact_retry_is_told_so(backend: &Backend) {
    let log = backend.open().await;
    assert_eq!(log.append(SUBJECT, last(0), bytes("first")).await, Ok(appended(1)));
    assert_eq!(log.append(SUBJECT, last(0), bytes("first")).await, Ok(already(1)));
    assert_eq!(log.append("kr.e.other", last(0), bytes("first")).await, Ok(appended(2)));
    assert_eq!(log.append(SUBJECT, last(1), bytes("second")).await, Ok(appended(3)));
    expect_retries(log.as_ref()).await;
    fill(log.as_ref(), SUBJECT, 50).await;
    expect_retries(log.as_ref()).await;
}

async fn expect_retries(log: &dyn EventLog) {
    let head = log.head().await;
    assert_eq!(log.append(SUBJECT, last(0), bytes("first")).await, Ok(already(1)));
    assert_eq!(log.append("kr.e.other", last(0), bytes("first")).await, Ok(already(2)));
    assert_eq!(log.append(SUBJECT, last(1), bytes("second")).await, Ok(already(3)));
    // The right bytes with another expectation are another append.
    let subject_last = log.last(SUBJECT).await.unwrap().0;
    assert_eq!(log.append(SUBJECT, last(0), bytes("second")).await, Ok(conflict(subject_last)));
    assert_eq!(log.head().await, head);
}

pub(crate) async fn an_exact_retry_is_told_so_after_a_restart(backend: &Backend) {
    let log = backend.open().await;
    assert_eq!(log.append(SUBJECT, last(0), bytes("first")).await, Ok(appended(1)));
    assert_eq!(log.append("kr.e.other", last(0), bytes("first")).await, Ok(appended(2)));
    assert_eq!(log.append(SUBJECT, last(1), bytes("second")).await, Ok(appended(3)));
    drop(log);
    expect_retries(backend.open().await.as_ref()).await;
}

pub(crate) async fn the_same_command_with_other_content_is_a_conflict(backend: &Backend) {
    let log = backend.open().await;
    let subject = Stream::CLUSTER.subject();
    let (record, mut other) = (signed(1), signed(1).to_vec());
    // The same record id and command id; one bit of the payload differs.
    *other.last_mut().unwrap() ^= 1;
    assert_eq!(log.append(&subject, last(0), record).await, Ok(appended(1)));
    assert_eq!(log.append(&subject, last(0), other.into()).await, Ok(conflict(1)));
}

pub(crate) async fn a_retry_of_an_expectation_on_the_whole_log_is_told_so(backend: &Backend) {
    let log = backend.open().await;
    let expect = |log| Expect { subject: Sequence::ZERO, log: Some(Sequence(log)) };
    assert_eq!(log.append("kr.e.a", expect(0), bytes("a")).await, Ok(appended(1)));
    assert_eq!(log.append("kr.e.b", expect(1), bytes("b")).await, Ok(appended(2)));
    assert_eq!(log.append("kr.e.a", expect(0), bytes("a")).await, Ok(already(1)));
    assert_eq!(log.append("kr.e.b", expect(1), bytes("b")).await, Ok(already(2)));
    let elsewhere = Appended::Conflict { subject_last: Sequence(2), log_last: Some(Sequence(2)) };
    assert_eq!(log.append("kr.e.b", expect(0), bytes("b")).await, Ok(elsewhere));
}
