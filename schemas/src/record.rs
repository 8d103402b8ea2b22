//! The bytes of a record: what one append stores.
//!
//! ```text
//! offset  size  field                                              all numbers are big-endian
//!      0     1  format: 1. 0 is reserved                           ┐
//!      1     1  signature scheme: 1 = Ed25519 (RFC 8032)           │ the outer frame, frozen for every
//!      2     2  header length in bytes, this frame included        │ format: a reader of an older release
//!      4     2  signature length in bytes                          │ can check the signature of a record
//!      6     4  payload length in bytes                            │ that it cannot understand
//!     10    16  writer id                                          │
//!     26    32  BLAKE3-256 of the payload                          ┘
//!     58    16  record id                                          ┐
//!     74    16  command id                                         │
//!     90    32  digest of the request                              │
//!    122     1  stream kind                                        │
//!    123    32  tenant, padded with zeros                          │
//!    155    16  stream id                                          │ the header of format 1
//!    171     8  version: 1, 2, 3, ... of the stream's valid records│
//!    179     1  actor kind                                         │
//!    180    32  actor id, padded with zeros                        │
//!    212    16  causation: the record that led to this one, or 0   │
//!    228    16  correlation: the command that began it all         │
//!    244     8  time, microseconds since the Unix epoch            │
//!    252     8  seen: a position that the writer had reached ...   │
//!    260    32  ... and the log's Merkle root there                ┘
//!    292    64  signature of the writer over [`signed_bytes`]: the cluster's id and bytes 0 to 292
//!    356     …  payload: postcard of a list of (event type, schema version, bytes of the event)
//! ```
//!
//! Nothing in a record comes from the log that stores it (no sequence, no time of arrival), so that the same history has the same
//! bytes on any backend.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use utoipa::ToSchema;

use crate::actor::Actor;
use crate::event::{DecodeEventError, Event};
use crate::id::{ClusterId, CommandId, Digest, RecordId, TenantId, WriterId};
use crate::stream::{Stream, StreamKind};
use crate::time::Timestamp;

/// A record's position in the log: 1, 2, 3, ... without gaps. 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    pub const ZERO: Self = Self(0);

    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an aggregate's last valid record: 1, 2, 3, ...; 0 is an aggregate that does not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The record format this release writes.
pub const FORMAT: u8 = 1;
/// Ed25519 over the header.
pub const SCHEME_ED25519: u8 = 1;
/// The most bytes a record may have. A stream's limit of 64 KiB for one message counts the message's own headers too; 1 KiB is for them.
pub const RECORD_BYTES_MAX: usize = 63 * 1024;
/// Bytes of the outer frame.
pub const FRAME_LENGTH: usize = 58;
/// Bytes of the header of format 1, frame included.
pub const HEADER_LENGTH: usize = 292;
const SIGNATURE_LENGTH: usize = 64;

/// What the writer had applied when it wrote: a position and the log's root there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub sequence: Sequence,
    pub root: Digest,
}

impl Seen {
    /// The empty log: position 0 and SHA-256 of the empty string (RFC 6962, section 2.1). Always allowed.
    pub fn nothing() -> Self {
        Self { sequence: Sequence::ZERO, root: Digest::from_bytes(Sha256::digest([]).into()) }
    }
}

/// The header's content, without what the encoder works out (lengths, payload digest).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub writer: WriterId,
    pub record_id: RecordId,
    pub command_id: CommandId,
    /// BLAKE3 of the canonical request, so that one command id with two contents is told.
    pub request_digest: Digest,
    pub stream: Stream,
    pub version: Version,
    pub actor: Actor,
    pub causation: Option<RecordId>,
    pub correlation: CommandId,
    pub time: Timestamp,
    pub seen: Seen,
}

/// A record, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub header: Header,
    /// The events of one command on one aggregate, oldest first. Never empty.
    pub events: Vec<Event>,
}

/// Why a record cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    #[error("a record has at most {RECORD_BYTES_MAX} bytes, this one has {bytes}")]
    TooLarge { bytes: usize },
    #[error("a record without events means nothing")]
    NoEvents,
}

/// Why bytes are not a framed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the bytes are not a framed record")]
pub struct FrameError;

