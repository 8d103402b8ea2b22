//! A migration that was finished before, asked for again: both logs are compared, and nothing is written.
//!
//! The side that was handed over to is the log now and may have gone on. The side that was left must not have: what it alone holds
//! would be lost without a word.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use event_log::merkle::Frontier;
use event_log::{EventLog, Stored};
use schemas::{ClusterId, Digest, Sequence};

use super::{Direction, Migrated, Migration, Moved, Step, connect, open_embedded, records};

impl Migration {
    /// Checks that the log that counts begins with all that the other one holds.
    pub(super) async fn finished(&self, mark: Option<Moved>, progress: &mut impl FnMut(Step)) -> Result<Migrated> {
        let begin = Instant::now();
        let data = self.data.display();
        // Nothing is made on the servers, in either direction.
        let (nats, jetstream) = connect(&self.nats, Direction::ToEmbedded).await?;
        let (embedded, jetstream): (_, Arc<dyn EventLog>) = (open_embedded(&self.data).await?, Arc::new(jetstream));
        let cluster = same_cluster(&*embedded, &*jetstream).await?;
        let (left, counts, place) = match self.direction {
            Direction::ToJetStream => (&embedded, &jetstream, data.to_string()),
            Direction::ToEmbedded => (&jetstream, &embedded, super::spell(&self.nats)),
        };
        let (size, head) = (left.head().await?, counts.head().await?);
        ensure!(
            size <= head,
            "the log of {place} has {size} records, the one it was moved to only {head}: it has gone on since, and nothing was written"
        );
        let show = |stored: &Stored| {
            progress(Step::Comparing { position: stored.sequence, head: size });
            Ok(())
        };
        records::compare(&**left, &**counts, Sequence::ZERO, size, show).await?;
        let compared = size.0;
        let (size, root) = match mark {
            Some(Moved { size: moved, root, .. }) => {
                ensure!(moved <= size, "the log of {place} had {moved} records when it was moved, and has only {size}");
                (moved, root)
            }
            None => (size, self.root_at(counts, size, head, progress).await?),
        };
        nats.close().await;
        Ok(Migrated {
            cluster,
            size,
            root,
            is_repeat: true,
            copied: 0,
            compared,
            secrets: 0,
            artefacts: 0,
            usage_batches: 0,
            decision_batches: 0,
            elapsed: begin.elapsed(),
        })
    }

    /// The root that a log had at a size, by the verdicts of the read models beside it.
    async fn root_at(&self, log: &Arc<dyn EventLog>, size: Sequence, head: Sequence, progress: &mut impl FnMut(Step)) -> Result<Digest> {
        let models = self.folded(log, head, progress).await?;
        progress(Step::Verifying { position: Sequence::ZERO, head: size });
        let tree = records::tree(&**log, Frontier::default(), size, |sequence| Ok(models.void(sequence)?.is_some())).await?;
        Ok(tree.root())
    }
}

/// The cluster of both logs.
async fn same_cluster(embedded: &dyn EventLog, jetstream: &dyn EventLog) -> Result<ClusterId> {
    let here = embedded.identity().await?.context("the log in the data directory is empty")?;
    match jetstream.identity().await? {
        Some(there) if there == here => Ok(here),
        Some(there) => bail!(
            "the log on NATS belongs to cluster {there}, and the data directory holds one of cluster {here} already; to bring back another one, \
             give a data directory without one"
        ),
        None => bail!("the data directory holds the log of cluster {here} already, and there is none on these servers to compare it with"),
    }
}
