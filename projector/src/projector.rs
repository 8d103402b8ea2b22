//! The projector: the task that follows the log, and the switch to a rebuilt model.

mod follow;
mod rebuild;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use event_log::EventLog;
use parking_lot::Mutex;
use schemas::Timestamp;
use tokio::sync::Semaphore;

pub use follow::FollowError;
pub use rebuild::{RebuildError, Rebuilding, Rebuilt, Verdicts};

use crate::contact::ContactFile;
use crate::directory::Directory;
use crate::fold::Folder;
use crate::memory::Memory;
use crate::models::{Freshness, ReadModels, Shared, State};
use crate::start::{self, Anchor, CheckError, OpenError};

/// Where the time of day comes from. Only how long a node was down is told by it; the fold never sees it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where the read models lie and what they may use.
#[derive(Clone)]
pub struct Config {
    /// The node's data directory; the models take `read-models` in it.
    pub data: PathBuf,
    pub memory: Memory,
    pub clock: Clock,
}

/// Owns the fold of one log into the read models of one node.
pub struct Projector {
    directory: Arc<Directory>,
    memory: Memory,
    clock: Clock,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) shared: Arc<Shared>,
    contact: Arc<ContactFile>,
    /// The one writer of the model in use. Locked for a batch at a time, by threads that may block; a rebuild puts its own in.
    pub(crate) folder: Arc<Mutex<Folder>>,
    /// The log was refused at the last contact. Written by whoever follows.
    is_refused: AtomicBool,
    /// One permit: whoever follows holds it.
    following: Semaphore,
    /// One permit: whoever builds holds it.
    building: Semaphore,
}

impl Projector {
    /// Opens the read models and checks them against the log. Without any there is an empty model, to be filled by [`Projector::run`].
    ///
    /// A log that cannot be reached keeps nothing from opening: the check is then the first thing that [`Projector::run`] does, and until then
    /// the models are as stale as their last contact was long ago.
    pub async fn open(config: Config, log: Arc<dyn EventLog>) -> Result<(Self, ReadModels), OpenError> {
        let Config { data, memory, clock } = config;
        let path = data.join("read-models");
        let contact = Arc::new(ContactFile::new(&path));
        let (opened, now, file) = (memory.clone(), clock(), Arc::clone(&contact));
        let (directory, folder, staleness) = blocking(move || {
            let (directory, folder) = start::open_model(&path, &opened)?;
            let staleness = file.read().and_then(|contact| contact.staleness_at(now, folder.row().sequence));
            Ok::<_, OpenError>((directory, folder, staleness))
        })
        .await?;
        let position = folder.row().sequence;
        let freshness = Freshness::new(staleness);
        let asked = freshness.now();
        let checked = match Anchor::of(folder.row()) {
            Some(anchor) => anchor.check(&*log).await,
            None => Ok(()),
        };
        let head = match checked {
            Ok(()) => log.head().await,
            Err(CheckError::Log(error)) => Err(error),
            Err(refused) => return Err(refused.into()),
        };
        let (head, state) = match head {
            Ok(head) => (Some(head), State::Rebuilding),
            Err(event_log::ReadError::Unavailable { reason }) => {
                tracing::warn!(%position, reason, ?staleness, "the log cannot be reached; the read models open without it");
                (None, State::Waiting { reason })
            }
            Err(error) => return Err(CheckError::Log(error).into()),
        };
        let shared = move || {
            let shared = Shared::new(&folder, freshness, state)?;
            if let Some(head) = head {
                shared.note_head(head, asked);
            }
            Ok::<_, OpenError>((folder, Arc::new(shared)))
        };
        let (folder, shared) = blocking(shared).await?;
        let models = ReadModels::new(Arc::clone(&shared));
        let projector = Self {
            directory: Arc::new(directory),
            memory,
            clock,
            log,
            shared,
            contact,
            folder: Arc::new(Mutex::new(folder)),
            is_refused: AtomicBool::new(false),
            following: Semaphore::new(1),
            building: Semaphore::new(1),
        };
        Ok((projector, models))
    }
}

/// Runs what blocks off the runtime's own threads, from this call on and not from the first poll. A panic goes on in the caller.
pub(crate) fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> + Send + 'static {
    let work = tokio::task::spawn_blocking(work);
    async move {
        match work.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => panic!("the runtime shut down under a blocking task"),
            },
        }
    }
}
