//! What the writer thread does with a run of appends: decide each, write all, then answer.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::WriteBatch;
use schemas::Sequence;
use tokio::sync::{oneshot, watch};

use super::store::Store;
use crate::contract::{AppendError, Appended, Expect};
use crate::storage::StorageError;
use crate::worker::Request;

type Answer = Result<Appended, AppendError>;

/// One append that waits for its answer.
pub(super) struct Append {
    pub(super) subject: Arc<str>,
    pub(super) expect: Expect,
    pub(super) record: Bytes,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl Request for Append {
    fn bytes(&self) -> usize {
        self.record.len()
    }
}

pub(super) struct Writer {
    store: Arc<Store>,
    /// The last sequence on stable storage, as readers see it.
    head: watch::Sender<Sequence>,
    /// Set by the first fault of the storage, for good.
    failed: Option<StorageError>,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>, head: watch::Sender<Sequence>) -> Self {
        Self { store, head, failed: None }
    }

    /// Commits one run. Every answer leaves after the sync, a conflict too: it may be with a record of the same run.
    pub(super) fn commit(&mut self, appends: Vec<Append>) {
        if let Some(error) = &self.failed {
            return answer_all(appends, &Err(AppendError::Failed(error.clone())));
        }
        let mut draft = Draft::new(&self.store, *self.head.borrow());
        let outcomes: Result<Vec<_>, _> = appends.iter().map(|append| draft.decide(append)).collect();
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                answer_all(appends, &Err(AppendError::Failed(error.clone())));
                return self.fail(error);
            }
        };
        let (batch, head) = (draft.batch, draft.head);
        if !batch.is_empty() {
            if let Err(error) = self.store.write(batch, head) {
                answer_all(appends, &Ok(Appended::Unknown));
                return self.fail(error);
            }
            self.head.send_replace(head);
        }
        for (append, outcome) in appends.into_iter().zip(outcomes) {
            answer(append, Ok(outcome));
        }
    }

    fn fail(&mut self, error: StorageError) {
        tracing::error!(%error, "the event log has failed and takes no more records until it is opened again");
        self.failed = Some(error);
    }
}

fn answer_all(appends: Vec<Append>, with: &Answer) {
    appends.into_iter().for_each(|append| answer(append, with.clone()));
}

fn answer(append: Append, with: Answer) {
    // Whoever asked may have left; the outcome stands all the same.
    let _ = append.answer.send(with);
}

/// A run before it is written: the log as it will be with what was decided so far.
struct Draft<'a> {
    store: &'a Store,
    batch: WriteBatch,
    head: Sequence,
    subjects: HashMap<Arc<str>, Vec<(Sequence, Bytes)>>,
}

impl<'a> Draft<'a> {
    fn new(store: &'a Store, head: Sequence) -> Self {
        Self { store, batch: WriteBatch::default(), head, subjects: HashMap::new() }
    }

    fn decide(&mut self, append: &Append) -> Result<Appended, StorageError> {
        let Append { subject, expect, record, .. } = append;
        let drafted = self.subjects.get(subject).map(Vec::as_slice).unwrap_or_default();
        let subject_last = match drafted.last() {
            Some((sequence, _)) => *sequence,
            None => self.store.last(subject)?,
        };
        if !expect.holds(subject_last, self.head) {
            let stored = self.store.on_subject(subject, expect.subject, Sequence(u64::MAX), 1)?;
            let stored = stored.first().map(|stored| (stored.sequence, stored.bytes.as_ref()));
            let drafted = drafted.iter().find(|(sequence, _)| *sequence > expect.subject);
            let place = stored.or(drafted.map(|(sequence, bytes)| (*sequence, bytes.as_ref())));
            return Ok(expect.not_held(record, subject_last, self.head, place));
        }
        self.head = self.head.next();
        self.store.put(&mut self.batch, self.head, subject, record);
        self.subjects.entry(Arc::clone(subject)).or_default().push((self.head, record.clone()));
        Ok(Appended::Appended(self.head))
    }
}
