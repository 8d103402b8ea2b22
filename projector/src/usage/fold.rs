//! The fold of usage batches into sums.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use event_log::usage::StoredBatch;
use schemas::usage::UsageRecord;
use schemas::{KeyId, RequestId, Sequence, TenantId, Timestamp};
use thiserror::Error;

use super::rows::{
    Dimension, EVER, FAMILIES, GAPS, GapFinding, INCARNATIONS, KEY_CLIENTS, KEY_DAYS, KEY_MODELS, KEY_SECRETS, KEYS_BY_USE, META, RECENT,
    REQUEST_RING, REQUESTS, TALLIES, TOTALS, Totals, UsagePosition, VOIDS, of_client, of_incarnation, of_key, of_request, of_ring,
    of_sequence, of_use, position_key, totals_key,
};
use super::tally::{Recent, Served, Tally, UsageScope, has_tokens, recent_key, tally_key};
use crate::memory::Memory;
use crate::store::{Batch, CommitError, Family, ReadError, Store};

/// Why usage was not folded. Nothing of the run is in the rows.
#[derive(Debug, Error)]
pub enum UsageFoldError {
    #[error("the usage stream gave sequence {found} where {expected} was due")]
    Gap { expected: Sequence, found: Sequence },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The one writer of the usage models.
pub(crate) struct UsageFolder {
    store: Arc<Store>,
    position: UsagePosition,
}

/// Rows under change, over what the store holds.
struct Draft<'a> {
    store: &'a Store,
    batch: Batch<'a>,
    position: UsagePosition,
    totals: BTreeMap<(Family, Vec<u8>), Totals>,
    tallies: BTreeMap<Vec<u8>, Tally>,
    recent: BTreeMap<Vec<u8>, Recent>,
    incarnations: BTreeMap<Vec<u8>, u64>,
    /// When keys that were used had been used last before.
    used_before: BTreeMap<(TenantId, KeyId), Option<Timestamp>>,
    /// By number of the request. One run may go round the ring, so that only the last of a slot counts.
    requests: BTreeMap<u64, &'a UsageRecord>,
}

impl UsageFolder {
    pub(crate) fn open(path: &std::path::Path, memory: &Memory) -> Result<Self, ReadError> {
        let store = Arc::new(Store::open(path, FAMILIES, memory)?);
        let position = store.get(META, &position_key())?.unwrap_or_default();
        Ok(Self { store, position })
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn position(&self) -> UsagePosition {
        self.position
    }

    /// Folds a run into one batch and commits it. What lies at or below the position is passed over.
    pub(crate) fn fold(&mut self, run: &[StoredBatch]) -> Result<(), UsageFoldError> {
        let (totals, tallies, recent, incarnations, used_before, requests) = Default::default();
        let (store, batch) = (&*self.store, self.store.batch());
        let mut draft = Draft { store, batch, position: self.position, totals, tallies, recent, incarnations, used_before, requests };
        for stored in run.iter().filter(|stored| stored.sequence > self.position.sequence) {
            let expected = draft.position.sequence.next();
            if stored.sequence != expected {
                return Err(UsageFoldError::Gap { expected, found: stored.sequence });
            }
            draft.add(stored)?;
        }
        if draft.position != self.position {
            self.position = draft.commit()?;
        }
        Ok(())
    }
}

impl<'a> Draft<'a> {
    fn add(&mut self, stored: &'a StoredBatch) -> Result<(), ReadError> {
        let StoredBatch { sequence, batch } = stored;
        self.position.sequence = *sequence;
        // Written down and passed: what follows it counts. If a batch stood here, its number is missing, which is a gap of its own.
        let batch = match batch {
            Ok(batch) => batch,
            Err(void) => {
                tracing::error!(sequence = sequence.0, reason = %void, "something in the usage stream is not counted");
                self.position.voids += 1;
                self.batch.put(VOIDS, &of_sequence(*sequence), void);
                return Ok(());
            }
        };
        let origin = of_incarnation(batch.node, batch.incarnation);
        let last = match self.incarnations.get(&origin) {
            Some(last) => *last,
            None => self.store.get(INCARNATIONS, &origin)?.unwrap_or(0),
        };
        if batch.number <= last {
            self.position.repeats += 1;
            return Ok(());
        }
        let (expected, found) = (last + 1, batch.number);
        if found > expected {
            self.position.gaps += found - expected;
            let gap = GapFinding { node: batch.node, incarnation: batch.incarnation, expected, found };
            tracing::error!(node = %gap.node, incarnation = %gap.incarnation, expected, found, "usage batches are missing");
            self.batch.put(GAPS, &of_sequence(*sequence), &gap);
        }
        self.incarnations.insert(origin, found);
        batch.records.iter().try_for_each(|record| self.count(record))
    }

