//! A backup into an empty data directory, for a node on the embedded log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use control::backup::{BackupError, Chunk, Manifest, Part, entry, read};
use event_log::artefacts::{Artefacts as _, FileArtefacts};
use event_log::decisions::{DecisionLog, DecisionStream as _};
use event_log::usage::{UsageAppendError, UsageAppended, UsageLog, UsageStream as _};
use event_log::{EmbeddedLog, EventLog, Stored};
use schemas::decision::DecisionBatch;
use schemas::usage::UsageBatch;
use schemas::{ClusterId, Digest, Sequence};
use tokio::runtime::Handle;
use vault::{RocksKeyStore, RootKey, files};

use super::mark::Mark;
use super::verification::{BackupReport, Told, verify};
use crate::audit::Finding;
use crate::layout::Layout;
use crate::migrate;
use crate::migrate::records::Copier;
use crate::serve;

/// A restore that may be run.
pub struct Restore {
    pub file: PathBuf,
    pub data: PathBuf,
    /// Every secret that is in use is opened with it before anything is written.
    pub root_key: Option<RootKey>,
    /// Whether it is written to `DATA/root.key`, if none is there.
    pub keep_root_key: bool,
    pub clock: projector::Clock,
}

/// What a restore is doing, for a progress bar: bytes of the file, or records.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Verifying { bytes: u64, of: u64 },
    Restoring { bytes: u64, of: u64 },
    Folding { position: Sequence, head: Sequence },
}

/// How a restore ended.
#[derive(Debug)]
pub enum Outcome {
    Restored(Restored),
    /// The backup is not good; nothing was written.
    Refused(BackupReport),
}

/// What a restore has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub cluster: ClusterId,
    pub sequence: Sequence,
    pub root: Digest,
    pub secrets: u64,
    pub modules: u64,
    pub usage_batches: u64,
    /// Batches that cannot follow on each other, because what stood between them was lost before the backup.
    pub usage_left_out: u64,
    pub decision_batches: u64,
    /// Whether a root key has opened the secrets.
    pub is_opened: bool,
    /// What the backup does not have and a node can go on without.
    pub warnings: Vec<Finding>,
    /// Those beyond the ones that are told.
    pub warnings_more: u64,
}

/// Told of each step, from any thread.
pub type Progress = Arc<dyn Fn(Step) + Send + Sync>;

