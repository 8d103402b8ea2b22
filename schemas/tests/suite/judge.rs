//! Every verdict there is, and what brings it about.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use schemas::aggregate::apply_record;
use schemas::event::DecodeEventError;
use schemas::judge::{SignatureCheck, StopReason, VoidReason, enrolment_statement, judge_with, retirement_statement, sign_enrolment};
use schemas::record::{FRAME_LENGTH, HEADER_LENGTH, Header, PayloadError, RECORD_BYTES_MAX};
use schemas::writer::{CounterSignature, WriterEnrolled, WriterRetired};
use schemas::{ClusterId, Event, PublicKey, Stream, TenantId, Verdict, WriterId, judge};

use crate::log::{Draft, Log, sample};
use crate::samples::{self, cluster_id, cluster_key, public_key, writer_id, writer_key};

const VOID_UNFRAMED: Verdict = Verdict::Void(VoidReason::Unframed);
const VOID_BAD_SIGNATURE: Verdict = Verdict::Void(VoidReason::BadSignature);

fn other_key() -> SigningKey {
    SigningKey::from_bytes(&[0xb2; 32])
}

fn enrolment_of(key: &SigningKey, cluster: ClusterId, signer: &SigningKey) -> Draft {
    let public_key = public_key(key);
    let event = Event::WriterEnrolled(WriterEnrolled { public_key, cluster_signature: sign_enrolment(cluster, &public_key, signer) });
    let header = Header { writer: writer_id(key), stream: Stream::writer(writer_id(key)), ..samples::header() };
    Draft::new(header, event, key.clone())
}

/// Retires the sample writer, by this key's hand.
fn retirement(by: &SigningKey, countersigned_with: Option<&SigningKey>) -> Draft {
    let subject = writer_id(&writer_key());
    let sign = |key: &SigningKey| CounterSignature(key.sign(&retirement_statement(cluster_id(), subject)).to_bytes());
    let event = Event::WriterRetired(WriterRetired { cluster_signature: countersigned_with.map(sign) });
    let header = Header { stream: Stream::writer(subject), ..samples::header() };
    Draft::new(header, event, writer_key()).by(by.clone()).version(2)
}

/// An enrolled log with a second writer.
fn two_writers() -> Log {
    let mut log = Log::enrolled();
    log.admit(&enrolment_of(&other_key(), cluster_id(), &cluster_key()));
    log
}

#[test]
fn a_founding_an_enrolment_and_a_record_are_valid() {
    let mut log = Log::default();
    log.admit(&Draft::founding());
    log.admit(&Draft::enrolment());
    let Verdict::Valid(record) = log.judge(&Draft::key_created()) else { panic!("not valid") };
    assert_eq!((record.header, record.events), (samples::header(), vec![sample("KeyCreated")]));
}

#[test]
fn a_log_that_begins_with_anything_but_a_founding_is_no_log_of_ours() {
    let is_refused = |subject: &str, bytes: &[u8]| {
        assert_eq!(judge(&Log::default(), subject, bytes), Verdict::Stop(StopReason::NotFounded));
    };
    let founding = Draft::founding();
    let mut twice = founding.clone();
    twice.events.push(samples::founding());
    let mut elsewhere = founding.clone();
    elsewhere.header.stream = samples::key_stream();
    elsewhere.subject = samples::key_stream().subject();
    for wrong in
        [Draft::enrolment(), Draft::key_created(), founding.clone().version(2), founding.clone().by(writer_key()), twice, elsewhere]
    {
        is_refused(&wrong.subject, &wrong.bytes());
    }
    is_refused(&samples::key_stream().subject(), &founding.bytes());
    is_refused(&founding.subject, b"");
    is_refused(&founding.subject, b"garbage");
    is_refused(&founding.subject, &founding.signed_after(|header| header[0] = 2));
    is_refused(&founding.subject, &founding.bytes()[..HEADER_LENGTH + 64]);
    let mut altered = founding.bytes();
    altered[HEADER_LENGTH] ^= 1;
    is_refused(&founding.subject, &altered);
    // Signed by another key under the founder's name.
    is_refused(&founding.subject, &Draft { key: writer_key(), ..founding.clone() }.bytes());
}

