//! Snapshots of read models, for nodes that begin: large files in an object store, the newest few kept.
//!
//! Whoever fetches one gets the bytes that were put, or an error. Whether they are a read model, and of which log, is for the reader to check.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::object_store::{ObjectInfo, ObjectMetadata};
use schemas::{Digest, Timestamp};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::bucket::{Away, Bucket};

/// The object store of a cluster's snapshots.
pub const SNAPSHOTS_BUCKET: &str = "KEYRELAY_SNAPSHOTS";
/// How many snapshots are kept.
pub const SNAPSHOTS_KEPT: usize = 3;
/// After this long a snapshot goes even if no newer one came, and so do the pieces of one that was never finished.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The name under which the digest stands beside what the caller says.
const DIGEST: &str = "sha256";

/// A snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    pub name: String,
    pub bytes: u64,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// By the clock of the node that put it.
    pub stored_at: Timestamp,
    /// What that node says about it.
    pub metadata: BTreeMap<String, String>,
}

/// Why a snapshot cannot be kept or given.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("there is no snapshot {name}")]
    NotFound { name: String },
    #[error("the snapshot {name} is not what was put under that name")]
    Damaged { name: String },
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// May pass.
    #[error("snapshots cannot be reached: {reason}")]
    Unavailable { reason: String },
}

impl From<Away> for SnapshotError {
    fn from(away: Away) -> Self {
        Self::Unavailable { reason: away.0 }
    }
}

/// The snapshots of a cluster.
pub struct Snapshots {
    bucket: Bucket,
}

impl Snapshots {
    /// Waits for nothing. `replicas` is how many servers keep the object store where it is made.
    pub fn new(client: async_nats::Client, replicas: impl Into<Option<usize>>) -> Self {
        Self { bucket: Bucket::new(client, SNAPSHOTS_BUCKET, replicas.into(), MAX_AGE) }
    }

    /// Keeps a file as a snapshot, and removes those that are older than the newest [`SNAPSHOTS_KEPT`]. The file must not change meanwhile.
    pub async fn put(&self, name: &str, file: &Path, metadata: BTreeMap<String, String>) -> Result<SnapshotEntry, SnapshotError> {
        let at = |source| SnapshotError::Io { path: file.to_owned(), source };
        let path = file.to_owned();
        let digest =
            tokio::task::spawn_blocking(move || digest_of(&path)).await.map_err(|error| at(io::Error::other(error)))?.map_err(at)?;
        let bytes = File::open(file).await.map_err(at)?;
        let mut metadata: std::collections::HashMap<_, _> = metadata.into_iter().collect();
        metadata.insert(DIGEST.to_owned(), digest.to_string());
        self.bucket.put(ObjectMetadata { name: name.to_owned(), metadata, ..ObjectMetadata::default() }, bytes).await?;
        // Asked again, since an answer is not yet an object.
        let stored = self.bucket.info(name).await?.and_then(entry).filter(|entry| entry.digest == digest);
        let stored = stored.ok_or_else(|| SnapshotError::Damaged { name: name.to_owned() })?;
        for old in self.list().await?.iter().skip(SNAPSHOTS_KEPT) {
            self.bucket.delete(&old.name).await?;
        }
        Ok(stored)
    }

    /// What is there, newest first.
    pub async fn list(&self) -> Result<Vec<SnapshotEntry>, SnapshotError> {
        let mut entries: Vec<_> = self.bucket.list().await?.into_iter().filter_map(entry).collect();
        entries.sort_by(|a, b| (b.stored_at, &b.name).cmp(&(a.stored_at, &a.name)));
        Ok(entries)
    }

    /// Writes a snapshot to a file, which has its name only when it is whole and checked.
    pub async fn fetch(&self, name: &str, into: &Path) -> Result<SnapshotEntry, SnapshotError> {
        let temporary = into.with_added_extension("new");
        let fetched = self.fetch_unnamed(name, &temporary).await;
        let at = |source| SnapshotError::Io { path: into.to_owned(), source };
        match fetched {
            Ok(entry) => {
                tokio::fs::rename(&temporary, into).await.map_err(at)?;
                Ok(entry)
            }
            Err(error) => {
                // Losing this error is right: the first one is told, and the next attempt writes over it.
                let _ = tokio::fs::remove_file(&temporary).await;
                Err(error)
            }
        }
    }

    async fn fetch_unnamed(&self, name: &str, temporary: &Path) -> Result<SnapshotEntry, SnapshotError> {
        let at = |source| SnapshotError::Io { path: temporary.to_owned(), source };
        let mut file = File::create(temporary).await.map_err(at)?;
        let mut hash = Sha256::new();
        let reading = self.bucket.get(name).await?;
        let mut reading = reading.ok_or_else(|| SnapshotError::NotFound { name: name.to_owned() })?;
        while let Some(piece) = reading.next().await? {
            hash.update(piece);
            file.write_all(piece).await.map_err(at)?;
        }
        file.sync_all().await.map_err(at)?;
        let digest = Digest::from_bytes(hash.finalize().into());
        entry(reading.info().clone()).filter(|entry| entry.digest == digest).ok_or_else(|| SnapshotError::Damaged { name: name.to_owned() })
    }
}

/// None for an object that is no snapshot of ours.
fn entry(info: ObjectInfo) -> Option<SnapshotEntry> {
    let mut metadata: BTreeMap<_, _> = info.metadata.into_iter().collect();
    let digest = metadata.remove(DIGEST)?.parse().ok()?;
    let stored_at = SystemTime::from(info.modified?).duration_since(UNIX_EPOCH).ok()?;
    let stored_at = Timestamp::from_micros(u64::try_from(stored_at.as_micros()).ok()?);
    Some(SnapshotEntry { name: info.name, bytes: info.size as u64, digest, stored_at, metadata })
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let (mut file, mut hash, mut piece) = (fs::File::open(path)?, Sha256::new(), vec![0; 1024 * 1024]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            read => hash.update(&piece[..read]),
        }
    }
}
