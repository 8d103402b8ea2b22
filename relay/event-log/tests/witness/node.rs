//! A node as far as the witness is concerned: a witnessed log, the task that compares it, and the word that the connection is new.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::testing::Faithless;
use event_log::{EventLog, Health, WitnessedLog};
use futures_util::StreamExt;
use schemas::Sequence;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for every test here.
pub(crate) const WINDOW: u64 = 1000;
/// What the issue allows.
pub(crate) const NOTICED_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Node {
    pub(crate) log: WitnessedLog,
    directory: Arc<TempDir>,
    reconnects: watch::Sender<u64>,
    cancel: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Plants the bug that the environment names, for a run of one test in a process of its own.
pub(crate) fn plant() {
    if let Ok(bug) = std::env::var("KEYRELAY_FAULT") {
        event_log::faults::plant(&bug);
    }
}

impl Node {
    /// A node that remembers nothing yet and trusts the log.
    pub(crate) async fn new(log: &Faithless) -> Self {
        let node = Self::open(Arc::new(log.clone()), Arc::new(tempfile::tempdir().unwrap()), WINDOW);
        node.is(&Health::Trusted).await;
        node
    }

    pub(crate) fn open(log: Arc<dyn EventLog>, directory: Arc<TempDir>, window: u64) -> Self {
        plant();
        let patience = Duration::from_millis(500);
        let log = WitnessedLog::open_small(log, directory.path(), window, patience).unwrap();
        let (reconnects, receiver) = watch::channel(0);
        let cancel = CancellationToken::new();
        let task = tokio::spawn({
            let (log, cancel) = (log.clone(), cancel.clone());
            async move { log.run(cancel, receiver).await }
        });
        Self { log, directory, reconnects, cancel, task: Some(task) }
    }

    /// Stops the node and starts it again on its directory, over a log.
    pub(crate) async fn restart(self, log: &Faithless) -> Self {
        let directory = self.stop().await;
        Self::open(Arc::new(log.clone()), directory, WINDOW)
    }

    pub(crate) async fn stop(mut self) -> Arc<TempDir> {
        self.cancel.cancel();
        self.task.take().unwrap().await.unwrap();
        Arc::clone(&self.directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Tells the node that its connection is new, and waits until it has heard: before that it may well go by what it saw earlier. A node that
    /// only begins takes the connection that it finds for the first one, so it is told until it says so.
    pub(crate) async fn reconnect(&self) {
        let (begin, doubts) = (Instant::now(), self.log.counts().doubts);
        while self.log.counts().doubts == doubts {
            assert!(begin.elapsed() < NOTICED_MAX, "the reconnect was not heard of");
            self.reconnects.send_modify(|epoch| *epoch += 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.log.health().borrow().clone()
    }

    /// Waits for a health.
    pub(crate) async fn is(&self, expected: &Health) {
        self.becomes(|health| health == expected).await;
    }

    /// Waits until the log is refused, and returns why and the evidence.
    pub(crate) async fn is_refused(&self) -> (String, PathBuf) {
        match self.becomes(|health| matches!(health, Health::Refused { .. })).await {
            Health::Refused { reason, evidence } => (reason, evidence),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a health, and fails after the time in which everything has to be noticed.
    pub(crate) async fn becomes(&self, is_it: impl Fn(&Health) -> bool) -> Health {
        let begin = Instant::now();
        let mut health = self.log.health();
        let found = tokio::time::timeout(NOTICED_MAX, health.wait_for(is_it)).await;
        match found {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("not noticed after {:?}: the log is {:?}", begin.elapsed(), self.health()),
        }
    }

    /// Waits until that many records were put back and the log is trusted. A health may be over before anybody sees it.
    pub(crate) async fn has_healed(&self, records: u64) {
        let begin = Instant::now();
        while self.log.counts().healed_records < records || self.health() != Health::Trusted {
            assert!(begin.elapsed() < NOTICED_MAX, "not noticed: the log is {:?}, {:?}", self.health(), self.log.counts());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Reads from the first record on, as a projector does, until a record has passed.
    pub(crate) async fn follow_to(&self, to: u64) {
        let mut runs = self.log.read(Sequence(1)).await.unwrap();
        while runs.next().await.unwrap().unwrap().last().unwrap().sequence < Sequence(to) {}
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
