//! The node's tasks, and its end: stop accepting, let streams finish, flush, close, each under a deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the pieces of a stopping node have to flush and close after the last stream ended.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// Owns every task of a node.
pub(super) struct Tasks {
    /// Commands, settlements, folds: what must finish.
    pub(super) tracker: TaskTracker,
    /// Listeners and connections: what is drained first.
    pub(super) connections: TaskTracker,
    /// Told when the node stops accepting.
    pub(super) drain: CancellationToken,
    /// Told when connections that still are open have to end.
    pub(super) cut: CancellationToken,
    /// Told when nothing more will be asked for.
    pub(super) close: CancellationToken,
    /// The first essential task that ended, and why.
    failure: watch::Sender<Option<String>>,
    /// Signals received so far.
    signals: watch::Sender<u32>,
}

impl Tasks {
    /// Begins to listen for SIGTERM and SIGINT.
    pub(super) fn new() -> anyhow::Result<Self> {
        let tasks = Self {
            tracker: TaskTracker::new(),
            connections: TaskTracker::new(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            close: CancellationToken::new(),
            failure: watch::Sender::new(None),
            signals: watch::Sender::new(0),
        };
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (signals, close) = (tasks.signals.clone(), tasks.close.clone());
        tasks.tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = close.cancelled() => return,
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                signals.send_modify(|count| *count += 1);
            }
        });
        Ok(tasks)
    }

    /// Spawns a task without which the node cannot go on: its end, however it comes, ends the node.
    pub(super) fn essential(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> JoinHandle<()> {
        let (failure, drain) = (self.failure.clone(), self.drain.clone());
        self.tracker.spawn(async move {
            let outcome = task.await;
            if drain.is_cancelled() && outcome.is_ok() {
                return;
            }
            let reason = outcome.err().map_or_else(|| "it ended".to_owned(), |error| format!("{error:#}"));
            tracing::error!(task = name, reason, "an essential task ended");
            failure.send_if_modified(|first| first.is_none() && first.replace(format!("{name}: {reason}")).is_none());
        })
    }

    /// Spawns a task whose failure is told in the log, and which the node goes on without.
    pub(super) fn logged(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tracker.spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(task = name, reason = format!("{error:#}"), "a task failed");
            }
        });
    }

    /// What begins the end of the node from inside, as a first signal does.
    pub(super) fn stopper(&self) -> Arc<dyn Fn() + Send + Sync> {
        let signals = self.signals.clone();
        Arc::new(move || signals.send_modify(|count| *count += 1))
    }

    /// Waits for a signal, or for the end of an essential task, which is an error.
    pub(super) async fn stopped(&self) -> anyhow::Result<()> {
        let (mut failure, mut signals) = (self.failure.subscribe(), self.signals.subscribe());
        tokio::select! {
            // The senders live in `self`, so that neither wait can fail.
            failed = failure.wait_for(Option::is_some) => Err(anyhow!(failed.ok().and_then(|text| text.clone()).unwrap_or_default())),
            _ = signals.wait_for(|count| *count > 0) => Ok(()),
        }
    }

    /// Stops accepting and lets streams finish; a second signal, or the deadline, cuts them off.
    pub(super) async fn drain(&self, drain_timeout: Duration) {
        tracing::info!(connections = self.connections.len(), "draining");
        self.drain.cancel();
        self.connections.close();
        let mut signals = self.signals.subscribe();
        tokio::select! {
            () = self.connections.wait() => {}
            () = tokio::time::sleep(drain_timeout) => tracing::warn!(connections = self.connections.len(), "streams were cut off: the drain took too long"),
            _ = signals.wait_for(|count| *count > 1) => tracing::warn!(connections = self.connections.len(), "streams were cut off: second signal"),
        }
        // A connection that is dropped drops its answer, which settles what was used.
        self.cut.cancel();
        if tokio::time::timeout(CLOSE_WAIT, self.connections.wait()).await.is_err() {
            tracing::error!(connections = self.connections.len(), "connections did not end");
        }
    }

    /// Waits for what still has to be written, then ends all tasks.
    pub(super) async fn close(&self, last_writer: JoinHandle<()>) -> anyhow::Result<()> {
        let is_written = tokio::time::timeout(CLOSE_WAIT, last_writer).await.is_ok();
        self.close.cancel();
        self.tracker.close();
        if tokio::time::timeout(CLOSE_WAIT, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "tasks were cut off");
        }
        if is_written { Ok(()) } else { Err(anyhow!("usage of the last requests was not written in time")) }
    }
}
