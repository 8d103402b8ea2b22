//! The decision stream of a cluster: one JetStream stream for all nodes, and a spool on each.
//!
//! A task ships what waits in the spool, oldest first and one batch at a time, under the subject of its node and incarnation. A batch whose
//! acknowledgement was lost is shipped again: within the server's window its id tells, after that its number does, to whoever reads.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use schemas::Sequence;
use schemas::decision::DecisionBatch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::embedded::DecisionLog;
use super::{
    DecisionAppendError, DecisionBatches, DecisionStream, DecisionsHeld, MESSAGE_BYTES_MAX, SPOOL_BYTES_MAX, STREAM_BYTES_MAX,
    StoredDecisions,
};
use crate::contract::ReadError;
use crate::directory::OpenError;
use crate::nats::feed::{Feed, Gaps, Place};
use crate::nats::remote::{Away, Published, Remote, StreamPrepareError};
use crate::nats::troubles::Troubles;

/// The stream of all decision records of a cluster.
pub const DECISIONS_STREAM: &str = "KEYRELAY_DECISIONS";
const SUBJECTS: &str = "kr.d.>";
/// How long shipping goes on after it was told to end.
const DRAIN: Duration = Duration::from_secs(2);

/// A [`DecisionStream`] on NATS, behind a spool on this machine.
///
/// Nothing here waits for NATS but reads. [`JetStreamDecisions::run`] is the task that ships; without it, what is appended stays in the spool.
pub struct JetStreamDecisions {
    spool: DecisionLog,
    /// The most bytes that wait.
    spool_bytes_max: u64,
    remote: Arc<Remote>,
    closed: CancellationToken,
}

impl JetStreamDecisions {
    /// Opens the spool in a directory, which is made if it is not there. Blocks while it reads what waits there. `replicas` is how many
    /// servers keep the stream where it is made.
    pub fn open(client: async_nats::Client, spool: &Path, replicas: impl Into<Option<usize>>) -> Result<Self, OpenError> {
        Self::open_bounded(client, spool, replicas, SPOOL_BYTES_MAX, STREAM_BYTES_MAX)
    }

    /// As [`JetStreamDecisions::open`], with other bounds on the bytes of the spool and of the stream.
    pub fn open_bounded(
        client: async_nats::Client,
        spool: &Path,
        replicas: impl Into<Option<usize>>,
        spool_bytes_max: u64,
        stream_bytes_max: u64,
    ) -> Result<Self, OpenError> {
        let spool = DecisionLog::open_bounded(spool, spool_bytes_max)?;
        let remote = Arc::new(Remote::new(client, definition(stream_bytes_max), replicas.into()));
        Ok(Self { spool, spool_bytes_max, remote, closed: CancellationToken::new() })
    }

    /// Makes the stream, or checks the one that is there. [`JetStreamDecisions::run`] does so by itself; a start asks first, to be able to
    /// refuse.
    pub async fn prepare(&self) -> Result<(), StreamPrepareError> {
        self.remote.prepare().await
    }