#[test]
fn bytes_that_are_no_framed_record_are_void() {
    let log = Log::enrolled();
    let draft = Draft::key_created();
    let is_unframed = |bytes: &[u8]| assert_eq!(judge(&log, &draft.subject, bytes), VOID_UNFRAMED);
    is_unframed(b"");
    is_unframed(b"hello");
    is_unframed(&[0; 400]);
    is_unframed(&[0xff; 400]);
    // Signed by an enrolled writer, and still no record: reserved format, other scheme, other lengths.
    is_unframed(&draft.signed_after(|header| header[0] = 0));
    is_unframed(&draft.signed_after(|header| header[1] = 2));
    is_unframed(&draft.signed_after(|header| header[3] += 1));
    is_unframed(&draft.signed_after(|header| header[2..4].copy_from_slice(&(FRAME_LENGTH as u16 - 1).to_be_bytes())));
    is_unframed(&draft.signed_after(|header| header[5] -= 1));
    is_unframed(&draft.bytes()[..HEADER_LENGTH + 63]);
    let mut too_large = draft.bytes();
    too_large.resize(RECORD_BYTES_MAX + 1, 0);
    is_unframed(&too_large);
}

#[test]
fn a_header_that_no_writer_of_this_format_writes_is_void() {
    let log = Log::enrolled();
    let draft = Draft::key_created();
    let is_unframed = |change: fn(&mut [u8])| assert_eq!(judge(&log, &draft.subject, &draft.signed_after(change)), VOID_UNFRAMED);
    // Stream kind: none, unknown, and kinds that cannot have this tenant or this id.
    is_unframed(|header| header[122] = 0);
    is_unframed(|header| header[122] = 13);
    is_unframed(|header| header[122] = 1);
    is_unframed(|header| header[122] = 8);
    is_unframed(|header| header[122] = 9);
    // Tenant: empty, not of its alphabet, something after the padding began, the tenant of the cluster on a key.
    is_unframed(|header| header[123..155].fill(0));
    is_unframed(|header| header[123] = b'A');
    is_unframed(|header| header[123] = 0xff);
    is_unframed(|header| header[123] = 0);
    is_unframed(|header| header[154] = b'x');
    is_unframed(|header| header[123..155].copy_from_slice(b"_\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"));
    // Actor: none, unknown, and padding that is not zero.
    is_unframed(|header| header[179] = 0);
    is_unframed(|header| header[179] = 9);
    is_unframed(|header| header[179] = 1);
    is_unframed(|header| header[211] = 1);
}

#[test]
fn a_record_that_its_writer_did_not_sign_is_void() {
    let log = two_writers();
    let forged = Draft { key: other_key(), ..Draft::key_created() };
    log.assert_void(&forged, VoidReason::BadSignature);
    let subject = samples::key_stream().subject();
    let mut bytes = Draft::key_created().bytes();
    bytes[HEADER_LENGTH..HEADER_LENGTH + 64].fill(0);
    assert_eq!(judge(&log, &subject, &bytes), VOID_BAD_SIGNATURE);
}

#[test]
fn a_signature_has_one_spelling() {
    // s + L is congruent to s modulo the group's order L; a lax verifier takes both, and the record would have two leaves.
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0x10,
    ];
    let mut bytes = Draft::key_created().bytes();
    let mut carry = 0;
    for (byte, addend) in bytes[HEADER_LENGTH + 32..HEADER_LENGTH + 64].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(addend) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    assert_eq!(judge(&Log::enrolled(), &samples::key_stream().subject(), &bytes), VOID_BAD_SIGNATURE);
}

/// The neutral element as a public key: under it one signature fits every message unless verification is strict.
fn weak_key() -> (PublicKey, [u8; 64]) {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    let lax = VerifyingKey::from_bytes(&neutral).unwrap();
    use ed25519_dalek::Verifier;
    assert!(lax.verify(b"anything", &Signature::from_bytes(&signature)).is_ok(), "the test needs a signature that a lax check takes");
    (PublicKey::from_bytes(neutral), signature)
}

#[test]
fn a_key_of_small_order_signs_nothing() {
    let (public_key, signature) = weak_key();
    let put_signature = |bytes: &mut [u8]| bytes[HEADER_LENGTH..HEADER_LENGTH + 64].copy_from_slice(&signature);

    // As a writer, even if the cluster key did sign its enrolment.
    let writer = WriterId::of(&public_key);
    let cluster_signature = sign_enrolment(cluster_id(), &public_key, &cluster_key());
    let header = Header { writer, stream: Stream::writer(writer), ..samples::header() };
    let enrolment = Draft::new(header, Event::WriterEnrolled(WriterEnrolled { public_key, cluster_signature }), writer_key());
    let mut bytes = enrolment.bytes();
    put_signature(&mut bytes);
    assert_eq!(judge(&Log::founded(), &enrolment.subject, &bytes), VOID_BAD_SIGNATURE);

    // As the founder of a cluster.
    let Event::ClusterFounded(mut founded) = samples::founding() else { panic!("not a founding") };
    founded.cluster_public_key = public_key;
    let mut founding = Draft::founding();
    founding.header.writer = writer;
    founding.events = vec![Event::ClusterFounded(founded)];
    let mut bytes = founding.bytes();
    put_signature(&mut bytes);
    assert_eq!(judge(&Log::default(), &founding.subject, &bytes), Verdict::Stop(StopReason::NotFounded));
}

