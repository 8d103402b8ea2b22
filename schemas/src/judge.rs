//! Validity: a function of the log's prefix, the subject and the bytes, and of nothing else.
//!
//! Every node, every rebuild and every auditor calls [`judge`] on each record in log order and comes to the same verdict. A record
//! that anybody could have put into the log (garbage, a wrong signature) is *void*: it is listed, it writes nothing and it blocks nothing.
//! A record that an enrolled writer did sign but that this release cannot fold is a *stop*: going on without it would mean another history.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::event::Event;
use crate::id::{ClusterId, PublicKey, WriterId};
use crate::record::{FORMAT, Frame, PayloadError, Record, Version, signed_bytes};
use crate::stream::{Stream, StreamKind};
use crate::writer::{CounterSignature, WriterEnrolled};

/// What the valid records before this one say; all that a verdict depends on.
pub trait Prefix {
    /// The founded cluster and its key; none before sequence 1.
    fn cluster(&self) -> Option<(ClusterId, VerifyingKey)>;
    /// The key of a writer that is enrolled here and not retired.
    fn writer(&self, id: WriterId) -> Option<VerifyingKey>;
    /// The number of valid records on the stream.
    fn version(&self, stream: &Stream) -> Version;
}

/// What a record is, given the log before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Valid(Box<Record>),
    Void(VoidReason),
    Stop(StopReason),
}

/// Why a record is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VoidReason {
    /// Not the frame and header of a record.
    Unframed,
    /// The signature is not the writer's; or a countersignature that the event needs is not the cluster's.
    BadSignature,
    /// The writer is not enrolled at this place in the log, or is retired.
    WriterNotEnrolled,
    /// The header names another stream than the subject it stands on.
    WrongStream,
    /// The version is not the number of valid records on the stream plus one.
    WrongVersion,
}

impl VoidReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unframed => "unframed",
            Self::BadSignature => "bad_signature",
            Self::WriterNotEnrolled => "writer_not_enrolled",
            Self::WrongStream => "wrong_stream",
            Self::WrongVersion => "wrong_version",
        }
    }
}

/// Why the log cannot be folded past a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StopReason {
    #[error("the log does not begin with the founding of a cluster")]
    NotFounded,
    #[error("the record has format {format}, this release reads up to format {FORMAT}")]
    NewerFormat { format: u8 },
    #[error("the payload of a valid record cannot be read")]
    Payload(#[source] PayloadError),
}

/// Whether signatures are checked: always, but where the caller knows that this one is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureCheck {
    Verify,
    /// The caller holds the verdict, bound to the log's root, and re-checks it in the background; or has had [`signed_by`] check the
    /// signature, with the keys that count here.
    Known,
}

/// Judges the record at the next place of the log.
pub fn judge(prefix: &impl Prefix, subject: &str, bytes: &[u8]) -> Verdict {
    judge_with(prefix, subject, bytes, SignatureCheck::Verify)
}

/// [`judge`], for a caller that may already know that the signature is good.
pub fn judge_with(prefix: &impl Prefix, subject: &str, bytes: &[u8], check: SignatureCheck) -> Verdict {
    let Some((cluster_id, cluster_key)) = prefix.cluster() else {
        return judge_founding(subject, bytes);
    };
    let Ok(frame) = Frame::parse(bytes) else {
        return Verdict::Void(VoidReason::Unframed);
    };
    let enrolling = || enrolment(prefix, &frame, subject, cluster_id, &cluster_key);
    let Some(key) = prefix.writer(frame.writer).or_else(enrolling) else {
        return Verdict::Void(VoidReason::WriterNotEnrolled);
    };
    if check == SignatureCheck::Verify && !is_signed(cluster_id, &frame, &key) {
        return Verdict::Void(VoidReason::BadSignature);
    }
    if frame.format > FORMAT {
        return Verdict::Stop(StopReason::NewerFormat { format: frame.format });
    }
    let Ok(header) = frame.header() else {
        return Verdict::Void(VoidReason::Unframed);
    };
    if Stream::from_subject(subject).as_ref() != Some(&header.stream) {
        return Verdict::Void(VoidReason::WrongStream);
    }
    if header.version != prefix.version(&header.stream).next() {
        return Verdict::Void(VoidReason::WrongVersion);
    }
    let events = match frame.events() {
        Ok(events) => events,
        Err(error) => return Verdict::Stop(StopReason::Payload(error)),
    };
    if !countersigned(&header.stream, frame.writer, &events, cluster_id, &cluster_key) {
        return Verdict::Void(VoidReason::BadSignature);
    }
    Verdict::Valid(Box::new(Record { header, events }))
}

