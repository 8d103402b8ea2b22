//! A long log on NATS: reading it, folding it, folding it again beside the model in use, and a new node that begins with a snapshot.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use event_log::{Appended, EventLog, Expect, JetStreamLog};
use futures_util::StreamExt as _;
use nats_server::{Cluster, Sync};
use projector::{Projector, ReadModels, install_snapshot};
use schemas::Sequence;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::appends::{connect, prepared};
use super::engines::config;
use super::founded::Founded;
use super::report::{line, row};
use super::stage::Stage;

const WRITERS: usize = 256;

pub(crate) async fn measure(options: Options) -> Result<()> {
    // How the records got there is not what is measured, so the server may sync when it likes.
    let cluster = tokio::task::block_in_place(|| Cluster::start(1, Sync::Default))?;
    let nats = connect(&cluster.url()).await?;
    let log = Arc::new(prepared(&nats).await?);
    let founded = Arc::new(Founded::new());
    line("")?;
    row(&format!("a log of {} keys on NATS, R1", options.keys), "measured", "CPU of this process, a record; memory; reach")?;
    let stage = Stage::begin()?;
    fill(&log, &founded, options.keys).await?;
    let head = log.head().await?;
    stage.end("filled, signing each record", head, "")?;
    let stage = Stage::begin()?;
    replay(&log, head).await?;
    stage.end("replay, records read and not judged", head, "")?;

    let directory = tempfile::tempdir()?;
    let first = directory.path().join("first");
    let stage = Stage::begin()?;
    let node = Node::open(&first, &log).await?;
    node.reaches(head).await?;
    stage.end("first fold, everything judged", head, ">= 25 k/s per core; <= 512 MiB with 1 M")?;
    let stage = Stage::begin()?;
    node.projector.rebuild(projector::Verdicts::Judged, |_| {}).await?;
    stage.end("rebuild beside the model in use", head, "")?;
    let stage = Stage::begin()?;
    node.projector.rebuild(projector::Verdicts::Known, |_| {}).await?;
    stage.end("rebuild by known verdicts", head, ">= 300 k/s")?;

    let snapshot = directory.path().join("snapshot");
    let stage = Stage::begin()?;
    node.projector.snapshot(&snapshot, founded.writer(), |bytes| founded.sign_statement(bytes)).await?;
    let size = size(&snapshot)? as f64 / 1048576.0;
    stage.end(&format!("a snapshot of {size:.0} MiB is taken"), head, "")?;
    node.close().await?;

    let second = directory.path().join("second");
    fs::create_dir(&second)?;
    let stage = Stage::begin()?;
    let (id, key) = founded.cluster();
    install_snapshot(&config(&second), &snapshot, id, key, &*log).await?;
    let node = Node::open(&second, &log).await?;
    node.reaches(head).await?;
    stage.end("a new node serves from it", head, "<= 10 s with 1 M")?;
    node.close().await?;
    nats.close().await;
    Ok(())
}

/// Founds, then creates keys from many tasks.
async fn fill(log: &Arc<JetStreamLog>, founded: &Arc<Founded>, keys: usize) -> Result<()> {
    for (subject, bytes) in founded.beginning()? {
        append(log, &subject, bytes).await?;
    }
    let mut writers = JoinSet::new();
    for first in 0..WRITERS {
        let (log, founded) = (Arc::clone(log), Arc::clone(founded));
        writers.spawn(async move {
            for number in (first..keys).step_by(WRITERS) {
                let (subject, bytes) = founded.key(number)?;
                append(&log, &subject, bytes).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn append(log: &JetStreamLog, subject: &str, bytes: bytes::Bytes) -> Result<()> {
    match log.append(subject, Expect { subject: Sequence(0), log: None }, bytes).await? {
        Appended::Appended(_) => Ok(()),
        other => bail!("not appended: {other:?}"),
    }
}

async fn replay(log: &JetStreamLog, head: Sequence) -> Result<()> {
    let mut runs = log.read(Sequence(1)).await?;
    let mut last = Sequence(0);
    while last < head {
        let run = runs.next().await.context("the log ended")??;
        last = run.last().context("an empty run")?.sequence;
    }
    Ok(())
}

/// A projector that follows.
struct Node {
    projector: Arc<Projector>,
    models: ReadModels,
    cancel: CancellationToken,
    following: tokio::task::JoinHandle<Result<(), projector::FollowError>>,
}

impl Node {
    async fn open(data: &Path, log: &Arc<JetStreamLog>) -> Result<Self> {
        let (projector, models) = Projector::open(config(data), Arc::clone(log) as Arc<dyn EventLog>).await?;
        let (projector, cancel) = (Arc::new(projector), CancellationToken::new());
        let following = tokio::spawn({
            let (projector, cancel) = (Arc::clone(&projector), cancel.clone());
            async move { projector.run(cancel).await }
        });
        Ok(Self { projector, models, cancel, following })
    }

    async fn reaches(&self, head: Sequence) -> Result<()> {
        while !self.models.wait_for(head, Duration::from_secs(5)).await {
            ensure!(!self.following.is_finished(), "the fold stopped: {:?}", self.models.status().state);
        }
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.cancel.cancel();
        Ok(self.following.await??)
    }
}

fn size(directory: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        size += if entry.file_type()?.is_dir() { self::size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(size)
}
