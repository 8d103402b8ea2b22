//! Artefacts in an object store of the cluster, with files of this machine as a cache that outlives NATS.

use std::time::Duration;

use async_nats::jetstream::object_store::ObjectMetadata;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use schemas::Digest;

use super::bucket::{Away, Bucket};
use super::{ArtefactEntry, ArtefactError, ArtefactKind, Artefacts, FileArtefacts, check_size};

/// The object store of a cluster's artefacts.
pub const ARTEFACTS_BUCKET: &str = "KEYRELAY_ARTEFACTS";

/// [`Artefacts`] on NATS. What was put or got through this node is given without NATS from then on.
pub struct NatsArtefacts {
    bucket: Bucket,
    files: FileArtefacts,
}

impl From<Away> for ArtefactError {
    fn from(away: Away) -> Self {
        Self::Unavailable { reason: away.0 }
    }
}

impl NatsArtefacts {
    /// Waits for nothing. `replicas` is how many servers keep the object store where it is made.
    pub fn new(client: async_nats::Client, files: FileArtefacts, replicas: impl Into<Option<usize>>) -> Self {
        Self { bucket: Bucket::new(client, ARTEFACTS_BUCKET, replicas.into(), Duration::ZERO), files }
    }

    /// An artefact as the object store has it, checked.
    async fn fetch(&self, kind: ArtefactKind, digest: &Digest) -> Result<Option<Bytes>, ArtefactError> {
        let Some(mut reading) = self.bucket.get(&name_of(kind, digest)).await? else { return Ok(None) };
        check_size(reading.info().size as u64)?;
        let mut bytes = BytesMut::with_capacity(reading.info().size);
        while let Some(piece) = reading.next().await? {
            bytes.extend_from_slice(piece);
        }
        if Digest::blake3(&bytes) == *digest { Ok(Some(bytes.freeze())) } else { Err(ArtefactError::Damaged { digest: *digest }) }
    }
}

#[async_trait]
impl Artefacts for NatsArtefacts {
    async fn put(&self, kind: ArtefactKind, bytes: Bytes) -> Result<Digest, ArtefactError> {
        check_size(bytes.len() as u64)?;
        let digest = Digest::blake3(&bytes);
        // What is there and whole is not written again; what is damaged is.
        let is_there = match self.fetch(kind, &digest).await {
            Ok(found) => found.is_some(),
            Err(ArtefactError::Damaged { .. }) => false,
            Err(error) => return Err(error),
        };
        if !is_there {
            self.bucket.put(ObjectMetadata::from(&*name_of(kind, &digest)), &*bytes).await?;
            if self.fetch(kind, &digest).await?.is_none() {
                return Err(ArtefactError::Damaged { digest });
            }
        }
        self.files.put(kind, bytes).await
    }

    async fn get(&self, kind: ArtefactKind, digest: &Digest) -> Result<Option<Bytes>, ArtefactError> {
        match self.files.get(kind, digest).await {
            Ok(Some(bytes)) => return Ok(Some(bytes)),
            Ok(None) => {}
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "a cached artefact cannot be used and is fetched anew"),
        }
        let Some(bytes) = self.fetch(kind, digest).await? else { return Ok(None) };
        if let Err(error) = self.files.put(kind, bytes.clone()).await {
            // It is at hand all the same; the next time it is fetched again.
            tracing::warn!(error = &error as &dyn std::error::Error, "an artefact cannot be cached");
        }
        Ok(Some(bytes))
    }

    async fn list(&self, kind: ArtefactKind) -> Result<Vec<ArtefactEntry>, ArtefactError> {
        let infos = self.bucket.list().await?;
        let entry = |name: &str, bytes: usize| {
            let digest = name.strip_prefix(kind.as_str())?.strip_prefix('/')?.parse().ok()?;
            Some(ArtefactEntry { digest, bytes: bytes as u64 })
        };
        let mut entries: Vec<_> = infos.iter().filter_map(|info| entry(&info.name, info.size)).collect();
        entries.sort_unstable();
        Ok(entries)
    }

    async fn delete(&self, kind: ArtefactKind, digest: &Digest) -> Result<(), ArtefactError> {
        self.bucket.delete(&name_of(kind, digest)).await?;
        self.files.delete(kind, digest).await
    }
}

fn name_of(kind: ArtefactKind, digest: &Digest) -> String {
    format!("{}/{digest}", kind.as_str())
}
