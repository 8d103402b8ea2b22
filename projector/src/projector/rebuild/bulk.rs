//! The long part of a rebuild: the log up to where the model in use stood when the rebuild began, read ahead of the fold.

use std::time::Duration;

use event_log::{Batches, Stored};
use futures_util::StreamExt as _;
use schemas::Sequence;
use tokio::sync::mpsc;

use super::{Progress, RebuildError, Rebuilding, Verdicts, fold, same_root};
use crate::fold::{Folder, Known};
use crate::models::HEARTBEAT;
use crate::projector::{Projector, blocking};

/// The most records of one batch. The more there are, the closer neighbours in it are in the store, and the less each costs.
const BATCH_RECORDS_MAX: usize = 8_192;
/// Runs that are read ahead of the fold.
const RUNS_HELD: usize = 8;
/// A reader with records due that is quiet for so long is let go, and the log read anew.
const QUIET_MAX: Duration = Duration::from_secs(5);

impl Projector {
    /// Brings an empty model to the position that the model in use has now, or that verdicts are known for, and compares the root with what
    /// is known.
    pub(super) async fn fold_bulk(&self, candidate: Folder, known: Option<Known>, progress: &Progress) -> Result<Folder, RebuildError> {
        let goal = known.as_ref().map_or_else(|| self.shared.sequence(), |known| known.position.sequence);
        let mut candidate = candidate;
        while candidate.row().sequence < goal {
            let begun = candidate.row().sequence;
            let read = match self.log.head().await {
                Ok(head) if head < goal => return Err(RebuildError::LogShorter { sequence: head.next() }),
                Ok(_) => self.log.read(begun.next()).await,
                Err(error) => Err(error),
            };
            let read = match read {
                Ok(runs) => {
                    let (sender, receiver) = mpsc::channel(RUNS_HELD);
                    let bulk = Bulk { known: known.clone(), goal, progress: Progress::clone(progress) };
                    let folding = blocking(move || bulk.fold(candidate, receiver));
                    let (folded, read) = tokio::join!(folding, read_ahead(runs, goal, sender));
                    candidate = folded?;
                    read
                }
                Err(error) => Err(error),
            };
            match read {
                // What is folded so far is kept: if another log comes back, the roots will tell.
                Ok(()) if candidate.row().sequence > begun => {}
                Ok(()) | Err(event_log::ReadError::Unavailable { .. }) => tokio::time::sleep(HEARTBEAT).await,
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(known) = known {
            same_root(&candidate, known.position)?;
        }
        blocking(move || {
            candidate.store().settle()?;
            Ok(candidate)
        })
        .await
    }
}

/// Hands runs on until one that ends at the goal or past it; ends early where the log goes quiet or the fold fails.
async fn read_ahead(mut runs: Batches, goal: Sequence, sender: mpsc::Sender<Vec<Stored>>) -> Result<(), event_log::ReadError> {
    while let Ok(Some(run)) = tokio::time::timeout(QUIET_MAX, runs.next()).await {
        let run = run?;
        let is_last = run.last().is_some_and(|last| last.sequence >= goal);
        if sender.send(run).await.is_err() || is_last {
            break;
        }
    }
    Ok(())
}

struct Bulk {
    known: Option<Known>,
    goal: Sequence,
    progress: Progress,
}

impl Bulk {
    /// Folds what is handed on, up to the goal.
    fn fold(self, mut candidate: Folder, mut runs: mpsc::Receiver<Vec<Stored>>) -> Result<Folder, RebuildError> {
        while let Some(mut run) = runs.blocking_recv() {
            // Readers give fewer records at a time. One that goes quiet is let go, and what it gave is folded then.
            while run.len() < BATCH_RECORDS_MAX
                && let Some(more) = runs.blocking_recv()
            {
                run.extend(more);
            }
            let due = run.partition_point(|stored| stored.sequence <= self.goal);
            for records in run[..due].chunks(BATCH_RECORDS_MAX) {
                let verdicts = match &self.known {
                    Some(known) => {
                        candidate.fold_known(records, &known.voids(records)?)?;
                        Verdicts::Known
                    }
                    None => {
                        fold(&mut candidate, records)?;
                        Verdicts::Judged
                    }
                };
                (self.progress)(Rebuilding { position: candidate.row().sequence, goal: self.goal, verdicts });
            }
        }
        Ok(candidate)
    }
}
