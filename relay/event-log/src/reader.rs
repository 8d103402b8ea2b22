//! Reads of an embedded log, off the async threads and bounded in number.

use std::sync::Arc;

use schemas::Sequence;
use tokio::sync::{Semaphore, watch};

use crate::contract::ReadError;
use crate::storage::StorageError;

/// The most reads of one log under way at once; more wait. The disk is not faster for more of them.
const READS_MAX: usize = 16;

/// A handle to the store of a log for reading; as long as one is kept, the store stays open.
pub(crate) struct Reader<S> {
    store: Arc<S>,
    reads: Arc<Semaphore>,
    head: watch::Receiver<Sequence>,
}

impl<S> Clone for Reader<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), reads: Arc::clone(&self.reads), head: self.head.clone() }
    }
}

impl<S: Send + Sync + 'static> Reader<S> {
    pub(crate) fn new(store: Arc<S>, head: watch::Receiver<Sequence>) -> Self {
        Self { store, reads: Arc::new(Semaphore::new(READS_MAX)), head }
    }

    /// Runs a read to the end of the log, as it is when the read begins.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&S, Sequence) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.expect("the semaphore is never closed");
        let (store, head) = (Arc::clone(&self.store), self.head());
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&store, head)
        });
        match task.await {
            Ok(result) => Ok(result?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => Err(ReadError::Closed),
        }
    }

    pub(crate) fn head(&self) -> Sequence {
        *self.head.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Sequence> {
        self.head.clone()
    }
}