/// Why a payload cannot be read although its header is in order.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PayloadError {
    #[error("the payload is missing or is not the one that the header commits to")]
    Mismatch,
    #[error("the payload is not a list of events")]
    Malformed,
    #[error("an event cannot be read")]
    Event(#[source] DecodeEventError),
}

/// One event as the payload stores it.
#[derive(Serialize, Deserialize)]
struct StoredEvent {
    event_type: u16,
    schema_version: u8,
    bytes: Vec<u8>,
}

/// What the writer signs: a text that no other statement begins with, the cluster, and the header. So a record counts in one cluster only,
/// even if a writer's key was carried into another.
pub fn signed_bytes(cluster: ClusterId, header_bytes: &[u8]) -> Vec<u8> {
    [b"keyrelay record v1\n".as_slice(), cluster.as_bytes(), header_bytes].concat()
}

/// Encodes and signs a record of this cluster.
pub fn encode(cluster: ClusterId, header: &Header, events: &[Event], key: &SigningKey) -> Result<Vec<u8>, EncodeError> {
    if events.is_empty() {
        return Err(EncodeError::NoEvents);
    }
    let payload = encode_payload(events);
    let mut out = Vec::with_capacity(HEADER_LENGTH + SIGNATURE_LENGTH + payload.len());
    write_header(header, &payload, &mut out);
    let signature = key.sign(&signed_bytes(cluster, &out));
    out.extend_from_slice(&signature.to_bytes());
    out.extend_from_slice(&payload);
    if out.len() > RECORD_BYTES_MAX { Err(EncodeError::TooLarge { bytes: out.len() }) } else { Ok(out) }
}

fn encode_payload(events: &[Event]) -> Vec<u8> {
    let stored: Vec<StoredEvent> = events
        .iter()
        .map(|event| StoredEvent { event_type: event.type_number(), schema_version: event.schema_version(), bytes: event.encode() })
        .collect();
    postcard::to_allocvec(&stored).expect("a list of numbers and bytes; encoding to memory cannot fail")
}

fn write_header(header: &Header, payload: &[u8], out: &mut Vec<u8>) {
    let mut tenant = [0; TenantId::LENGTH_MAX];
    let name = header.stream.tenant().as_str().as_bytes();
    tenant[..name.len()].copy_from_slice(name);
    let (actor_kind, actor_id) = header.actor.to_bytes();
    let payload_length = u32::try_from(payload.len()).unwrap_or(u32::MAX);

    out.extend_from_slice(&[FORMAT, SCHEME_ED25519]);
    out.extend_from_slice(&(HEADER_LENGTH as u16).to_be_bytes());
    out.extend_from_slice(&(SIGNATURE_LENGTH as u16).to_be_bytes());
    out.extend_from_slice(&payload_length.to_be_bytes());
    out.extend_from_slice(header.writer.as_bytes());
    out.extend_from_slice(Digest::blake3(payload).as_bytes());
    out.extend_from_slice(header.record_id.as_bytes());
    out.extend_from_slice(header.command_id.as_bytes());
    out.extend_from_slice(header.request_digest.as_bytes());
    out.push(header.stream.kind() as u8);
    out.extend_from_slice(&tenant);
    out.extend_from_slice(header.stream.id());
    out.extend_from_slice(&header.version.0.to_be_bytes());
    out.push(actor_kind);
    out.extend_from_slice(&actor_id);
    out.extend_from_slice(header.causation.map_or([0; 16], |id| *id.as_bytes()).as_slice());
    out.extend_from_slice(header.correlation.as_bytes());
    out.extend_from_slice(&header.time.as_micros().to_be_bytes());
    out.extend_from_slice(&header.seen.sequence.0.to_be_bytes());
    out.extend_from_slice(header.seen.root.as_bytes());
    debug_assert_eq!(out.len(), HEADER_LENGTH);
}

