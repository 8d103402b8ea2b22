//! Soft state: keys of the bucket that the server removes by itself, in whole seconds. What is finer is seen to by each reader.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use schemas::ClusterId;
use tokio::time::Instant;

use super::bucket::{Bucket, ttl_header};
use super::sightings::Sightings;
use crate::{CoordinationError, SOFT_BYTES_MAX};

const TTL_MS: &str = "Keyrelay-Ttl-Ms";
/// What lives longer is not soft; a longer ttl is shortened to this.
const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

pub(crate) struct SoftState {
    cluster: ClusterId,
    bucket: Arc<Bucket>,
    sightings: Sightings,
}

impl SoftState {
    pub(crate) fn new(cluster: ClusterId, bucket: Arc<Bucket>) -> Self {
        Self { cluster, bucket, sightings: Sightings::default() }
    }

    pub(crate) async fn put(&self, name: &str, value: Bytes, ttl: Duration) -> Result<(), CoordinationError> {
        if value.len() > SOFT_BYTES_MAX {
            return Err(CoordinationError::TooLarge { name: name.to_owned(), bytes_max: SOFT_BYTES_MAX });
        }
        let key = self.key(name);
        let ttl = ttl.min(TTL_MAX);
        let mut headers = HeaderMap::new();
        headers.insert(TTL_MS, ttl.as_millis().to_string());
        ttl_header(&mut headers, ttl);
        let revision = self.bucket.put(&key, headers, value).await?;
        self.sightings.see(&key, revision, Instant::now());
        Ok(())
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Option<Bytes>, CoordinationError> {
        let key = self.key(name);
        let Some(entry) = self.bucket.get(&key).await? else { return Ok(None) };
        let ttl_ms = entry.headers.get(TTL_MS).and_then(|text| text.as_str().parse().ok());
        let ttl_ms = ttl_ms.ok_or_else(|| CoordinationError::Foreign { name: name.to_owned() })?;
        let is_over = self.sightings.see(&key, entry.revision, Instant::now()) >= Duration::from_millis(ttl_ms);
        Ok(Some(entry.value).filter(|_| !is_over))
    }

    fn key(&self, name: &str) -> String {
        format!("{}.soft.{name}", self.cluster)
    }
}
