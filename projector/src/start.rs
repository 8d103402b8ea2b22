//! The start: which model to open, and whether it was folded from the log that is there.

use std::path::Path;
use std::sync::Arc;

use event_log::{EventLog, Stored, merkle};
use schemas::record::Frame;
use schemas::{ClusterId, Digest, Sequence};
use thiserror::Error;

use crate::VERSION;
use crate::directory::{Directory, Generation};
use crate::fold::Folder;
use crate::fold::rows::{FAMILIES, PositionRow};
use crate::memory::Memory;
use crate::store::{ReadError, Store};

pub use crate::directory::DirectoryError;

/// Why the read models cannot be opened. Nothing was changed.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the read models have version {found}, this release reads up to version {supported}")]
    NewerVersion { found: u32, supported: u32 },
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Storage(#[from] ReadError),
}

/// Why a log is not the one that read models were folded from, or why that cannot be found out.
#[derive(Debug, Error)]
pub enum CheckError {
    #[error("the read models are of cluster {found}, the log is of cluster {expected}")]
    OtherCluster { found: ClusterId, expected: ClusterId },
    /// Records that were folded, and perhaps acted on, are gone.
    #[error("the log ends at sequence {head}, before the read models' position {position}: it has lost records or is another log")]
    LogShorter { position: Sequence, head: Sequence },
    #[error("the log's record at sequence {sequence} is not the one that the read models were folded from")]
    LogDiffers { sequence: Sequence },
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
}

/// Opens the model in use, or begins an empty one where there is none of this release's version.
pub(crate) fn open_model(path: &Path, memory: &Memory) -> Result<(Directory, Folder), OpenError> {
    let current = Directory::peek(path)?;
    if let Some(Generation { version: found, .. }) = current.filter(|current| current.version > VERSION) {
        return Err(OpenError::NewerVersion { found, supported: VERSION });
    }
    let directory = Directory::hold(path.to_owned())?;
    let generation = match current.filter(|current| current.version == VERSION) {
        Some(current) => current,
        None => {
            if let Some(Generation { version: found, .. }) = current {
                tracing::warn!(
                    found,
                    version = VERSION,
                    "the read models have an older version: all is folded anew before anything is served"
                );
            }
            let next = directory.next()?;
            directory.point_to(next)?;
            next
        }
    };
    directory.sweep(generation)?;
    let store = Store::open(&directory.path_of(generation), FAMILIES, memory)?;
    Ok((directory, Folder::open(Arc::new(store))?))
}

/// What rows say about the log they were folded from: its cluster, and the record at their position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub cluster: ClusterId,
    pub position: Sequence,
    pub leaf: Digest,
}

impl Anchor {
    /// None for rows that were folded from nothing yet; any log will do for them.
    pub(crate) fn of(row: &PositionRow) -> Option<Self> {
        Some(Self { cluster: row.cluster?, position: row.sequence, leaf: row.leaf? })
    }

    /// Checks that a log goes on where the rows stand.
    pub(crate) async fn check(&self, log: &dyn EventLog) -> Result<(), CheckError> {
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("trusting-open") {
            return Ok(());
        }
        let Self { cluster: found, position, leaf } = *self;
        // The head before the identity: a log that holds nothing has no identity, and says best what it is by its head.
        let head = log.head().await?;
        match log.identity().await {
            Ok(Some(expected)) if expected != found => return Err(CheckError::OtherCluster { found, expected }),
            Ok(_) => {}
            // Something that founds nothing stands at sequence 1, and we have folded a founding there.
            Err(event_log::ReadError::NotFounded) => return Err(CheckError::LogDiffers { sequence: Sequence(1) }),
            Err(error) => return Err(error.into()),
        }
        if head < position {
            return Err(CheckError::LogShorter { position, head });
        }
        let last = log.read_range(position, 1).await?;
        if last.first().is_some_and(|stored| has_leaf(stored, &leaf)) { Ok(()) } else { Err(CheckError::LogDiffers { sequence: position }) }
    }
}

/// Whether a record has this leaf, by either verdict: no leaf of a valid record is that of a void one.
fn has_leaf(stored: &Stored, leaf: &Digest) -> bool {
    let as_void = || merkle::leaf_of_void(&stored.subject, &stored.bytes);
    let as_valid = Frame::parse(&stored.bytes).ok().map(|frame| merkle::leaf_of_valid(&frame));
    as_valid.into_iter().any(|found| found == *leaf.as_bytes()) || as_void() == *leaf.as_bytes()
}
