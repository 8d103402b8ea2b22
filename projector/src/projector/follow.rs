//! Following the log: reading on, folding, and waiting out the times in which the log is away.
//!
//! No reader of the log is opened but after a check that the log still holds what was folded: at first contact, after every outage, when a
//! head lies below what was there before, and when a reader has gone quiet. So a log that lost its end is refused before anything is folded
//! from it, and a reader never outlives the outage that may have changed what it reads.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use event_log::{Batches, Stored};
use futures_util::future::{Either, ready};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use schemas::Sequence;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::{Projector, blocking};
use crate::contact::Contact;
use crate::fold::{BATCH_RECORDS_MAX, CheckedAhead, FoldError};
use crate::models::{HEARTBEAT, Moment, State};
use crate::start::{Anchor, CheckError};

/// After this many heartbeats with records due and none delivered, the log is read anew: a reader that has gone quiet is not trusted.
const SILENT_HEARTBEATS_MAX: u32 = 3;
/// A log that seems to be shorter than the rows is asked this often, a heartbeat apart, before it is believed: a server that has just
/// become the leader may be a moment behind its own log.
const SHORTER_ANSWERS: u32 = 3;
/// How often it is noted for the next start how stale the rows are.
const NOTE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

/// How many runs are read ahead of the fold while their signatures are checked. The fold of one takes no longer than the check of one, so more
/// than two that are checked at once would only wait.
const RUNS_AHEAD: usize = 3;
/// What comes record by record is folded at once: another thread would only make it later.
const CHECKED_RECORDS_MIN: usize = 32;

/// Why following ended. The rows folded so far are served on; [`Projector::run`] may be called again.
#[derive(Debug, Error)]
pub enum FollowError {
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
    /// The log is not, or no longer, the one that the rows were folded from. Nothing was folded from it.
    #[error("the log is refused")]
    Refused(#[source] CheckError),
    #[error("the log's reader ended")]
    Ended,
    #[error("the projector is running already")]
    Running,
}

/// Why a reader was let go without an error.
#[derive(Debug, PartialEq, Eq)]
enum Reader {
    Cancelled,
    Quiet,
    /// The log went away.
    Lost(String),
    /// The log has a head below one that it had.
    Backwards(Sequence),
}

impl Projector {
    /// Follows the log until cancelled. A log that cannot be reached is waited for.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), FollowError> {
        let _permit = self.following.try_acquire().map_err(|_| FollowError::Running)?;
        let outcome = tokio::select! {
            outcome = self.follow(&cancel) => outcome,
            never = self.note_contacts() => match never {},
        };
        self.note_contact().await;
        if let Err(error) = &outcome {
            self.is_refused.store(matches!(error, FollowError::Refused(_)), Ordering::Relaxed);
            let sequence = self.shared.sequence().next();
            self.shared.set_state(State::Stopped { sequence, reason: chain(error) });
        }
        outcome
    }

