//! The read side: cheap to clone, synchronous, never waiting for the fold.

mod cache;
mod freshness;
mod policies;
mod prefix;
mod routes;
mod status;
mod view;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use schemas::aggregate::Head;
use schemas::key::Key;
use schemas::pool::Pool;
use schemas::upstream::Upstream;
use schemas::writer::Writer;
use schemas::{
    Aggregate, CommandId, Digest, KeyId, PoolId, Sequence, Stream, StreamKind, TenantId, Timestamp, UpstreamId, Version, VoidReason,
    WriterId,
};
use tokio::sync::watch;

pub(crate) use freshness::{Freshness, HEARTBEAT, Moment};
pub use policies::Policies;
pub use prefix::CommittedPrefix;
pub use routes::{Route, Routes};
pub use status::{State, Status};
pub(crate) use view::{Shared, Snapshots, View};
pub use whole::Whole;

use crate::fold::SeenFinding;
use crate::fold::rows::{
    AGGREGATES, COMMANDS, CommandRow, FINDINGS, KEYS_BY_EXPIRY, KEYS_BY_HASH, KEYS_BY_ROTATION, StreamRow, VOIDS, of_command, of_expiry,
    of_hash, of_sequence,
};
use crate::store::{Family, ReadError, Row, key};

/// A place in the log and the Merkle root of everything up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub sequence: Sequence,
    pub root: Digest,
}

/// A state and the version that a change to it expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    pub value: T,
    pub version: Version,
}

/// The read models in use, whichever those are: a switch to a rebuilt one needs nothing from readers.
///
/// Reads may touch the disk. Single rows take microseconds; lists and [`ReadModels::dump`] belong in `spawn_blocking`.
#[derive(Clone)]
pub struct ReadModels {
    shared: Arc<Shared>,
}

