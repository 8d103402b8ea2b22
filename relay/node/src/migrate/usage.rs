//! Usage batches from one form of the usage stream into the other. A batch is known by its node, incarnation and number, so one that is there
//! already stays as it is.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use event_log::Nats;
use event_log::usage::{JetStreamUsage, UsageAppendError, UsageAppended, UsageLog, UsageStream};
use futures_util::TryStreamExt as _;
use schemas::Sequence;
use tokio_util::sync::CancellationToken;

use super::{Direction, prepared};

/// The pause while the spool has no room: it has until what is in it was shipped.
const ROOM_PAUSE: Duration = Duration::from_millis(100);
/// How long the next batch of the spool may take.
const SHIP_WAIT: Duration = Duration::from_secs(60);

/// Copies all batches; gives how many there are. The usage models are folded anew by the next start, since the order may be another.
pub(super) async fn copy(nats: &Nats, data: &Path, direction: Direction) -> Result<u64> {
    // The node's own spool remembers what it shipped, and not where to; only what waits in it is of use, on the way back.
    let scratch = tempfile::Builder::new().prefix("migrate-").tempdir_in(data)?;
    let spool = match direction {
        Direction::ToJetStream => scratch.path().join("usage-spool"),
        Direction::ToEmbedded => data.join("usage-spool"),
    };
    let (usage_log, client, replicas) = (data.join("usage-log"), nats.client(), nats.replicas());
    let (embedded, shared) = tokio::task::spawn_blocking(move || {
        let embedded = UsageLog::open(&usage_log).context("the usage log does not open")?;
        anyhow::Ok((embedded, JetStreamUsage::open(client, &spool, replicas).context("the usage spool does not open")?))
    })
    .await??;
    prepared(async || shared.prepare().await).await.context("the usage stream on NATS cannot be used")?;
    let stop = CancellationToken::new();
    let shipping = shared.run(stop.clone());
    let copying = async {
        let copied = match direction {
            Direction::ToJetStream => match copy_all(&embedded, &shared).await {
                Ok(copied) => shipped(&shared).await.map(|()| copied),
                failed => failed,
            },
            Direction::ToEmbedded => match shipped(&shared).await {
                Ok(()) => copy_all(&shared, &embedded).await,
                Err(error) => Err(error),
            },
        };
        stop.cancel();
        copied
    };
    let (copied, ()) = tokio::join!(copying, shipping);
    embedded.close().await;
    shared.close().await;
    let copied = copied.context("usage cannot be copied")?;
    match fs::remove_dir_all(data.join("usage-models")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("the usage models cannot be removed"),
        _ => Ok(copied),
    }
}

/// Waits until everything in the spool is in the stream.
async fn shipped(shared: &JetStreamUsage) -> Result<()> {
    let mut spool = shared.spool();
    let mut left = spool.borrow_and_update().batches;
    while left > 0 {
        let changed = tokio::time::timeout(SHIP_WAIT, spool.changed()).await;
        ensure!(matches!(changed, Ok(Ok(()))), "{left} usage batches wait in the spool and cannot be shipped");
        left = spool.borrow_and_update().batches;
    }
    Ok(())
}

async fn copy_all(from: &dyn UsageStream, to: &dyn UsageStream) -> Result<u64> {
    let head = from.head().await?;
    let (mut position, mut batches) = (Sequence::ZERO, from.read(Sequence(1)));
    while position < head {
        for stored in batches.try_next().await?.context("the usage stream ended while it was read")? {
            match &stored.batch {
                Ok(batch) => append(to, batch).await?,
                // What nobody could read stays where it is.
                Err(void) => tracing::warn!(sequence = stored.sequence.0, reason = ?void, "a place of the usage stream holds no batch"),
            }
            position = stored.sequence;
        }
    }
    Ok(position.0)
}

async fn append(to: &dyn UsageStream, batch: &schemas::usage::UsageBatch) -> Result<()> {
    loop {
        match to.append(batch).await {
            Ok(UsageAppended::Appended | UsageAppended::AlreadyAppended) => return Ok(()),
            Ok(UsageAppended::Unknown) => {
                bail!("whether usage batch {} was appended is not known; run the same command again", batch.number)
            }
            Err(UsageAppendError::SpoolFull { .. }) => tokio::time::sleep(ROOM_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}
