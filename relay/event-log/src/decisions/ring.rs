//! The rows of a decision log: batches under their sequence, and how far they were dropped.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `batches` | sequence, big-endian | the encoded batch |
//! | `dropped` | empty | the last sequence that was dropped |

use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::WriteBatch;
use schemas::Sequence;
use schemas::decision::DecisionBatch;

use super::StoredDecisions;
use crate::contract::{RUN_BYTES_MAX, RUN_RECORDS_MAX};
use crate::directory::{Directory, OpenError};
use crate::storage::{Damage, Rocks, StorageError, parse_sequence, sequence_bytes};

const BATCHES: &str = "batches";
const DROPPED: &str = "dropped";
const DROPPED_KEY: [u8; 0] = [];

pub(super) struct Ring {
    rocks: Rocks,
    /// The last sequence that was dropped; written by the writer thread. A read that begins after it need not pass what is deleted.
    dropped: AtomicU64,
}

/// What the rows hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) head: Sequence,
    pub(super) batches: u64,
    pub(super) bytes: u64,
}

/// What was dropped.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dropped {
    pub(super) batches: u64,
    pub(super) bytes: u64,
    pub(super) records: u64,
}

impl Ring {
    /// Opens the rows and reads them once: sequences follow on each other, from the one after those that were dropped.
    pub(super) fn open(directory: Directory) -> Result<(Self, Held), OpenError> {
        let mut held = Held { head: Sequence::ZERO, batches: 0, bytes: 0 };
        let mut dropped = Sequence::ZERO;
        let (rocks, _) = Rocks::open(directory, &[BATCHES, DROPPED], |rocks| {
            if let Some(row) = rocks.get(DROPPED, DROPPED_KEY)? {
                dropped = parse_sequence(&row, DROPPED)?;
            }
            held.head = dropped;
            let mut rows = rocks.scan(BATCHES);
            while let Some((key, value)) = rows.item() {
                let (expected, found) = (held.head.next(), parse_sequence(key, BATCHES)?);
                if found != expected {
                    return Err(Damage::Hole { expected, found }.into());
                }
                held = Held { head: found, batches: held.batches + 1, bytes: held.bytes + value.len() as u64 };
                rows.next();
            }
            rows.status()?;
            Ok(held.head)
        })?;
        Ok((Self { rocks, dropped: AtomicU64::new(dropped.0) }, held))
    }

    /// Adds a batch, durably, and drops at least `excess` bytes from the old end. The new one always stays.
    pub(super) fn add(&self, sequence: Sequence, bytes: &[u8], excess: u64) -> Result<Dropped, StorageError> {
        let mut rows = WriteBatch::default();
        self.rocks.put(&mut rows, BATCHES, sequence_bytes(sequence), bytes);
        let mut dropped = Dropped::default();
        let mut last = self.dropped();
        while dropped.bytes < excess && last.next() < sequence {
            last = last.next();
            self.drop_one(&mut rows, last, &mut dropped)?;
        }
        if dropped.batches > 0 {
            self.rocks.put(&mut rows, DROPPED, DROPPED_KEY, sequence_bytes(last));
        }
        self.rocks.write(rows, sequence)?;
        self.dropped.store(last.0, Ordering::Release);
        Ok(dropped)
    }

    /// Drops everything up to a sequence. A machine that crashes may find the last of it again.
    pub(super) fn trim(&self, to: Sequence) -> Result<Dropped, StorageError> {
        let (mut rows, mut dropped, mut last) = (WriteBatch::default(), Dropped::default(), self.dropped());
        while last < to {
            last = last.next();
            self.drop_one(&mut rows, last, &mut dropped)?;
        }
        if dropped.batches > 0 {
            self.rocks.put(&mut rows, DROPPED, DROPPED_KEY, sequence_bytes(last));
            self.rocks.write_unsynced(rows)?;
            self.dropped.store(last.0, Ordering::Release);
        }
        Ok(dropped)
    }

    fn drop_one(&self, rows: &mut WriteBatch, sequence: Sequence, dropped: &mut Dropped) -> Result<(), StorageError> {
        let row = self.rocks.get(BATCHES, sequence_bytes(sequence))?.ok_or(Damage::Disagreement { family: DROPPED })?;
        dropped.batches += 1;
        dropped.bytes += row.len() as u64;
        dropped.records += DecisionBatch::decode(&row).map_or(0, |batch| batch.records.len() as u64);
        self.rocks.delete(rows, BATCHES, sequence_bytes(sequence));
        Ok(())
    }

    /// One run of batches from a sequence on, `to` included.
    pub(super) fn range(&self, from: Sequence, to: Sequence) -> Result<Vec<StoredDecisions>, StorageError> {
        let mut rows = self.rocks.iterate(BATCHES);
        rows.seek(sequence_bytes(from.max(self.dropped().next())));
        let (mut run, mut bytes) = (Vec::new(), 0);
        while let Some((key, value)) = rows.item() {
            let sequence = parse_sequence(key, BATCHES)?;
            if sequence > to || run.len() >= RUN_RECORDS_MAX || bytes >= RUN_BYTES_MAX {
                break;
            }
            bytes += value.len();
            run.push(StoredDecisions { sequence, batch: DecisionBatch::decode(value) });
            rows.next();
        }
        rows.status()?;
        Ok(run)
    }

    /// The oldest batch, encoded.
    pub(super) fn oldest(&self) -> Result<Option<(Sequence, Vec<u8>)>, StorageError> {
        let mut rows = self.rocks.iterate(BATCHES);
        rows.seek(sequence_bytes(self.dropped().next()));
        let found = rows.item().map(|(key, value)| Ok::<_, Damage>((parse_sequence(key, BATCHES)?, value.to_vec()))).transpose()?;
        rows.status()?;
        Ok(found)
    }

    fn dropped(&self) -> Sequence {
        Sequence(self.dropped.load(Ordering::Acquire))
    }
}
