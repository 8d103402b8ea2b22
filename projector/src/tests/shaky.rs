//! A log that goes away, comes back, and may come back as another.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use event_log::{AppendError, Appended, Batches, EventLog, Expect, MemoryLog, ReadError, Stored, SyncMode};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use schemas::Sequence;
use tokio::sync::watch;

use super::world::World;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Here,
    Away,
    /// Calls fail, readers hang.
    AwayWithoutAWord,
}

/// A handle of the log; a clone is another.
#[derive(Clone)]
pub(crate) struct ShakyLog {
    log: Arc<Mutex<MemoryLog>>,
    reach: watch::Sender<Reach>,
    /// How often the head was told.
    heads: watch::Sender<u32>,
    /// How often it was asked for in vain.
    silences: watch::Sender<u32>,
}

fn unavailable() -> ReadError {
    ReadError::Unavailable { reason: "a test asked for this".into() }
}

impl ShakyLog {
    pub(crate) async fn of(world: &World) -> Self {
        let (log, reach) = (Arc::new(Mutex::new(world.log().await)), watch::Sender::new(Reach::Here));
        Self { log, reach, heads: watch::Sender::default(), silences: watch::Sender::default() }
    }

    pub(crate) fn leave(&self) {
        self.reach.send_replace(Reach::Away);
    }

    pub(crate) fn leave_without_a_word(&self) {
        self.reach.send_replace(Reach::AwayWithoutAWord);
    }

    pub(crate) fn come_back(&self) {
        self.reach.send_replace(Reach::Here);
    }

    /// From now on the log holds another world's records; readers of the old one hear nothing more.
    pub(crate) async fn become_log_of(&self, world: &World) {
        let log = world.log().await;
        *self.log.lock() = log;
    }

    /// Writes what the world has more, whoever can see it.
    pub(crate) async fn write(&self, world: &World) {
        let log = self.log.lock().clone();
        world.write_to(&log).await;
    }

    /// Waits until the head was told once more.
    pub(crate) async fn tells_its_head(&self) {
        let mut heads = self.heads.subscribe();
        heads.changed().await.unwrap();
    }

    /// Waits until the head was asked for once more, while the log is away.
    pub(crate) async fn is_asked(&self) {
        let mut silences = self.silences.subscribe();
        silences.changed().await.unwrap();
    }

    fn reached(&self) -> Result<MemoryLog, ReadError> {
        if *self.reach.borrow() == Reach::Here { Ok(self.log.lock().clone()) } else { Err(unavailable()) }
    }
}

#[async_trait]
impl EventLog for ShakyLog {
    async fn append(&self, _subject: &str, _expect: Expect, _record: Bytes) -> Result<Appended, AppendError> {
        unreachable!("a projector appends nothing")
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        let (runs, reach) = (self.reached()?.read(from).await?, self.reach.subscribe());
        let runs = stream::try_unfold((runs, reach), |(mut runs, mut reach)| async move {
            let run = tokio::select! {
                biased;
                _ = reach.wait_for(|reach| *reach == Reach::Away) => return Err(unavailable()),
                run = runs.next() => run,
            };
            if *reach.borrow() == Reach::AwayWithoutAWord {
                return std::future::pending().await;
            }
            Ok(run.transpose()?.map(|run| (run, (runs, reach))))
        });
        Ok(runs.boxed())
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.reached()?.read_range(from, limit).await
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.reached()?.read_subject(subject, after, limit).await
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        self.reached()?.last(subject).await
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        let reached = self.reached().inspect_err(|_| self.silences.send_modify(|silences| *silences += 1));
        let head = reached?.head().await;
        self.heads.send_modify(|heads| *heads += 1);
        head
    }

    fn sync(&self) -> SyncMode {
        SyncMode::Memory
    }
}
