//! The usage stream of a cluster: one JetStream stream for all nodes, and a spool on each.
//!
//! An append ends in the spool of this machine ([`spool`](super::spool)), so that a request can be written down while NATS is away. A task
//! ships what waits there, oldest first and one batch at a time, each under the subject of its node and incarnation and on the condition that
//! it follows on the one before it ([`ship`]). Readers follow the stream itself ([`feed`]), so that a batch counts when it is there.

mod feed;
mod remote;
mod ship;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream;
use schemas::Sequence;
use schemas::usage::UsageBatch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::spool::{SPOOL_BYTES_MAX, Spool, SpoolStatus};
use super::{StoredBatch, UsageAppendError, UsageAppended, UsageBatches, UsageStream};
use crate::contract::ReadError;
use crate::directory::OpenError;
use feed::Feed;
use remote::Remote;

pub use remote::{USAGE_STREAM, UsagePrepareError};

/// How long [`UsageStream::read_range`] waits for what the stream says it holds.
const READ_WAIT: Duration = Duration::from_secs(10);

/// A [`UsageStream`] on NATS, behind a spool on this machine.
///
/// Nothing here waits for NATS but reads. [`JetStreamUsage::run`] is the task that ships; without it, what is appended stays in the spool.
pub struct JetStreamUsage {
    spool: Spool,
    remote: Arc<Remote>,
    closed: CancellationToken,
}

impl JetStreamUsage {
    /// Opens the spool in a directory, which is made if it is not there. Blocks while it reads and checks what waits there. `replicas` is how
    /// many servers keep the stream where it is made.
    pub fn open(client: async_nats::Client, spool: &Path, replicas: impl Into<Option<usize>>) -> Result<Self, OpenError> {
        Self::open_bounded(client, spool, replicas, SPOOL_BYTES_MAX)
    }

    /// As [`JetStreamUsage::open`], with another bound on the bytes of the spool.
    pub fn open_bounded(
        client: async_nats::Client,
        spool: &Path,
        replicas: impl Into<Option<usize>>,
        spool_bytes_max: u64,
    ) -> Result<Self, OpenError> {
        let spool = Spool::open(spool, spool_bytes_max)?;
        Ok(Self { spool, remote: Arc::new(Remote::new(client, replicas.into())), closed: CancellationToken::new() })
    }

    /// Makes the stream, or checks the one that is there. [`JetStreamUsage::run`] does so by itself; a start asks first, to be able to refuse.
    pub async fn prepare(&self) -> Result<(), UsagePrepareError> {
        self.remote.prepare().await
    }

    /// Ships what waits in the spool, until cancelled or closed. What then still waits is shipped for a moment more, and the rest after the
    /// next start.
    pub async fn run(&self, cancel: CancellationToken) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            () = ship::run(&self.spool, &self.remote, cancel) => {}
        }
    }

    /// Numbers about the spool, as they change.
    pub fn spool(&self) -> watch::Receiver<SpoolStatus> {
        self.spool.status().subscribe()
    }
}

#[async_trait]
impl UsageStream for JetStreamUsage {
    async fn append(&self, batch: &UsageBatch) -> Result<UsageAppended, UsageAppendError> {
        self.spool.append(batch).await
    }

    fn read(&self, from: Sequence) -> UsageBatches {
        let start = (Feed::new(Arc::clone(&self.remote), from), self.closed.clone());
        stream::try_unfold(start, |(mut feed, closed)| async move {
            let run = tokio::select! {
                () = closed.cancelled() => return Err(ReadError::Closed),
                run = feed.next() => run?,
            };
            Ok(Some((run, (feed, closed))))
        })
        .boxed()
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<StoredBatch>, ReadError> {
        let from = from.max(Sequence(1));
        if self.head().await? < from || limit == 0 {
            return Ok(Vec::new());
        }
        let mut feed = Feed::new(Arc::clone(&self.remote), from);
        let read = tokio::time::timeout(READ_WAIT, feed.next()).await;
        let mut run = read.map_err(|_| ReadError::Unavailable { reason: format!("no batch came within {READ_WAIT:?}") })??;
        run.truncate(limit);
        Ok(run)
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        if self.closed.is_cancelled() {
            return Err(ReadError::Closed);
        }
        self.remote.head().await.map_err(|away| ReadError::Unavailable { reason: away.0 })
    }

    fn watch(&self) -> watch::Receiver<Sequence> {
        self.remote.heard()
    }

    async fn close(&self) {
        self.closed.cancel();
        self.spool.close().await;
    }
}
