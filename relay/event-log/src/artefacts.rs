//! Artefacts: bytes too large for the event log, under the digest by which events name them; and the snapshots of read models.
//!
//! [`Artefacts`] is the contract. [`FileArtefacts`] keeps it in a directory of this machine, [`NatsArtefacts`] in an object store of the
//! cluster with such a directory as its cache. [`Snapshots`] are apart: hundreds of megabytes, named, and soon replaced.

mod bucket;
mod file;
mod nats;
mod snapshots;

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use schemas::Digest;
use thiserror::Error;

pub use file::FileArtefacts;
pub use nats::{ARTEFACTS_BUCKET, NatsArtefacts};
pub use snapshots::{SNAPSHOTS_BUCKET, SNAPSHOTS_KEPT, SnapshotEntry, SnapshotError, Snapshots};

/// The most bytes of one artefact, which is held in memory while it is read or written.
pub const ARTEFACT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What an artefact is. Each kind is a room of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArtefactKind {
    /// The WebAssembly module of a policy.
    PolicyModule,
}

impl ArtefactKind {
    /// The name in directories and object stores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PolicyModule => "policy-modules",
        }
    }
}

/// One artefact of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArtefactEntry {
    pub digest: Digest,
    pub bytes: u64,
}

/// Why an artefact cannot be kept or given.
#[derive(Debug, Error)]
pub enum ArtefactError {
    #[error("an artefact has at most {ARTEFACT_BYTES_MAX} bytes, this one has {bytes}")]
    TooLarge { bytes: u64 },
    /// Put the right bytes again to mend it.
    #[error("what is kept as artefact {digest} has another digest")]
    Damaged { digest: Digest },
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// May pass.
    #[error("artefacts cannot be reached: {reason}")]
    Unavailable { reason: String },
}

/// The contract of a store of artefacts.
///
/// - *Content.* An artefact is named by the BLAKE3 digest of its bytes. What is given out has been checked against it.
/// - *Durability.* What was put was read back and compared before the answer, and is then as durable as the store is.
/// - *Retries.* Putting again what is there, and deleting what is not, are no faults.
/// - *Concurrency.* Everything may be called from any number of tasks, and nodes, at once.
#[async_trait]
pub trait Artefacts: Send + Sync {
    /// Keeps an artefact, and tells its digest.
    async fn put(&self, kind: ArtefactKind, bytes: Bytes) -> Result<Digest, ArtefactError>;

    /// An artefact; none if there is none of this digest.
    async fn get(&self, kind: ArtefactKind, digest: &Digest) -> Result<Option<Bytes>, ArtefactError>;

    /// What is there of a kind, in the order of digests.
    async fn list(&self, kind: ArtefactKind) -> Result<Vec<ArtefactEntry>, ArtefactError>;

    /// Removes an artefact from the store. Copies that nodes have made for themselves stay.
    async fn delete(&self, kind: ArtefactKind, digest: &Digest) -> Result<(), ArtefactError>;
}

fn check_size(bytes: u64) -> Result<(), ArtefactError> {
    if bytes > ARTEFACT_BYTES_MAX as u64 { Err(ArtefactError::TooLarge { bytes }) } else { Ok(()) }
}