/// The outer frame of a record's bytes, borrowed: enough to check the signature of any format.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub format: u8,
    pub writer: WriterId,
    /// What the signature covers, besides the cluster, see [`signed_bytes`].
    pub header_bytes: &'a [u8],
    pub signature: &'a [u8; SIGNATURE_LENGTH],
    pub payload_length: usize,
    pub payload_digest: Digest,
    /// What stands after the signature: the payload, or nothing where it was withheld.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame. Whether the payload is there and fits is not part of it, see [`Frame::events`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let mut fields = Fields(bytes);
        let [format, scheme] = fields.array()?;
        let header_length = usize::from(u16::from_be_bytes(fields.array()?));
        let signature_length = usize::from(u16::from_be_bytes(fields.array()?));
        let payload_length = u32::from_be_bytes(fields.array()?) as usize;
        let writer = WriterId::from_bytes(fields.array()?);
        let payload_digest = Digest::from_bytes(fields.array()?);
        let known = format != 0 && scheme == SCHEME_ED25519 && signature_length == SIGNATURE_LENGTH;
        let sized = header_length >= FRAME_LENGTH && bytes.len() <= RECORD_BYTES_MAX;
        if !known || !sized || (format == FORMAT && header_length != HEADER_LENGTH) {
            return Err(FrameError);
        }
        let (header_bytes, rest) = bytes.split_at_checked(header_length).ok_or(FrameError)?;
        let (signature, payload) = rest.split_first_chunk::<SIGNATURE_LENGTH>().ok_or(FrameError)?;
        Ok(Self { format, writer, header_bytes, signature, payload_length, payload_digest, payload })
    }

    /// Reads the header of format 1; an error is another format, or a field that no writer of this format produces.
    pub fn header(&self) -> Result<Header, FrameError> {
        if self.format != FORMAT {
            return Err(FrameError);
        }
        let mut fields = Fields(self.header_bytes.get(FRAME_LENGTH..).ok_or(FrameError)?);
        let record_id = RecordId::from_bytes(fields.array()?);
        let command_id = CommandId::from_bytes(fields.array()?);
        let request_digest = Digest::from_bytes(fields.array()?);
        let [kind] = fields.array()?;
        let tenant: [u8; TenantId::LENGTH_MAX] = fields.array()?;
        let id = fields.array()?;
        let version = Version(u64::from_be_bytes(fields.array()?));
        let [actor_kind] = fields.array()?;
        let actor = Actor::from_bytes(actor_kind, fields.array()?).ok_or(FrameError)?;
        let causation: [u8; 16] = fields.array()?;
        let correlation = CommandId::from_bytes(fields.array()?);
        let time = Timestamp::from_micros(u64::from_be_bytes(fields.array()?));
        let seen_sequence = Sequence(u64::from_be_bytes(fields.array()?));
        let seen_root = Digest::from_bytes(fields.array()?);

        let kind = StreamKind::from_number(kind).ok_or(FrameError)?;
        let stream = Stream::new(parse_tenant(&tenant)?, kind, id).map_err(|_| FrameError)?;
        let causation = (causation != [0; 16]).then(|| RecordId::from_bytes(causation));
        let seen = Seen { sequence: seen_sequence, root: seen_root };
        Ok(Header {
            writer: self.writer,
            record_id,
            command_id,
            request_digest,
            stream,
            version,
            actor,
            causation,
            correlation,
            time,
            seen,
        })
    }

    /// Reads the events, after checking that the payload is the one the header commits to.
    pub fn events(&self) -> Result<Vec<Event>, PayloadError> {
        if self.payload.len() != self.payload_length || Digest::blake3(self.payload) != self.payload_digest {
            return Err(PayloadError::Mismatch);
        }
        let (stored, rest) = postcard::take_from_bytes::<Vec<StoredEvent>>(self.payload).map_err(|_| PayloadError::Malformed)?;
        if stored.is_empty() || !rest.is_empty() {
            return Err(PayloadError::Malformed);
        }
        stored
            .iter()
            .map(|event| Event::decode(event.event_type, event.schema_version, &event.bytes).map_err(PayloadError::Event))
            .collect()
    }
}

/// A tenant in its header form: zeros only after the text.
fn parse_tenant(padded: &[u8; TenantId::LENGTH_MAX]) -> Result<TenantId, FrameError> {
    let length = padded.iter().position(|b| *b == 0).unwrap_or(padded.len());
    let (text, padding) = padded.split_at(length);
    if padding.iter().any(|b| *b != 0) {
        return Err(FrameError);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(FrameError)
}

/// Reads fixed-width fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(FrameError)?;
        self.0 = rest;
        Ok(*field)
    }
}
