//! Rebuilds of this node's read models that an operator asks for: one at a time, in a task of the node's own, so that it goes on when whoever
//! asked has left. The models in use are served until the rebuilt ones take their place.

use std::sync::Arc;
use std::time::Duration;

use projector::{Projector, RebuildError, Rebuilding, Rebuilt, Verdicts};
use schemas::{Digest, Sequence, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Clock;

/// Starts rebuilds and knows how the last one went. Cheap to clone.
#[derive(Clone)]
pub struct Rebuilds {
    projector: Arc<Projector>,
    clock: Clock,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// None before the first. Written by who starts one and by the task that runs it, of which there is one at most.
    last: watch::Sender<Option<Rebuild>>,
}

/// A rebuild, as far as it has come.
#[derive(Debug, Clone)]
pub(crate) struct Rebuild {
    pub(crate) phase: Phase,
    pub(crate) verdicts: Verdicts,
    pub(crate) position: Sequence,
    pub(crate) goal: Sequence,
    pub(crate) started_at: Timestamp,
    begun: Instant,
    ended: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// The rebuilt models were put in, with this root.
    Switched {
        root: Digest,
    },
    /// The models in use were kept.
    Failed {
        reason: String,
    },
}

impl Rebuild {
    /// How long it took, or takes so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now) - self.begun
    }
}

impl Rebuilds {
    /// Rebuilds of these models, run among these tasks until they are told to stop.
    pub fn new(projector: Arc<Projector>, clock: Clock, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { projector, clock, tasks, stop, last: watch::Sender::new(None) }
    }

    /// The last one that was started.
    pub(crate) fn last(&self) -> Option<Rebuild> {
        self.last.borrow().clone()
    }

    /// Starts one; none if one is running.
    pub(crate) fn start(&self, verdicts: Verdicts, goal: Sequence) -> Option<Rebuild> {
        let started = Rebuild {
            phase: Phase::Running,
            verdicts,
            position: Sequence::ZERO,
            goal,
            started_at: (self.clock)(),
            begun: Instant::now(),
            ended: None,
        };
        let is_free = self.last.send_if_modified(|last| {
            let is_running = last.as_ref().is_some_and(|last| last.phase == Phase::Running);
            if !is_running {
                *last = Some(started.clone());
            }
            !is_running
        });
        if is_free {
            tracing::info!(?verdicts, goal = goal.0, "the read models are rebuilt");
            self.tasks.spawn(self.clone().run(verdicts));
        }
        is_free.then_some(started)
    }

    async fn run(self, verdicts: Verdicts) {
        let told = self.last.clone();
        let progress = move |Rebuilding { position, goal, verdicts }: Rebuilding| {
            told.send_modify(|last| {
                if let Some(last) = last {
                    (last.position, last.goal, last.verdicts) = (position, goal.max(position), verdicts);
                }
            });
        };
        let outcome = self.stop.run_until_cancelled(self.projector.rebuild(verdicts, progress)).await;
        self.last.send_modify(|last| {
            if let Some(last) = last {
                last.end(outcome);
            }
        });
    }
}

impl Rebuild {
    fn end(&mut self, outcome: Option<Result<Rebuilt, RebuildError>>) {
        self.ended = Some(Instant::now());
        self.phase = match outcome {
            Some(Ok(Rebuilt { position, verdicts })) => {
                (self.position, self.goal, self.verdicts) = (position.sequence, position.sequence, verdicts);
                Phase::Switched { root: position.root }
            }
            Some(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the rebuild failed; the read models in use are kept");
                Phase::Failed { reason: chain(&error) }
            }
            None => Phase::Failed { reason: "the node is stopping".to_owned() },
        };
    }
}

/// An error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