impl ReadModels {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The model in use and its position.
    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.shared.view()
    }

    /// What was last announced. Everything up to it is seen by every read that begins now: it is the `as_of` of an answer if
    /// it was taken before the rows were read.
    pub fn position(&self) -> Position {
        self.shared.view().position
    }

    /// The announced sequence and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Sequence> {
        self.shared.subscribe()
    }

    /// Waits until a sequence was announced; false if that takes longer than `patience`.
    pub async fn wait_for(&self, sequence: Sequence, patience: Duration) -> bool {
        let mut announced = self.shared.subscribe();
        tokio::time::timeout(patience, announced.wait_for(|at| *at >= sequence)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// How the fold stands.
    pub fn status(&self) -> Status {
        let (view, head) = (self.shared.view(), self.shared.head());
        let (position, counts) = (view.position, view.counts);
        let lag = head.0.saturating_sub(position.sequence.0);
        Status { state: self.shared.state(), position, head, lag, staleness: self.staleness(), counts, version: crate::VERSION }
    }

    /// The state of the fold and its changes.
    pub fn states(&self) -> watch::Receiver<State> {
        self.shared.states()
    }

    /// How long ago the rows were last known to hold all that the log held, this process and earlier ones together: zero while the log answers
    /// and the rows keep up, [`Duration::MAX`] if they never were level. Cheap enough for every request.
    pub fn staleness(&self) -> Duration {
        self.shared.freshness.staleness()
    }

    /// An aggregate and what the next append to its stream expects.
    pub fn load(&self, stream: &Stream) -> Result<(Option<Aggregate>, Head), ReadError> {
        let row = self.shared.view().store.get::<StreamRow>(AGGREGATES, &key::of_stream(stream))?.unwrap_or_default();
        Ok((row.aggregate, row.head))
    }

    /// What became of a command in the last 30 days.
    pub fn command(&self, id: &CommandId) -> Result<Option<CommandRow>, ReadError> {
        self.shared.view().store.get(COMMANDS, &of_command(id))
    }

    /// The key that has, or had, a secret with this hash. Whether that secret is still good is the key's to say.
    ///
    /// The hot path. Only hashes of a key's present secrets are cached, since those are the ones a change of the key invalidates.
    pub fn key_by_hash(&self, hash: &Digest) -> Result<Option<Arc<Key>>, ReadError> {
        if let Some(key) = self.shared.cache.get(hash) {
            return Ok(Some(key));
        }
        let view = self.shared.view();
        let mark = view.mark();
        let Some(stream) = view.store.get::<Stream>(KEYS_BY_HASH, &of_hash(hash))? else { return Ok(None) };
        let row = view.store.get::<StreamRow>(AGGREGATES, &key::of_stream(&stream))?;
        let Some(StreamRow { aggregate: Some(Aggregate::Key(key)), .. }) = row else {
            return Err(ReadError::Row { family: KEYS_BY_HASH });
        };
        // The two rows may be of two batches, with a purge between them.
        if key.is_purged() {
            return Ok(None);
        }
        let key: Arc<Key> = Arc::from(key);
        #[cfg(feature = "faults")]
        view.store.faults.pause_before_insert();
        if key.secrets.iter().any(|secret| secret.hash == *hash) {
            #[cfg(feature = "faults")]
            if view.store.faults.keeps_stale_inserts() {
                self.shared.cache.insert_unchecked(*hash, Arc::clone(&key));
            }
            self.shared.cache.insert(*hash, Arc::clone(&key), mark);
        }
        Ok(Some(key))
    }

    pub fn key(&self, tenant: &TenantId, id: KeyId) -> Result<Option<Versioned<Key>>, ReadError> {
        let (aggregate, Head { version, .. }) = self.load(&Stream::key(tenant.clone(), id))?;
        Ok(aggregate.and_then(as_key).map(|value| Versioned { value, version }))
    }

    /// A tenant's keys in the order of their ids, revoked and archived ones included, purged ones not.
    pub fn keys(&self, tenant: &TenantId, after: Option<KeyId>, limit: usize) -> Result<Vec<Versioned<Key>>, ReadError> {
        let after = after.map(|id| Stream::key(tenant.clone(), id));
        self.page(tenant, StreamKind::Key, after.as_ref(), limit, as_key)
    }

    /// Keys of all tenants whose expiry has passed by a moment and is not recorded, the longest passed first. `after` goes on behind one that was
    /// given.
    pub fn keys_expired_by(
        &self,
        moment: Timestamp,
        after: Option<&(Timestamp, Stream)>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, Stream)>, ReadError> {
        self.keys_due_by(KEYS_BY_EXPIRY, moment, after, limit)
    }

    /// Keys of all tenants whose own rotation schedule is due by a moment, in the same way.
    pub fn keys_to_rotate_by(
        &self,
        moment: Timestamp,
        after: Option<&(Timestamp, Stream)>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, Stream)>, ReadError> {
        self.keys_due_by(KEYS_BY_ROTATION, moment, after, limit)
    }

    fn keys_due_by(
        &self,
        family: Family,
        moment: Timestamp,
        after: Option<&(Timestamp, Stream)>,
        limit: usize,
    ) -> Result<Vec<(Timestamp, Stream)>, ReadError> {
        let view = self.shared.view();
        let prefix = key::cluster_wide(&[]);
        let from = after.map_or_else(|| prefix.clone(), |(at, stream)| key::after(of_expiry(*at, stream)));
        let rows = view.store.scan::<Stream>(family, &from, prefix.clone());
        let due = rows.map(|row| {
            let (key, stream) = row?;
            let micros = key[prefix.len()..].first_chunk::<8>().ok_or(ReadError::Row { family })?;
            Ok((Timestamp::from_micros(u64::from_be_bytes(*micros)), stream))
        });
        due.take_while(|row| row.as_ref().map_or(true, |(at, _)| *at <= moment)).take(limit).collect()
    }

    /// A tenant's upstreams in the order of their ids, without removed ones.
    pub fn upstreams(&self, tenant: &TenantId, after: Option<UpstreamId>, limit: usize) -> Result<Vec<Versioned<Upstream>>, ReadError> {
        let after = after.map(|id| Stream::upstream(tenant.clone(), id));
        self.page(tenant, StreamKind::Upstream, after.as_ref(), limit, |aggregate| match aggregate {
            Aggregate::Upstream(upstream) if !upstream.removed => Some(*upstream),
            _ => None,
        })
    }

    /// A tenant's pools in the order of their ids, without removed ones.
    pub fn pools(&self, tenant: &TenantId, after: Option<PoolId>, limit: usize) -> Result<Vec<Versioned<Pool>>, ReadError> {
        let after = after.map(|id| Stream::pool(tenant.clone(), id));
        self.page(tenant, StreamKind::Pool, after.as_ref(), limit, |aggregate| match aggregate {
            Aggregate::Pool(pool) if !pool.removed => Some(pool),
            _ => None,
        })
    }

    /// The cluster's writers in the order of their ids, retired ones included.
    pub fn writers(&self, after: Option<WriterId>, limit: usize) -> Result<Vec<Versioned<Writer>>, ReadError> {
        let after = after.map(Stream::writer);
        self.page(&TenantId::none(), StreamKind::Writer, after.as_ref(), limit, |aggregate| match aggregate {
            Aggregate::Writer(writer) => Some(writer),
            _ => None,
        })
    }

    /// All tenants, and all pools and upstreams with their live credentials, as one snapshot.
    pub fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.shared.view().routes)
    }

    /// Whether the keys of a tenant are refused. Cheap enough for every request.
    pub fn is_suspended(&self, tenant: &TenantId) -> bool {
        self.shared.view().routes.is_suspended(tenant)
    }

    /// All policies and bindings, as one snapshot.
    pub fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.shared.view().policies)
    }

    /// The salts of older schemes that a present key has a secret under, in their order: empty but after an import of such keys, and again once all
    /// have shown their secrets. Cheap enough for every request.
    pub fn salts(&self) -> Arc<[u32]> {
        Arc::clone(&self.shared.view().salts)
    }

    /// Why the record at a sequence is void; none if it is valid or not folded yet.
    pub fn void(&self, sequence: Sequence) -> Result<Option<VoidReason>, ReadError> {
        self.shared.view().store.get(VOIDS, &of_sequence(sequence))
    }

    /// Void records from a sequence on.
    pub fn voids(&self, from: Sequence, limit: usize) -> Result<Vec<(Sequence, VoidReason)>, ReadError> {
        self.by_sequence(VOIDS, from, limit)
    }

    /// Records from a sequence on whose writer saw another log than this one.
    pub fn findings(&self, from: Sequence, limit: usize) -> Result<Vec<(Sequence, SeenFinding)>, ReadError> {
        self.by_sequence(FINDINGS, from, limit)
    }

    /// What a record that would come next is judged against.
    pub fn prefix(&self) -> CommittedPrefix {
        CommittedPrefix(Arc::clone(&self.shared.view()))
    }

    /// Every row, position included: equal dumps are equal models.
    pub fn dump(&self) -> Result<Vec<Row>, ReadError> {
        self.shared.view().store.dump()
    }

    /// The hooks of the model in use.
    #[cfg(feature = "faults")]
    pub fn faults(&self) -> Arc<crate::faults::Faults> {
        Arc::clone(&self.shared.view().store.faults)
    }

    fn page<T>(
        &self,
        tenant: &TenantId,
        kind: StreamKind,
        after: Option<&Stream>,
        limit: usize,
        pick: impl Fn(Aggregate) -> Option<T>,
    ) -> Result<Vec<Versioned<T>>, ReadError> {
        let prefix = key::of_kind(tenant, kind);
        let from = after.map_or_else(|| prefix.clone(), |stream| key::after(key::of_stream(stream)));
        let view = self.shared.view();
        let rows = view.store.scan::<StreamRow>(AGGREGATES, &from, prefix);
        let picked = rows.filter_map(|row| match row {
            Ok((_, StreamRow { head, aggregate })) => aggregate.and_then(&pick).map(|value| Ok(Versioned { value, version: head.version })),
            Err(error) => Some(Err(error)),
        });
        picked.take(limit).collect()
    }

    fn by_sequence<T: serde::de::DeserializeOwned>(
        &self,
        family: &'static str,
        from: Sequence,
        limit: usize,
    ) -> Result<Vec<(Sequence, T)>, ReadError> {
        let view = self.shared.view();
        let rows = view.store.scan::<T>(family, &of_sequence(from), key::cluster_wide(&[]));
        rows.take(limit)
            .map(|row| {
                let (key, value) = row?;
                let number = key.last_chunk::<8>().ok_or(ReadError::Row { family })?;
                Ok((Sequence(u64::from_be_bytes(*number)), value))
            })
            .collect()
    }
}

fn as_key(aggregate: Aggregate) -> Option<Key> {
    match aggregate {
        Aggregate::Key(key) if !key.is_purged() => Some(*key),
        _ => None,
    }
}
