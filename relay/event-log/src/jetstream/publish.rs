//! One attempt to append: one message with what it expects, and what the server made of it.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use schemas::Sequence;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::STREAM;
use super::leader::gone;
use crate::contract::Expect;
use crate::nats::Nats;
use crate::nats::api::{ApiError, Refusal, code, parse};
use crate::nats::requests::RequestError;

/// How long one attempt waits for the answer.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// Of the digest that is the message's id, which stays with the message. The bytes decide in the end, so that half of it is enough.
const ID_BYTES: usize = 16;

/// What the server made of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// The message is stored at this sequence.
    Stored(Sequence),
    /// A message with this id was stored before, within the server's memory of ids.
    Duplicate,
    /// The expectation does not hold; the last sequence that was found, of the subject or of the log.
    WrongLast(Option<Sequence>),
    /// A message with this id, or another one on this subject, is being decided on.
    Busy,
    /// Nothing was stored, and nobody was there who could have: the stream has no leader now, or is gone.
    Nobody,
    /// It is certain that nothing was stored.
    NotTaken(String),
    /// It was not heard what became of it.
    Unheard(String),
}

#[derive(Deserialize)]
struct Ack {
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

pub(super) async fn publish(nats: &Nats, subject: &str, expect: Expect, record: &Bytes) -> Published {
    if !nats.is_up() {
        return Published::NotTaken("there is no connection to NATS".to_owned());
    }
    let headers = headers(subject, expect, record);
    match nats.requests().request(subject, headers, record.clone(), ACK_WAIT).await {
        Ok(answer) => outcome(subject, &answer.payload),
        Err(error @ RequestError::NotSent) => Published::NotTaken(error.to_string()),
        Err(RequestError::NoResponders { .. }) => Published::Nobody,
        Err(error) => Published::Unheard(error.to_string()),
    }
}

fn outcome(subject: &str, answer: &[u8]) -> Published {
    match parse::<Ack>(subject, answer) {
        Ok(ack) if ack.duplicate => Published::Duplicate,
        Ok(ack) => Published::Stored(Sequence(ack.seq)),
        Err(ApiError::Refused(refusal)) => refused(&refusal),
        Err(error) => Published::Unheard(error.to_string()),
    }
}

fn refused(refusal: &Refusal) -> Published {
    match refusal.err_code {
        code::WRONG_LAST_SEQUENCE => Published::WrongLast(reported(&refusal.description)),
        code::WRONG_LAST_SEQUENCE_IN_FLIGHT | code::DUPLICATE_IN_PROCESS => Published::Busy,
        code::STREAM_NOT_MATCH => Published::NotTaken(format!("another stream than {STREAM} takes its subjects")),
        code::STREAM_NOT_FOUND => Published::NotTaken(gone()),
        // A copy may have failed to store what the others stored.
        _ => Published::Unheard(refusal.to_string()),
    }
}

/// The number in `wrong last sequence: 7`.
fn reported(description: &str) -> Option<Sequence> {
    description.rsplit(": ").next()?.parse().ok().map(Sequence)
}

fn headers(subject: &str, expect: Expect, record: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id(subject, expect, record));
    headers.insert(async_nats::header::NATS_EXPECTED_STREAM, STREAM);
    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expect.subject.0.to_string());
    if let Some(log) = expect.log {
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, log.0.to_string());
    }
    headers
}

/// The same for an exact retry, and for nothing else: it covers all that an append is.
fn message_id(subject: &str, expect: Expect, record: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(expect.subject.0.to_be_bytes());
    hash.update([u8::from(expect.log.is_some())]);
    hash.update(expect.log.unwrap_or_default().0.to_be_bytes());
    hash.update((subject.len() as u64).to_be_bytes());
    hash.update(subject);
    hash.update(record);
    let digest = hash.finalize();
    let (id, _) = digest.split_first_chunk::<ID_BYTES>().expect("a digest has 32 bytes");
    format!("{:032x}", u128::from_be_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let of = |answer: &str| outcome("kr.e.a", answer.as_bytes());
        assert_eq!(of(r#"{"stream":"S","seq":7}"#), Published::Stored(Sequence(7)));
        assert_eq!(of(r#"{"stream":"S","seq":7,"duplicate":true}"#), Published::Duplicate);
        let refused = |number: u64, description: &str| {
            of(&format!(r#"{{"error":{{"code":400,"err_code":{number},"description":"{description}"}},"stream":"S","seq":0}}"#))
        };
        assert_eq!(refused(10071, "wrong last sequence: 12"), Published::WrongLast(Some(Sequence(12))));
        assert_eq!(refused(10071, "wrong last sequence"), Published::WrongLast(None));
        assert_eq!(refused(10164, "wrong last sequence"), Published::Busy);
        assert_eq!(refused(10158, "duplicate message id is in process"), Published::Busy);
        assert!(matches!(refused(10060, "expected stream does not match"), Published::NotTaken(_)));
        assert!(matches!(refused(10077, "maximum messages exceeded"), Published::Unheard(_)));
        assert!(matches!(of("what?"), Published::Unheard(_)));
    }

    #[test]
    fn an_id_covers_the_whole_append() {
        let expect = |subject, log: Option<u64>| Expect { subject: Sequence(subject), log: log.map(Sequence) };
        let ids = [
            message_id("a", expect(0, None), b"x"),
            message_id("b", expect(0, None), b"x"),
            message_id("ax", expect(0, None), b""),
            message_id("a", expect(1, None), b"x"),
            message_id("a", expect(0, Some(0)), b"x"),
            message_id("a", expect(0, Some(1)), b"x"),
            message_id("a", expect(0, None), b"y"),
        ];
        assert!(ids.iter().enumerate().all(|(n, id)| id.len() == 2 * ID_BYTES && !ids[..n].contains(id)));
        assert_eq!(ids[0], message_id("a", expect(0, None), b"x"));
    }
}
