//! Copying ahead of a node that runs, and `DATA/log.ahead`: what of it need not be compared again while the node stands still.
//!
//! A node that runs hands out its log as an export. What the target lacks of it is appended; then all of it is read back from the target and
//! compared with the export, and the tree over what was read has to have the root that the node states. The file keeps the right edge of that tree, the
//! cluster, and the time at which the stream was made. The next run of the kind begins behind that, so that each leaves less than the one before.
//!
//! The run that hands the log over believes the file only where it is seen to be of these two logs, before it writes anything: the edge and the rest of the
//! source have to lead to the root that the read models have of the whole source, so the source begins with what was compared; the stream has to
//! be the one that was read, still as long, with the same record at that place, so the target does, for nothing is taken out of that stream or
//! changed in it. Where any of this does not hold, everything is compared, as without the file.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Seek as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use event_log::merkle::Frontier;
use event_log::{EventLog, Stored};
use futures_util::TryStreamExt as _;
use schemas::{ClusterId, Digest, Sequence};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use vault::files;

use super::records::{Copier, leaf, tree};
use super::{Direction, Migration, Step, connect};
use crate::audit::{self, StreamError, Verdicts};

const FILE: &str = "log.ahead";
/// Runs of records between the export and the servers.
const RUNS_HELD: usize = 2;

/// The end of a reading.
type Reading = JoinHandle<Result<(), StreamError>>;

/// What the target was seen to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ahead {
    cluster: ClusterId,
    /// The stream, by the time at which its servers made it.
    made_at: String,
    tree: Frontier,
}

impl Ahead {
    /// None where there is none, and where it is not one that this release wrote: it only saves time.
    pub(super) fn read(data: &Path) -> Option<Self> {
        let bytes = fs::read(path(data)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn write(&self, data: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("a tree is plain data")?;
        Ok(files::write_secret(&path(data), &text)?)
    }

    pub(super) fn remove(data: &Path) -> Result<()> {
        match fs::remove_file(path(data)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("log.ahead cannot be removed"),
            _ => Ok(()),
        }
    }

    /// The tree over what both logs begin with, if that is certain. The target is a log and when its stream was made; `whole` is the size and
    /// the root that the read models have of the source.
    pub(super) async fn agreed(
        self,
        cluster: ClusterId,
        source: &dyn EventLog,
        (target, made_at): (&dyn EventLog, &str),
        whole: (Sequence, Digest),
        is_void: impl Fn(Sequence) -> Result<bool>,
    ) -> Result<Option<Frontier>> {
        let (size, (head, root)) = (Sequence(self.tree.size()), whole);
        let is_possible = self.cluster == cluster && size > Sequence::ZERO && size <= head;
        if !is_possible || made_at != self.made_at || target.head().await? < size {
            return Ok(None);
        }
        let (ours, theirs) = (source.read_range(size, 1).await?, target.read_range(size, 1).await?);
        if ours.first().is_none_or(|ours| Some(ours) != theirs.first()) {
            return Ok(None);
        }
        let extended = tree(source, self.tree.clone(), head, is_void).await?;
        Ok((extended.root() == root).then_some(self.tree))
    }

    /// The same of a running node's export, whose root stands for the read models'.
    async fn agreed_by_export(
        self,
        (target, made_at): (&dyn EventLog, &str),
        export: &mut File,
        verdicts: &Verdicts,
    ) -> Result<Option<Frontier>> {
        let size = Sequence(self.tree.size());
        let is_possible = self.cluster == verdicts.cluster && size > Sequence::ZERO && size <= verdicts.size;
        if !is_possible || made_at != self.made_at || target.head().await? < size {
            return Ok(None);
        }
        let theirs = target.read_range(size, 1).await?;
        let (reading, mut runs) = each_run(export, Sequence(size.0 - 1))?;
        let (mut extended, mut is_same) = (self.tree.clone(), false);
        while let Some(run) = runs.recv().await {
            for stored in run {
                if stored.sequence == size {
                    is_same = theirs.first() == Some(&stored);
                } else {
                    extended.push(leaf(&stored, |sequence| Ok(verdicts.voids.contains(&sequence)))?);
                }
            }
        }
        reading.await??;
        Ok((is_same && extended.root() == verdicts.root).then_some(self.tree))
    }
}

fn path(data: &Path) -> PathBuf {
    data.join(FILE)
}

impl Migration {
    /// Copies what a running node's export holds, so that less is left for the time in which it stands still, and compares it. Gives how far the
    /// target is.
    pub async fn copy_ahead(&self, mut export: File, progress: &mut impl FnMut(Step)) -> Result<Sequence> {
        let verdicts = audit::verdicts(BufReader::new(export.try_clone()?)).context("the export of the running node")?;
        let head = verdicts.size;
        let (nats, target) = connect(&self.nats, Direction::ToJetStream).await?;
        let made_at = target.made_at().await?;
        let agreed = match Ahead::read(&self.data) {
            Some(ahead) => ahead.agreed_by_export((&target, &made_at), &mut export, &verdicts).await?.unwrap_or_default(),
            None => Frontier::default(),
        };
        let after = Sequence(agreed.size());
        let mut copier = Copier::beginning_at(&target, after);
        let (reading, mut runs) = each_run(&mut export, after)?;
        while let Some(run) = runs.recv().await {
            copier.check_or_append(&run).await?;
            progress(Step::Copying { position: copier.head(), head });
        }
        reading.await??;
        let (reading, runs) = each_run(&mut export, after)?;
        let tree = read_back(&target, agreed, runs, &verdicts.voids, |position| progress(Step::Verifying { position, head })).await?;
        reading.await??;
        ensure!(tree.root() == verdicts.root, "the copy has the root {}, the running node says {}", tree.root(), verdicts.root);
        Ahead { cluster: verdicts.cluster, made_at, tree }.write(&self.data)?;
        nats.close().await;
        Ok(copier.head())
    }
}

/// The runs of an export from behind a sequence on. Who takes no more of them ends the reading.
fn each_run(export: &mut File, after: Sequence) -> Result<(Reading, mpsc::Receiver<Vec<Stored>>)> {
    export.rewind()?;
    let export = BufReader::new(export.try_clone()?);
    let (sender, runs) = mpsc::channel(RUNS_HELD);
    let read = move || {
        audit::each_run(export, |mut run| {
            run.drain(..run.partition_point(|stored| stored.sequence <= after));
            run.is_empty() || sender.blocking_send(run).is_ok()
        })
    };
    Ok((tokio::task::spawn_blocking(read), runs))
}

/// Reads a log from behind a tree on and compares it with runs; gives the tree over what was read as well.
async fn read_back(
    log: &dyn EventLog,
    mut tree: Frontier,
    mut runs: mpsc::Receiver<Vec<Stored>>,
    voids: &BTreeSet<Sequence>,
    mut progress: impl FnMut(Sequence),
) -> Result<Frontier> {
    let mut batches = log.read(Sequence(tree.size()).next()).await?;
    let mut there = Vec::new().into_iter();
    while let Some(run) = runs.recv().await {
        for ours in run {
            let theirs: Stored = loop {
                match there.next() {
                    Some(stored) => break stored,
                    None => there = batches.try_next().await?.context("the log ended while it was read")?.into_iter(),
                }
            };
            ensure!(ours == theirs, "the target log holds another record at sequence {}", ours.sequence);
            tree.push(leaf(&theirs, |sequence| Ok(voids.contains(&sequence)))?);
            progress(ours.sequence);
        }
    }
    Ok(tree)
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