#[test]
fn a_writer_that_is_not_enrolled_writes_nothing() {
    Log::founded().assert_void(&Draft::key_created(), VoidReason::WriterNotEnrolled);
    Log::enrolled().assert_void(&Draft::key_created().by(other_key()), VoidReason::WriterNotEnrolled);
    // The cluster key founds and countersigns; it is no writer.
    Log::enrolled().assert_void(&Draft::key_created().by(cluster_key()), VoidReason::WriterNotEnrolled);
    Log::enrolled().assert_void(&Draft::founding().version(2), VoidReason::WriterNotEnrolled);
}

#[test]
fn a_retired_writer_writes_nothing() {
    let mut log = Log::enrolled();
    log.admit(&retirement(&writer_key(), None));
    log.assert_void(&Draft::key_created(), VoidReason::WriterNotEnrolled);
}

#[test]
fn a_retired_writer_cannot_enrol_itself_again_with_the_old_countersignature() {
    let mut log = Log::enrolled();
    log.admit(&retirement(&writer_key(), None));
    log.assert_void(&Draft::enrolment(), VoidReason::WriterNotEnrolled);
    log.assert_void(&Draft::enrolment().version(3), VoidReason::WriterNotEnrolled);
}

#[test]
fn an_enrolment_needs_the_cluster_keys_signature_over_this_cluster_and_this_key() {
    let log = Log::founded();
    let not_enrolled = |draft: &Draft| log.assert_void(draft, VoidReason::WriterNotEnrolled);
    not_enrolled(&enrolment_of(&writer_key(), cluster_id(), &writer_key()));
    not_enrolled(&enrolment_of(&writer_key(), ClusterId::from_bytes([9; 16]), &cluster_key()));
    // Another key's countersignature.
    let mut borrowed = enrolment_of(&other_key(), cluster_id(), &cluster_key());
    let Event::WriterEnrolled(enrolled) = samples::enrolment() else { panic!("not an enrolment") };
    borrowed.events = vec![Event::WriterEnrolled(WriterEnrolled { public_key: public_key(&other_key()), ..enrolled })];
    not_enrolled(&borrowed);
    // A good enrolment, but of another writer than the one that signs.
    let mut foreign = enrolment_of(&other_key(), cluster_id(), &cluster_key());
    foreign.events = vec![samples::enrolment()];
    not_enrolled(&foreign);
    // On another stream, or with more events than the enrolment.
    let mut astray = Draft::enrolment();
    astray.header.stream = Stream::writer(writer_id(&other_key()));
    log.assert_void(&astray, VoidReason::WrongStream);
    astray.subject = astray.header.stream.subject();
    not_enrolled(&astray);
    let mut padded = Draft::enrolment();
    padded.events.push(samples::enrolment());
    not_enrolled(&padded);
    // A second version of the stream cannot come first.
    assert_eq!(log.judge(&Draft::enrolment().version(2)), Verdict::Void(VoidReason::WrongVersion));
    // Without its payload nobody can tell whom it enrols.
    let bytes = Draft::enrolment().bytes();
    let verdict = judge(&log, &Draft::enrolment().subject, &bytes[..HEADER_LENGTH + 64]);
    assert_eq!(verdict, Verdict::Void(VoidReason::WriterNotEnrolled));
}

#[test]
fn an_enrolled_writer_cannot_enrol_another_on_its_own_word() {
    let log = Log::enrolled();
    // Without the cluster's signature, and with it but not signed by the key it enrols.
    for signer in [writer_key(), cluster_key()] {
        log.assert_void(&enrolment_of(&other_key(), cluster_id(), &signer).by(writer_key()), VoidReason::BadSignature);
    }
    // A second key on the own stream.
    let mut second = enrolment_of(&other_key(), cluster_id(), &cluster_key()).by(writer_key()).version(2);
    second.header.stream = Stream::writer(writer_id(&writer_key()));
    second.subject = second.header.stream.subject();
    log.assert_void(&second, VoidReason::BadSignature);
}

