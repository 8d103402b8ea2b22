//! `keyrelay log migrate`: a log from one machine's files into JetStream, or back, with the same bytes, the same sequences and the same root.
//!
//! ```text
//! judge ──> compare ──> secrets, artefacts, usage, decisions ──> records, each expecting the one before it ──> compare those ──> one root ──> the mark
//! ```
//!
//! Every record of both logs is read back and compared byte for byte once: what the target held before anything is written, what it was given
//! after that. The root is that of what was compared. What was copied while the node ran was also compared while it ran (`migrate/ahead.rs`); so
//! while the node stands still only the rest is, however long the log.
//!
//! The source is only read. Until the mark is changed, which is one rename, the source is the log and the target a part of a copy; after
//! it the target is the log and the source a copy of old. Whatever is cut off in between is finished by the same command, run again; after the
//! end it compares, and says that all is done.
//! A target that holds anything but the beginning of the source is refused and left as it is.

mod ahead;
mod artefacts;
mod decisions;
mod finished;
mod mark;
mod others;
pub(crate) mod records;
mod secrets;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use event_log::merkle::Frontier;
use event_log::{EmbeddedLog, EventLog, JetStreamLog, Nats, NatsConfig, OpenError, PrepareError, StreamPrepareError};
use projector::{Memory, Projector, ReadModels};
use schemas::{ClusterId, Digest, Sequence};
use tokio_util::sync::CancellationToken;
use vault::{NatsKeyStore, RocksKeyStore};

use crate::backup;
use ahead::Ahead;
pub(crate) use mark::Moved;
use records::{Compared, Copier};

/// How long servers may take to answer for the first time.
const NATS_WAIT: Duration = Duration::from_secs(30);
const PREPARE_PAUSE: Duration = Duration::from_millis(500);
/// How long the read models may take to come level before the root is taken from them.
const FOLD_REPORT: Duration = Duration::from_millis(500);

/// Which way a log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToJetStream,
    ToEmbedded,
}

/// A migration that may be run.
pub struct Migration {
    pub data: PathBuf,
    pub nats: NatsConfig,
    pub direction: Direction,
    pub clock: projector::Clock,
}

/// What a migration is doing, for a progress bar.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Secrets,
    Comparing { position: Sequence, head: Sequence },
    Copying { position: Sequence, head: Sequence },
    Folding { position: Sequence, head: Sequence },
    Verifying { position: Sequence, head: Sequence },
}

/// What a migration has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    pub cluster: ClusterId,
    pub size: Sequence,
    pub root: Digest,
    /// It was finished before, and both logs were only compared.
    pub is_repeat: bool,
    /// Records that the target did not hold before.
    pub copied: u64,
    /// Records of both logs that were compared in this run. The others were compared ahead.
    pub compared: u64,
    pub secrets: u64,
    pub artefacts: u64,
    pub usage_batches: u64,
    /// Of the decision stream, which holds the latest ones.
    pub decision_batches: u64,
    pub elapsed: Duration,
}

/// What a data directory says is left to do.
enum Course {
    Due,
    /// Handed over before; the mark is there where that was to JetStream.
    Finished(Option<Moved>),
}

/// The node of the data directory is running, so that its log cannot be handed over.
#[derive(Debug, thiserror::Error)]
#[error("a node is running on {}", data.display())]
pub struct NodeIsRunning {
    pub data: PathBuf,
}

