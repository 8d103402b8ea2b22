//! Properties of the record's bytes, over any header and any events.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use schemas::key::{Endpoint, Expiry, KeyCreated, KeyDetails, KeyRotated, Limits};
use schemas::pool::PoolCreated;
use schemas::record::{self, EncodeError, FRAME_LENGTH, Frame, HEADER_LENGTH, Header, RECORD_BYTES_MAX, Seen};
use schemas::{
    Actor, CommandId, Digest, Event, KeyId, PoolId, RecordId, Sealed, Sequence, SessionId, Stream, StreamKind, TenantId, Timestamp, UserId,
    Verdict, Version, WriterId, judge,
};

use crate::log::{Draft, Log};
use crate::samples;

fn any_tenant() -> impl Strategy<Value = TenantId> {
    "[a-z0-9-]{1,32}".prop_map(|text| text.parse().unwrap())
}

fn any_stream() -> impl Strategy<Value = Stream> {
    let kinds: Vec<StreamKind> = StreamKind::ALL.into_iter().collect();
    (any_tenant(), select(kinds), any::<[u8; 16]>()).prop_map(|(tenant, kind, id)| match kind {
        StreamKind::Cluster => Stream::CLUSTER,
        StreamKind::Writer => Stream::writer(WriterId::from_bytes(id)),
        StreamKind::Tenant => Stream::tenant_of(tenant),
        kind => Stream::new(tenant, kind, id).unwrap(),
    })
}

fn any_actor() -> impl Strategy<Value = Actor> {
    (0_u8..8, any::<[u8; 16]>(), any::<[u8; 32]>()).prop_map(|(kind, id, digest)| match kind {
        0 => Actor::Owner,
        1 => Actor::User(UserId::from_bytes(id)),
        2 => Actor::Session(SessionId::from_bytes(id)),
        3 => Actor::Key(KeyId::from_bytes(id)),
        4 => Actor::Node(WriterId::from_bytes(id)),
        5 => Actor::Policy(Digest::from_bytes(digest)),
        6 => Actor::Scheduler,
        _ => Actor::Import(Digest::from_bytes(digest)),
    })
}

prop_compose! {
    fn any_header()(
        (writer, record_id, command_id, correlation) in any::<([u8; 16], [u8; 16], [u8; 16], [u8; 16])>(),
        // 16 zeros say "none", which no record's derived id is.
        causation in proptest::option::of(any::<[u8; 16]>().prop_filter("zero is none", |id| *id != [0; 16])),
        (request_digest, root) in any::<([u8; 32], [u8; 32])>(),
        (version, time, sequence) in any::<(u64, u64, u64)>(),
        stream in any_stream(),
        actor in any_actor(),
    ) -> Header {
        Header {
            writer: WriterId::from_bytes(writer),
            record_id: RecordId::from_bytes(record_id),
            command_id: CommandId::from_bytes(command_id),
            request_digest: Digest::from_bytes(request_digest),
            stream,
            version: Version(version),
            actor,
            causation: causation.map(RecordId::from_bytes),
            correlation: CommandId::from_bytes(correlation),
            time: Timestamp::from_micros(time),
            seen: Seen { sequence: Sequence(sequence), root: Digest::from_bytes(root) },
        }
    }
}

fn any_expiry() -> impl Strategy<Value = Expiry> {
    proptest::option::of(any::<u64>()).prop_map(|at| at.map_or(Expiry::Never, |at| Expiry::At(Timestamp::from_micros(at))))
}

