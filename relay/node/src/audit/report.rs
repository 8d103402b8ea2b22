//! What an audit found.

use std::fmt;

use control::audit::Manifest;
use schemas::judge::Prefix as _;
use schemas::{ClusterId, Digest, PublicKey, Sequence, Timestamp, VoidReason, WriterId};
use serde::Serialize;

use super::fold::Fold;

/// The most findings that are told one by one; one change can have many consequences.
const FINDINGS_MAX: usize = 100;

/// The outcome. It is good if there is no finding; void records are listed, they are not findings.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub ok: bool,
    pub anchor: Anchor,
    /// What the founding record says; none where there is no founding.
    pub cluster: Option<ClusterId>,
    pub cluster_public_key: Option<PublicKey>,
    /// Who signed the manifest, and when.
    pub writer: Option<WriterId>,
    pub created_at: Option<Timestamp>,
    /// Records folded, and the root over them.
    pub size: Sequence,
    pub root: Digest,
    pub valid: u64,
    pub void: u64,
    pub events: u64,
    pub streams: u64,
    pub voids: Vec<VoidRecord>,
    pub findings: Vec<Finding>,
    /// Findings beyond those that are told.
    pub findings_more: u64,
}

/// What whoever verifies knew before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    pub cluster_key: Option<PublicKey>,
    /// A root that the log must have had at a size.
    pub root: Option<(Sequence, Digest)>,
}

/// What the trust in the log rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// A cluster key that the auditor knew before.
    ClusterKey,
    /// The founding in the export itself: a whole other log, made from scratch, would pass.
    OwnFounding,
}

/// A record that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VoidRecord {
    pub sequence: Sequence,
    pub reason: VoidReason,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: String,
    /// The record that it is about, where it is about one.
    pub sequence: Option<Sequence>,
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sequence {
            Some(sequence) => write!(f, "{}, sequence {sequence}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

impl Report {
    pub(super) fn new(fold: &Fold, findings: Findings, expected: &Expected, manifest: Option<&Manifest>) -> Self {
        let void = fold.voids().len() as u64;
        let Findings { mut told, more } = findings;
        // The first record that is touched comes first: what follows may be its consequence.
        told.sort_by_key(|finding| (finding.sequence.is_none(), finding.sequence));
        Self {
            ok: told.is_empty(),
            anchor: if expected.cluster_key.is_some() { Anchor::ClusterKey } else { Anchor::OwnFounding },
            cluster: fold.cluster().map(|(id, _)| id),
            cluster_public_key: fold.cluster_public_key(),
            writer: manifest.map(|manifest| manifest.writer),
            created_at: manifest.map(|manifest| manifest.created_at),
            size: fold.size(),
            root: fold.root(),
            valid: fold.size().0 - void,
            void,
            events: fold.events(),
            streams: fold.streams().len() as u64,
            voids: fold.voids().iter().map(|(sequence, (reason, _))| VoidRecord { sequence: *sequence, reason: *reason }).collect(),
            findings: told,
            findings_more: more,
        }
    }
}

/// Findings as they come, told up to a bound.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) told: Vec<Finding>,
    pub(crate) more: u64,
}

impl Findings {
    pub(crate) fn add(&mut self, file: &str, sequence: Option<Sequence>, problem: impl Into<String>) {
        if self.told.len() < FINDINGS_MAX {
            self.told.push(Finding { file: file.to_owned(), sequence, problem: problem.into() });
        } else {
            self.more += 1;
        }
    }

    /// What was known before, against what the log says of itself.
    pub(super) fn compare(&mut self, file: &str, fold: &Fold, expected: &Expected) {
        if let (Some(given), Some(found)) = (expected.cluster_key, fold.cluster_public_key())
            && given != found
        {
            let problem = format!("the log was founded under the cluster key {found}, not under the one given");
            self.add(file, Some(Sequence(1)), problem);
        }
        if let Some((size, root)) = expected.root
            && fold.root_at(size) != Some(root)
        {
            self.add(file, Some(size), format!("the log up to here does not have the root {root}, which the node has given before"));
        }
    }
}
