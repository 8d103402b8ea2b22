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
    let follower = Follower { log, next: from.max(Sequence(1)), consumer: None, is_waiting: false };
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
                    Ordering::Greater => self.skipped(stored.sequence).await?,
                },
                Next::Quiet if run.records.is_empty() => {}
                Next::Quiet => return Ok(run.records),
                Next::Gone(reason) => {
                    tracing::debug!(next = self.next.0, reason, "a reader of the log begins again");
                    self.consumer = None;
                }
            }
        }
    }

    /// One attempt to have a consumer, after a pause where there is none.
    async fn open(&mut self) -> Result<Option<Consumer>, ReadError> {
        self.log.check_readable()?;
        // What was read before has to be there still: a log that lost its end would go on with other records in the same places.
        let opened = match self.log.head().await {
            Ok(_) => Consumer::create(&self.log.nats, self.next).await.map_err(|error| error.to_string()),
            Err(ReadError::Unavailable { reason }) => Err(reason),
            Err(error) => return Err(error),
        };
        match opened {
            Ok(consumer) => {
                self.is_waiting = false;
                Ok(Some(consumer))
            }
            Err(reason) => {
                if !self.is_waiting {
                    tracing::warn!(next = self.next.0, reason, "the log cannot be read now; a reader waits");
                    self.is_waiting = true;
                }
                self.pause().await;
                Ok(None)
            }
        }
    }

    async fn pause(&self) {
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = self.log.nats.closing().cancelled() => {}
        }
    }

    /// Records did not come: either they are missing in the log, or they were lost on the way.
    async fn skipped(&mut self, found: Sequence) -> Result<(), ReadError> {
        self.consumer = None;
        match self.log.present(self.next).await {
            Ok(_) => tracing::debug!(next = self.next.0, found = found.0, "records were lost on the way to a reader"),
            // Asked again when a consumer can be had.
            Err(ReadError::Unavailable { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
