//! The task that brings batches from the spool into the stream.
//!
//! A batch is published under its subject, on the condition that it follows on the batch before it, and is published again until it is known
//! to be in the stream. So it cannot be stored twice: a second time, something stands in its place already. That something is read from the
//! leader and compared: it is the batch itself where an answer was lost, here or in an earlier life of the process.

use std::time::Duration;

use bytes::Bytes;
use schemas::usage::UsageBatch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::remote::{Away, Found, Published, Remote, UsagePrepareError, subject_of};
use crate::contract::ReadError;
use crate::usage::UsageAppendError;
use crate::usage::spool::{Settlement, Spool, Waiting};

/// The pause after a failure, doubled with each further one, up to the most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a connection is looked for while there is none.
const CONNECTION_PAUSE: Duration = Duration::from_millis(100);
/// How often a failure that lasts is told again.
const REPORT_EVERY: Duration = Duration::from_secs(60);
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
    Prepare(UsagePrepareError),
    /// The spool takes and gives no more.
    Spool,
}

async fn ship(spool: &Spool, remote: &Remote) {
    let mut troubles = Troubles::default();
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
        match remote.publish(&subject, follows, bytes.clone()).await? {
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

/// A run of failures: how long to wait, and what to tell.
#[derive(Default)]
struct Troubles {
    count: u32,
    reported: Option<Instant>,
}

impl Troubles {
    fn tell(&mut self, error: &(dyn std::error::Error + 'static)) {
        if self.reported.is_none_or(|reported| reported.elapsed() >= REPORT_EVERY) {
            tracing::warn!(error, "usage cannot be shipped; it stays in the spool");
            self.reported = Some(Instant::now());
        }
    }

    /// Waits out a failure: a growing while with chance in it, so that nodes do not come back in step, or until there is a connection again.
    async fn wait(&mut self, remote: &Remote) {
        if !remote.is_connected() {
            while !remote.is_connected() {
                sleep(CONNECTION_PAUSE).await;
            }
            // The failures before were those of another connection.
            self.count = 0;
            sleep(with_chance(PAUSE_MIN)).await;
            return;
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.count.min(10)).min(PAUSE_MAX);
        self.count += 1;
        sleep(with_chance(pause)).await;
    }

    fn end(&mut self) {
        if self.reported.is_some() {
            tracing::info!("usage is shipped again");
        }
        *self = Self::default();
    }
}

/// Between half of a pause and all of it.
pub(super) fn with_chance(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without chance the pause is a fixed one, which is no fault.
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause / 2 * u32::from(byte[0]) / 255
}