impl Restore {
    /// Runs the restore to its end.
    pub async fn run(self, progress: Progress) -> Result<Outcome> {
        Mark::check(&self.data)?;
        let own = self.data.join("root.key");
        let is_other = |key: &RootKey| key.commitment() != self.root_key.as_ref().map_or_else(|| key.commitment(), RootKey::commitment);
        if own.exists() && is_other(&read_root_key(&own)?) {
            bail!("{} is another root key than the one given: remove the wrong one; nothing was changed", own.display());
        }
        let of = std::fs::metadata(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?.len();
        let (file, root_key, told) = (self.file.clone(), self.root_key.clone(), progress.clone());
        let verified = tokio::task::spawn_blocking(move || {
            let mut bytes = 0;
            verify(&file, root_key.as_ref(), |length| {
                bytes += length;
                told(Step::Verifying { bytes, of });
            })
        });
        let report = verified.await??;
        if !report.ok {
            return Ok(Outcome::Refused(report));
        }
        files::private_dir(&self.data)?;
        let (data, told) = (self.data.clone(), progress.clone());
        let mark = tokio::task::spawn_blocking(move || Mark::begin(&data)).await??;
        if let Some(key) = self.root_key.as_ref().filter(|_| self.keep_root_key && !own.exists()) {
            files::write_secret(&own, format!("{}\n", key.text().as_str()).as_bytes())?;
        }
        let (file, data, runtime) = (self.file.clone(), self.data.clone(), Handle::current());
        let filled = tokio::task::spawn_blocking(move || fill(&file, &data, &runtime, of, &told));
        let (manifest, counts) = filled.await?.context("the backup cannot be restored; run the same command again")?;
        let position = self.fold(manifest.sequence, &progress).await?;
        ensure!(
            (position.sequence, position.root) == (manifest.sequence, manifest.root),
            "the restored log has {} records and the root {}, the backup {} and {}: the directory stays half restored",
            position.sequence,
            position.root,
            manifest.sequence,
            manifest.root
        );
        serve::write_format(&self.data)?;
        tokio::task::spawn_blocking(move || mark.finish()).await??;
        Ok(Outcome::Restored(Restored {
            cluster: manifest.cluster,
            sequence: position.sequence,
            root: position.root,
            secrets: counts.secrets,
            modules: counts.modules,
            usage_batches: counts.usage_batches,
            usage_left_out: counts.usage_left_out,
            decision_batches: counts.decision_batches,
            is_opened: report.secrets_opened.is_some(),
            warnings: report.warnings,
            warnings_more: report.warnings_more,
        }))
    }

    /// Reads the restored log back, checked as at every start, and folds it: its read models are there for the first start, and their root
    /// is what the restore is judged by.
    async fn fold(&self, head: Sequence, progress: &Progress) -> Result<projector::Position> {
        let path = Layout::new(&self.data).log();
        let log = tokio::task::spawn_blocking(move || EmbeddedLog::open(&path)).await?.context("the restored log does not open")?;
        let log: Arc<dyn EventLog> = Arc::new(log);
        let models = migrate::fold_up_to(&self.data, self.clock.clone(), &log, head, |position| {
            progress(Step::Folding { position, head });
        });
        Ok(models.await?.position())
    }
}

/// A root key from a file that nobody else can read.
pub(crate) fn read_root_key(path: &Path) -> Result<RootKey> {
    let bytes = files::read_secret(path)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", path.display()))?;
    RootKey::parse(text.trim()).with_context(|| format!("{} is no root key", path.display()))
}

#[derive(Default)]
struct Counts {
    secrets: u64,
    modules: u64,
    usage_batches: u64,
    usage_left_out: u64,
    decision_batches: u64,
}

/// Makes the stores and puts the backup's parts into them. Blocking. All are closed when it returns.
fn fill(file: &Path, data: &Path, runtime: &Handle, of: u64, told: &Progress) -> Result<(Manifest, Counts)> {
    let log = EmbeddedLog::open(&Layout::new(data).log())?;
    let mut stores = Stores {
        runtime,
        copier: Copier::new(&log),
        sequence: Sequence::ZERO,
        keys: RocksKeyStore::open(&data.join("keys"))?,
        artefacts: FileArtefacts::open(&Layout::new(data).artefacts())?,
        usage: UsageLog::open(&data.join("usage-log"))?,
        decisions: DecisionLog::open(&data.join("decision-log"))?,
        counts: Counts::default(),
    };
    let mut bytes = 0;
    let from = Told {
        from: File::open(file)?,
        progress: |length| {
            bytes += length;
            told(Step::Restoring { bytes, of });
        },
    };
    let manifest = read(from, |chunk| stores.take(&chunk)).map_err(|error| error.0)?.manifest;
    let Stores { usage, decisions, counts, .. } = stores;
    runtime.block_on(async {
        log.close().await;
        usage.close().await;
        decisions.close().await;
    });
    Ok((manifest, counts))
}

/// An error of the reading or of a store.
struct FillError(anyhow::Error);

impl From<BackupError> for FillError {
    fn from(error: BackupError) -> Self {
        Self(error.into())
    }
}

impl From<anyhow::Error> for FillError {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

struct Stores<'a> {
    runtime: &'a Handle,
    copier: Copier<'a>,
    /// Of the last record that was taken.
    sequence: Sequence,
    keys: RocksKeyStore,
    artefacts: FileArtefacts,
    usage: UsageLog,
    decisions: DecisionLog,
    counts: Counts,
}

impl Stores<'_> {
    fn take(&mut self, chunk: &Chunk<'_>) -> Result<(), FillError> {
        let taken = match chunk.part {
            Part::Log => self.records(&chunk.entries),
            Part::Keys => self.secrets(&chunk.entries),
            Part::Artefacts => chunk.entries.iter().try_for_each(|bytes| self.artefact(bytes)),
            Part::Usage => chunk.entries.iter().try_for_each(|bytes| self.usage(bytes)),
            Part::Decisions => chunk.entries.iter().try_for_each(|bytes| self.decisions(bytes)),
        };
        Ok(taken.with_context(|| format!("the part {}", chunk.part.as_str()))?)
    }

    fn records(&mut self, entries: &[&[u8]]) -> Result<()> {
        let mut run = Vec::with_capacity(entries.len());
        for bytes in entries {
            let (subject, record) = entry::record(bytes).context("a record is not spelt as one")?;
            self.sequence = self.sequence.next();
            run.push(Stored { sequence: self.sequence, subject: subject.into(), bytes: Bytes::copy_from_slice(record) });
        }
        self.runtime.block_on(self.copier.append(&run))
    }

    fn secrets(&mut self, entries: &[&[u8]]) -> Result<()> {
        let parsed: Option<Vec<_>> = entries.iter().map(|bytes| entry::key(bytes)).collect();
        self.counts.secrets += entries.len() as u64;
        Ok(self.keys.fill(parsed.context("an entry of the key store is not spelt as one")?)?)
    }

    fn artefact(&mut self, bytes: &[u8]) -> Result<()> {
        let (kind, digest, module) = entry::artefact(bytes).context("a module is not spelt as one")?;
        let put = self.runtime.block_on(self.artefacts.put(kind, Bytes::copy_from_slice(module)))?;
        ensure!(put == digest, "a module has another digest than {digest}");
        self.counts.modules += 1;
        Ok(())
    }

    fn usage(&mut self, bytes: &[u8]) -> Result<()> {
        let batch = UsageBatch::decode(bytes).context("a batch is not spelt as one")?;
        match self.runtime.block_on(self.usage.append(&batch)) {
            Ok(UsageAppended::Appended | UsageAppended::AlreadyAppended) => self.counts.usage_batches += 1,
            Ok(UsageAppended::Unknown) => bail!("whether usage batch {} was appended is not known", batch.number),
            // What is missing was lost before; the rest of that incarnation cannot be told from a forgery any more.
            Err(UsageAppendError::Gap { .. }) => self.counts.usage_left_out += 1,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn decisions(&mut self, bytes: &[u8]) -> Result<()> {
        let batch = DecisionBatch::decode(bytes).context("a batch is not spelt as one")?;
        self.runtime.block_on(self.decisions.append(&batch))?;
        self.counts.decision_batches += 1;
        Ok(())
    }
}
