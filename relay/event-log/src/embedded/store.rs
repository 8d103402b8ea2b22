//! The rows of the embedded log.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `records` | sequence, big-endian | length of the subject (2 bytes, big-endian), subject, bytes |
//! | `index` | subject, 0x00, sequence, big-endian | nothing |
//! | `heads` | subject | last sequence on it, big-endian |
//!
//! The last two follow from the first; one batch writes all three.

use bytes::Bytes;
use rocksdb::WriteBatch;
use schemas::Sequence;

use super::check;
use crate::contract::{RUN_BYTES_MAX, RUN_RECORDS_MAX, Stored};
use crate::directory::{Directory, OpenError};
use crate::storage::{Damage, Rocks, StorageError, parse_sequence, sequence_bytes};

pub(super) const RECORDS: &str = "records";
pub(super) const INDEX: &str = "index";
pub(super) const HEADS: &str = "heads";

pub(super) struct Store {
    rocks: Rocks,
}

impl Store {
    /// Opens and checks the rows; also returns the last sequence.
    pub(super) fn open(directory: Directory) -> Result<(Self, Sequence), OpenError> {
        let (rocks, head) = Rocks::open(directory, &[RECORDS, INDEX, HEADS], check::check)?;
        Ok((Self { rocks }, head))
    }

    pub(super) fn put(&self, batch: &mut WriteBatch, sequence: Sequence, subject: &str, bytes: &[u8]) {
        let sequence = sequence_bytes(sequence);
        let length = u16::try_from(subject.len()).expect("a subject has at most 255 bytes");
        let value = [&length.to_be_bytes(), subject.as_bytes(), bytes].concat();
        self.rocks.put(batch, RECORDS, sequence, value);
        self.rocks.put(batch, INDEX, index_key(subject, sequence), []);
        self.rocks.put(batch, HEADS, subject, sequence);
    }

    /// Commits a batch whose last record is `head`, durably.
    pub(super) fn write(&self, batch: WriteBatch, head: Sequence) -> Result<(), StorageError> {
        self.rocks.write(batch, head)
    }

    pub(super) fn last(&self, subject: &str) -> Result<Sequence, StorageError> {
        let row = self.rocks.get(HEADS, subject)?;
        Ok(row.map(|row| parse_sequence(&row, HEADS)).transpose()?.unwrap_or_default())
    }

    /// One run of records from a sequence on, `to` included.
    pub(super) fn range(&self, from: Sequence, to: Sequence, limit: usize) -> Result<Vec<Stored>, StorageError> {
        let mut rows = self.rocks.iterate(RECORDS);
        rows.seek(sequence_bytes(from));
        let mut run = Run::new(limit);
        while let (false, Some((key, value))) = (run.is_full(), rows.item()) {
            let sequence = parse_sequence(key, RECORDS)?;
            if sequence > to {
                break;
            }
            run.push(parse_record(sequence, value)?);
            rows.next();
        }
        rows.status()?;
        Ok(run.records)
    }

    /// One run of the records on a subject after a sequence, up to `to`.
    pub(super) fn on_subject(&self, subject: &str, after: Sequence, to: Sequence, limit: usize) -> Result<Vec<Stored>, StorageError> {
        let mut rows = self.rocks.iterate(INDEX);
        let from = Sequence(after.0.saturating_add(1));
        rows.seek(index_key(subject, sequence_bytes(from)));
        let mut run = Run::new(limit);
        while let (false, Some(key)) = (run.is_full(), rows.key()) {
            let (found, sequence) = parse_index_key(key)?;
            if found != subject || sequence > to {
                break;
            }
            let value = self.rocks.get(RECORDS, sequence_bytes(sequence))?.ok_or(Damage::Disagreement { family: INDEX })?;
            run.push(parse_record(sequence, &value)?);
            rows.next();
        }
        rows.status()?;
        Ok(run.records)
    }
}

/// A run under way, see [`RUN_RECORDS_MAX`] and [`RUN_BYTES_MAX`].
struct Run {
    records: Vec<Stored>,
    bytes: usize,
    limit: usize,
}

impl Run {
    fn new(limit: usize) -> Self {
        Self { records: Vec::new(), bytes: 0, limit: limit.min(RUN_RECORDS_MAX) }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= self.limit || self.bytes >= RUN_BYTES_MAX
    }

    fn push(&mut self, record: Stored) {
        self.bytes += record.bytes.len();
        self.records.push(record);
    }
}

fn index_key(subject: &str, sequence: [u8; 8]) -> Vec<u8> {
    [subject.as_bytes(), &[0], &sequence].concat()
}

/// The inverse of [`index_key`].
pub(super) fn parse_index_key(key: &[u8]) -> Result<(&str, Sequence), Damage> {
    let damage = Damage::Row { family: INDEX };
    let (subject, sequence) = key.split_last_chunk::<8>().ok_or(damage.clone())?;
    let subject = subject.strip_suffix(&[0]).and_then(|subject| std::str::from_utf8(subject).ok()).ok_or(damage)?;
    Ok((subject, Sequence(u64::from_be_bytes(*sequence))))
}

/// The subject and the bytes of a row of `records`.
pub(super) fn parse_value(value: &[u8]) -> Result<(&str, &[u8]), Damage> {
    let parts = || {
        let (length, rest) = value.split_first_chunk::<2>()?;
        let (subject, bytes) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        Some((std::str::from_utf8(subject).ok()?, bytes))
    };
    parts().ok_or(Damage::Row { family: RECORDS })
}

fn parse_record(sequence: Sequence, value: &[u8]) -> Result<Stored, Damage> {
    let (subject, bytes) = parse_value(value)?;
    Ok(Stored { sequence, subject: subject.into(), bytes: Bytes::copy_from_slice(bytes) })
}