#[test]
fn a_writer_is_retired_by_itself_or_with_the_cluster_keys_signature() {
    let log = two_writers();
    assert!(matches!(log.judge(&retirement(&writer_key(), None)), Verdict::Valid(_)));
    assert!(matches!(log.judge(&retirement(&other_key(), Some(&cluster_key()))), Verdict::Valid(_)));
    log.assert_void(&retirement(&other_key(), None), VoidReason::BadSignature);
    log.assert_void(&retirement(&other_key(), Some(&other_key())), VoidReason::BadSignature);
    // The countersignature names the writer: one that retires another writer does not fit.
    let mut borrowed = retirement(&other_key(), None);
    let statement = retirement_statement(cluster_id(), writer_id(&other_key()));
    let cluster_signature = Some(CounterSignature(cluster_key().sign(&statement).to_bytes()));
    borrowed.events = vec![Event::WriterRetired(WriterRetired { cluster_signature })];
    log.assert_void(&borrowed, VoidReason::BadSignature);
    // Nor does an enrolment's.
    let statement = enrolment_statement(cluster_id(), writer_id(&writer_key()), &public_key(&writer_key()));
    let cluster_signature = Some(CounterSignature(cluster_key().sign(&statement).to_bytes()));
    borrowed.events = vec![Event::WriterRetired(WriterRetired { cluster_signature })];
    log.assert_void(&borrowed, VoidReason::BadSignature);
}

#[test]
fn a_record_on_another_subject_than_its_streams_is_void() {
    let log = Log::enrolled();
    let bytes = Draft::key_created().bytes();
    let other_tenant = Stream::key(TenantId::default_tenant(), samples::key_id()).subject();
    for subject in [other_tenant.as_str(), "kr.e._.cluster.0", "kr.e.acme-1.key.*", "kr.u.node.1", "", ">"] {
        assert_eq!(judge(&log, subject, &bytes), Verdict::Void(VoidReason::WrongStream), "{subject}");
    }
}

#[test]
fn a_record_whose_version_does_not_follow_is_void() {
    let mut log = Log::enrolled();
    for wrong in [0, 2, u64::MAX] {
        log.assert_void(&Draft::key_created().version(wrong), VoidReason::WrongVersion);
    }
    log.admit(&Draft::key_created());
    // The same record again, as anybody who reads the log could put it there.
    log.assert_void(&Draft::key_created(), VoidReason::WrongVersion);
    let revoked = Draft::new(samples::header(), sample("KeyRevoked"), writer_key());
    log.assert_void(&revoked.clone().version(3), VoidReason::WrongVersion);
    log.admit(&revoked.version(2));
}

#[test]
fn a_newer_format_is_a_stop_if_an_enrolled_writer_signed_it_and_void_if_not() {
    let draft = Draft::key_created();
    let newer = draft.signed_after(|header| header[0] = 2);
    let stop = Verdict::Stop(StopReason::NewerFormat { format: 2 });
    assert_eq!(judge(&Log::enrolled(), &draft.subject, &newer), stop);
    let mut forged = newer.clone();
    forged[HEADER_LENGTH] ^= 1;
    assert_eq!(judge(&Log::enrolled(), &draft.subject, &forged), VOID_BAD_SIGNATURE);
    assert_eq!(judge(&Log::founded(), &draft.subject, &newer), Verdict::Void(VoidReason::WriterNotEnrolled));
    // Enrolments are read in format 1 only: what a newer one enrols cannot be known here.
    let enrolment = Draft::enrolment().signed_after(|header| header[0] = 2);
    assert_eq!(judge(&Log::founded(), &Draft::enrolment().subject, &enrolment), Verdict::Void(VoidReason::WriterNotEnrolled));
}

#[test]
fn the_frame_of_a_newer_format_may_have_a_header_of_another_length() {
    let mut bytes = Draft::key_created().bytes()[..FRAME_LENGTH].to_vec();
    bytes[0] = 200;
    bytes[2..4].copy_from_slice(&(FRAME_LENGTH as u16).to_be_bytes());
    let signature = writer_key().sign(&schemas::record::signed_bytes(cluster_id(), &bytes));
    bytes.extend_from_slice(&signature.to_bytes());
    let verdict = judge(&Log::enrolled(), "kr.e.unknown.to.us", &bytes);
    assert_eq!(verdict, Verdict::Stop(StopReason::NewerFormat { format: 200 }));
}

