//! Records and expectations for the cases.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use event_log::merkle::{Frontier, leaf_of_valid, leaf_of_void};
use event_log::{Appended, EventLog, Expect};
use schemas::cluster::ClusterFounded;
use schemas::record::{Frame, Header, Seen, encode};
use schemas::{Actor, ClusterId, CommandId, Digest, Event, PublicKey, RecordId, Sequence, Stream, Timestamp, Version, WriterId};

pub(crate) const SUBJECT: &str = "kr.e.default.key.one";

/// Expects a sequence on the subject and nothing of the rest of the log.
pub(crate) fn last(sequence: u64) -> Expect {
    Expect { subject: Sequence(sequence), log: None }
}

pub(crate) fn bytes(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

pub(crate) fn appended(sequence: u64) -> Appended {
    Appended::Appended(Sequence(sequence))
}

pub(crate) fn conflict(subject_last: u64) -> Appended {
    Appended::Conflict { subject_last: Sequence(subject_last), log_last: None }
}

/// Fills a subject with records `0`, `1`, ... and returns its last sequence.
pub(crate) async fn fill(log: &dyn EventLog, subject: &str, count: u64) -> Sequence {
    let mut expect = Expect { subject: log.last(subject).await.unwrap(), log: None };
    for n in 0..count {
        let Appended::Appended(sequence) = log.append(subject, expect, bytes(n.to_string())).await.unwrap() else { panic!("taken") };
        expect.subject = sequence;
    }
    expect.subject
}

pub(crate) fn cluster_id() -> ClusterId {
    ClusterId::from_bytes([7; 16])
}

/// A signed record of the cluster with this version.
pub(crate) fn signed(version: u64) -> Bytes {
    let key = SigningKey::from_bytes(&[9; 32]);
    let public_key = PublicKey::from_bytes(key.verifying_key().to_bytes());
    let command = CommandId::from_bytes([version as u8; 16]);
    let header = Header {
        writer: WriterId::of(&public_key),
        record_id: RecordId::from_bytes([version as u8; 16]),
        command_id: command,
        request_digest: Digest::blake3(b"request"),
        stream: Stream::CLUSTER,
        version: Version(version),
        actor: Actor::Owner,
        causation: None,
        correlation: command,
        time: Timestamp::from_micros(1_700_000_000_000_000),
        seen: Seen::nothing(),
    };
    let founded = ClusterFounded {
        cluster_id: cluster_id(),
        format_level: 1,
        cluster_public_key: public_key,
        root_key_commitment: Digest::blake3(b"root key"),
        owner_token_hash: Digest::blake3(b"owner token"),
    };
    encode(cluster_id(), &header, &[Event::ClusterFounded(founded)], &key).unwrap().into()
}

/// Signed records and garbage on several subjects.
pub(crate) fn history() -> Vec<(String, Expect, Bytes)> {
    let cluster = Stream::CLUSTER.subject();
    vec![
        (cluster.clone(), Expect { subject: Sequence(0), log: Some(Sequence(0)) }, signed(1)),
        (SUBJECT.into(), last(0), bytes("garbage")),
        (cluster.clone(), last(1), signed(2)),
        ("kr.e.other".into(), last(0), bytes("")),
        (cluster, last(3), signed(3)),
    ]
}

/// Size and root of a log, taking every framed record for a valid one.
pub(crate) async fn root(log: &dyn EventLog) -> (u64, Digest) {
    let mut frontier = Frontier::default();
    for stored in log.read_range(Sequence(1), usize::MAX).await.unwrap() {
        frontier.push(match Frame::parse(&stored.bytes) {
            Ok(frame) => leaf_of_valid(&frame),
            Err(_) => leaf_of_void(&stored.subject, &stored.bytes),
        });
    }
    (frontier.size(), frontier.root())
}