    async fn follow(&self, cancel: &CancellationToken) -> Result<(), FollowError> {
        // A stop stays until something was folded after it: an attempt alone mends nothing.
        if self.shared.state() == State::Following {
            self.shared.set_state(State::Rebuilding);
        }
        let (folder, shared) = (Arc::clone(&self.folder), Arc::clone(&self.shared));
        blocking(move || shared.refresh(&folder.lock())).await.map_err(FoldError::Read)?;
        let mut goal = None;
        loop {
            let head = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                head = self.meet() => head?,
            };
            self.is_refused.store(false, Ordering::Relaxed);
            if matches!(self.shared.state(), State::Waiting { .. }) {
                self.shared.set_state(State::Rebuilding);
                goal = None;
            }
            let goal = *goal.get_or_insert(head);
            self.note_progress(goal);
            match self.follow_reader(goal, cancel).await {
                Ok(Reader::Cancelled) => return Ok(()),
                Ok(Reader::Quiet) => {
                    tracing::warn!(position = %self.shared.sequence(), head = %self.shared.head(), "the log's reader went quiet; reading anew");
                }
                Ok(Reader::Backwards(head)) => {
                    tracing::warn!(position = %self.shared.sequence(), %head, "the log's head went backwards; checking the log");
                }
                Ok(Reader::Lost(reason)) | Err(FollowError::Log(event_log::ReadError::Unavailable { reason })) => self.wait_out(reason),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the log answers, checks that it holds what was folded, and gives its head.
    async fn meet(&self) -> Result<Sequence, FollowError> {
        let folder = Arc::clone(&self.folder);
        let anchor = blocking(move || Anchor::of(folder.lock().row())).await;
        let mut shorter = 0;
        loop {
            let asked = self.shared.freshness.now();
            let checked = match &anchor {
                Some(anchor) => anchor.check(&*self.log).await,
                None => Ok(()),
            };
            let head = match checked {
                Ok(()) => self.log.head().await.map_err(CheckError::Log),
                Err(error) => Err(error),
            };
            match head {
                Ok(head) => {
                    self.shared.note_head(head, asked);
                    return Ok(head);
                }
                Err(CheckError::Log(event_log::ReadError::Unavailable { reason })) => self.wait_out(reason),
                Err(CheckError::Log(error)) => return Err(error.into()),
                Err(CheckError::LogShorter { .. }) if shorter + 1 < SHORTER_ANSWERS => shorter += 1,
                Err(refused) => return Err(FollowError::Refused(refused)),
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    /// Follows one reader of the log until it goes quiet or the log goes away.
    async fn follow_reader(&self, goal: Sequence, cancel: &CancellationToken) -> Result<Reader, FollowError> {
        let mut runs = pin!(self.checked(self.log.read(self.shared.sequence().next()).await?));
        let mut next_head = pin!(self.next_head());
        let mut silent = 0;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(Reader::Cancelled),
                run = runs.next() => {
                    silent = 0;
                    let (run, ahead) = run.ok_or(FollowError::Ended)??;
                    self.fold(run, ahead, cancel).await?;
                    self.note_progress(goal);
                }
                // Beside the reader, so that a head that is long in coming holds up no record.
                (asked, position, head) = &mut next_head => {
                    let head = match head {
                        Ok(head) if head < position => return Ok(Reader::Backwards(head)),
                        Ok(head) => head,
                        Err(event_log::ReadError::Unavailable { reason }) => return Ok(Reader::Lost(reason)),
                        Err(error) => return Err(error.into()),
                    };
                    self.shared.note_head(head, asked);
                    silent = if self.shared.head() > self.shared.sequence() { silent + 1 } else { 0 };
                    if silent > SILENT_HEARTBEATS_MAX {
                        return Ok(Reader::Quiet);
                    }
                    next_head.set(self.next_head());
                }
            }
        }
    }

    /// The runs of a reader, in their order, with the signatures of long ones checked while those before them are folded.
    fn checked(&self, runs: Batches) -> impl Stream<Item = Result<(Vec<Stored>, CheckedAhead), event_log::ReadError>> + use<> {
        let shared = Arc::clone(&self.shared);
        let checking = runs.map(move |run| {
            let authority = Arc::clone(&shared.view().authority);
            let check = move |run: Vec<Stored>| {
                let ahead = CheckedAhead::of(&run, authority);
                (run, ahead)
            };
            match run {
                // Begun here and not when its turn comes.
                Ok(run) if run.len() >= CHECKED_RECORDS_MIN => Either::Left(blocking(move || check(run)).map(Ok)),
                run => Either::Right(ready(run.map(|run| (run, CheckedAhead::default())))),
            }
        });
        checking.buffered(RUNS_AHEAD)
    }

    /// The log's head at the next heartbeat, with the moment and the position at which it was asked for.
    async fn next_head(&self) -> (Moment, Sequence, Result<Sequence, event_log::ReadError>) {
        tokio::time::sleep(HEARTBEAT).await;
        let (asked, position) = (self.shared.freshness.now(), self.shared.sequence());
        (asked, position, self.log.head().await)
    }

    fn note_progress(&self, goal: Sequence) {
        let position = self.shared.sequence();
        if position >= goal {
            self.shared.set_state(State::Following);
        } else if matches!(self.shared.state(), State::Stopped { sequence, .. } if sequence <= position) {
            self.shared.set_state(State::Rebuilding);
        }
    }

    fn wait_out(&self, reason: String) {
        // That it went away makes a log that was refused no better.
        if self.is_refused.load(Ordering::Relaxed) {
            return;
        }
        if !matches!(self.shared.state(), State::Waiting { .. }) {
            tracing::warn!(position = %self.shared.sequence(), reason, "the log went away; the read models wait for it and grow stale");
        }
        self.shared.set_state(State::Waiting { reason });
    }

    /// Folds one run of records, a bounded batch at a time, each visible as soon as it is committed.
    async fn fold(&self, run: Vec<Stored>, ahead: CheckedAhead, cancel: &CancellationToken) -> Result<(), FoldError> {
        let (folder, shared, cancel) = (Arc::clone(&self.folder), Arc::clone(&self.shared), cancel.clone());
        blocking(move || {
            for records in run.chunks(BATCH_RECORDS_MAX) {
                if cancel.is_cancelled() {
                    break;
                }
                let mut folder = folder.lock();
                let (changes, stop) = folder.fold_checked(records, &ahead)?;
                shared.publish(&folder, &changes)?;
                stop.map_or(Ok(()), Err)?;
            }
            Ok(())
        })
        .await
    }

    async fn note_contacts(&self) -> Infallible {
        loop {
            tokio::time::sleep(NOTE_INTERVAL).await;
            self.note_contact().await;
        }
    }

    /// Notes for the next start how stale the rows are now.
    async fn note_contact(&self) {
        // The staleness first: the rows of that moment are among those of the position.
        let Some(staleness) = self.shared.freshness.unrounded() else { return };
        let (file, shared, written_at) = (Arc::clone(&self.contact), Arc::clone(&self.shared), (self.clock)());
        blocking(move || {
            let view = shared.view();
            let contact = Contact { written_at, staleness, position: view.position.sequence };
            file.write(&contact, &view.store);
        })
        .await;
    }
}

/// An error and its sources in one line, for the status.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