prop_compose! {
    fn any_key_created()(
        (name, owner) in (any::<String>(), any::<Option<String>>()),
        sealed in proptest::option::of((any_stream(), vec(any::<u8>(), 0..100))),
        (tags, models) in (vec(any::<String>(), 0..5), vec(any::<String>(), 0..5)),
        pools in vec(any::<[u8; 16]>(), 0..5),
        endpoints in vec(select(vec![Endpoint::ChatCompletions, Endpoint::Messages, Endpoint::Models]), 0..4),
        (requests_per_minute, concurrency) in any::<(Option<u32>, Option<u32>)>(),
        (hash, expiry) in (any::<[u8; 32]>(), any_expiry()),
    ) -> Event {
        let details = KeyDetails {
            name,
            description: sealed.map(|(subject, bytes)| Sealed { subject, bytes }),
            owner,
            tags,
            pools: pools.into_iter().map(PoolId::from_bytes).collect(),
            models,
            endpoints,
            limits: Limits { requests_per_minute, concurrency },
        };
        Event::KeyCreated(KeyCreated { details, hash: Digest::from_bytes(hash), expiry })
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any_key_created(),
        (any::<u32>(), any::<[u8; 32]>(), any::<u64>()).prop_map(|(number, hash, until)| Event::KeyRotated(KeyRotated {
            number,
            hash: Digest::from_bytes(hash),
            previous_valid_until: Timestamp::from_micros(until),
        })),
        any::<String>().prop_map(|name| Event::PoolCreated(PoolCreated { name })),
        select(samples::events()),
    ]
}

fn is_valid(log: &Log, subject: &str, bytes: &[u8]) -> bool {
    matches!(judge(log, subject, bytes), Verdict::Valid(_))
}

proptest! {
    #[test]
    fn encoding_then_reading_is_identity(header in any_header(), events in vec(any_event(), 1..6)) {
        let bytes = record::encode(samples::cluster_id(), &header, &events, &samples::writer_key()).unwrap();
        let frame = Frame::parse(&bytes).unwrap();
        prop_assert_eq!(frame.header_bytes.len(), HEADER_LENGTH);
        prop_assert_eq!(frame.payload.len(), frame.payload_length);
        prop_assert_eq!(frame.header().unwrap(), header);
        prop_assert_eq!(frame.events().unwrap(), events);
    }

    #[test]
    fn an_event_is_the_same_after_postcard_and_after_json(event in any_event()) {
        let decoded = Event::decode(event.type_number(), event.schema_version(), &event.encode()).unwrap();
        prop_assert_eq!(&decoded, &event);
        // JSON shows times only as far as the calendar goes, so it is held to its own second reading.
        let json = serde_json::to_value(&event).unwrap();
        let read: Event = serde_json::from_value(json.clone()).unwrap();
        prop_assert_eq!(serde_json::to_value(&read).unwrap(), json);
    }

    #[test]
    fn a_valid_record_with_any_change_is_not_valid(at in any::<Index>(), mask in 1_u8.., events in vec(any_event(), 1..4)) {
        let draft = Draft { events, ..Draft::key_created() };
        let mut bytes = draft.bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        prop_assert!(!is_valid(&Log::enrolled(), &draft.subject, &bytes), "byte {} with {:#x}", at, mask);
    }

    #[test]
    fn a_valid_record_with_anything_after_it_is_not_valid(tail in vec(any::<u8>(), 1..100)) {
        let draft = Draft::key_created();
        prop_assert!(!is_valid(&Log::enrolled(), &draft.subject, &[draft.bytes(), tail].concat()));
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(subject in ".{0,40}", bytes in vec(any::<u8>(), 0..600)) {
        prop_assert!(!is_valid(&Log::enrolled(), &subject, &bytes));
        prop_assert!(!is_valid(&Log::default(), &subject, &bytes));
    }

    #[test]
    fn any_payload_that_a_writer_signs_is_judged_without_a_panic(payload in vec(any::<u8>(), 0..200)) {
        let draft = Draft::key_created();
        let verdict = judge(&Log::enrolled(), &draft.subject, &draft.with_payload(&payload));
        prop_assert!(matches!(verdict, Verdict::Valid(_) | Verdict::Stop(_)));
    }

    /// A header that can be read is the one spelling of what it says, so that what is shown of a record is what was signed.
    #[test]
    fn a_header_has_one_spelling(header in any_header(), changes in vec((FRAME_LENGTH..HEADER_LENGTH, any::<u8>()), 1..4)) {
        let events = [Event::PoolCreated(PoolCreated { name: "a".into() })];
        let mut bytes = record::encode(samples::cluster_id(), &header, &events, &samples::writer_key()).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(header) = Frame::parse(&bytes).unwrap().header() {
            let again = record::encode(samples::cluster_id(), &header, &events, &samples::writer_key()).unwrap();
            prop_assert_eq!(&again[..HEADER_LENGTH], &bytes[..HEADER_LENGTH]);
        }
    }

    #[test]
    fn an_actor_has_one_spelling(actor in any_actor(), kind in 0_u8..12, short in any::<[u8; 16]>(), tail in select(vec![[0; 16], [1; 16]])) {
        let (actor_kind, id) = actor.to_bytes();
        prop_assert_eq!(Actor::from_bytes(actor_kind, id), Some(actor));
        let id: [u8; 32] = [short, tail].concat().try_into().unwrap();
        for (kind, id) in [(kind, id), (kind, [0; 32])] {
            if let Some(read) = Actor::from_bytes(kind, id) {
                prop_assert_eq!(read.to_bytes(), (kind, id));
            }
        }
    }

    #[test]
    fn a_stream_has_one_subject(stream in any_stream(), at in any::<Index>(), byte in b' '..b'~') {
        let subject = stream.subject();
        prop_assert_eq!(Stream::from_subject(&subject), Some(stream));
        let mut other = subject.into_bytes();
        let at = at.index(other.len());
        other[at] = byte;
        let other = String::from_utf8(other).unwrap();
        if let Some(read) = Stream::from_subject(&other) {
            prop_assert_eq!(read.subject(), other);
        }
    }
}

#[test]
fn every_single_change_of_one_byte_is_told() {
    let log = Log::enrolled();
    let draft = Draft::key_created();
    let bytes = draft.bytes();
    assert!(is_valid(&log, &draft.subject, &bytes));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x01;
        let verdict = judge(&log, &draft.subject, &changed);
        // What is signed, and the signature, is void; the payload may be missing without a record being void, so it stops.
        let is_payload = at >= HEADER_LENGTH + 64;
        assert_eq!(matches!(verdict, Verdict::Void(_)), !is_payload, "byte {at}: {verdict:?}");
        assert_eq!(matches!(verdict, Verdict::Stop(_)), is_payload, "byte {at}: {verdict:?}");
    }
}

