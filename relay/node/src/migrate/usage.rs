//! Usage batches from one form of the usage stream into the other. A batch is known by its node, incarnation and number, so one that is there
//! already stays as it is.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use event_log::Nats;
use event_log::usage::{JetStreamUsage, UsageAppendError, UsageAppended, UsageLog, UsageStream};
use futures_util::TryStreamExt as _;
use schemas::Sequence;
use tokio_util::sync::CancellationToken;

use super::Direction;

/// The pause while the spool has no room: it has until what is in it was shipped.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Copies all batches; gives how many there are. The usage models are folded anew by the next start, since the order may be another.
pub(super) async fn copy(nats: &Nats, data: &Path, direction: Direction) -> Result<u64> {
    let (usage_log, spool, client) = (data.join("usage-log"), data.join("usage-spool"), nats.client());
    let replicas = nats.replicas();
    let (embedded, shared) = tokio::task::spawn_blocking(move || {
        let embedded = UsageLog::open(&usage_log).context("the usage log does not open")?;
        anyhow::Ok((embedded, Arc::new(JetStreamUsage::open(client, &spool, replicas).context("the usage spool does not open")?)))
    })
    .await??;
    shared.prepare().await.context("the usage stream on NATS cannot be used")?;
    let stop = CancellationToken::new();
    let shipping = shared.run(stop.clone());
    let copying = async {
        let copied = match direction {
            Direction::ToJetStream => {
                let copied = copy_all(&embedded, &*shared).await;
                let mut spool = shared.spool();
                // The sender lives in the stream itself.
                spool.wait_for(|spool| spool.batches == 0).await.ok();
                copied
            }
            Direction::ToEmbedded => copy_all(&*shared, &embedded).await,
        };
        stop.cancel();
        copied
    };
    let (copied, ()) = tokio::join!(copying, shipping);
    embedded.close().await;
    shared.close().await;
    match fs::remove_dir_all(data.join("usage-models")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context("the usage models cannot be removed"),
        _ => {}
    }
    copied.context("usage cannot be copied")
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
            // It was copied and shipped by an earlier run of the same migration.
            Err(UsageAppendError::Passed { .. }) => return Ok(()),
            Ok(UsageAppended::Unknown) => {
                bail!("whether usage batch {} was appended is not known; run the same command again", batch.number)
            }
            Err(UsageAppendError::SpoolFull { .. }) => tokio::time::sleep(ROOM_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}
