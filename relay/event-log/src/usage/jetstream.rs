//! The usage stream of a cluster: one JetStream stream for all nodes, and a spool on each.
//!
//! An append ends in the spool of this machine ([`spool`](super::spool)), so that a request can be written down while NATS is away. A task
//! ships what waits there, oldest first and one batch at a time, each under the subject of its node and incarnation and on the condition that
//! it follows on the one before it ([`ship`]). Readers follow the stream itself, so that a batch counts when it is there.

mod ship;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream;
use schemas::Sequence;
use schemas::usage::UsageBatch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::spool::{SPOOL_BYTES_MAX, Spool, SpoolStatus};
use super::{MESSAGE_BYTES_MAX, StoredBatch, UsageAppendError, UsageAppended, UsageBatches, UsageStream, UsageVoid};
use crate::contract::ReadError;
use crate::directory::OpenError;
use crate::nats::feed::{Feed, Gaps, Place};
use crate::nats::remote::{Remote, StreamPrepareError};

/// The stream of all usage batches of a cluster.
pub const USAGE_STREAM: &str = "KEYRELAY_USAGE";
const SUBJECTS: &str = "kr.u.>";

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
        Ok(Self { spool, remote: Arc::new(Remote::new(client, definition(), replicas.into())), closed: CancellationToken::new() })
    }

    /// Makes the stream, or checks the one that is there. [`JetStreamUsage::run`] does so by itself; a start asks first, to be able to refuse.
    pub async fn prepare(&self) -> Result<(), StreamPrepareError> {
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
        let start = (Feed::new(Arc::clone(&self.remote), from, Gaps::AreLosses), self.closed.clone());
        stream::try_unfold(start, |(mut feed, closed)| async move {
            let run = tokio::select! {
                () = closed.cancelled() => return Err(ReadError::Closed),
                run = feed.next() => run?,
            };
            Ok(Some((run.into_iter().map(read).collect(), (feed, closed))))
        })
        .boxed()
    }

    async fn read_range(&self, from: Sequence, limit: usize) -> Result<Vec<StoredBatch>, ReadError> {
        let from = from.max(Sequence(1));
        if self.head().await? < from || limit == 0 {
            return Ok(Vec::new());
        }
        let mut feed = Feed::new(Arc::clone(&self.remote), from, Gaps::AreLosses);
        let waited = tokio::time::timeout(READ_WAIT, feed.next()).await;
        let run = waited.map_err(|_| ReadError::Unavailable { reason: format!("no batch came within {READ_WAIT:?}") })??;
        Ok(run.into_iter().take(limit).map(read).collect())
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

/// The subject of an incarnation's batches.
fn subject_of(batch: &UsageBatch) -> String {
    format!("kr.u.{}.{}", batch.node, batch.incarnation)
}

/// A place as it is handed out.
fn read(Place { sequence, message }: Place) -> StoredBatch {
    let batch = match message {
        None => Err(UsageVoid::Missing),
        Some(found) => {
            let batch = UsageBatch::decode(&found.bytes).filter(|batch| subject_of(batch) == found.subject);
            batch.ok_or(UsageVoid::NotABatch { subject: found.subject })
        }
    };
    StoredBatch { sequence, batch }
}

/// The stream as it has to be. Nothing expires and nothing can be taken out: a batch is in the sums of every node for good, and an expiry is
/// for when sealed segments stand in for the batches.
fn definition() -> Config {
    Config {
        name: USAGE_STREAM.to_owned(),
        description: Some("Usage batches of all nodes".to_owned()),
        subjects: vec![SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_message_size: i32::try_from(MESSAGE_BYTES_MAX).expect("one mebibyte"),
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    }
}