#[test]
fn a_valid_header_without_its_payload_is_a_stop() {
    let log = Log::enrolled();
    let draft = Draft::key_created();
    let stops = |bytes: &[u8]| {
        assert_eq!(judge(&log, &draft.subject, bytes), Verdict::Stop(StopReason::Payload(PayloadError::Mismatch)));
    };
    let bytes = draft.bytes();
    stops(&bytes[..HEADER_LENGTH + 64]);
    stops(&bytes[..bytes.len() - 1]);
    stops(&[&bytes[..], &[0]].concat());
    let mut altered = draft.bytes();
    *altered.last_mut().unwrap() ^= 1;
    stops(&altered);
    // A length that is not the payload's, though the writer signed it.
    stops(&draft.signed_after(|header| header[6..10].fill(0xff)));
    stops(&draft.signed_after(|header| header[9] ^= 1));
}

#[test]
fn a_payload_that_cannot_be_decoded_is_a_stop() {
    let log = Log::enrolled();
    let draft = Draft::key_created();
    let stops = |payload: &[u8], error: PayloadError| {
        let verdict = judge(&log, &draft.subject, &draft.with_payload(payload));
        assert_eq!(verdict, Verdict::Stop(StopReason::Payload(error)));
    };
    // A list is its length, then for each event its type as a variable-length number, its schema version, and its bytes with their length.
    stops(&[], PayloadError::Malformed);
    stops(&[0], PayloadError::Malformed);
    stops(&[1, 0x85, 0x04, 1], PayloadError::Malformed);
    stops(&[1, 0x85, 0x04, 1, 0, 0], PayloadError::Malformed);
    let unknown = DecodeEventError::UnknownType { event_type: 0x7fff };
    stops(&[1, 0xff, 0xff, 0x01, 1, 0], PayloadError::Event(unknown));
    let newer = DecodeEventError::NewerVersion { name: "KeyEnabled", schema_version: 2, current: 1 };
    stops(&[1, 0x85, 0x04, 2, 0], PayloadError::Event(newer));
    let shape = DecodeEventError::Shape { name: "KeyEnabled", schema_version: 1 };
    stops(&[1, 0x85, 0x04, 1, 1, 0], PayloadError::Event(shape));
    let shape = DecodeEventError::Shape { name: "KeyEnabled", schema_version: 0 };
    stops(&[1, 0x85, 0x04, 0, 0], PayloadError::Event(shape));
}

#[test]
fn a_payload_that_claims_to_be_huge_is_refused_without_the_memory_it_claims() {
    let log = Log::enrolled();
    let draft = Draft::key_created();
    let huge: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let stops = |payload: &[u8]| assert!(matches!(judge(&log, &draft.subject, &draft.with_payload(payload)), Verdict::Stop(_)));
    // A list of 2^64 - 1 events; one event of as many bytes; a pool whose name has as many.
    stops(huge);
    stops(&[&[1, 0x85, 0x04, 1], huge].concat());
    stops(&[&[1, 0x81, 0x0a, 1, 10], huge].concat());
}

#[test]
fn known_verdicts_spare_the_signature_and_nothing_else() {
    let log = two_writers();
    let known = |draft: &Draft| judge_with(&log, &draft.subject, &draft.bytes(), SignatureCheck::Known);
    assert!(matches!(known(&Draft { key: other_key(), ..Draft::key_created() }), Verdict::Valid(_)));
    assert_eq!(known(&Draft::key_created().version(2)), Verdict::Void(VoidReason::WrongVersion));
    assert_eq!(known(&Draft::key_created().by(SigningKey::from_bytes(&[0xb3; 32]))), Verdict::Void(VoidReason::WriterNotEnrolled));
    assert_eq!(known(&retirement(&other_key(), None)), VOID_BAD_SIGNATURE);
}

#[test]
fn an_event_on_a_stream_of_another_kind_is_valid_and_cannot_be_applied() {
    // Only an enrolled writer can do this. It is no matter of form: the fold stops at it, as at any event that cannot follow.
    let log = Log::enrolled();
    let reserved = Stream::new(samples::tenant(), schemas::StreamKind::Policy, samples::bytes(1)).unwrap();
    for stream in [Stream::pool(samples::tenant(), samples::pool_id()), Stream::writer(writer_id(&other_key())), reserved] {
        let draft = Draft::new(Header { stream: stream.clone(), ..samples::header() }, sample("KeyCreated"), writer_key());
        let Verdict::Valid(record) = log.judge(&draft) else { panic!("not valid on {stream}") };
        let error = apply_record(None, &record).unwrap_err();
        assert_eq!((error.stream, error.event), (stream, "KeyCreated"));
    }
}
