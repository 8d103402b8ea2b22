//! Keys that came from another system, known by that system's hash until they show their secret here.
//!
//! Asked only for a text that no key has under our scheme, and only while such keys are there: without them, an unknown key costs nothing more. A
//! key that is accepted so is upgraded by a command in the outbox, after which our hash finds it. Nothing waits for that: until then every node
//! accepts it by the old hash.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use schemas::key::{Key, KeyCommand, KeySecret};
use schemas::{Command, Digest, Stream};
use vault::UnsealError;

use crate::gateway::State;
use crate::outbox::{Outbound, Outbox};
use crate::refusal::Refusal;

/// How long a salt is not asked for again that is in no vault of this cluster: keys under it came with another cluster's export.
const MISSING_FOR: Duration = Duration::from_secs(10);

/// Salts that could not be opened.
#[derive(Default)]
pub(crate) struct MissingSalts {
    /// Since when, by version. Written by requests.
    missing: Mutex<HashMap<u32, Instant>>,
}

impl MissingSalts {
    fn is_missing(&self, salt: u32) -> bool {
        self.missing.lock().get(&salt).is_some_and(|since| since.elapsed() < MISSING_FOR)
    }

    fn note(&self, salt: u32) {
        self.missing.lock().insert(salt, Instant::now());
    }
}

/// The key that a text is the secret of by an older scheme, and the hash by which it is.
pub(crate) async fn find(state: &State, text: &str, salts: &[u32]) -> Result<Option<(Arc<Key>, Digest)>, Refusal> {
    for salt in salts {
        let Some(hash) = hash(state, text, *salt).await? else { continue };
        let key = state.models.key_by_hash(&hash).map_err(|error| crate::admit::unreadable(&error))?;
        // Where the key has the hash no more, an upgrade came in between.
        if let Some(key) = key.filter(|key| key.secrets.iter().any(|secret| secret.hash == hash)) {
            return Ok(Some((key, hash)));
        }
    }
    Ok(None)
}

/// The hash under a salt; none where the salt is in no vault of this cluster.
async fn hash(state: &State, text: &str, salt: u32) -> Result<Option<Digest>, Refusal> {
    if let Some(hash) = state.vault.salted_hash(salt, text) {
        return Ok(Some(hash));
    }
    if state.missing_salts.is_missing(salt) {
        return Ok(None);
    }
    let vault = Arc::clone(&state.vault);
    match tokio::task::spawn_blocking(move || vault.open_salt(salt)).await {
        Ok(Ok(())) => Ok(state.vault.salted_hash(salt, text)),
        Ok(Err(UnsealError::Missing)) => {
            tracing::warn!(salt, "keys are known under a salt that this cluster does not have; they cannot be accepted");
            state.missing_salts.note(salt);
            Ok(None)
        }
        Ok(Err(error)) => {
            tracing::error!(salt, error = &error as &dyn std::error::Error, "a salt could not be opened");
            Err(Refusal::Unavailable)
        }
        Err(error) => {
            tracing::error!(salt, error = &error as &dyn std::error::Error, "a salt could not be opened");
            Err(Refusal::Unavailable)
        }
    }
}

/// Sees to it that the key is known by our hash from now on.
pub(crate) fn upgrade(key: &Key, secret: &KeySecret, (hash, pepper): (Digest, u32), outbox: &Outbox) {
    let stream = Stream::key(key.tenant.clone(), key.id);
    let (number, from) = (secret.number, secret.hash);
    outbox.offer(Outbound { stream, command: Command::Key(KeyCommand::UpgradeSecret { number, from, hash, pepper }) });
}
