//! The log in memory: the contract in its plainest form, for tests to compare with.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use schemas::Sequence;
use tokio::sync::watch;

use crate::contract::{
    AppendError, Appended, Batches, EventLog, Expect, RUN_BYTES_MAX, RUN_RECORDS_MAX, ReadError, Stored, SyncMode, check_append,
};
use crate::tail::tail;

/// A log that lives as long as its last clone; a clone is another handle of the same log.
#[derive(Clone, Default)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Written by appends only.
    records: RwLock<Records>,
    head: watch::Sender<Sequence>,
}

#[derive(Default)]
struct Records {
    /// The record of sequence n is at n - 1.
    all: Vec<Stored>,
    by_subject: HashMap<Arc<str>, Vec<Sequence>>,
}

impl MemoryLog {
    pub fn new() -> Self {
        Self::default()
    }

    /// A log that holds these records, from sequence 1 on.
    #[cfg(feature = "faults")]
    pub(crate) fn of(records: impl IntoIterator<Item = Stored>) -> Self {
        let log = Self::default();
        for Stored { subject, bytes, .. } in records {
            let head = log.shared.records.write().push(&subject, bytes);
            log.shared.head.send_replace(head);
        }
        log
    }

    #[cfg(feature = "faults")]
    pub(crate) fn size(&self) -> Sequence {
        self.shared.records.read().head()
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn append(&self, subject: &str, expect: Expect, record: Bytes) -> Result<Appended, AppendError> {
        check_append(subject, &record)?;
        let mut records = self.shared.records.write();
        let (subject_last, log_last) = (records.last(subject), records.head());
        if !expect.holds(subject_last, log_last) {
            let place = records.after(subject, expect.subject).next();
            let place = place.map(|stored| (stored.sequence, stored.bytes.as_ref()));
            return Ok(expect.not_held(&record, subject_last, log_last, place));
        }
        let sequence = records.push(subject, record);
        self.shared.head.send_replace(sequence);
        Ok(Appended::Appended(sequence))
    }

    async fn read(&self, from: Sequence) -> Result<Batches, ReadError> {
        let log = self.clone();
        Ok(tail(self.shared.head.subscribe(), from, move |from| {
            let log = log.clone();
            async move { log.read_range(from, RUN_RECORDS_MAX).await }
        }))
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let records = self.shared.records.read();
        let start = usize::try_from(from.0.saturating_sub(1)).unwrap_or(usize::MAX);
        Ok(one_run(records.all.iter().skip(start), limit))
    }

    async fn read_subject(&self, subject: &str, after: Sequence, limit: usize) -> Result<Vec<Stored>, ReadError> {
        Ok(one_run(self.shared.records.read().after(subject, after), limit))
    }

    async fn last(&self, subject: &str) -> Result<Sequence, ReadError> {
        Ok(self.shared.records.read().last(subject))
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        Ok(self.shared.records.read().head())
    }

    fn sync(&self) -> SyncMode {
        SyncMode::Memory
    }
}

fn one_run<'a>(records: impl Iterator<Item = &'a Stored>, limit: usize) -> Vec<Stored> {
    let mut bytes = 0;
    records
        .take(limit.min(RUN_RECORDS_MAX))
        .take_while(|stored| {
            let fits = bytes < RUN_BYTES_MAX;
            bytes += stored.bytes.len();
            fits
        })
        .cloned()
        .collect()
}

impl Records {
    fn head(&self) -> Sequence {
        Sequence(self.all.len() as u64)
    }

    fn last(&self, subject: &str) -> Sequence {
        self.by_subject.get(subject).and_then(|sequences| sequences.last()).copied().unwrap_or_default()
    }

    fn after(&self, subject: &str, after: Sequence) -> impl Iterator<Item = &Stored> {
        let sequences = self.by_subject.get(subject).map(Vec::as_slice).unwrap_or_default();
        let start = sequences.partition_point(|sequence| *sequence <= after);
        sequences[start..].iter().map(|sequence| &self.all[sequence.0 as usize - 1])
    }

    fn push(&mut self, subject: &str, bytes: Bytes) -> Sequence {
        let (sequence, subject) = (self.head().next(), Arc::<str>::from(subject));
        self.by_subject.entry(Arc::clone(&subject)).or_default().push(sequence);
        self.all.push(Stored { sequence, subject, bytes });
        sequence
    }
}
