//! The projector: the task that follows the log, and the switch to a rebuilt model.

mod rebuild;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use event_log::{EventLog, Stored};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use schemas::Sequence;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use rebuild::{RebuildError, Rebuilt};

use crate::directory::Directory;
use crate::fold::{BATCH_RECORDS_MAX, FoldError, Folder};
use crate::memory::Memory;
use crate::models::{ReadModels, Shared, State};
use crate::start::{self, OpenError};

/// How often the log is asked for its head.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After this many heartbeats with records due and none delivered, the log is read anew: a reader that has gone quiet is not trusted.
const SILENT_HEARTBEATS_MAX: u32 = 3;

/// Where the read models lie and what they may use.
#[derive(Clone)]
pub struct Config {
    /// The node's data directory; the models take `read-models` in it.
    pub data: PathBuf,
    pub memory: Memory,
}

/// Why following ended. The rows folded so far are served on; [`Projector::run`] may be called again.
#[derive(Debug, Error)]
pub enum FollowError {
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
    #[error("the log's reader ended")]
    Ended,
    #[error("the projector is running already")]
    Running,
}

/// Owns the fold of one log into the read models of one node.
pub struct Projector {
    directory: Arc<Directory>,
    memory: Memory,
    log: Arc<dyn EventLog>,
    shared: Arc<Shared>,
    /// The one writer of the model in use. Locked for a batch at a time, by threads that may block; a rebuild puts its own in.
    folder: Arc<Mutex<Folder>>,
    /// One permit: whoever follows holds it.
    following: Semaphore,
    /// One permit: whoever builds holds it.
    building: Semaphore,
}

#[derive(PartialEq, Eq)]
enum Reader {
    Cancelled,
    Quiet,
}

impl Projector {
    /// Opens the read models and checks them against the log. Without any there is an empty model, to be filled by [`Projector::run`].
    pub async fn open(config: Config, log: Arc<dyn EventLog>) -> Result<(Self, ReadModels), OpenError> {
        let (path, memory) = (config.data.join("read-models"), config.memory.clone());
        let (directory, folder) = blocking(move || start::open_model(&path, &memory)).await?;
        let head = start::check_log(&folder, &*log).await?;
        let (folder, shared) = blocking(move || Shared::new(&folder, head).map(|shared| (folder, Arc::new(shared)))).await?;
        let models = ReadModels::new(Arc::clone(&shared));
        let projector = Self {
            directory: Arc::new(directory),
            memory: config.memory,
            log,
            shared,
            folder: Arc::new(Mutex::new(folder)),
            following: Semaphore::new(1),
            building: Semaphore::new(1),
        };
        Ok((projector, models))
    }

    /// Follows the log until cancelled.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), FollowError> {
        let _permit = self.following.try_acquire().map_err(|_| FollowError::Running)?;
        self.shared.set_state(State::Rebuilding);
        let outcome = self.follow(&cancel).await;
        if let Err(error) = &outcome {
            let sequence = self.shared.sequence().next();
            self.shared.set_state(State::Stopped { sequence, reason: chain(error) });
        }
        outcome
    }

    async fn follow(&self, cancel: &CancellationToken) -> Result<(), FollowError> {
        let goal = self.log.head().await?;
        self.shared.note_head(goal);
        let (folder, shared) = (Arc::clone(&self.folder), Arc::clone(&self.shared));
        blocking(move || shared.refresh(&folder.lock())).await.map_err(FoldError::Read)?;
        self.note_progress(goal);
        while self.follow_reader(goal, cancel).await? == Reader::Quiet {
            tracing::warn!(position = %self.shared.sequence(), head = %self.shared.head(), "the log's reader went quiet; reading anew");
        }
        Ok(())
    }

    /// Follows one reader of the log until it goes quiet.
    async fn follow_reader(&self, goal: Sequence, cancel: &CancellationToken) -> Result<Reader, FollowError> {
        let mut runs = self.log.read(self.shared.sequence().next()).await?;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = 0;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(Reader::Cancelled),
                run = runs.next() => {
                    silent = 0;
                    self.fold(run.ok_or(FollowError::Ended)??, cancel).await?;
                    self.note_progress(goal);
                }
                _ = heartbeat.tick() => {
                    self.shared.note_head(self.log.head().await?);
                    silent = if self.shared.head() > self.shared.sequence() { silent + 1 } else { 0 };
                    if silent > SILENT_HEARTBEATS_MAX {
                        return Ok(Reader::Quiet);
                    }
                }
            }
        }
    }

    fn note_progress(&self, goal: Sequence) {
        if self.shared.sequence() >= goal {
            self.shared.set_state(State::Following);
        }
    }

    /// Folds one run of records, a bounded batch at a time, each visible as soon as it is committed.
    async fn fold(&self, run: Vec<Stored>, cancel: &CancellationToken) -> Result<(), FoldError> {
        let (folder, shared, cancel) = (Arc::clone(&self.folder), Arc::clone(&self.shared), cancel.clone());
        blocking(move || {
            for records in run.chunks(BATCH_RECORDS_MAX) {
                if cancel.is_cancelled() {
                    break;
                }
                let mut folder = folder.lock();
                let (changes, stop) = folder.fold(records)?;
                shared.publish(&folder, &changes)?;
                stop.map_or(Ok(()), Err)?;
            }
            Ok(())
        })
        .await
    }
}

/// Runs what blocks off the runtime's own threads. A panic goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => panic!("the runtime shut down under a blocking task"),
        },
    }
}

/// An error and its sources in one line, for the status.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
