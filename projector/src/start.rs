//! The start: which model to open, and whether it was folded from the log that is there.

use std::path::Path;
use std::sync::Arc;

use event_log::{EventLog, merkle};
use schemas::record::Frame;
use schemas::{ClusterId, Digest, Sequence, VoidReason};
use thiserror::Error;

use crate::VERSION;
pub use crate::directory::DirectoryError;
use crate::directory::{Directory, Generation};
use crate::fold::Folder;
use crate::fold::rows::{FAMILIES, VOIDS, of_sequence};
use crate::memory::Memory;
use crate::store::{ReadError, Store};

/// Why the read models cannot be opened. Nothing was changed.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the read models have version {found}, this release reads up to version {supported}")]
    NewerVersion { found: u32, supported: u32 },
    #[error("the read models are of cluster {found}, the log is of cluster {expected}")]
    OtherCluster { found: ClusterId, expected: ClusterId },
    /// Records that were folded, and perhaps acted on, are gone.
    #[error("the log ends at sequence {head}, before the read models' position {position}: it has lost records or is another log")]
    LogShorter { position: Sequence, head: Sequence },
    #[error("the log's record at sequence {sequence} is not the one that the read models were folded from")]
    LogDiffers { sequence: Sequence },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Storage(#[from] ReadError),
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
            let next = directory.next()?;
            directory.point_to(next)?;
            next
        }
    };
    directory.sweep(generation)?;
    let store = Store::open(&directory.path_of(generation), FAMILIES, memory)?;
    Ok((directory, Folder::open(Arc::new(store))?))
}

/// Checks that the log goes on where the model stands. Gives the log's head.
pub(crate) async fn check_log(folder: &Folder, log: &dyn EventLog) -> Result<Sequence, OpenError> {
    #[cfg(feature = "faults")]
    if crate::faults::is_planted("trusting-open") {
        return Ok(log.head().await?);
    }
    let row = folder.row();
    let (position, head) = (row.sequence, log.head().await?);
    let (Some(found), Some(leaf)) = (row.cluster, row.leaf) else { return Ok(head) };
    match log.identity().await {
        Ok(Some(expected)) if expected != found => return Err(OpenError::OtherCluster { found, expected }),
        Ok(_) => {}
        // Something that founds nothing stands at sequence 1, and we have folded a founding there.
        Err(event_log::ReadError::NotFounded) => return Err(OpenError::LogDiffers { sequence: Sequence(1) }),
        Err(error) => return Err(error.into()),
    }
    if head < position {
        return Err(OpenError::LogShorter { position, head });
    }
    let is_void = folder.store().get::<VoidReason>(VOIDS, &of_sequence(position))?.is_some();
    let last = log.read_range(position, 1).await?;
    let found = last.first().and_then(|stored| {
        if is_void {
            Some(merkle::leaf_of_void(&stored.subject, &stored.bytes))
        } else {
            Frame::parse(&stored.bytes).ok().map(|frame| merkle::leaf_of_valid(&frame))
        }
    });
    if found.map(Digest::from_bytes) == Some(leaf) { Ok(head) } else { Err(OpenError::LogDiffers { sequence: position }) }
}
