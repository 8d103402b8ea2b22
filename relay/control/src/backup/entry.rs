//! Entries of the parts: how each is spelt, and back. None is what stands for bytes that no release up to this one writes.
//!
//! Batches of usage and of decisions stand as they are encoded in their streams.

use event_log::artefacts::ArtefactKind;
use schemas::Digest;
use vault::{Entry, Slot};

const SEALED: u8 = b's';
const WRAPPED: u8 = b'k';
const POLICY_MODULE: u8 = b'p';

/// A record: the length of its subject (2 bytes, big-endian), the subject, the record. Its sequence is its place.
pub fn of_record(subject: &str, record: &[u8]) -> Vec<u8> {
    with_length(&[], subject.as_bytes(), record)
}

pub fn record(entry: &[u8]) -> Option<(&str, &[u8])> {
    let (subject, record) = split_length(entry)?;
    Some((std::str::from_utf8(subject).ok()?, record))
}

/// An entry of the key store: which of the two kinds it is, the length of the slot (2 bytes, big-endian), the slot, the bytes.
pub fn of_key(kind: Entry, slot: &Slot, bytes: &[u8]) -> Vec<u8> {
    let kind = match kind {
        Entry::Sealed => SEALED,
        Entry::Wrapped => WRAPPED,
    };
    with_length(&[kind], &slot.encode(), bytes)
}

pub fn key(entry: &[u8]) -> Option<(Entry, Slot, &[u8])> {
    let (kind, rest) = entry.split_first()?;
    let kind = match *kind {
        SEALED => Entry::Sealed,
        WRAPPED => Entry::Wrapped,
        _ => return None,
    };
    let (slot, bytes) = split_length(rest)?;
    Some((kind, Slot::decode(slot)?, bytes))
}

/// An artefact: its kind, its digest, its bytes.
pub fn of_artefact(kind: ArtefactKind, digest: &Digest, bytes: &[u8]) -> Vec<u8> {
    let ArtefactKind::PolicyModule = kind;
    [&[POLICY_MODULE], digest.as_bytes().as_slice(), bytes].concat()
}

/// Whether the bytes have the digest is not looked at here.
pub fn artefact(entry: &[u8]) -> Option<(ArtefactKind, Digest, &[u8])> {
    let (digest, bytes) = entry.strip_prefix(&[POLICY_MODULE])?.split_first_chunk::<32>()?;
    Some((ArtefactKind::PolicyModule, Digest::from_bytes(*digest), bytes))
}

fn with_length(before: &[u8], name: &[u8], bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("subjects and slots have a few hundred bytes at most");
    [before, &length.to_be_bytes(), name, bytes].concat()
}

fn split_length(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = entry.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