#[test]
fn a_record_cut_off_anywhere_is_not_valid() {
    let draft = Draft::key_created();
    let bytes = draft.bytes();
    for length in 0..bytes.len() {
        assert!(!is_valid(&Log::enrolled(), &draft.subject, &bytes[..length]), "{length} bytes");
        assert!(!is_valid(&Log::default(), &draft.subject, &bytes[..length]), "{length} bytes");
    }
}

#[test]
fn a_record_has_at_least_one_event_and_at_most_64_kib() {
    let encode = |events: &[Event]| record::encode(samples::cluster_id(), &samples::header(), events, &samples::writer_key());
    assert_eq!(encode(&[]), Err(EncodeError::NoEvents));
    let name_of = |length| Event::PoolCreated(PoolCreated { name: "x".repeat(length) });
    let overhead = encode(&[name_of(60_000)]).unwrap().len() - 60_000;
    let largest = RECORD_BYTES_MAX - overhead;
    let bytes = encode(&[name_of(largest)]).unwrap();
    assert_eq!(bytes.len(), RECORD_BYTES_MAX);
    assert!(Frame::parse(&bytes).is_ok());
    assert_eq!(encode(&[name_of(largest + 1)]), Err(EncodeError::TooLarge { bytes: RECORD_BYTES_MAX + 1 }));
}

#[test]
fn the_header_of_another_format_is_not_read_as_ours() {
    let mut bytes = Draft::key_created().bytes();
    bytes[0] = 2;
    assert!(Frame::parse(&bytes).unwrap().header().is_err());
}
