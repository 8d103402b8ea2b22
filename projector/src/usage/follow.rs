//! The task that follows the usage stream.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use event_log::usage::{StoredBatch, UsageLog};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use schemas::Sequence;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fold::{UsageFoldError, UsageFolder};
use super::query::{Announced, UsageModels};
use crate::projector::{Config, blocking};
use crate::store::ReadError;

/// The version of the usage rows, in the name of their directory.
const VERSION: u32 = 1;

/// Batches folded into one batch of rows at most.
const RUN_BATCHES_MAX: usize = 128;

/// Why the usage models cannot be opened.
#[derive(Debug, Error)]
pub enum UsageOpenError {
    #[error("the usage models have version {found}, this release reads up to version {supported}")]
    NewerVersion { found: u32, supported: u32 },
    #[error("the usage stream ends at sequence {head}, before the usage models' position {position}")]
    LogShorter { position: Sequence, head: Sequence },
    #[error("{} cannot be used", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Storage(#[from] ReadError),
}

/// Why following ended. Sums are served on; [`UsageProjector::run`] may be called again.
#[derive(Debug, Error)]
pub enum UsageFollowError {
    #[error(transparent)]
    Fold(#[from] UsageFoldError),
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
    #[error("the usage stream's reader ended")]
    Ended,
}

/// Owns the fold of the usage stream.
pub struct UsageProjector {
    log: Arc<UsageLog>,
    /// Locked for a run at a time, by threads that may block.
    folder: Arc<Mutex<UsageFolder>>,
    announced: watch::Sender<Announced>,
}

impl UsageProjector {
    /// Opens the models under `DATA/usage-models` and checks that the stream is not shorter than they are.
    pub async fn open(config: Config, log: Arc<UsageLog>) -> Result<(Self, UsageModels), UsageOpenError> {
        let head = log.head();
        let folder = blocking(move || {
            let path = config.data.join("usage-models");
            check_version(&path)?;
            Ok::<_, UsageOpenError>(UsageFolder::open(&path.join(format!("v{VERSION}")), &config.memory)?)
        })
        .await?;
        let position = folder.position();
        if position.sequence > head {
            return Err(UsageOpenError::LogShorter { position: position.sequence, head });
        }
        let store = Arc::clone(folder.store());
        let (announced, receiver) = watch::channel(Announced { position, following: false });
        let models = UsageModels { store, announced: receiver };
        Ok((Self { log, folder: Arc::new(Mutex::new(folder)), announced }, models))
    }

    /// Follows the stream until cancelled.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), UsageFollowError> {
        self.announced.send_modify(|announced| announced.following = true);
        let outcome = self.follow(&cancel).await;
        self.announced.send_modify(|announced| announced.following = false);
        outcome
    }

    async fn follow(&self, cancel: &CancellationToken) -> Result<(), UsageFollowError> {
        let from = self.announced.borrow().position.sequence.next();
        let mut runs = self.log.read(from);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                run = runs.next() => self.fold(run.ok_or(UsageFollowError::Ended)??).await?,
            }
        }
    }

    async fn fold(&self, run: Vec<StoredBatch>) -> Result<(), UsageFoldError> {
        let (folder, announced) = (Arc::clone(&self.folder), self.announced.clone());
        blocking(move || {
            for batches in run.chunks(RUN_BATCHES_MAX) {
                let mut folder = folder.lock();
                folder.fold(batches)?;
                announced.send_modify(|announced| announced.position = folder.position());
            }
            Ok(())
        })
        .await
    }
}

/// Refuses a directory of a newer release, and makes it where there is none.
fn check_version(path: &Path) -> Result<(), UsageOpenError> {
    let list = || {
        fs::create_dir_all(path)?;
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, io::Error>>()
    };
    let names = list().map_err(|source| UsageOpenError::Io { path: path.to_owned(), source })?;
    let versions = names.iter().filter_map(|name| name.to_str()?.strip_prefix('v')?.parse::<u32>().ok());
    match versions.max() {
        Some(found) if found > VERSION => Err(UsageOpenError::NewerVersion { found, supported: VERSION }),
        _ => Ok(()),
    }
}