/// Sequence 1: the founding, signed by the cluster key that its own payload carries. Anything else is no log of ours.
fn judge_founding(subject: &str, bytes: &[u8]) -> Verdict {
    let founding = || {
        let frame = Frame::parse(bytes).ok()?;
        let (header, events) = (frame.header().ok()?, frame.events().ok()?);
        let [Event::ClusterFounded(founded)] = events.as_slice() else { return None };
        let key = VerifyingKey::from_bytes(founded.cluster_public_key.as_bytes()).ok()?;
        let is_first = header.stream == Stream::CLUSTER && header.version == Version(1) && subject == Stream::CLUSTER.subject();
        let is_own = frame.writer == WriterId::of(&founded.cluster_public_key) && is_signed(founded.cluster_id, &frame, &key);
        (is_first && is_own).then_some(Record { header, events })
    };
    founding().map_or(Verdict::Stop(StopReason::NotFounded), |record| Verdict::Valid(Box::new(record)))
}

/// The key that an enrolment enrols, if this is one that the cluster key has signed. It is the first record on the writer's own stream and
/// is signed by the key it enrols. First, because a retired writer still holds its key and its enrolment and must not come back with them.
fn enrolment(
    prefix: &impl Prefix,
    frame: &Frame<'_>,
    subject: &str,
    cluster: ClusterId,
    cluster_key: &VerifyingKey,
) -> Option<VerifyingKey> {
    let stream = Stream::writer(frame.writer);
    if subject != stream.subject() || frame.format > FORMAT || prefix.version(&stream) != Version::default() {
        return None;
    }
    let events = frame.events().ok()?;
    let [Event::WriterEnrolled(enrolled)] = events.as_slice() else { return None };
    if !is_enrolled_by_cluster(frame.writer, enrolled, cluster, cluster_key) {
        return None;
    }
    VerifyingKey::from_bytes(enrolled.public_key.as_bytes()).ok()
}

/// Whether the events carry the countersignatures they need: a writer is enrolled by itself with the cluster key's signature, and retired
/// by itself or with the cluster key's signature.
fn countersigned(stream: &Stream, writer: WriterId, events: &[Event], cluster: ClusterId, cluster_key: &VerifyingKey) -> bool {
    if stream.kind() != StreamKind::Writer {
        return true;
    }
    let subject = WriterId::from_bytes(*stream.id());
    events.iter().all(|event| match event {
        Event::WriterEnrolled(enrolled) => writer == subject && is_enrolled_by_cluster(writer, enrolled, cluster, cluster_key),
        Event::WriterRetired(_) if writer == subject => true,
        Event::WriterRetired(retired) => retired.cluster_signature.as_ref().is_some_and(|signature| {
            let statement = retirement_statement(cluster, subject);
            cluster_key.verify_strict(&statement, &Signature::from_bytes(&signature.0)).is_ok()
        }),
        _ => true,
    })
}

/// Whether the enrolment is of this writer and the cluster key has signed it.
fn is_enrolled_by_cluster(writer: WriterId, enrolled: &WriterEnrolled, cluster: ClusterId, cluster_key: &VerifyingKey) -> bool {
    let statement = enrolment_statement(cluster, writer, &enrolled.public_key);
    let signature = Signature::from_bytes(&enrolled.cluster_signature.0);
    writer == WriterId::of(&enrolled.public_key) && cluster_key.verify_strict(&statement, &signature).is_ok()
}

/// The writer whose good signature the bytes of a record carry, if its key is given: all that [`SignatureCheck::Known`] leaves out, which depends on
/// nothing but bytes and key and may be looked at before the record's turn.
pub fn signed_by(cluster: ClusterId, bytes: &[u8], key: impl FnOnce(WriterId) -> Option<VerifyingKey>) -> Option<WriterId> {
    let frame = Frame::parse(bytes).ok()?;
    is_signed(cluster, &frame, &key(frame.writer)?).then_some(frame.writer)
}

fn is_signed(cluster: ClusterId, frame: &Frame<'_>, key: &VerifyingKey) -> bool {
    key.verify_strict(&signed_bytes(cluster, frame.header_bytes), &Signature::from_bytes(frame.signature)).is_ok()
}

/// What the cluster key signs to enrol a writer. It begins with a text that no record's header begins with.
pub fn enrolment_statement(cluster: ClusterId, writer: WriterId, public_key: &PublicKey) -> Vec<u8> {
    [b"keyrelay writer enrolment v1\n", cluster.as_bytes().as_slice(), writer.as_bytes(), public_key.as_bytes()].concat()
}

/// What the cluster key signs to retire a writer.
pub fn retirement_statement(cluster: ClusterId, writer: WriterId) -> Vec<u8> {
    [b"keyrelay writer retirement v1\n".as_slice(), cluster.as_bytes(), writer.as_bytes()].concat()
}

/// The cluster key's signature under the retirement of a writer that does not retire itself.
pub fn sign_retirement(cluster: ClusterId, writer: WriterId, cluster_key: &SigningKey) -> CounterSignature {
    CounterSignature(cluster_key.sign(&retirement_statement(cluster, writer)).to_bytes())
}

/// The cluster key's signature under an enrolment.
pub fn sign_enrolment(cluster: ClusterId, public_key: &PublicKey, cluster_key: &SigningKey) -> CounterSignature {
    let statement = enrolment_statement(cluster, WriterId::of(public_key), public_key);
    CounterSignature(cluster_key.sign(&statement).to_bytes())
}
