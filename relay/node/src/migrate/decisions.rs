//! Decision records from one form of their stream into the other: what the bounds still hold. A batch is known by its node, incarnation and
//! number, so one that is there already is not copied again.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use event_log::Nats;
use event_log::decisions::{DecisionBatches, DecisionLog, DecisionStream, JetStreamDecisions, StoredDecisions};
use futures_util::TryStreamExt as _;
use schemas::decision::DecisionBatch;
use schemas::{IncarnationId, Sequence, WriterId};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Direction, prepared};

/// So many bytes may wait to be shipped: far from where a spool begins to shed.
const WAITING_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The pause between two looks at what waits.
const SHIP_PAUSE: Duration = Duration::from_millis(20);
/// How long what waits may stay as it is.
const SHIP_WAIT: Duration = Duration::from_secs(60);
/// How long a stream may take for its next places. The last ones may be gone, and then there are none.
const READ_WAIT: Duration = Duration::from_secs(5);

type Name = (WriterId, IncarnationId, u64);

/// Copies all batches that the target does not hold; gives how many the source has. The decision models are folded anew by the next start.
pub(super) async fn copy(nats: &Nats, data: &Path, direction: Direction) -> Result<u64> {
    // As with usage: the node's own spool is of use on the way back only.
    let scratch = tempfile::Builder::new().prefix("migrate-").tempdir_in(data)?;
    let spool = match direction {
        Direction::ToJetStream => scratch.path().join("decision-spool"),
        Direction::ToEmbedded => data.join("decision-spool"),
    };
    let (path, client, replicas) = (data.join("decision-log"), nats.client(), nats.replicas());
    let (embedded, shared) = tokio::task::spawn_blocking(move || {
        let embedded = DecisionLog::open(&path).context("the decision log does not open")?;
        anyhow::Ok((embedded, JetStreamDecisions::open(client, &spool, replicas).context("the decision spool does not open")?))
    })
    .await??;
    prepared(async || shared.prepare().await).await.context("the decision stream on NATS cannot be used")?;
    let stop = CancellationToken::new();
    let copying = async {
        let copied = match direction {
            Direction::ToJetStream => match copy_all(&embedded, &shared).await {
                Ok(copied) => shipped(&shared, 0).await.map(|()| copied),
                failed => failed,
            },
            Direction::ToEmbedded => match shipped(&shared, 0).await {
                Ok(()) => copy_all(&shared, &embedded).await,
                Err(error) => Err(error),
            },
        };
        stop.cancel();
        copied
    };
    let (copied, ()) = tokio::join!(copying, shared.run(stop.clone()));
    embedded.close().await;
    shared.close().await;
    let copied = copied.context("decision records cannot be copied")?;
    match fs::remove_dir_all(data.join("decision-models")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("the decision models cannot be removed"),
        _ => Ok(copied),
    }
}

/// Waits until no more than so many bytes wait on this machine. A decision log has none that wait.
async fn shipped(shared: &JetStreamDecisions, bytes_max: u64) -> Result<()> {
    let (mut waiting, mut since) = (shared.held().bytes, Instant::now());
    while waiting > bytes_max {
        ensure!(since.elapsed() < SHIP_WAIT, "{waiting} bytes of decisions wait in the spool and cannot be shipped");
        tokio::time::sleep(SHIP_PAUSE).await;
        let now = shared.held().bytes;
        if now != waiting {
            (waiting, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Where batches go.
trait Target: DecisionStream {
    /// Waits until it takes a batch as it is.
    async fn room(&self) -> Result<()>;
}

impl Target for DecisionLog {
    async fn room(&self) -> Result<()> {
        Ok(())
    }
}

impl Target for JetStreamDecisions {
    async fn room(&self) -> Result<()> {
        shipped(self, WAITING_BYTES_MAX).await
    }
}

async fn copy_all(from: &impl Target, to: &impl Target) -> Result<u64> {
    let mut there = HashSet::new();
    let mut places = Places::of(to).await?;
    while let Some(run) = places.next().await? {
        there.extend(run.iter().filter_map(|stored| stored.batch.as_ref()).map(name));
    }
    let (mut places, mut batches) = (Places::of(from).await?, 0);
    while let Some(run) = places.next().await? {
        for batch in run.into_iter().filter_map(|stored| stored.batch) {
            batches += 1;
            if there.insert(name(&batch)) {
                to.room().await?;
                to.append(&batch).await?;
            }
        }
    }
    Ok(batches)
}

const fn name(batch: &DecisionBatch) -> Name {
    (batch.node, batch.incarnation, batch.number)
}

/// What a stream holds now.
struct Places {
    batches: DecisionBatches,
    position: Sequence,
    head: Sequence,
}

impl Places {
    async fn of(stream: &dyn DecisionStream) -> Result<Self> {
        Ok(Self { batches: stream.read(Sequence(1)), position: Sequence::ZERO, head: stream.head().await? })
    }

    /// None at the end.
    async fn next(&mut self) -> Result<Option<Vec<StoredDecisions>>> {
        if self.position >= self.head {
            return Ok(None);
        }
        // What does not come is gone.
        let Ok(run) = timeout(READ_WAIT, self.batches.try_next()).await else { return Ok(None) };
        let run = run?.context("the decision stream ended while it was read")?;
        self.position = run.last().map_or(self.head, |last| last.sequence);
        Ok(Some(run))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

    use super::*;

    fn batch(number: u64) -> DecisionBatch {
        DecisionBatch { node: WriterId::from_bytes([1; 16]), incarnation: IncarnationId::from_bytes([2; 16]), number, records: vec![] }
    }

    #[tokio::test]
    async fn batches_are_copied_once_however_often_it_is_tried() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (DecisionLog::open(one.path()).unwrap(), DecisionLog::open(two.path()).unwrap());
        assert_eq!(copy_all(&from, &to).await.unwrap(), 0);
        for number in 1..=3 {
            from.append(&batch(number)).await.unwrap();
        }
        // An attempt that was broken off after the first.
        to.append(&batch(1)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(copy_all(&from, &to).await.unwrap(), 3);
        }
        let (mut places, mut numbers) = (Places::of(&to).await.unwrap(), Vec::new());
        while let Some(run) = places.next().await.unwrap() {
            numbers.extend(run.into_iter().filter_map(|stored| stored.batch).map(|batch| batch.number));
        }
        assert_eq!(numbers, [1, 2, 3]);
    }
}