    fn count(&mut self, record: &'a UsageRecord) -> Result<(), ReadError> {
        // Day 0 is the row over all days; a clock that stood in 1970 is counted on the day after.
        let (tenant, key, day) = (&record.tenant, record.key, record.settled_at.day().max(1));
        let model = record.model_requested.as_bytes();
        self.note_use(tenant, key)?;
        for day in [EVER, day] {
            self.count_in(TOTALS, totals_key(tenant, Dimension::Key, day, key.as_bytes()), record)?;
            self.count_in(TOTALS, totals_key(tenant, Dimension::Model, day, model), record)?;
            self.count_in(TOTALS, totals_key(tenant, Dimension::Upstream, day, record.upstream.as_bytes()), record)?;
        }
        self.count_in(TOTALS, totals_key(tenant, Dimension::Day, day, &[]), record)?;
        self.count_in(KEY_DAYS, of_key(tenant, key, &day.to_be_bytes()), record)?;
        self.count_in(KEY_MODELS, of_key(tenant, key, model), record)?;
        self.count_in(KEY_SECRETS, of_key(tenant, key, &record.secret_number.to_be_bytes()), record)?;
        if let Some(class) = record.client {
            self.count_in(KEY_CLIENTS, of_client(tenant, key, record.secret_number, class), record)?;
        }
        self.tally(record, day)?;
        self.position.requests += 1;
        self.requests.insert(self.position.requests, record);
        Ok(())
    }

    fn count_in(&mut self, family: Family, key: Vec<u8>, record: &UsageRecord) -> Result<(), ReadError> {
        let store = self.store;
        row(&mut self.totals, (family, key), |(family, key)| store.get(family, key))?.count(record);
        Ok(())
    }

    fn note_use(&mut self, tenant: &TenantId, key: KeyId) -> Result<(), ReadError> {
        if let Entry::Vacant(entry) = self.used_before.entry((tenant.clone(), key)) {
            let stored = self.store.get::<Totals>(TOTALS, &totals_key(tenant, Dimension::Key, EVER, key.as_bytes()))?;
            entry.insert(stored.map(|totals| totals.last_used));
        }
        Ok(())
    }

    /// Counts in the sums that can be priced.
    fn tally(&mut self, record: &UsageRecord, day: u32) -> Result<(), ReadError> {
        let (store, tenant, served) = (self.store, &record.tenant, Served::of_recent(record));
        for scope in [UsageScope::Tenant, UsageScope::Key(record.key)] {
            row(&mut self.recent, recent_key(tenant, scope, &served), |key| store.get(RECENT, key))?.count(record);
        }
        if !has_tokens(&record.tokens) {
            return Ok(());
        }
        let tally = Tally::of(record);
        for day in [EVER, day] {
            for (dimension, member) in [(Dimension::Key, &record.key.as_bytes()[..]), (Dimension::Day, &[])] {
                let key = tally_key(tenant, dimension, day, member, &served);
                row(&mut self.tallies, key, |key| store.get(TALLIES, key))?.add(&tally);
            }
        }
        Ok(())
    }

    fn commit(mut self) -> Result<UsagePosition, UsageFoldError> {
        for ((family, key), totals) in &self.totals {
            self.batch.put(family, key, totals);
        }
        for ((tenant, id), before) in &self.used_before {
            let after = self.totals.get(&(TOTALS, totals_key(tenant, Dimension::Key, EVER, id.as_bytes()))).map(|totals| totals.last_used);
            if let Some(at) = before.filter(|_| *before != after) {
                self.batch.delete(KEYS_BY_USE, &of_use(tenant, at, *id));
            }
            if let Some(at) = after {
                self.batch.put(KEYS_BY_USE, &of_use(tenant, at, *id), &());
            }
        }
        for (key, tally) in &self.tallies {
            self.batch.put(TALLIES, key, tally);
        }
        for (key, recent) in &self.recent {
            self.batch.put(RECENT, key, recent);
        }
        for (origin, last) in &self.incarnations {
            self.batch.put(INCARNATIONS, origin, last);
        }
        // In order of number: a later request takes the slot, and the row, of the one a full ring before it.
        for (number, record) in &self.requests {
            let slot = of_ring(*number);
            if let Some(old) = self.store.get::<RequestId>(REQUEST_RING, &slot)? {
                self.batch.delete(REQUESTS, &of_request(&old));
            }
            self.batch.put(REQUEST_RING, &slot, &record.request);
            self.batch.put(REQUESTS, &of_request(&record.request), record);
        }
        self.batch.put(META, &position_key(), &self.position);
        self.batch.commit()?;
        Ok(self.position)
    }
}

/// A row under change, as it is in the store where it was not changed yet.
fn row<K: Ord, T: Default>(
    rows: &mut BTreeMap<K, T>,
    key: K,
    stored: impl FnOnce(&K) -> Result<Option<T>, ReadError>,
) -> Result<&mut T, ReadError> {
    Ok(match rows.entry(key) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let stored = stored(entry.key())?.unwrap_or_default();
            entry.insert(stored)
        }
    })
}
