//! What tests wrap around a log.

mod faithless;

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use schemas::Sequence;

use crate::contract::{AppendError, Appended, Batches, EventLog, Expect, ReadError, Stored, SyncMode};
use crate::faults::Fault;

pub use faithless::Faithless;

/// A log whose appends end as `Unknown` when a test says so, with or without having stored the record. Otherwise it is
/// the log it stands before.
pub struct Flaky {
    log: Arc<dyn EventLog>,
    /// What the next appends meet; none left is none.
    faults: Mutex<VecDeque<Fault>>,
}

impl Flaky {
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log, faults: Mutex::default() }
    }

    /// Lets the next appends, after those already asked for, meet these faults, one each.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().extend(faults);
    }
}

#[async_trait]
impl EventLog for Flaky {
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        let fault = self.faults.lock().pop_front();
        match fault {
            None => self.log.append(subject, expect, record).await,
            Some(Fault::NotKept) => Ok(Appended::Unknown),
            Some(Fault::Kept) => self.log.append(subject, expect, record).await.map(|_| Appended::Unknown),
        }
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        self.log.read(from).await
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.log.read_range(from, limit).await
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.log.read_subject(subject, after, limit).await
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        self.log.last(subject).await
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        self.log.head().await
    }

    fn sync(&self) -> SyncMode {
        self.log.sync()
    }

    fn accept_end(&self, end: Sequence) {
        self.log.accept_end(end);
    }
}
