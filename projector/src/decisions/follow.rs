//! The task that follows the decision stream.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use event_log::decisions::{DecisionStream, StoredDecisions};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use schemas::Sequence;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fold::{DecisionFoldError, DecisionFolder};
use super::query::{Announced, DecisionModels};
use super::rows::DecisionBounds;
use crate::projector::{Config, blocking};
use crate::store::ReadError;

/// The version of the decision rows, in the name of their directory.
const VERSION: u32 = 1;

/// Batches folded into one batch of rows at most: some thousands of decisions.
const RUN_BATCHES_MAX: usize = 32;

/// How long a stream out of reach is left alone.
const CONTACT_PAUSE: Duration = Duration::from_millis(500);

/// Why the decision models cannot be opened.
#[derive(Debug, Error)]
pub enum DecisionOpenError {
    #[error("the decision models have version {found}, this release reads up to version {supported}")]
    NewerVersion { found: u32, supported: u32 },
    #[error("{} cannot be used", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Storage(#[from] ReadError),
}

/// Why following ended. What was folded is served on; [`DecisionProjector::run`] may be called again.
#[derive(Debug, Error)]
pub enum DecisionFollowError {
    #[error(transparent)]
    Fold(#[from] DecisionFoldError),
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
    #[error("the decision stream's reader ended")]
    Ended,
}

/// Owns the fold of the decision stream.
pub struct DecisionProjector {
    stream: Arc<dyn DecisionStream>,
    /// Locked for a run at a time, by threads that may block.
    folder: Arc<Mutex<DecisionFolder>>,
    announced: watch::Sender<Announced>,
}

impl DecisionProjector {
    /// Opens the models under `DATA/decision-models`.
    pub async fn open(config: Config, stream: Arc<dyn DecisionStream>) -> Result<(Self, DecisionModels), DecisionOpenError> {
        Self::open_bounded(config, stream, DecisionBounds::default()).await
    }

    /// As [`DecisionProjector::open`], with other bounds.
    pub async fn open_bounded(
        config: Config,
        stream: Arc<dyn DecisionStream>,
        bounds: DecisionBounds,
    ) -> Result<(Self, DecisionModels), DecisionOpenError> {
        let folder = blocking(move || {
            let path = config.data.join("decision-models");
            check_version(&path)?;
            Ok::<_, DecisionOpenError>(DecisionFolder::open(&path.join(format!("v{VERSION}")), &config.memory, bounds)?)
        })
        .await?;
        let store = Arc::clone(folder.store());
        let (announced, receiver) = watch::channel(Announced { position: folder.position(), following: false });
        let models = DecisionModels { store, announced: receiver };
        Ok((Self { stream, folder: Arc::new(Mutex::new(folder)), announced }, models))
    }

    /// Follows the stream until cancelled.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), DecisionFollowError> {
        self.announced.send_modify(|announced| announced.following = true);
        let outcome = self.follow(&cancel).await;
        self.announced.send_modify(|announced| announced.following = false);
        outcome
    }

    async fn follow(&self, cancel: &CancellationToken) -> Result<(), DecisionFollowError> {
        let head = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            head = self.contact() => head?,
        };
        let position = self.announced.borrow().position.sequence;
        if position > head {
            tracing::warn!(position = position.0, head = head.0, "the decision stream has begun anew; it is folded from its beginning");
            self.change(DecisionFolder::begin_anew).await?;
        }
        let mut runs = self.stream.read(self.announced.borrow().position.sequence.next());
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                run = runs.next() => self.fold(run.ok_or(DecisionFollowError::Ended)??).await?,
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

    async fn fold(&self, run: Vec<StoredDecisions>) -> Result<(), DecisionFoldError> {
        self.change(move |folder| run.chunks(RUN_BATCHES_MAX).try_for_each(|batches| folder.fold(batches))).await
    }

    /// Changes the rows off the executor, and tells how far they are.
    async fn change(
        &self,
        change: impl FnOnce(&mut DecisionFolder) -> Result<(), DecisionFoldError> + Send + 'static,
    ) -> Result<(), DecisionFoldError> {
        let (folder, announced) = (Arc::clone(&self.folder), self.announced.clone());
        blocking(move || {
            let mut folder = folder.lock();
            let changed = change(&mut folder);
            announced.send_modify(|announced| announced.position = folder.position());
            changed
        })
        .await
    }
}

/// Refuses a directory of a newer release, removes what an older one folded, and makes the directory where there is none.
fn check_version(path: &Path) -> Result<(), DecisionOpenError> {
    let list = || {
        fs::create_dir_all(path)?;
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, io::Error>>()
    };
    let names = list().map_err(|source| DecisionOpenError::Io { path: path.to_owned(), source })?;
    let versions = names.iter().filter_map(|name| name.to_str()?.strip_prefix('v')?.parse::<u32>().ok());
    match versions.max() {
        Some(found) if found > VERSION => return Err(DecisionOpenError::NewerVersion { found, supported: VERSION }),
        Some(VERSION) | None => {}
        Some(found) => tracing::info!(found, version = VERSION, "the decision models have an older version and are folded anew"),
    }
    // Losing the error is right: an older version is derived, and in nobody's way.
    (0..VERSION).for_each(|older| drop(fs::remove_dir_all(path.join(format!("v{older}")))));
    Ok(())
}
