//! What is kept when a log is refused, and the refusal itself, which outlives the process.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use schemas::{Digest, Sequence};
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt as _, BufWriter};

use super::index::digest;
use super::{Health, Shared};
use crate::contract::{RUN_RECORDS_MAX, ReadError, Stored};
use crate::directory::write_durably;

const REFUSED: &str = "REFUSED";
/// The most evidence directories; a log that changes again and again while it is refused fills the disk with no more.
const EVIDENCE_MAX: u32 = 16;

/// Why the log is not the one that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Finding {
    #[error("the log is empty, and records up to sequence {remembered} are remembered")]
    Emptied { remembered: Sequence },
    #[error("the log begins with another record than the one that is remembered")]
    Anew { remembered: Digest, found: Digest },
    #[error("sequence {sequence} holds another record than the one that is remembered")]
    Forked { sequence: Sequence, remembered: Digest, found: Digest },
    #[error("a record is remembered at sequence {sequence}, and the log has there: {found}")]
    Damaged { sequence: Sequence, found: String },
    #[error("the log lost records from sequence {missing} on that no node at hand remembers")]
    Incomplete { missing: Sequence },
}

impl Finding {
    /// The first place that is not as it should be; from there on both sides are kept as evidence.
    pub(super) fn place(&self) -> Sequence {
        match self {
            Self::Emptied { .. } | Self::Anew { .. } => Sequence(1),
            Self::Forked { sequence, .. } | Self::Damaged { sequence, .. } => *sequence,
            Self::Incomplete { missing } => *missing,
        }
    }
}

/// A log that is refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) finding: Finding,
    /// For whoever reads the file.
    reason: String,
    evidence: PathBuf,
}

impl Refusal {
    /// The refusal that stands in a directory.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        match fs::read(directory.join(REFUSED)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn health(&self) -> Health {
        Health::Refused { reason: self.reason.clone(), evidence: self.evidence.clone() }
    }

    /// Takes the refusal back; the evidence stays. False if the file cannot be removed.
    pub(super) fn withdraw(&self, directory: &Path) -> bool {
        match fs::remove_file(directory.join(REFUSED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, "the refusal of the event log cannot be taken back");
                false
            }
            _ => true,
        }
    }
}

impl Shared {
    /// Keeps both sides of a difference and writes the refusal. If the disk does not take it the log is refused all the same.
    pub(super) async fn keep_evidence(&self, finding: Finding) -> Result<Refusal, ReadError> {
        let head = self.end().await?;
        let evidence = match self.write_evidence(&finding, head).await {
            Ok(evidence) => evidence,
            Err(EvidenceError::Read(error)) => return Err(error),
            Err(EvidenceError::Io(error)) => {
                tracing::error!(%error, "the evidence against the event log cannot be written; what is remembered stays in the database");
                self.directory.clone()
            }
        };
        let refusal = Refusal { reason: finding.to_string(), finding, evidence };
        let text = serde_json::to_vec_pretty(&refusal).expect("texts and numbers");
        if let Err(error) = write_durably(&self.directory, REFUSED, &text) {
            tracing::error!(%error, "the refusal of the event log cannot be written and will not outlive the process");
        }
        Ok(refusal)
    }

    async fn write_evidence(&self, finding: &Finding, head: Sequence) -> Result<PathBuf, EvidenceError> {
        let number = (1..EVIDENCE_MAX).find(|number| !self.evidence(*number).exists()).unwrap_or(EVIDENCE_MAX);
        let directory = self.evidence(number);
        if directory.exists() {
            return Ok(directory);
        }
        // Whole before it has its name.
        let draft = directory.with_extension("new");
        if draft.exists() {
            fs::remove_dir_all(&draft)?;
        }
        fs::create_dir(&draft)?;
        let remembered = self.write_remembered(finding.place(), &draft.join("remembered.jsonl")).await?;
        // Where the log ends too early its last record shows what it ends with.
        let found = self.write_found(finding.place().min(head), head, &draft.join("found.jsonl")).await?;
        let report = json!({
            "finding": finding, "reason": finding.to_string(), "log_head": head, "remembered": remembered, "found": found,
            "cure": "bring back the servers or the data that this node knows; or check both sides, stop the node and move witness, read-models and \
                     usage-models out of its data directory, which takes the log as it is",
        });
        let mut file = fs::File::create(draft.join("report.json"))?;
        file.write_all(&serde_json::to_vec_pretty(&report).expect("texts and numbers"))?;
        file.sync_all()?;
        fs::rename(&draft, &directory)?;
        fs::File::open(&self.directory)?.sync_all()?;
        Ok(directory)
    }

    fn evidence(&self, number: u32) -> PathBuf {
        self.directory.join(format!("evidence-{number}"))
    }

    async fn write_remembered(&self, from: Sequence, path: &Path) -> Result<Summary, EvidenceError> {
        let mut lines = Lines::create(path).await?;
        let mut next = from;
        loop {
            let run = self.rows.run(move |store, _| store.range(next, RUN_RECORDS_MAX)).await?;
            let Some(last) = run.last() else { return Ok(lines.finish().await?) };
            next = last.sequence.next();
            for stored in &run {
                lines.write(stored).await?;
            }
        }
    }

    /// What the log has at the places that are remembered. Where it cannot be read any more the file ends.
    async fn write_found(&self, from: Sequence, head: Sequence, path: &Path) -> Result<Summary, EvidenceError> {
        let mut lines = Lines::create(path).await?;
        let remembered = self.index.lock().all();
        let mut left = &remembered[remembered.partition_point(|(sequence, _)| *sequence < from)..];
        while let Some((next, _)) = left.first().copied().filter(|(sequence, _)| *sequence <= head) {
            let run = match self.ask(self.log.read_range(next, RUN_RECORDS_MAX)).await {
                Err(ReadError::Storage(_)) => break,
                run => run?,
            };
            let Some(to) = run.last().map(|last| last.sequence) else { break };
            for stored in &run {
                if left.binary_search_by_key(&stored.sequence, |(sequence, _)| *sequence).is_ok() {
                    lines.write(stored).await?;
                }
            }
            left = &left[left.partition_point(|(sequence, _)| *sequence <= to)..];
        }
        Ok(lines.finish().await?)
    }
}

#[derive(Debug, Error)]
enum EvidenceError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a file of records holds, for the report.
#[derive(Debug, Default, Serialize)]
struct Summary {
    records: u64,
    first: Option<Sequence>,
    last: Option<Sequence>,
}

/// A file with a record a line.
struct Lines {
    file: BufWriter<File>,
    summary: Summary,
}

impl Lines {
    async fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create_new(path).await?), summary: Summary::default() })
    }

    async fn write(&mut self, stored: &Stored) -> io::Result<()> {
        let Stored { sequence, subject, bytes } = stored;
        let bytes: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let line = json!({ "sequence": sequence, "subject": subject.as_ref(), "digest": digest(stored).to_string(), "bytes": bytes });
        self.file.write_all(format!("{line}\n").as_bytes()).await?;
        self.summary.records += 1;
        self.summary.first.get_or_insert(*sequence);
        self.summary.last = Some(*sequence);
        Ok(())
    }

    async fn finish(mut self) -> io::Result<Summary> {
        self.file.flush().await?;
        self.file.get_ref().sync_all().await?;
        Ok(self.summary)
    }
}
