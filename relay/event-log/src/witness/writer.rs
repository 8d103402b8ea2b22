//! What the witness's thread does with what is to be remembered: all that waits, in one synced batch.

use std::sync::{Arc, OnceLock};

use rocksdb::WriteBatch;
use schemas::Sequence;
use tokio::sync::{oneshot, watch};

use super::store::{Row, Store};
use crate::storage::StorageError;
use crate::worker::Request;

/// Rows to write and to delete. With an answer it is told when all of them, and all before them, are on stable storage.
#[derive(Default)]
pub(super) struct Remember {
    pub(super) rows: Vec<Row>,
    pub(super) forget: Vec<Sequence>,
    pub(super) answer: Option<oneshot::Sender<Result<(), StorageError>>>,
}

impl Request for Remember {
    fn bytes(&self) -> usize {
        self.rows.iter().map(|row| row.stored.bytes.len()).sum()
    }
}

pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    /// The last sequence of all rows that are on stable storage.
    pub(super) head: watch::Sender<Sequence>,
    /// Set by the first fault of the storage, for good: what is not remembered must not be answered for.
    pub(super) failed: Arc<OnceLock<StorageError>>,
}

impl Writer {
    pub(super) fn commit(&self, requests: Vec<Remember>) {
        let written = self.failed.get().map_or_else(|| self.write(&requests), |error| Err(error.clone()));
        if let Err(error) = &written {
            self.failed.get_or_init(|| {
                tracing::error!(%error, "the witness of the event log has failed; nothing is appended until it is opened again");
                error.clone()
            });
        }
        for answer in requests.into_iter().filter_map(|request| request.answer) {
            // Whoever asked may have left.
            let _ = answer.send(written.clone());
        }
    }

    fn write(&self, requests: &[Remember]) -> Result<(), StorageError> {
        let (mut batch, mut head) = (WriteBatch::default(), *self.head.borrow());
        for request in requests {
            for row in &request.rows {
                self.store.put(&mut batch, row);
                head = head.max(row.stored.sequence);
            }
            // After the rows: a long run may push its own first records out of the window.
            for sequence in &request.forget {
                self.store.delete(&mut batch, *sequence);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.store.write(batch, head)?;
        self.head.send_replace(head);
        Ok(())
    }
}
