//! The rows of the usage log.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `batches` | sequence, big-endian | the encoded batch |
//! | `numbers` | node, incarnation, number, big-endian | its sequence, big-endian |

use rocksdb::WriteBatch;
use schemas::usage::UsageBatch;
use schemas::{IncarnationId, Sequence, WriterId};

use super::{StoredBatch, check};
use crate::contract::{RUN_BYTES_MAX, RUN_RECORDS_MAX};
use crate::directory::{Directory, OpenError};
use crate::storage::{Damage, Rocks, StorageError, parse_sequence, sequence_bytes};

pub(super) const BATCHES: &str = "batches";
pub(super) const NUMBERS: &str = "numbers";

/// Who numbers the batches.
pub(super) type Origin = (WriterId, IncarnationId);

pub(super) struct Store {
    rocks: Rocks,
}

impl Store {
    /// Opens and checks the rows; also returns the last sequence.
    pub(super) fn open(directory: Directory) -> Result<(Self, Sequence), OpenError> {
        Self::open_with(directory, &[BATCHES, NUMBERS], |rocks| Ok(check::check(rocks, Sequence::ZERO, |_| Ok(0))?.head))
    }

    /// As [`Store::open`], with further families and another check, which gives the last sequence.
    pub(super) fn open_with(
        directory: Directory,
        families: &[&str],
        check: impl FnOnce(&Rocks) -> Result<Sequence, StorageError>,
    ) -> Result<(Self, Sequence), OpenError> {
        let (rocks, head) = Rocks::open(directory, families, check)?;
        Ok((Self { rocks }, head))
    }

    pub(super) fn rocks(&self) -> &Rocks {
        &self.rocks
    }

    pub(super) fn put(&self, rows: &mut WriteBatch, sequence: Sequence, origin: &Origin, number: u64, bytes: &[u8]) {
        let sequence = sequence_bytes(sequence);
        self.rocks.put(rows, BATCHES, sequence, bytes);
        self.rocks.put(rows, NUMBERS, number_key(origin, number), sequence);
    }

    /// Commits rows whose last sequence is `head`, durably.
    pub(super) fn write(&self, rows: WriteBatch, head: Sequence) -> Result<(), StorageError> {
        self.rocks.write(rows, head)
    }

    /// The last number of an origin, 0 if it has none.
    pub(super) fn last_number(&self, origin: &Origin) -> Result<u64, StorageError> {
        let mut rows = self.rocks.iterate(NUMBERS);
        rows.seek_for_prev(number_key(origin, u64::MAX));
        let last = rows.key().map(parse_number_key).transpose()?;
        rows.status()?;
        Ok(last.filter(|(found, _)| found == origin).map_or(0, |(_, number)| number))
    }

    /// The bytes of the batch with this number.
    pub(super) fn find(&self, origin: &Origin, number: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(sequence) = self.rocks.get(NUMBERS, number_key(origin, number))? else { return Ok(None) };
        let bytes = self.rocks.get(BATCHES, &sequence)?.ok_or(Damage::Disagreement { family: NUMBERS })?;
        Ok(Some(bytes.to_vec()))
    }

    /// One run of batches from a sequence on, `to` included.
    pub(super) fn range(&self, from: Sequence, to: Sequence, limit: usize) -> Result<Vec<StoredBatch>, StorageError> {
        let mut rows = self.rocks.iterate(BATCHES);
        rows.seek(sequence_bytes(from));
        let (mut run, mut bytes) = (Vec::new(), 0);
        while let Some((key, value)) = rows.item() {
            let sequence = parse_sequence(key, BATCHES)?;
            if sequence > to || run.len() >= limit.min(RUN_RECORDS_MAX) || bytes >= RUN_BYTES_MAX {
                break;
            }
            bytes += value.len();
            run.push(StoredBatch { sequence, batch: Ok(parse_batch(value)?) });
            rows.next();
        }
        rows.status()?;
        Ok(run)
    }
}

pub(super) fn parse_batch(value: &[u8]) -> Result<UsageBatch, Damage> {
    UsageBatch::decode(value).ok_or(Damage::Row { family: BATCHES })
}

pub(super) fn number_key((node, incarnation): &Origin, number: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..16].copy_from_slice(node.as_bytes());
    key[16..32].copy_from_slice(incarnation.as_bytes());
    key[32..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The inverse of [`number_key`].
pub(super) fn parse_number_key(key: &[u8]) -> Result<(Origin, u64), Damage> {
    let parts = || {
        let (node, rest) = key.split_first_chunk::<16>()?;
        let (incarnation, number) = rest.split_first_chunk::<16>()?;
        let origin = (WriterId::from_bytes(*node), IncarnationId::from_bytes(*incarnation));
        Some((origin, u64::from_be_bytes(number.try_into().ok()?)))
    };
    parts().ok_or(Damage::Row { family: NUMBERS })
}