impl Migration {
    /// Runs the migration to its end. [`NodeIsRunning`] is the one refusal after which [`Migration::copy_ahead`] makes sense.
    pub async fn run(&self, progress: &mut impl FnMut(Step)) -> Result<Migrated> {
        let begin = Instant::now();
        backup::refuse_unfinished(&self.data)?;
        if let Course::Finished(mark) = self.course()? {
            return self.finished(mark, progress).await;
        }
        let (nats, jetstream) = connect(&self.nats, self.direction).await?;
        let found = jetstream.identity().await?;
        if self.direction == Direction::ToEmbedded {
            let cluster = found.context("the source log is empty: there is nothing to migrate")?;
            others::refuse_live(&nats, cluster, self.clock.clone()).await?;
            // The copy is not the log before it is whole: until then the mark says where the log is.
            if Moved::read(&self.data)?.is_none() {
                Moved { to: spell(&self.nats), cluster, size: Sequence::ZERO, root: Frontier::default().root() }.write(&self.data)?;
            }
        }
        let embedded = open_embedded(&self.data).await?;
        let shared: Arc<dyn EventLog> = Arc::new(jetstream.clone());
        let (from, to) = match self.direction {
            Direction::ToJetStream => (embedded, shared),
            Direction::ToEmbedded => (shared, embedded),
        };
        let cluster = from.identity().await?.context("the source log is empty: there is nothing to migrate")?;
        if let Some(there) = to.identity().await?.filter(|there| *there != cluster) {
            bail!("the target log belongs to cluster {there}, and this one is cluster {cluster}; nothing was written");
        }
        let head = from.head().await?;
        let models = self.folded(&from, head, progress).await?;
        let is_void = |sequence| Ok(models.void(sequence)?.is_some());
        // Before anything is written: what another log keeps there would be lost to it.
        let agreed = match self.direction {
            Direction::ToJetStream => self.agreed_ahead(cluster, &*from, &jetstream, &models, head).await?,
            Direction::ToEmbedded => Frontier::default(),
        };
        let compared_ahead = agreed.size();
        let mut copier = Copier::beginning_at(&*to, Sequence(compared_ahead));
        let mut compared = Compared::new(&*from, &*to, is_void, agreed);
        compared
            .beginning(head, |stored| {
                copier.agreed(stored);
                progress(Step::Comparing { position: stored.sequence, head });
            })
            .await?;
        progress(Step::Secrets);
        let secrets = self.copy_secrets(&nats).await?;
        let artefacts = artefacts::copy(&nats, &self.data, self.direction).await.context("the policy modules cannot be copied")?;
        let usage_batches = usage::copy(&nats, &self.data, self.direction).await?;
        let decision_batches = decisions::copy(&nats, &self.data, self.direction).await?;
        let before = copier.head();
        records::runs_after(&*from, before, head, async |run| {
            copier.append(run).await?;
            progress(Step::Copying { position: copier.head(), head });
            Ok(())
        })
        .await?;
        compared.up_to(head, |stored| progress(Step::Verifying { position: stored.sequence, head })).await?;
        let (root, judged) = (compared.root(), models.position());
        ensure!(judged.sequence == head, "the source log has gone on to {}: is another node running on it?", judged.sequence);
        ensure!(root == judged.root, "both logs have the root {root}, the read models say {}: nothing was handed over", judged.root);
        let now = from.head().await?;
        ensure!(now == head, "the source log went from {head} to {now} records meanwhile: stop all nodes and run the same command again");
        match self.direction {
            Direction::ToJetStream => Moved { to: spell(&self.nats), cluster, size: head, root }.write(&self.data)?,
            Direction::ToEmbedded => Moved::remove(&self.data)?,
        }
        Ahead::remove(&self.data)?;
        nats.close().await;
        Ok(Migrated {
            cluster,
            size: head,
            root,
            is_repeat: false,
            copied: head.0 - before.0,
            compared: head.0 - compared_ahead,
            secrets,
            artefacts,
            usage_batches,
            decision_batches,
            elapsed: begin.elapsed(),
        })
    }

    /// What the data directory says is left to do. A directory from which, or to which, nothing can go is refused before anything is made in it.
    fn course(&self) -> Result<Course> {
        let (data, moved) = (self.data.display(), Moved::read(&self.data)?);
        let has_log = self.data.join("log").is_dir();
        match (self.direction, moved) {
            (Direction::ToJetStream, Some(Moved { to, size, .. })) if !has_log || size == Sequence::ZERO => {
                bail!("the log of {data} is on {to} already, and there is no whole log here to compare it with")
            }
            (Direction::ToJetStream, Some(moved)) => Ok(Course::Finished(Some(moved))),
            (Direction::ToJetStream, None) => {
                ensure!(has_log, "there is no log in {data}");
                Ok(Course::Due)
            }
            (Direction::ToEmbedded, None) if has_log => Ok(Course::Finished(None)),
            (Direction::ToEmbedded, _) => Ok(Course::Due),
        }
    }

    /// The read models of the data directory, folded up to a head of the log at least.
    async fn folded(&self, log: &Arc<dyn EventLog>, head: Sequence, progress: &mut impl FnMut(Step)) -> Result<ReadModels> {
        fold_up_to(&self.data, self.clock.clone(), log, head, |position| progress(Step::Folding { position, head })).await
    }

    /// The tree over what was compared ahead, or the empty one.
    async fn agreed_ahead(
        &self,
        cluster: ClusterId,
        source: &dyn EventLog,
        target: &JetStreamLog,
        models: &ReadModels,
        head: Sequence,
    ) -> Result<Frontier> {
        let (Some(ahead), judged) = (Ahead::read(&self.data), models.position()) else { return Ok(Frontier::default()) };
        if judged.sequence != head {
            return Ok(Frontier::default());
        }
        let is_void = |sequence| Ok(models.void(sequence)?.is_some());
        let agreed = ahead.agreed(cluster, source, (target, &target.made_at().await?), (head, judged.root), is_void).await?;
        if agreed.is_none() {
            tracing::warn!("what was copied ahead is not what these logs begin with, or cannot be told from it: everything is compared");
        }
        Ok(agreed.unwrap_or_default())
    }

