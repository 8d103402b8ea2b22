//! The modules that are loaded on this node. One that several bindings, or a handler and the loader, want at once is loaded once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_log::artefacts::{ArtefactError, ArtefactKind, Artefacts};
use policy_host::{Host, LoadError, Module};
use schemas::policy::{PolicyClass, PolicyKind, PolicyUploaded};
use schemas::{Digest, Sequence};
use thiserror::Error;
use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::status::PolicyHealth;

/// Modules that are loaded at once.
const LOADS_MAX: usize = 4;
/// Uploads that are held in memory, and admitted, at once.
const UPLOADS_MAX: usize = 2;

/// What a module is loaded as. The same bytes have other limits in another class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModuleKey {
    pub(crate) digest: Digest,
    pub(crate) kind: PolicyKind,
    pub(crate) class: PolicyClass,
}

impl ModuleKey {
    pub(crate) const fn of(uploaded: &PolicyUploaded) -> Self {
        Self { digest: uploaded.digest, kind: uploaded.kind, class: uploaded.class }
    }
}

/// Why a module is not at hand.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// Its upload was recorded, so that some node had it: put the same bytes again to mend it.
    #[error("no artefact has the digest {digest}")]
    Missing { digest: Digest },
    #[error("the module cannot be fetched")]
    Artefact(#[from] ArtefactError),
    #[error("the module cannot be loaded")]
    Load(#[from] LoadError),
    #[error("a task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// The modules of this node. Cheap to clone; all clones have the same modules.
#[derive(Clone)]
pub struct PolicyModules(Arc<Inner>);

struct Inner {
    host: Host,
    artefacts: Arc<dyn Artefacts>,
    /// Guards which modules are there or under way; a cell is filled by whoever wants its module first.
    cells: Mutex<HashMap<ModuleKey, Arc<OnceCell<Arc<Module>>>>>,
    loads: Semaphore,
    uploads: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Told when what could not be had may be there now.
    mended: Notify,
    /// Written by the loader.
    health: watch::Sender<PolicyHealth>,
}

impl PolicyModules {
    /// Modules out of this host and this store; what is loaded on somebody's behalf runs among these tasks.
    pub fn new(host: Host, artefacts: Arc<dyn Artefacts>, tasks: TaskTracker) -> Self {
        let (health, loads, uploads) = (watch::Sender::default(), Semaphore::new(LOADS_MAX), Arc::new(Semaphore::new(UPLOADS_MAX)));
        Self(Arc::new(Inner { host, artefacts, cells: Mutex::default(), loads, uploads, tasks, mended: Notify::new(), health }))
    }

    /// What runs them.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    pub(crate) fn artefacts(&self) -> &dyn Artefacts {
        &*self.0.artefacts
    }

    /// A module, loaded if it is not yet. May take as long as compiling it does; dropping the future gives up the wait, not the work.
    pub(crate) async fn get(&self, key: ModuleKey) -> Result<Arc<Module>, ModuleError> {
        let cell = self.cells().entry(key).or_default().clone();
        if let Some(module) = cell.get() {
            return Ok(module.clone());
        }
        let modules = self.clone();
        let load = async move { cell.get_or_try_init(|| modules.load(key)).await.cloned() };
        self.0.tasks.spawn(load).await?
    }

    /// A place for an upload, held until its bytes are let go of; none if none becomes free in time.
    pub(crate) async fn upload_turn(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(patience, self.0.uploads.clone().acquire_owned()).await.ok()?.ok()
    }

    /// A module if it is loaded.
    pub(crate) fn loaded(&self, key: &ModuleKey) -> Option<Arc<Module>> {
        self.cells().get(key)?.get().cloned()
    }

    /// Lets go of modules that are neither among these nor in anybody's hands.
    pub(super) fn retain(&self, wanted: &HashSet<ModuleKey>) {
        let is_held = |cell: &Arc<OnceCell<Arc<Module>>>| {
            Arc::strong_count(cell) > 1 || cell.get().is_some_and(|module| Arc::strong_count(module) > 1)
        };
        self.cells().retain(|key, cell| wanted.contains(key) || is_held(cell));
    }

    /// How the policies of this node stand.
    pub fn health(&self) -> watch::Receiver<PolicyHealth> {
        self.0.health.subscribe()
    }

    pub(super) fn set_health(&self, health: PolicyHealth) {
        self.0.health.send_if_modified(|at| {
            let is_other = *at != health;
            *at = health;
            is_other
        });
    }

    /// An artefact was put, perhaps one that was missing.
    pub(crate) fn tell_mended(&self) {
        self.0.mended.notify_one();
    }

    pub(super) async fn mended(&self) {
        self.0.mended.notified().await;
    }

    /// Waits until the loader has taken in what the log says up to a sequence; false if that takes longer.
    pub(crate) async fn wait_for(&self, sequence: Sequence, patience: Duration) -> bool {
        let mut health = self.health();
        tokio::time::timeout(patience, health.wait_for(|health| health.as_of >= sequence)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Waits until every module that a binding needs is loaded or was tried in vain; false if that takes longer.
    pub async fn wait_settled(&self, as_of: Sequence, patience: Duration) -> bool {
        let mut health = self.health();
        let settled = health.wait_for(|health| health.as_of >= as_of && health.loading == 0);
        tokio::time::timeout(patience, settled).await.is_ok_and(|seen| seen.is_ok())
    }

    async fn load(&self, key: ModuleKey) -> Result<Arc<Module>, ModuleError> {
        let _turn = self.0.loads.acquire().await.expect("the semaphore is never closed");
        let ModuleKey { digest, kind, class } = key;
        let host = self.0.host.clone();
        match tokio::task::spawn_blocking(move || host.load_cached(&digest, kind, class)).await? {
            Ok(Some(module)) => return Ok(module),
            Ok(None) => {}
            // The machine code of an older release, or damage: the artefact is compiled again.
            Err(error) => {
                tracing::warn!(policy.digest = %digest, error = &error as &dyn std::error::Error, "kept machine code is not used")
            }
        }
        let component = self.0.artefacts.get(ArtefactKind::PolicyModule, &digest).await?.ok_or(ModuleError::Missing { digest })?;
        let host = self.0.host.clone();
        Ok(tokio::task::spawn_blocking(move || host.load(&digest, kind, class, &component)).await??)
    }

    fn cells(&self) -> MutexGuard<'_, HashMap<ModuleKey, Arc<OnceCell<Arc<Module>>>>> {
        // Nothing that could panic runs under the lock.
        self.0.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
