//! What is remembered, on disk.
//!
//! One family, `records`: the sequence, big-endian, leads to whether the record was acknowledged to us (1 byte), the length of its subject
//! (2 bytes, big-endian), the subject and the bytes. The rows need not be dense.

use bytes::Bytes;
use rocksdb::WriteBatch;
use schemas::Sequence;

use super::index::Print;
use crate::contract::{RUN_BYTES_MAX, Stored};
use crate::directory::{Directory, OpenError};
use crate::storage::{Damage, Rocks, StorageError, parse_sequence, sequence_bytes};

const RECORDS: &str = "records";

pub(super) struct Store {
    rocks: Rocks,
}

/// A record to remember.
pub(super) struct Row {
    pub(super) stored: Stored,
    /// Whether it was acknowledged to us.
    pub(super) is_own: bool,
}

impl Store {
    /// Opens the rows and reads all of them; also returns what they are, ascending, and whether each was acknowledged to us.
    pub(super) fn open(directory: Directory) -> Result<(Self, Vec<(Print, bool)>), OpenError> {
        let mut prints = Vec::new();
        let (rocks, _) = Rocks::open(directory, &[RECORDS], |rocks| {
            let mut rows = rocks.scan(RECORDS);
            while let Some((key, value)) = rows.item() {
                let row = parse(parse_sequence(key, RECORDS)?, value)?;
                prints.push((Print::of(&row.stored), row.is_own));
                rows.next();
            }
            rows.status()?;
            Ok(prints.last().map(|(print, _)| print.sequence).unwrap_or_default())
        })?;
        Ok((Self { rocks }, prints))
    }

    pub(super) fn put(&self, batch: &mut WriteBatch, row: &Row) {
        let Stored { sequence, subject, bytes } = &row.stored;
        let length = u16::try_from(subject.len()).expect("a subject has at most 255 bytes");
        let value = [&[u8::from(row.is_own)], length.to_be_bytes().as_slice(), subject.as_bytes(), bytes].concat();
        self.rocks.put(batch, RECORDS, sequence_bytes(*sequence), value);
    }

    pub(super) fn delete(&self, batch: &mut WriteBatch, sequence: Sequence) {
        self.rocks.delete(batch, RECORDS, sequence_bytes(sequence));
    }

    /// Commits a batch durably; `head` is the last sequence of all rows.
    pub(super) fn write(&self, batch: WriteBatch, head: Sequence) -> Result<(), StorageError> {
        self.rocks.write(batch, head)
    }

    /// Remembered records from a place on, at most one run of them. They need not be dense.
    pub(super) fn range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, StorageError> {
        let mut rows = self.rocks.iterate(RECORDS);
        rows.seek(sequence_bytes(from));
        let (mut run, mut bytes) = (Vec::new(), 0);
        while let (true, Some((key, value))) = (run.len() < limit && bytes < RUN_BYTES_MAX, rows.item()) {
            run.push(parse(parse_sequence(key, RECORDS)?, value)?.stored);
            bytes += value.len();
            rows.next();
        }
        rows.status()?;
        Ok(run)
    }
}

fn parse(sequence: Sequence, value: &[u8]) -> Result<Row, Damage> {
    let parts = || {
        let ([is_own], rest) = value.split_first_chunk::<1>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (subject, bytes) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let stored = Stored { sequence, subject: std::str::from_utf8(subject).ok()?.into(), bytes: Bytes::copy_from_slice(bytes) };
        Some(Row { stored, is_own: *is_own == 1 })
    };
    parts().ok_or(Damage::Row { family: RECORDS })
}