    async fn copy_secrets(&self, nats: &Nats) -> Result<u64> {
        let local = RocksKeyStore::open(&self.data.join("keys")).context("the key store does not open")?;
        // The copy that a store over NATS keeps for itself is of no use here.
        let scratch = tempfile::tempdir()?;
        let mirror = RocksKeyStore::open(&scratch.path().join("keys"))?;
        let remote = NatsKeyStore::open(nats.client(), mirror, nats.replicas()).await?;
        let (stop, direction, shared) = (CancellationToken::new(), self.direction, remote.clone());
        let copying = async {
            let is_level = until_level(&remote).await;
            let copied = tokio::task::spawn_blocking(move || match direction {
                Direction::ToJetStream => secrets::copy(&local, &*shared),
                Direction::ToEmbedded => secrets::copy(&*shared, &local),
            });
            let copied = copied.await;
            stop.cancel();
            ensure!(is_level, "the key store on NATS does not answer");
            copied?.context("the secrets cannot be copied")
        };
        let (copied, ()) = tokio::join!(copying, remote.run(stop.clone()));
        copied
    }
}

/// Folds the read models of a data directory up to a head of its log at least. `progress` is told the position from time to time.
pub(crate) async fn fold_up_to(
    data: &Path,
    clock: projector::Clock,
    log: &Arc<dyn EventLog>,
    head: Sequence,
    mut progress: impl FnMut(Sequence),
) -> Result<ReadModels> {
    // As much as a node has: with the least, the writes that a stopped node left in the write-ahead log are read back into a table for every few of
    // them, which took longer than all the rest of a migration.
    let config = projector::Config { data: data.to_owned(), memory: Memory::new(Memory::BYTES_DEFAULT), clock };
    let (projector, models) = Projector::open(config, log.clone()).await.context("the read models do not open")?;
    let stop = CancellationToken::new();
    let folding = projector.run(stop.clone());
    let level = async {
        while !models.wait_for(head, FOLD_REPORT).await {
            progress(models.position().sequence);
        }
        stop.cancel();
    };
    // A fold that stops never comes level.
    let folded = async {
        let folded = folding.await;
        stop.cancel();
        folded
    };
    let (folded, _) = tokio::join!(folded, stop.run_until_cancelled(level));
    folded.context("the log cannot be folded")?;
    Ok(models)
}

/// Makes a stream or checks it, as soon as the servers can: those that were just started may elect.
async fn prepared(prepare: impl AsyncFn() -> Result<(), StreamPrepareError>) -> Result<(), StreamPrepareError> {
    let deadline = Instant::now() + NATS_WAIT;
    loop {
        match prepare().await {
            Err(StreamPrepareError::Unavailable { .. }) if Instant::now() < deadline => tokio::time::sleep(PREPARE_PAUSE).await,
            prepared => return prepared,
        }
    }
}

/// Whether the key store came level with its bucket: only then what it shows is all there is.
async fn until_level(store: &NatsKeyStore) -> bool {
    let deadline = Instant::now() + NATS_WAIT;
    while !store.mirrored().is_level && Instant::now() < deadline {
        tokio::time::sleep(PREPARE_PAUSE / 5).await;
    }
    store.mirrored().is_level
}

/// The servers, without the user and the password that may stand in an address.
pub(crate) fn spell(config: &NatsConfig) -> String {
    let spelt = |url: &String| match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest)),
        None => url.rsplit('@').next().unwrap_or(url).to_owned(),
    };
    config.url.iter().map(spelt).collect::<Vec<_>>().join(",")
}

/// The embedded log, opened for this process alone.
async fn open_embedded(data: &Path) -> Result<Arc<dyn EventLog>> {
    let path = data.join("log");
    let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(&path)).await?;
    match opened {
        Err(OpenError::AlreadyOpen { .. }) => Err(NodeIsRunning { data: data.to_owned() }.into()),
        opened => Ok(Arc::new(opened.context("the embedded log does not open")?)),
    }
}

/// Reaches the servers. Only a log that goes there may be made there.
async fn connect(config: &NatsConfig, direction: Direction) -> Result<(Nats, JetStreamLog)> {
    let nats = Nats::connect(config.clone()).await.context("the settings for NATS")?;
    let log = match direction {
        Direction::ToJetStream => JetStreamLog::new(&nats),
        Direction::ToEmbedded => JetStreamLog::known(&nats),
    };
    let deadline = Instant::now() + NATS_WAIT;
    loop {
        match log.prepare().await {
            Ok(_) => return Ok((nats, log)),
            Err(PrepareError::Unavailable { reason }) if Instant::now() > deadline => {
                bail!("NATS cannot be reached at {}: {reason}", spell(config))
            }
            Err(PrepareError::Unavailable { .. }) => tokio::time::sleep(PREPARE_PAUSE).await,
            Err(refusal) => return Err(refusal.into()),
        }
    }
}
