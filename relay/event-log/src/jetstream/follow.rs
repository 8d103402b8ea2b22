//! Reading on for ever, whatever becomes of servers and connections.
//!
//! The position is the next sequence and nothing else. While NATS is away the reader waits; it ends only when records that were there are
//! missing, or when the connection is closed.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use schemas::Sequence;
use tokio::time::sleep;

use super::consumer::{Consumer, Next};
use super::{Run, Shared};
use crate::contract::{Batches, ReadError, Stored};

/// How long a run waits for records that are known to be on their way.
const LINGER: Duration = Duration::from_millis(20);
/// The wait before the next attempt to have a consumer.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) fn follow(log: Arc<Shared>, from: Sequence) -> Batches {
    let follower = Follower { log, next: from.max(Sequence(1)), consumer: None, has_skipped: false, is_waiting: false };
    stream::try_unfold(follower, async |mut follower| {
        let run = follower.next_run().await?;
        Ok(Some((run, follower)))
    })
    .boxed()
}

struct Follower {
    log: Arc<Shared>,
    next: Sequence,
    consumer: Option<Consumer>,
    /// Whether the last consumer went on behind the next record.
    has_skipped: bool,
    /// Whether it was said that nothing can be read now.
    is_waiting: bool,
}

impl Follower {
    async fn next_run(&mut self) -> Result<Vec<Stored>, ReadError> {
        let mut run = Run::default();
        loop {
            let Some(consumer) = &mut self.consumer else {
                if !run.records.is_empty() {
                    return Ok(run.records);
                }
                self.consumer = self.open().await?;
                continue;
            };
            match consumer.next((!run.records.is_empty()).then_some(LINGER)).await {
                Next::Record { stored, more } => match stored.sequence.cmp(&self.next) {
                    // A consumer made beyond the end begins at the end.
                    Ordering::Less => {}
                    Ordering::Equal => {
                        self.log.see(self.next);
                        self.next = self.next.next();
                        run.push(stored);
                        if run.is_full() || !more {
                            return Ok(run.records);
                        }
                    }
                    Ordering::Greater => {
                        tracing::debug!(next = self.next.0, found = stored.sequence.0, "a reader of the log missed records");
                        self.consumer = None;
                        self.has_skipped = true;
                    }
                },
                Next::Quiet if run.records.is_empty() => {}
                Next::Quiet => return Ok(run.records),
                Next::Gone(reason) => {
                    tracing::debug!(next = self.next.0, reason, "a reader of the log begins again");
                    self.consumer = None;
                    // One that gave nothing would be made again at once, and again.
                    if run.records.is_empty() {
                        self.pause().await;
                    }
                }
            }
        }
    }

    /// One attempt to have a consumer, with a pause where there is none to be had.
    async fn open(&mut self) -> Result<Option<Consumer>, ReadError> {
        self.log.check_readable()?;
        match self.try_open().await {
            Ok(consumer) => {
                self.is_waiting = false;
                Ok(Some(consumer))
            }
            Err(ReadError::Unavailable { reason }) => {
                if !self.is_waiting {
                    tracing::warn!(next = self.next.0, reason, "the log cannot be read now; a reader waits");
                    self.is_waiting = true;
                }
                self.pause().await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn try_open(&mut self) -> Result<Consumer, ReadError> {
        // What was read before has to be there still: a log that lost its end would go on with other records in the same places.
        self.log.head().await?;
        if self.has_skipped {
            // Either the record is missing in the log, or it was lost on the way to us.
            self.log.present(self.next).await?;
            self.has_skipped = false;
        }
        let consumer = Consumer::create(&self.log.nats, self.next).await;
        consumer.map_err(|error| ReadError::Unavailable { reason: error.to_string() })
    }

    async fn pause(&self) {
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = self.log.nats.closing().cancelled() => {}
        }
    }
}
