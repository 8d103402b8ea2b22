//! A rebuild: another model from the first record on, beside the one in use, put in its place whole.
//!
//! ```text
//! a stream of the log, up to where the model in use stood ──> ranges, until both are level ──> the same root? ──> the switch
//! ```
//!
//! By known verdicts no signature is checked up to that place: the root there says whether the records are those that were judged. If it, or
//! anything before it, is otherwise, all is thrown away and every record judged.

mod bulk;

use std::sync::Arc;

use event_log::Stored;
use parking_lot::Mutex;
use schemas::{Digest, Sequence};
use thiserror::Error;

use super::{Projector, blocking};
use crate::directory::{Directory, DirectoryError, Generation};
use crate::fold::rows::FAMILIES;
use crate::fold::{BATCH_RECORDS_MAX, FoldError, Folder, Known};
use crate::models::{HEARTBEAT, Position, Shared, Snapshots};
use crate::store::{ReadError, Store};

/// How a rebuild comes to its verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdicts {
    /// Those of the model in use are repeated, if the log still has the root that they were reached with.
    Known,
    /// Every record is judged anew, signature and all.
    Judged,
}

/// How far a rebuild has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilding {
    pub position: Sequence,
    /// Where it ends if nothing is appended meanwhile.
    pub goal: Sequence,
    /// [`Verdicts::Judged`] also where known ones were found not to hold: it has begun again then.
    pub verdicts: Verdicts,
}

/// A rebuild that was switched in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// Where both models stood when the new one took over.
    pub position: Position,
    /// How the records were judged that the model in use had when the rebuild began. Later ones were judged one by one.
    pub verdicts: Verdicts,
}

/// Why the model in use was kept.
#[derive(Debug, Error)]
pub enum RebuildError {
    #[error("a rebuild is running already")]
    Running,
    /// An alarm: the log's past or its verdicts are not what they were when the model in use was folded.
    #[error("at sequence {sequence} the rebuilt model has root {found}, the model in use has {expected}")]
    RootDiffers { sequence: Sequence, found: Digest, expected: Digest },
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
    /// The log ends below the position of the model in use.
    #[error("the log has no record at sequence {sequence}")]
    LogShorter { sequence: Sequence },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Storage(#[from] ReadError),
}

impl RebuildError {
    /// Whether it says that the log is not the one that known verdicts are about. What the log is then is found by judging it.
    const fn is_doubt(&self) -> bool {
        matches!(self, Self::RootDiffers { .. } | Self::Fold(FoldError::OtherVerdict { .. } | FoldError::Stop(_)))
    }
}

/// Told after each batch; called from threads that may block.
type Progress = Arc<dyn Fn(Rebuilding) + Send + Sync>;

/// The model in use, as far as taking its place goes.
struct InUse {
    directory: Arc<Directory>,
    shared: Arc<Shared>,
    folder: Arc<Mutex<Folder>>,
}

impl Projector {
    /// Folds the whole log into a new model while the one in use goes on, compares the roots at the same position, and switches. A log that
    /// cannot be reached is waited for. Dropping the future ends the rebuild and leaves the model in use.
    pub async fn rebuild(
        &self,
        verdicts: Verdicts,
        progress: impl Fn(Rebuilding) + Send + Sync + 'static,
    ) -> Result<Rebuilt, RebuildError> {
        let _permit = self.building.try_acquire().map_err(|_| RebuildError::Running)?;
        let progress: Progress = Arc::new(progress);
        if verdicts == Verdicts::Known {
            let known = Known::of(&self.shared.view());
            match self.build(Some(known), &progress).await {
                Err(error) if error.is_doubt() => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the log is not the one that was judged; every record is judged anew"
                    );
                }
                outcome => return outcome,
            }
        }
        self.build(None, &progress).await
    }

    async fn build(&self, known: Option<Known>, progress: &Progress) -> Result<Rebuilt, RebuildError> {
        let (directory, memory) = (Arc::clone(&self.directory), self.memory.clone());
        let (generation, candidate) = blocking(move || begin(&directory, &memory)).await?;
        let verdicts = if known.is_some() { Verdicts::Known } else { Verdicts::Judged };
        let mut candidate = self.fold_bulk(candidate, known, progress).await?;
        loop {
            let sequence = candidate.row().sequence.next();
            let run = match self.log.read_range(sequence, BATCH_RECORDS_MAX).await {
                // What is folded so far is kept: if another log comes back, the roots will tell.
                Err(event_log::ReadError::Unavailable { .. }) => {
                    tokio::time::sleep(HEARTBEAT).await;
                    continue;
                }
                run => run?,
            };
            if run.is_empty() && sequence <= self.shared.sequence() {
                return Err(RebuildError::LogShorter { sequence });
            }
            let (directory, shared, folder) = (Arc::clone(&self.directory), Arc::clone(&self.shared), Arc::clone(&self.folder));
            let in_use = InUse { directory, shared, folder };
            match blocking(move || in_use.advance(candidate, generation, &run)).await? {
                Advanced::Switched(position) => {
                    tracing::info!(position = %position.sequence, root = %position.root, ?verdicts, "rebuilt read models are in use");
                    return Ok(Rebuilt { position, verdicts });
                }
                Advanced::Behind(folder) => candidate = *folder,
            }
            progress(Rebuilding { position: candidate.row().sequence, goal: self.shared.head(), verdicts });
        }
    }
}

