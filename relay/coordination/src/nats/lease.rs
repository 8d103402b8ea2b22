//! Leases: one key each, taken and extended by compare-and-swap of its revision.
//!
//! The holder counts its time from before it wrote, the others from when they saw what it wrote, so that the holder's ends first. The key is
//! never removed, which is why terms only grow.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use schemas::{ClusterId, WriterId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::bucket::{Bucket, Entry};
use super::own_stream::CONTENTION_PAUSE;
use super::sightings::Sightings;
use crate::{Clock, CoordinationError, Lease, later};

const FORMAT: u8 = 1;

/// What lies under the key of a lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Holding {
    v: u8,
    /// None once it was released.
    holder: Option<WriterId>,
    term: u64,
    ttl_ms: u64,
}

pub(crate) struct Leases {
    cluster: ClusterId,
    node: WriterId,
    clock: Clock,
    bucket: Arc<Bucket>,
    sightings: Sightings,
    /// The terms that this process took. A holding of this node in another term was taken by an earlier process, or by a call whose outcome
    /// was not known, and is taken anew.
    terms: Mutex<HashMap<String, u64>>,
}

impl Leases {
    pub(crate) fn new(cluster: ClusterId, node: WriterId, clock: Clock, bucket: Arc<Bucket>) -> Self {
        Self { cluster, node, clock, bucket, sightings: Sightings::default(), terms: Mutex::default() }
    }

    pub(crate) async fn take(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, CoordinationError> {
        let key = self.key(name);
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        loop {
            let expires_at = later((self.clock)(), ttl);
            let found = self.bucket.get(&key).await?;
            let revision = found.as_ref().map_or(0, |entry| entry.revision);
            let found = found.map(|entry| decode(name, &entry)).transpose()?;
            let is_over = found
                .as_ref()
                .is_some_and(|found| self.sightings.see(&key, revision, Instant::now()) >= Duration::from_millis(found.ttl_ms));
            let ours = self.terms.lock().get(name).copied();
            let Some(term) = term(found.as_ref(), is_over, self.node, ours) else { return Ok(None) };
            let holding = Holding { v: FORMAT, holder: Some(self.node), term, ttl_ms };
            if self.bucket.swap(&key, encode(&holding), revision).await?.is_some() {
                self.terms.lock().insert(name.to_owned(), term);
                return Ok(Some(Lease { name: name.to_owned(), holder: self.node, expires_at, term }));
            }
            tokio::time::sleep(CONTENTION_PAUSE).await;
        }
    }

    pub(crate) async fn release(&self, name: &str) -> Result<(), CoordinationError> {
        let key = self.key(name);
        self.terms.lock().remove(name);
        loop {
            let Some(entry) = self.bucket.get(&key).await? else { return Ok(()) };
            let holding = decode(name, &entry)?;
            if holding.holder != Some(self.node) {
                return Ok(());
            }
            if self.bucket.swap(&key, encode(&Holding { holder: None, ..holding }), entry.revision).await?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(CONTENTION_PAUSE).await;
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.lease.{name}", self.cluster)
    }
}

/// The term in which a node may hold the lease now; none while another holds it. `ours` is the term that this process took, if it did.
fn term(found: Option<&Holding>, is_over: bool, node: WriterId, ours: Option<u64>) -> Option<u64> {
    let Some(found) = found else { return Some(1) };
    match found.holder {
        Some(holder) if holder == node && ours == Some(found.term) => Some(found.term),
        Some(holder) if holder != node && !is_over => None,
        _ => Some(found.term + 1),
    }
}

fn encode(holding: &Holding) -> Bytes {
    serde_json::to_vec(holding).expect("a struct of numbers and an id can be written as JSON").into()
}

fn decode(name: &str, entry: &Entry) -> Result<Holding, CoordinationError> {
    let holding: Option<Holding> = serde_json::from_slice(&entry.value).ok();
    holding.filter(|holding| holding.v == FORMAT).ok_or_else(|| CoordinationError::Foreign { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WriterId = WriterId::from_bytes([1; 16]);
    const B: WriterId = WriterId::from_bytes([2; 16]);

    #[test]
    fn the_term_grows_with_every_new_holding() {
        let held = |holder| Holding { v: FORMAT, holder, term: 7, ttl_ms: 1000 };
        assert_eq!(term(None, false, A, None), Some(1));
        assert_eq!(term(Some(&held(Some(A))), false, A, Some(7)), Some(7), "extended, late or not");
        assert_eq!(term(Some(&held(Some(A))), true, A, Some(7)), Some(7));
        assert_eq!(term(Some(&held(Some(A))), false, A, None), Some(8), "taken by an earlier process of the node");
        assert_eq!(term(Some(&held(Some(B))), false, A, Some(6)), None);
        assert_eq!(term(Some(&held(Some(B))), true, A, Some(6)), Some(8));
        assert_eq!(term(Some(&held(None)), false, A, Some(7)), Some(8), "released");
    }
}
