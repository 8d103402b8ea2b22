//! The rows of the spool: those of a usage log, and what is left of the batches that were dropped.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `batches`, `numbers` | | as in the usage log |
//! | `shipped` | node, incarnation | number and digest of its last batch that was dropped, and where in the stream the next one follows |
//! | `dropped` | empty | the last sequence that was dropped |
//! | `refused` | sequence | the encoded batch that found another in its place of the stream |
//!
//! A row of `shipped` stays after its incarnation, which is a hundred bytes for each start of the process.

use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::WriteBatch;
use schemas::usage::UsageBatch;
use schemas::{Digest, Sequence};

use crate::directory::{Directory, OpenError};
use crate::storage::{Damage, Rocks, StorageError, parse_sequence, sequence_bytes};
use crate::usage::check::{self, Held};
use crate::usage::store::{BATCHES, NUMBERS, Origin, Store, number_key, parse_batch};

const SHIPPED: &str = "shipped";
const DROPPED: &str = "dropped";
const REFUSED: &str = "refused";
const DROPPED_KEY: [u8; 0] = [];

pub(super) struct SpoolStore {
    store: Store,
    /// The last sequence that was dropped; written by the writer thread.
    dropped: AtomicU64,
}

/// A batch that waits to be shipped.
#[derive(Debug, Clone)]
pub(in crate::usage) struct Waiting {
    pub(super) sequence: Sequence,
    pub(in crate::usage) batch: UsageBatch,
    /// As it is stored here and is to be stored there.
    pub(in crate::usage) bytes: Vec<u8>,
    /// The sequence in the stream that it follows on its subject, 0 if it is the first there.
    pub(in crate::usage) follows: u64,
}

impl Waiting {
    pub(super) fn origin(&self) -> Origin {
        (self.batch.node, self.batch.incarnation)
    }
}

/// What is known of the last batch of an origin that was dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shipped {
    pub(super) number: u64,
    /// Of its bytes.
    pub(super) digest: Digest,
    /// The sequence in the stream that the next one follows.
    pub(super) place: u64,
}

impl SpoolStore {
    /// Opens and checks the rows; also returns what they hold.
    pub(super) fn open(directory: Directory) -> Result<(Self, Held), OpenError> {
        let mut found = (Held { head: Sequence::ZERO, batches: 0, bytes: 0 }, Sequence::ZERO);
        let (store, _) = Store::open_with(directory, &[BATCHES, NUMBERS, SHIPPED, DROPPED, REFUSED], |rocks| {
            let dropped = match rocks.get(DROPPED, DROPPED_KEY)? {
                Some(row) => parse_sequence(&row, DROPPED)?,
                None => Sequence::ZERO,
            };
            let held = check::check(rocks, dropped, |origin| Ok(shipped(rocks, origin)?.map_or(0, |last| last.number)))?;
            found = (held, dropped);
            Ok(held.head)
        })?;
        let (held, dropped) = found;
        Ok((Self { store, dropped: AtomicU64::new(dropped.0) }, held))
    }

    pub(super) fn batches(&self) -> &Store {
        &self.store
    }

    pub(super) fn shipped(&self, origin: &Origin) -> Result<Option<Shipped>, StorageError> {
        shipped(self.store.rocks(), origin)
    }

    /// The oldest batch that waits.
    pub(super) fn oldest(&self) -> Result<Option<Waiting>, StorageError> {
        let sequence = Sequence(self.dropped.load(Ordering::Acquire)).next();
        let Some(row) = self.store.rocks().get(BATCHES, sequence_bytes(sequence))? else { return Ok(None) };
        let (bytes, batch) = (row.to_vec(), parse_batch(&row)?);
        let follows = self.shipped(&(batch.node, batch.incarnation))?.map_or(0, |last| last.place);
        Ok(Some(Waiting { sequence, batch, bytes, follows }))
    }

    /// Drops the oldest batch. The next one of its origin follows `place` in the stream.
    pub(super) fn drop_oldest(&self, waiting: &Waiting, place: u64) -> Result<(), StorageError> {
        self.store.rocks().write_unsynced(self.dropping(waiting, place))?;
        self.dropped.store(waiting.sequence.0, Ordering::Release);
        Ok(())
    }

    /// As [`SpoolStore::drop_oldest`], but the batch is kept aside, durably.
    pub(super) fn refuse_oldest(&self, waiting: &Waiting, place: u64, head: Sequence) -> Result<(), StorageError> {
        let mut rows = self.dropping(waiting, place);
        self.store.rocks().put(&mut rows, REFUSED, sequence_bytes(waiting.sequence), &waiting.bytes);
        self.store.write(rows, head)?;
        self.dropped.store(waiting.sequence.0, Ordering::Release);
        Ok(())
    }

    fn dropping(&self, waiting: &Waiting, place: u64) -> WriteBatch {
        let (rocks, origin) = (self.store.rocks(), waiting.origin());
        let shipped = Shipped { number: waiting.batch.number, digest: Digest::blake3(&waiting.bytes), place };
        let mut rows = WriteBatch::default();
        rocks.delete(&mut rows, BATCHES, sequence_bytes(waiting.sequence));
        rocks.delete(&mut rows, NUMBERS, number_key(&origin, waiting.batch.number));
        rocks.put(&mut rows, SHIPPED, origin_key(&origin), shipped.to_bytes());
        rocks.put(&mut rows, DROPPED, DROPPED_KEY, sequence_bytes(waiting.sequence));
        rows
    }
}

fn shipped(rocks: &Rocks, origin: &Origin) -> Result<Option<Shipped>, StorageError> {
    let Some(row) = rocks.get(SHIPPED, origin_key(origin))? else { return Ok(None) };
    Ok(Some(Shipped::parse(&row).ok_or(Damage::Row { family: SHIPPED })?))
}

fn origin_key((node, incarnation): &Origin) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(node.as_bytes());
    key[16..].copy_from_slice(incarnation.as_bytes());
    key
}

impl Shipped {
    fn to_bytes(self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.place.to_be_bytes());
        bytes[16..].copy_from_slice(self.digest.as_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (place, digest) = rest.split_first_chunk::<8>()?;
        let digest = Digest::from_bytes(digest.try_into().ok()?);
        Some(Self { number: u64::from_be_bytes(*number), place: u64::from_be_bytes(*place), digest })
    }
}
