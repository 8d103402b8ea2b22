//! A log that goes away, and whose appends may end without an outcome.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use event_log::{AppendError, Appended, Batches, EventLog, Expect, MemoryLog, ReadError, Stored, SyncMode};
use schemas::Sequence;
use tokio::sync::Notify;

/// How an append goes that a test has something to say about.
#[derive(Clone)]
pub(crate) enum Turn {
    /// It is stored, and nobody hears of it.
    KeptAndUnknown,
    Away,
    /// It waits until the test lets it on.
    Held(Gate),
}

/// Where an append waits, and the test for it.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    reached: Arc<Notify>,
    opened: Arc<Notify>,
}

impl Gate {
    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }

    pub(crate) fn open(&self) {
        self.opened.notify_one();
    }
}

/// A clone is another handle of the same log.
#[derive(Clone, Default)]
pub(crate) struct ShakyLog {
    log: MemoryLog,
    is_away: Arc<AtomicBool>,
    /// What the next appends meet.
    turns: Arc<Mutex<VecDeque<Turn>>>,
}

impl ShakyLog {
    pub(crate) fn leave(&self) {
        self.is_away.store(true, Ordering::SeqCst);
    }

    pub(crate) fn come_back(&self) {
        self.is_away.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::SeqCst)
    }

    pub(crate) fn next_appends(&self, turns: impl IntoIterator<Item = Turn>) {
        self.turns.lock().unwrap().extend(turns);
    }

    /// The head, wherever the log is.
    pub(crate) async fn true_head(&self) -> Sequence {
        self.log.head().await.unwrap()
    }

    fn reach(&self) -> Result<&MemoryLog, ReadError> {
        if self.is_away() { Err(ReadError::Unavailable { reason: away() }) } else { Ok(&self.log) }
    }
}

fn away() -> String {
    "a test asked for this".to_owned()
}

#[async_trait]
impl EventLog for ShakyLog {
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        if self.is_away() {
            return Err(AppendError::Unavailable { reason: away() });
        }
        let turn = self.turns.lock().unwrap().pop_front();
        match turn {
            None => self.log.append(subject, expect, record).await,
            Some(Turn::Held(gate)) => {
                gate.reached.notify_one();
                gate.opened.notified().await;
                self.log.append(subject, expect, record).await
            }
            Some(Turn::Away) => Err(AppendError::Unavailable { reason: away() }),
            Some(Turn::KeptAndUnknown) => self.log.append(subject, expect, record).await.map(|_| Appended::Unknown),
        }
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        self.reach()?.read(from).await
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.reach()?.read_range(from, limit).await
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.reach()?.read_subject(subject, after, limit).await
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        self.reach()?.last(subject).await
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        self.reach()?.head().await
    }

    fn sync(&self) -> SyncMode {
        SyncMode::Memory
    }
}
