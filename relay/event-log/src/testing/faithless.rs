//! A log that takes back what it acknowledged.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use schemas::Sequence;
use tokio::sync::watch;

use crate::contract::{AppendError, Appended, Batches, EventLog, Expect, RUN_RECORDS_MAX, ReadError, Stored, SyncMode};
use crate::memory::MemoryLog;
use crate::storage::{Damage, StorageError};
use crate::tail::tail;

/// A log in memory that loses, changes and hides records, goes away and answers late, as a test says. A clone is another handle of it.
#[derive(Clone, Default)]
pub struct Faithless {
    state: Arc<Mutex<State>>,
    head: watch::Sender<Sequence>,
}

#[derive(Default)]
struct State {
    log: MemoryLog,
    /// Places that are there and cannot be read.
    hidden: BTreeSet<Sequence>,
    is_away: bool,
    delay: Duration,
}

impl Faithless {
    pub fn new() -> Self {
        Self::default()
    }

    /// A log that holds these records, from sequence 1 on.
    pub fn of(records: impl IntoIterator<Item = Stored>) -> Self {
        let log = Self::default();
        log.roll_back_to(records);
        log
    }

    /// Replaces what the log holds: by an older copy, by a branch, by nothing.
    pub fn roll_back_to(&self, records: impl IntoIterator<Item = Stored>) {
        let log = MemoryLog::of(records);
        self.head.send_replace(log.size());
        self.state.lock().log = log;
    }

    /// Loses the last records.
    pub async fn lose_tail(&self, count: usize) {
        let mut records = self.records().await;
        records.truncate(records.len().saturating_sub(count));
        self.roll_back_to(records);
    }

    /// Holds other bytes at a place from now on.
    pub async fn overwrite(&self, sequence: Sequence, bytes: Bytes) {
        let mut records = self.records().await;
        records.iter_mut().filter(|stored| stored.sequence == sequence).for_each(|stored| stored.bytes = bytes.clone());
        self.roll_back_to(records);
    }

    /// Loses the content of some places, and keeps those around them.
    pub fn hide(&self, places: RangeInclusive<u64>) {
        self.state.lock().hidden = places.map(Sequence).collect();
    }

    pub fn set_away(&self, is_away: bool) {
        self.state.lock().is_away = is_away;
    }

    /// Lets every answer take this long.
    pub fn set_delay(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    /// Everything that the log holds.
    pub async fn records(&self) -> Vec<Stored> {
        let log = self.state.lock().log.clone();
        let mut records = Vec::new();
        loop {
            let from = Sequence(records.len() as u64 + 1);
            match log.read_range(from, RUN_RECORDS_MAX).await {
                Ok(run) if !run.is_empty() => records.extend(run),
                _ => return records,
            }
        }
    }

    /// The log to ask now, when it answers.
    async fn log(&self) -> Option<MemoryLog> {
        let delay = self.state.lock().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let state = self.state.lock();
        (!state.is_away).then(|| state.log.clone())
    }

    async fn readable(&self) -> Result<MemoryLog, ReadError> {
        self.log().await.ok_or_else(|| ReadError::Unavailable { reason: AWAY.to_owned() })
    }
}

const AWAY: &str = "a test took it away";

#[async_trait]
impl EventLog for Faithless {
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        let log = self.log().await.ok_or_else(|| AppendError::Unavailable { reason: AWAY.to_owned() })?;
        let outcome = log.append(subject, expect, record).await;
        self.head.send_replace(self.state.lock().log.size());
        outcome
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        self.readable().await?;
        let log = self.clone();
        Ok(tail(self.head.subscribe(), from, move |from| {
            let log = log.clone();
            async move { log.read_range(from, RUN_RECORDS_MAX).await }
        }))
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let mut run = self.readable().await?.read_range(from, limit).await?;
        let hidden = self.state.lock().hidden.clone();
        if hidden.contains(&from) {
            let found = hidden.range(from..).last().map(|last| last.next()).unwrap_or_default();
            return Err(StorageError::Damage(Damage::Hole { expected: from, found }).into());
        }
        run.truncate(run.iter().take_while(|stored| !hidden.contains(&stored.sequence)).count());
        Ok(run)
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.readable().await?.read_subject(subject, after, limit).await
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        self.readable().await?.last(subject).await
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        self.readable().await?.head().await
    }

    fn sync(&self) -> SyncMode {
        SyncMode::Lazy
    }
}
