//! The task that brings batches from the spool into the stream.
//!
//! A batch is published under its subject, on the condition that it follows on the batch before it, and is published again until it is known
//! to be in the stream. So it cannot be stored twice: a second time, something stands in its place already. That something is read from the
//! leader and compared: it is the batch itself where an answer was lost, here or in an earlier life of the process.

use std::time::Duration;

use bytes::Bytes;
use schemas::usage::UsageBatch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::subject_of;
use crate::contract::ReadError;
use crate::nats::remote::{Away, Found, Published, Remote, StreamPrepareError};
use crate::nats::troubles::Troubles;
use crate::usage::UsageAppendError;
use crate::usage::spool::{Settlement, Spool, Waiting};

/// How long shipping goes on after it was told to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Ships until cancelled, and then what waits for [`DRAIN`] at most.
pub(super) async fn run(spool: &Spool, remote: &Remote, cancel: CancellationToken) {
    tokio::select! {
        () = ship(spool, remote) => {}
        () = cancel.cancelled() => {
            // A batch under way is begun anew, which is harmless.
            let rest = async { while spool.status().borrow().batches > 0 && ship_oldest(spool, remote).await.is_ok() {} };
            if remote.is_connected() && timeout(DRAIN, rest).await.is_err() {
                tracing::info!(batches = spool.status().borrow().batches, "usage stays in the spool until the next start");
            }
        }
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

async fn ship(spool: &Spool, remote: &Remote) {
    let mut troubles = Troubles::of("usage");
    let mut is_prepared = false;
    loop {
        let shipped = async {
            if !is_prepared {
                remote.prepare().await.map_err(Failure::Prepare)?;
                is_prepared = true;
            }
            ship_oldest(spool, remote).await
        };
        match shipped.await {
            Ok(()) => troubles.end(),
            Err(Failure::Spool) => return,
            Err(Failure::Away(away)) => {
                troubles.tell(&away);
                troubles.wait(remote).await;
            }
            Err(Failure::Prepare(error)) => {
                troubles.tell(&error);
                troubles.wait(remote).await;
            }
        }
    }
}

/// Waits for a batch and brings it to its place.
async fn ship_oldest(spool: &Spool, remote: &Remote) -> Result<(), Failure> {
    let waiting = spool.oldest().await.map_err(|error| {
        if error != ReadError::Closed {
            tracing::error!(error = &error as &dyn std::error::Error, "the usage spool cannot be read; nothing is shipped any more");
        }
        Failure::Spool
    })?;
    let settlement = place(spool, remote, &waiting).await.map_err(Failure::Away)?;
    spool.settle(waiting, settlement).await.map_err(|error| {
        if error != UsageAppendError::Closed {
            tracing::error!(error = &error as &dyn std::error::Error, "the usage spool has failed; nothing is shipped any more");
        }
        Failure::Spool
    })
}

/// Finds or takes the place of a batch: the first on its subject after the batch before it.
async fn place(spool: &Spool, remote: &Remote, waiting: &Waiting) -> Result<Settlement, Away> {
    let subject = subject_of(&waiting.batch);
    let bytes = Bytes::from(waiting.bytes.clone());
    let mut follows = waiting.follows;
    loop {
        match remote.publish(&subject, Some(follows), bytes.clone()).await? {
            Published::Stored(sequence) => {
                if follows < waiting.follows {
                    // It followed on an earlier one than it was to: the later ones are gone, and the stream would not have taken it otherwise.
                    spool.status().send_modify(|status| status.losses += 1);
                    tracing::error!(
                        subject,
                        acknowledged = waiting.follows,
                        found = follows,
                        "the usage stream has lost batches that it had acknowledged; the usage models tell which are missing"
                    );
                }
                return Ok(Settlement::Shipped(sequence));
            }
            Published::NotNext => {}
        }
        match remote.first_after(&subject, follows).await? {
            Some(found) => match Standing::of(&found, &waiting.batch, &bytes) {
                Standing::Same => return Ok(Settlement::Shipped(found.sequence)),
                Standing::Before => follows = found.sequence,
                Standing::Other => {
                    tracing::error!(
                        subject,
                        number = waiting.batch.number,
                        sequence = found.sequence,
                        "another usage batch stands in the place of this one, which is kept aside in the spool: was its directory copied?"
                    );
                    return Ok(Settlement::Refused(found.sequence));
                }
            },
            None => {
                let last = remote.last(&subject).await?.map_or(0, |found| found.sequence);
                if last >= follows {
                    return Err(Away("the place of a batch cannot be told at the moment".to_owned()));
                }
                follows = last;
            }
        }
    }
}

/// How a message on the subject of a batch stands to it.
enum Standing {
    /// It is the batch.
    Same,
    /// It is an earlier batch, or no batch at all, which leaves the place free.
    Before,
    /// It is another batch of this number, or a later one.
    Other,
}

impl Standing {
    fn of(found: &Found, batch: &UsageBatch, bytes: &[u8]) -> Self {
        if found.bytes == bytes {
            return Self::Same;
        }
        let origin = (batch.node, batch.incarnation);
        match UsageBatch::decode(&found.bytes).filter(|found| (found.node, found.incarnation) == origin) {
            Some(found) if found.number >= batch.number => Self::Other,
            _ => Self::Before,
        }
    }
}