/// An empty model in a directory that goes with it, until it is switched in.
fn begin(directory: &Directory, memory: &crate::Memory) -> Result<(Generation, Folder), RebuildError> {
    let generation = directory.next()?;
    let store = Store::open(&directory.path_of(generation), FAMILIES, memory)?;
    store.set_retired(true);
    store.load();
    Ok((generation, Folder::open(Arc::new(store))?))
}

enum Advanced {
    Behind(Box<Folder>),
    Switched(Position),
}

impl InUse {
    /// Folds a run into the candidate, and puts the candidate in if that brings it level.
    fn advance(self, mut candidate: Folder, generation: Generation, run: &[Stored]) -> Result<Advanced, RebuildError> {
        if run.last().is_some_and(|last| last.sequence < self.shared.sequence()) {
            fold(&mut candidate, run)?;
            return Ok(Advanced::Behind(Box::new(candidate)));
        }
        // Most of what a crash of the machine could take is brought to safety before the fold has to wait.
        candidate.store().sync()?;
        // Nothing is folded into the model in use while this is held.
        let mut in_use = self.folder.lock();
        let position = in_use.row().position();
        let level = run.partition_point(|stored| stored.sequence <= position.sequence);
        fold(&mut candidate, &run[..level])?;
        if candidate.row().sequence < position.sequence {
            return Ok(Advanced::Behind(Box::new(candidate)));
        }
        same_root(&candidate, position)?;
        let snapshots = Snapshots::load(&candidate)?;
        candidate.store().sync()?;
        self.directory.point_to(generation)?;
        candidate.store().set_retired(false);
        let old = std::mem::replace(&mut *in_use, candidate);
        old.store().set_retired(true);
        self.shared.switch(&in_use, snapshots);
        Ok(Advanced::Switched(position))
    }
}

/// Compares the roots of two models at one position.
fn same_root(candidate: &Folder, Position { sequence, root: expected }: Position) -> Result<(), RebuildError> {
    let found = candidate.row().root;
    if found == expected {
        return Ok(());
    }
    tracing::error!(%sequence, %found, %expected, "a rebuilt model has another root; the model in use is kept");
    Err(RebuildError::RootDiffers { sequence, found, expected })
}

fn fold(candidate: &mut Folder, run: &[Stored]) -> Result<(), FoldError> {
    match candidate.fold(run)? {
        (_, None) => Ok(()),
        (_, Some(stop)) => Err(stop.into()),
    }
}
