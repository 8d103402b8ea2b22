//! The fold of decision batches into rows, and the dropping of the oldest.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_log::decisions::StoredDecisions;
use schemas::Sequence;
use schemas::decision::DecisionBatch;
use thiserror::Error;

use super::rows::{
    DecisionBounds, DecisionPosition, DecisionRow, FAMILIES, INCARNATIONS, META, RECORDS, RING, RingRow, index_keys, of_incarnation,
    of_ring, place, position_key, record_key,
};
use crate::memory::Memory;
use crate::store::{Batch, CommitError, ReadError, Store};

/// The most decisions that are dropped in one batch of rows.
const DROPS_MAX: u64 = 4096;

/// Why decisions were not folded. Nothing of the run is in the rows.
#[derive(Debug, Error)]
pub enum DecisionFoldError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The one writer of the decision models.
pub(crate) struct DecisionFolder {
    store: Arc<Store>,
    position: DecisionPosition,
    bounds: DecisionBounds,
}

/// Rows under change, over what the store holds.
struct Draft<'a> {
    store: &'a Store,
    batch: Batch<'a>,
    position: DecisionPosition,
    incarnations: BTreeMap<Vec<u8>, u64>,
}

impl DecisionFolder {
    pub(crate) fn open(path: &std::path::Path, memory: &Memory, bounds: DecisionBounds) -> Result<Self, ReadError> {
        let store = Arc::new(Store::open(path, FAMILIES, memory)?);
        let position = store.get(META, &position_key())?.unwrap_or_default();
        Ok(Self { store, position, bounds })
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn position(&self) -> DecisionPosition {
        self.position
    }

    /// Begins at the first place of a stream that has begun anew. The numbers still tell what was folded before.
    pub(crate) fn begin_anew(&mut self) -> Result<(), DecisionFoldError> {
        let mut batch = self.store.batch();
        let position = DecisionPosition { sequence: Sequence::ZERO, ..self.position };
        batch.put(META, &position_key(), &position);
        batch.commit()?;
        self.position = position;
        Ok(())
    }

    /// Folds a run into one batch and commits it, then drops what is too much. What lies at or below the position is passed over.
    pub(crate) fn fold(&mut self, run: &[StoredDecisions]) -> Result<(), DecisionFoldError> {
        let batch = self.store.batch();
        let mut draft = Draft { store: &self.store, batch, position: self.position, incarnations: BTreeMap::new() };
        for stored in run.iter().filter(|stored| stored.sequence > self.position.sequence) {
            draft.add(stored)?;
        }
        if draft.position != self.position {
            self.position = draft.commit()?;
        }
        while self.is_too_much() {
            self.position = self.drop_oldest()?;
        }
        Ok(())
    }

    fn is_too_much(&self) -> bool {
        let DecisionPosition { last, dropped, bytes, .. } = self.position;
        last - dropped > self.bounds.records || (bytes > self.bounds.bytes && last > dropped)
    }

    fn drop_oldest(&self) -> Result<DecisionPosition, DecisionFoldError> {
        let (mut batch, mut position) = (self.store.batch(), self.position);
        let DecisionBounds { records, bytes } = self.bounds;
        for _ in 0..DROPS_MAX {
            if position.last - position.dropped <= records && position.bytes <= bytes {
                break;
            }
            position.dropped += 1;
            let (number, ring) = (position.dropped, of_ring(position.dropped));
            let Some(RingRow { tenant, at, bytes }) = self.store.get(RING, &ring)? else { break };
            position.bytes = position.bytes.saturating_sub(bytes);
            batch.delete(RING, &ring);
            let place = place(at, number);
            let key = record_key(&tenant, &place);
            if let Some(DecisionRow { record, .. }) = self.store.get(RECORDS, &key)? {
                index_keys(&record, &place).iter().for_each(|(family, key)| batch.delete(family, key));
            }
            batch.delete(RECORDS, &key);
        }
        batch.put(META, &position_key(), &position);
        batch.commit()?;
        Ok(position)
    }
}

impl Draft<'_> {
    fn add(&mut self, stored: &StoredDecisions) -> Result<(), ReadError> {
        self.position.sequence = stored.sequence;
        let Some(batch) = &stored.batch else {
            tracing::warn!(sequence = stored.sequence.0, "something in the decision stream is no batch of decisions");
            self.position.voids += 1;
            return Ok(());
        };
        let origin = of_incarnation(batch.node, batch.incarnation);
        let last = match self.incarnations.get(&origin) {
            Some(last) => Some(*last),
            None => self.store.get(INCARNATIONS, &origin)?,
        };
        if last.is_some_and(|last| batch.number <= last) {
            self.position.repeats += 1;
            return Ok(());
        }
        // Of an incarnation that was not seen yet, what came before the bound of the stream dropped it is not known.
        self.position.missing += last.map_or(0, |last| batch.number - last - 1);
        self.incarnations.insert(origin, batch.number);
        self.keep(stored.sequence, batch);
        Ok(())
    }

    fn keep(&mut self, sequence: Sequence, batch: &DecisionBatch) {
        for (record, index) in batch.records.iter().zip(0..) {
            self.position.last += 1;
            let bytes = record.bytes() as u64;
            self.position.bytes += bytes;
            let (number, place) = (self.position.last, place(record.at, self.position.last));
            let row = DecisionRow { sequence, index, node: batch.node, record: record.clone() };
            self.batch.put(RECORDS, &record_key(&record.tenant, &place), &row);
            index_keys(record, &place).iter().for_each(|(family, key)| self.batch.put(family, key, &()));
            self.batch.put(RING, &of_ring(number), &RingRow { tenant: record.tenant.clone(), at: record.at, bytes });
        }
    }

    fn commit(mut self) -> Result<DecisionPosition, DecisionFoldError> {
        for (origin, last) in &self.incarnations {
            self.batch.put(INCARNATIONS, origin, last);
        }
        self.batch.put(META, &position_key(), &self.position);
        self.batch.commit()?;
        Ok(self.position)
    }
}