    /// Ships what waits in the spool, until cancelled or closed. What then still waits is shipped for a moment more, and the rest after the
    /// next start.
    pub async fn run(&self, cancel: CancellationToken) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            () = self.ship() => {}
            () = cancel.cancelled() => {
                let rest = async { while self.spool.held().batches > 0 && self.ship_oldest().await.is_ok() {} };
                if self.remote.is_connected() && timeout(DRAIN, rest).await.is_err() {
                    tracing::info!(batches = self.spool.held().batches, "decisions stay in the spool until the next start");
                }
            }
        }
    }

    async fn ship(&self) {
        let mut troubles = Troubles::of("decision records");
        let mut is_prepared = false;
        loop {
            let shipped = async {
                if !is_prepared {
                    self.prepare().await.map_err(Failure::Prepare)?;
                    is_prepared = true;
                }
                self.ship_oldest().await
            };
            match shipped.await {
                Ok(()) => troubles.end(),
                Err(Failure::Spool) => return,
                Err(Failure::Away(away)) => {
                    troubles.tell(&away);
                    troubles.wait(&self.remote).await;
                }
                Err(Failure::Prepare(error)) => {
                    troubles.tell(&error);
                    troubles.wait(&self.remote).await;
                }
            }
        }
    }

    /// Waits for a batch, brings it into the stream, and lets go of it.
    async fn ship_oldest(&self) -> Result<(), Failure> {
        let (sequence, bytes) = self.spool.oldest().await.map_err(|error| {
            if error != ReadError::Closed {
                tracing::error!(error = &error as &dyn std::error::Error, "the decision spool cannot be read; nothing is shipped any more");
            }
            Failure::Spool
        })?;
        match DecisionBatch::decode(&bytes) {
            Some(batch) => match self.remote.publish(&subject_of(&batch), None, Bytes::from(bytes)).await.map_err(Failure::Away)? {
                Published::Stored(_) => {}
                Published::NotNext => return Err(Failure::Away(Away("the stream refused a batch without a condition".to_owned()))),
            },
            None => tracing::error!(sequence = sequence.0, "a batch of the decision spool has no format that this release ships"),
        }
        // Storage that has failed has told so.
        self.spool.trim(sequence).await.map_err(|_| Failure::Spool)
    }
}

/// Why a batch was not shipped.
enum Failure {
    /// Try again.
    Away(Away),
    /// The stream there is not ours to write to.
    Prepare(StreamPrepareError),
    /// The spool takes and gives no more.
    Spool,
}

#[async_trait]
impl DecisionStream for JetStreamDecisions {
    async fn append(&self, batch: &DecisionBatch) -> Result<(), DecisionAppendError> {
        if self.spool.held().bytes <= self.spool_bytes_max / 2 {
            return self.spool.append(batch).await;
        }
        let kept: Vec<_> = batch.records.iter().filter(|record| !record.is_sample()).cloned().collect();
        self.spool.count_shed(batch.records.len() - kept.len());
        if kept.is_empty() {
            return Ok(());
        }
        self.spool.append(&DecisionBatch { records: kept, ..*batch }).await
    }

    fn read(&self, from: Sequence) -> DecisionBatches {
        let start = (Feed::new(Arc::clone(&self.remote), from, Gaps::ArePassed), self.closed.clone());
        stream::try_unfold(start, |(mut feed, closed)| async move {
            let run = tokio::select! {
                () = closed.cancelled() => return Err(ReadError::Closed),
                run = feed.next() => run?,
            };
            Ok(Some((run.into_iter().map(read).collect(), (feed, closed))))
        })
        .boxed()
    }

    async fn head(&self) -> Result<Sequence, ReadError> {
        if self.closed.is_cancelled() {
            return Err(ReadError::Closed);
        }
        self.remote.head().await.map_err(|away| ReadError::Unavailable { reason: away.0 })
    }

    fn held(&self) -> DecisionsHeld {
        self.spool.held()
    }

    async fn close(&self) {
        self.closed.cancel();
        self.spool.close().await;
    }
}

/// The subject of an incarnation's batches.
fn subject_of(batch: &DecisionBatch) -> String {
    format!("kr.d.{}.{}", batch.node, batch.incarnation)
}

/// A place as it is handed out.
fn read(Place { sequence, message }: Place) -> StoredDecisions {
    let batch = message.and_then(|found| DecisionBatch::decode(&found.bytes).filter(|batch| subject_of(batch) == found.subject));
    StoredDecisions { sequence, batch }
}

/// The stream as it has to be. It drops its oldest, and an operator may take out more.
fn definition(bytes_max: u64) -> Config {
    Config {
        name: DECISIONS_STREAM.to_owned(),
        description: Some("Decision records of all nodes".to_owned()),
        subjects: vec![SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_bytes: i64::try_from(bytes_max).unwrap_or(i64::MAX),
        max_message_size: i32::try_from(MESSAGE_BYTES_MAX).expect("one mebibyte"),
        ..Config::default()
    }
}
