//! The rows by which keys are found: by the hash of a secret, and by the time at which an expiry is due to be recorded or
//! a rotation to be done.
//!
//! They follow from a key's state before and after a record. What a batch changes lies over what the store holds, until it is written.

use std::collections::BTreeMap;

use schemas::key::{Key, KeySecret, SecretScheme};
use schemas::{Aggregate, Digest, Stream, Timestamp};

use super::rows::{
    KEYS_BY_EXPIRY, KEYS_BY_HASH, KEYS_BY_ROTATION, KEYS_BY_SALT, KEYS_FORMER_HASHES, of_expiry, of_former_hash, of_former_hashes, of_hash,
    of_salt,
};
use crate::store::{Batch, ReadError, Store};

/// The changes of one batch, in the order of their keys, which the store takes fastest. None takes a row away.
#[derive(Default)]
pub(super) struct KeyIndex {
    by_hash: BTreeMap<Digest, Option<Stream>>,
    /// (stream, hash) of secrets that a key has no more.
    former: BTreeMap<(Stream, Digest), bool>,
    by_expiry: BTreeMap<(Timestamp, Stream), bool>,
    /// How many more secrets there are under a salt, or fewer.
    by_salt: BTreeMap<u32, i64>,
    by_rotation: BTreeMap<(Timestamp, Stream), bool>,
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
        move_due(&mut self.by_expiry, stream, before.and_then(Key::expiry_due_at), after.expiry_due_at());
        move_due(&mut self.by_rotation, stream, before.and_then(rotation_due_at), rotation_due_at(after));
        let has = |key: Option<&Key>, hash: &Digest| key.is_some_and(|key| key.secrets.iter().any(|secret| secret.hash == *hash));
        for secret in after.secrets.iter().filter(|secret| !has(before, &secret.hash)) {
            self.claim(store, secret.hash, stream)?;
        }
        let lost = before.into_iter().flat_map(|key| &key.secrets).filter(|secret| !has(Some(after), &secret.hash));
        for secret in lost {
            if is_upgraded(secret, after) {
                self.release(store, secret.hash, stream)?;
            } else {
                self.former.insert((stream.clone(), secret.hash), true);
            }
        }
        for (key, step) in before.map(|key| (key, -1)).into_iter().chain([(after, 1)]) {
            for salt in key.secrets.iter().filter_map(salt) {
                *self.by_salt.entry(salt).or_default() += step;
            }
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

    /// Takes a hash away that is this key's.
    fn release(&mut self, store: &Store, hash: Digest, stream: &Stream) -> Result<(), ReadError> {
        if self.owner(store, &hash)?.is_some_and(|owner| owner == *stream) {
            self.by_hash.insert(hash, None);
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
            self.release(store, hash, stream)?;
        }
        Ok(())
    }

    fn owner(&self, store: &Store, hash: &Digest) -> Result<Option<Stream>, ReadError> {
        match self.by_hash.get(hash) {
            Some(owner) => Ok(owner.clone()),
            None => store.get(KEYS_BY_HASH, &of_hash(hash)),
        }
    }

    pub(super) fn write(&self, batch: &mut Batch<'_>, store: &Store) -> Result<(), ReadError> {
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
        for (family, index) in [(KEYS_BY_EXPIRY, &self.by_expiry), (KEYS_BY_ROTATION, &self.by_rotation)] {
            for ((at, stream), is_due) in index {
                let key = of_expiry(*at, stream);
                if *is_due { batch.put(family, &key, stream) } else { batch.delete(family, &key) }
            }
        }
        for (salt, step) in self.by_salt.iter().filter(|(_, step)| **step != 0) {
            let key = of_salt(*salt);
            let before = store.get::<u64>(KEYS_BY_SALT, &key)?.unwrap_or_default();
            match before.saturating_add_signed(*step) {
                0 => batch.delete(KEYS_BY_SALT, &key),
                secrets => batch.put(KEYS_BY_SALT, &key, &secrets),
            }
        }
        Ok(())
    }
}

/// The salt of the older scheme that a secret is known by.
pub(super) fn salt(secret: &KeySecret) -> Option<u32> {
    match secret.scheme {
        SecretScheme::ClaudeRelayService { salt } => Some(salt),
        SecretScheme::Issued | SecretScheme::Peppered { .. } => None,
    }
}

/// Whether the key goes on to have this secret of an older scheme, by a hash of ours. Nothing asks for the old hash then, and what somebody who
/// knows its salt could learn from it is gone.
fn is_upgraded(secret: &KeySecret, after: &Key) -> bool {
    salt(secret).is_some() && after.secrets.iter().any(|other| other.number == secret.number)
}

/// Moves a key in an index of due times.
fn move_due(index: &mut BTreeMap<(Timestamp, Stream), bool>, stream: &Stream, before: Option<Timestamp>, after: Option<Timestamp>) {
    if before != after {
        index.extend(before.map(|at| ((at, stream.clone()), false)));
        index.extend(after.map(|at| ((at, stream.clone()), true)));
    }
}

/// When the key's own schedule is due.
fn rotation_due_at(key: &Key) -> Option<Timestamp> {
    key.rotation.and_then(|schedule| key.rotation_due_at(schedule))
}

fn as_key(aggregate: Option<&Aggregate>) -> Option<&Key> {
    match aggregate {
        Some(Aggregate::Key(key)) => Some(key),
        _ => None,
    }
}
