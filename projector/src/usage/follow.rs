//! The task that follows the usage stream.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use event_log::usage::{StoredBatch, UsageStream};
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

/// The version of the usage rows, in the name of their directory. 3: sums by what served, which can be priced.
const VERSION: u32 = 4;

/// Batches folded into one batch of rows at most.
const RUN_BATCHES_MAX: usize = 128;

/// How long a stream out of reach is left alone.
const CONTACT_PAUSE: Duration = Duration::from_millis(500);

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
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
}

/// Why following ended. Sums are served on; [`UsageProjector::run`] may be called again.
#[derive(Debug, Error)]
pub enum UsageFollowError {
    #[error(transparent)]
    Fold(#[from] UsageFoldError),
    #[error("the usage stream ends at sequence {head}, before the usage models' position {position}")]
    LogShorter { position: Sequence, head: Sequence },
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
    #[error("the usage stream's reader ended")]
    Ended,
}

/// Owns the fold of the usage stream.
pub struct UsageProjector {
    stream: Arc<dyn UsageStream>,
    /// Locked for a run at a time, by threads that may block.
    folder: Arc<Mutex<UsageFolder>>,
    announced: watch::Sender<Announced>,
}

impl UsageProjector {
    /// Opens the models under `DATA/usage-models` and checks that the stream is not shorter than they are. With a stream out of reach they
    /// are opened all the same, and compared before anything more is folded.
    pub async fn open(config: Config, stream: Arc<dyn UsageStream>) -> Result<(Self, UsageModels), UsageOpenError> {
        let head = match stream.head().await {
            Ok(head) => Some(head),
            Err(event_log::ReadError::Unavailable { reason }) => {
                tracing::warn!(reason, "the usage stream cannot be reached; its end is looked at later");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let folder = blocking(move || {
            let path = config.data.join("usage-models");
            check_version(&path)?;
            Ok::<_, UsageOpenError>(UsageFolder::open(&path.join(format!("v{VERSION}")), &config.memory)?)
        })
        .await?;
        let position = folder.position();
        if let Some(head) = head.filter(|head| position.sequence > *head) {
            return Err(UsageOpenError::LogShorter { position: position.sequence, head });
        }
        let store = Arc::clone(folder.store());
        let (announced, receiver) = watch::channel(Announced { position, following: true });
        let models = UsageModels { store, announced: receiver };
        Ok((Self { stream, folder: Arc::new(Mutex::new(folder)), announced }, models))
    }

    /// Follows the stream until cancelled.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), UsageFollowError> {
        let outcome = self.follow(&cancel).await;
        if outcome.is_err() {
            self.set_following(false);
        }
        outcome
    }

    async fn follow(&self, cancel: &CancellationToken) -> Result<(), UsageFollowError> {
        let position = self.announced.borrow().position.sequence;
        let head = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            head = self.contact() => head?,
        };
        // Where it has lost its end, what comes now stands at places that were folded. It is never counted, and once the stream is past the
        // position, the numbers tell of every batch that is missing.
        if position > head {
            return Err(UsageFollowError::LogShorter { position, head });
        }
        if position == head {
            self.set_following(true);
        }
        let mut runs = self.stream.read(position.next());
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                run = runs.next() => self.fold(run.ok_or(UsageFollowError::Ended)??).await?,
            }
        }
    }

    /// The stream's head, as soon as it can be asked.
    async fn contact(&self) -> Result<Sequence, event_log::ReadError> {
        loop {
            match self.stream.head().await {
                Err(event_log::ReadError::Unavailable { .. }) => tokio::time::sleep(CONTACT_PAUSE).await,
                head => return head,
            }
        }
    }

    /// What failed stays so until something was folded, or nothing is due: an attempt alone mends nothing.
    fn set_following(&self, following: bool) {
        self.announced.send_if_modified(|announced| std::mem::replace(&mut announced.following, following) != following);
    }

    async fn fold(&self, run: Vec<StoredBatch>) -> Result<(), UsageFoldError> {
        let (folder, announced) = (Arc::clone(&self.folder), self.announced.clone());
        blocking(move || {
            for batches in run.chunks(RUN_BATCHES_MAX) {
                let mut folder = folder.lock();
                folder.fold(batches)?;
                announced.send_replace(Announced { position: folder.position(), following: true });
            }
            Ok(())
        })
        .await
    }
}

/// Refuses a directory of a newer release, removes what an older one folded, and makes the directory where there is none.
fn check_version(path: &Path) -> Result<(), UsageOpenError> {
    let list = || {
        fs::create_dir_all(path)?;
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, io::Error>>()
    };
    let names = list().map_err(|source| UsageOpenError::Io { path: path.to_owned(), source })?;
    let versions = names.iter().filter_map(|name| name.to_str()?.strip_prefix('v')?.parse::<u32>().ok());
    match versions.max() {
        Some(found) if found > VERSION => return Err(UsageOpenError::NewerVersion { found, supported: VERSION }),
        Some(VERSION) | None => {}
        Some(found) => tracing::info!(found, version = VERSION, "the usage models have an older version and are folded anew"),
    }
    // Losing the error is right: an older version is derived, and in nobody's way.
    (0..VERSION).for_each(|older| drop(fs::remove_dir_all(path.join(format!("v{older}")))));
    Ok(())
}
