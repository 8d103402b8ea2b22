//! Signed records of several writers, and garbage.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use event_log::merkle::{Frontier, leaf_of_valid, leaf_of_void};
use event_log::{Appended, EventLog, Expect, Stored};
use schemas::cluster::ClusterFounded;
use schemas::record::{Frame, Header, Seen, encode};
use schemas::{Actor, ClusterId, CommandId, Digest, Event, PublicKey, RecordId, Sequence, Stream, Timestamp, Version, WriterId};

/// A record that nobody else has: signed by a writer, who had seen the log up to a place.
pub(crate) fn signed(writer: u8, number: u64, seen: u64) -> Bytes {
    let key = SigningKey::from_bytes(&[writer; 32]);
    let public_key = PublicKey::from_bytes(key.verifying_key().to_bytes());
    let mut id = [writer; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let header = Header {
        writer: WriterId::of(&public_key),
        record_id: RecordId::from_bytes(id),
        command_id: CommandId::from_bytes(id),
        request_digest: Digest::blake3(b"request"),
        stream: Stream::CLUSTER,
        version: Version(number),
        actor: Actor::Owner,
        causation: None,
        correlation: CommandId::from_bytes(id),
        time: Timestamp::from_micros(1_700_000_000_000_000),
        seen: Seen { sequence: Sequence(seen), root: Digest::blake3(b"a root") },
    };
    let founded = ClusterFounded {
        cluster_id: ClusterId::from_bytes([7; 16]),
        format_level: 1,
        cluster_public_key: public_key,
        root_key_commitment: Digest::blake3(b"root key"),
        owner_token_hash: Digest::blake3(b"owner token"),
    };
    encode(ClusterId::from_bytes([7; 16]), &header, &[Event::ClusterFounded(founded)], &key).unwrap().into()
}

/// Records `from` to `to` on three subjects by turns; every fourth is garbage.
pub(crate) fn record(number: u64) -> (String, Bytes) {
    let bytes = if number % 4 == 3 { Bytes::from(format!("garbage {number}")) } else { signed(1, number, 0) };
    (format!("kr.e.default.key.{}", number % 3), bytes)
}

/// Appends where the subject ends, and returns the sequence.
pub(crate) async fn append(log: &dyn EventLog, subject: &str, bytes: Bytes) -> u64 {
    let expect = Expect { subject: log.last(subject).await.unwrap(), log: None };
    match log.append(subject, expect, bytes).await {
        Ok(Appended::Appended(Sequence(sequence))) => sequence,
        other => panic!("{other:?}"),
    }
}

/// Appends the records of these numbers, each of which must get the sequence of its number.
pub(crate) async fn fill(log: &dyn EventLog, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let (subject, bytes) = record(number);
        assert_eq!(append(log, &subject, bytes).await, number);
    }
}

/// The root over records, taking every framed one for valid.
pub(crate) fn root(records: &[Stored]) -> Digest {
    let mut frontier = Frontier::default();
    for stored in records {
        frontier.push(match Frame::parse(&stored.bytes) {
            Ok(frame) => leaf_of_valid(&frame),
            Err(_) => leaf_of_void(&stored.subject, &stored.bytes),
        });
    }
    frontier.root()
}
