//! The rows by which keys are found: by the hash of a secret, and by the time at which an expiry is due to be recorded.
//!
//! They follow from a key's state before and after a record. What a batch changes lies over what the store holds, until it is written.

use std::collections::BTreeMap;

use schemas::key::Key;
use schemas::{Aggregate, Digest, Stream, Timestamp};

use super::rows::{KEYS_BY_EXPIRY, KEYS_BY_HASH, KEYS_FORMER_HASHES, of_expiry, of_former_hash, of_former_hashes, of_hash};
use crate::store::{Batch, ReadError, Store};

/// The changes of one batch, in the order of their keys, which the store takes fastest. None takes a row away.
#[derive(Default)]
pub(super) struct KeyIndex {
    by_hash: BTreeMap<Digest, Option<Stream>>,
    /// (stream, hash) of secrets that a key has no more.
    former: BTreeMap<(Stream, Digest), bool>,
    by_expiry: BTreeMap<(Timestamp, Stream), bool>,
}

impl KeyIndex {
    /// Takes in what a record made of a stream.
    pub(super) fn note(
        &mut self,
        store: &Store,
        stream: &Stream,
        before: Option<&Aggregate>,
        after: Option<&Aggregate>,
    ) -> Result<(), ReadError> {
        let (before, after) = (as_key(before), as_key(after));
        let Some(after) = after else { return Ok(()) };
        let due = (before.and_then(Key::expiry_due_at), after.expiry_due_at());
        if due.0 != due.1 {
            self.by_expiry.extend(due.0.map(|at| ((at, stream.clone()), false)));
            self.by_expiry.extend(due.1.map(|at| ((at, stream.clone()), true)));
        }
        let has = |key: Option<&Key>, hash: &Digest| key.is_some_and(|key| key.secrets.iter().any(|secret| secret.hash == *hash));
        for secret in after.secrets.iter().filter(|secret| !has(before, &secret.hash)) {
            self.claim(store, secret.hash, stream)?;
        }
        let lost = before.into_iter().flat_map(|key| &key.secrets).map(|secret| secret.hash).filter(|hash| !has(Some(after), hash));
        for hash in lost {
            self.former.insert((stream.clone(), hash), true);
        }
        if after.is_purged() && !before.is_some_and(Key::is_purged) {
            self.purge(store, stream)?;
        }
        Ok(())
    }

    /// A hash belongs to the first key that had it: a later record cannot take a client's key over.
    fn claim(&mut self, store: &Store, hash: Digest, stream: &Stream) -> Result<(), ReadError> {
        if self.owner(store, &hash)?.is_none() {
            self.by_hash.insert(hash, Some(stream.clone()));
        }
        Ok(())
    }

    /// Takes every hash away that the key had.
    fn purge(&mut self, store: &Store, stream: &Stream) -> Result<(), ReadError> {
        for row in store.scan::<Digest>(KEYS_FORMER_HASHES, &of_former_hashes(stream), of_former_hashes(stream)) {
            let (_, hash) = row?;
            self.former.insert((stream.clone(), hash), true);
        }
        let first = (stream.clone(), Digest::from_bytes([0; 32]));
        let hashes: Vec<_> = self
            .former
            .range(first..)
            .map(|((of, hash), _)| (of, *hash))
            .take_while(|(of, _)| *of == stream)
            .map(|(_, hash)| hash)
            .collect();
        for hash in hashes {
            self.former.insert((stream.clone(), hash), false);
            if self.owner(store, &hash)?.is_some_and(|owner| owner == *stream) {
                self.by_hash.insert(hash, None);
            }
        }
        Ok(())
    }

    fn owner(&self, store: &Store, hash: &Digest) -> Result<Option<Stream>, ReadError> {
        match self.by_hash.get(hash) {
            Some(owner) => Ok(owner.clone()),
            None => store.get(KEYS_BY_HASH, &of_hash(hash)),
        }
    }

    pub(super) fn write(&self, batch: &mut Batch<'_>) {
        for (hash, owner) in &self.by_hash {
            match owner {
                Some(stream) => batch.put(KEYS_BY_HASH, &of_hash(hash), stream),
                None => batch.delete(KEYS_BY_HASH, &of_hash(hash)),
            }
        }
        for ((stream, hash), is_there) in &self.former {
            let key = of_former_hash(stream, hash);
            if *is_there { batch.put(KEYS_FORMER_HASHES, &key, hash) } else { batch.delete(KEYS_FORMER_HASHES, &key) }
        }
        for ((at, stream), is_due) in &self.by_expiry {
            let key = of_expiry(*at, stream);
            if *is_due { batch.put(KEYS_BY_EXPIRY, &key, stream) } else { batch.delete(KEYS_BY_EXPIRY, &key) }
        }
    }
}

fn as_key(aggregate: Option<&Aggregate>) -> Option<&Key> {
    match aggregate {
        Some(Aggregate::Key(key)) => Some(key),
        _ => None,
    }
}
