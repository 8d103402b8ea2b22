//! Proves a backup without restoring it and without a node.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use control::SUCCESSOR_OWNER;
use control::backup::{BackupError, Chunk, Manifest, Part, SignedManifest, entry, read};
use schemas::decision::DecisionBatch;
use schemas::usage::UsageBatch;
use schemas::{Aggregate, ClusterId, Digest, PublicKey, Sequence, Stream, Timestamp};
use serde::Serialize;
use vault::{Entry, KeyStore, MemoryKeyStore, RootKey, SecretAddress, StoreError, UnsealError, Vault};

use self::secrets::{Referred, referred};

use crate::audit::{Finding, Findings, Fold, chain};

mod secrets;

/// What a verification came to. The backup is good if there is no finding: a warning is about something that a node can go on without.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    pub ok: bool,
    /// What the founding record says; none where there is no founding.
    pub cluster: Option<ClusterId>,
    pub cluster_public_key: Option<PublicKey>,
    /// Records judged and folded, and the root over them.
    pub sequence: Sequence,
    pub root: Digest,
    pub valid: u64,
    pub void: u64,
    /// When it was taken, by which release; none where there is no manifest.
    pub created_at: Option<Timestamp>,
    pub release: Option<String>,
    /// Secrets that the log refers to and that are there.
    pub secrets: u64,
    /// How many of them were opened with the root key that was given; none where none was.
    pub secrets_opened: Option<u64>,
    pub modules: u64,
    pub usage_batches: u64,
    /// Places of the usage stream that the node could not read.
    pub usage_unreadable: u64,
    pub decision_batches: u64,
    pub findings: Vec<Finding>,
    /// Findings beyond those that are told.
    pub findings_more: u64,
    /// What is lost and can be made good, with how.
    pub warnings: Vec<Finding>,
    /// Warnings beyond those that are told.
    pub warnings_more: u64,
}

/// Verifies a backup. An error is one that cannot be read or is of another format; everything else is in the report. With a root key, every
/// secret that the log refers to is opened with it. `progress` is told the bytes read.
pub fn verify(file: &Path, root_key: Option<&RootKey>, progress: impl FnMut(u64)) -> Result<BackupReport> {
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut check = Check::default();
    let signed = match read(Told { from: opened, progress }, |chunk| check.take(chunk)) {
        Ok(signed) => Some(signed),
        Err(error @ (BackupError::Io(_) | BackupError::Format { .. })) => {
            return Err(error).with_context(|| format!("cannot verify {}", file.display()));
        }
        Err(damage) => {
            // What was found before is likely a consequence.
            (check.findings, check.warnings) = (Findings::default(), Findings::default());
            check.findings.add(WHOLE, None, chain(&damage));
            None
        }
    };
    if let Some(signed) = &signed {
        check.signed(signed);
        check.compare(&signed.manifest);
        check.references();
        if let Some(root_key) = root_key {
            check.open(root_key);
        }
    }
    Ok(check.report(signed.map(|signed| signed.manifest)))
}

/// What findings call the file as a whole.
const WHOLE: &str = "backup";
/// And who stands for it.
const SIGNATURE: &str = "signature";
/// Owner kinds of what a log cannot do without.
const CREDENTIAL: &str = "credential";
const CLUSTER: &str = "cluster";

#[derive(Default)]
struct Check {
    fold: Fold,
    /// The fold stopped at a record.
    is_stopped: bool,
    has_seen_fault: bool,
    findings: Findings,
    warnings: Findings,
    /// Secrets of credentials and of the cluster, and those that wait for keys.
    keys: Arc<MemoryKeyStore>,
    modules: BTreeSet<Digest>,
    usage_batches: u64,
    decision_batches: u64,
    secrets: u64,
    secrets_opened: Option<u64>,
}

impl Check {
    /// Never an error: what is wrong with an entry is a finding.
    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), BackupError> {
        for bytes in chunk.entries {
            let is_spelt = match chunk.part {
                Part::Log => self.record(bytes),
                Part::Keys => self.key(bytes),
                Part::Artefacts => self.artefact(bytes),
                Part::Usage => {
                    self.usage_batches += 1;
                    UsageBatch::decode(bytes).is_some()
                }
                Part::Decisions => {
                    self.decision_batches += 1;
                    DecisionBatch::decode(bytes).is_some()
                }
            };
            if !is_spelt {
                self.findings.add(chunk.part.as_str(), None, "an entry is none that this release reads");
            }
        }
        Ok(())
    }

    fn record(&mut self, bytes: &[u8]) -> bool {
        let Some((subject, record)) = entry::record(bytes) else { return false };
        if self.is_stopped {
            return true;
        }
        let sequence = self.fold.size().next();
        match self.fold.add(subject, record) {
            Ok(Some(fault)) if !self.has_seen_fault => {
                self.has_seen_fault = true;
                self.findings.add(Part::Log.as_str(), Some(sequence), fault.to_string());
            }
            Ok(_) => {}
            Err(error) => {
                self.is_stopped = true;
                self.findings.add(Part::Log.as_str(), Some(sequence), format!("{}; what follows was not folded", chain(&error)));
            }
        }
        true
    }

    fn key(&mut self, bytes: &[u8]) -> bool {
        let Some((kind, slot, bytes)) = entry::key(bytes) else { return false };
        if ![CREDENTIAL, CLUSTER, SUCCESSOR_OWNER].contains(&&*slot.owner_kind) {
            return true;
        }
        // Both only fill memory here, and an entry that comes twice stays as it came first.
        let kept = match kind {
            Entry::Sealed => self.keys.put_sealed(&slot, bytes).map(drop),
            Entry::Wrapped => self.keys.swap_wrapped(&slot, None, Some(bytes)).map(drop),
        };
        kept.is_ok()
    }

    fn artefact(&mut self, bytes: &[u8]) -> bool {
        let Some((_, digest, module)) = entry::artefact(bytes) else { return false };
        if Digest::blake3(module) == digest {
            self.modules.insert(digest);
        } else {
            self.findings.add(Part::Artefacts.as_str(), None, format!("the bytes of {digest} have another digest"));
        }
        true
    }

    /// Whether a node of the log inside signed the manifest as it stands. The log is judged by signatures of its own; all else is only what the
    /// manifest's digests say it is.
    fn signed(&mut self, signed: &SignedManifest) {
        let node = signed.manifest.node;
        let problem = match self.fold.streams().get(&Stream::writer(node)).and_then(|row| row.aggregate.as_ref()) {
            Some(Aggregate::Writer(writer)) if writer.retired => {
                format!("the manifest is by node {node}, which had retired by then: another wrote or changed this backup")
            }
            Some(Aggregate::Writer(writer)) if signed.is_signed_by(&writer.public_key) => return,
            Some(_) => format!("the manifest is not as node {node} signed it: the backup was changed after it was taken"),
            None => format!("the manifest is by node {node}, which the log does not know: another wrote or changed this backup"),
        };
        self.findings.add(SIGNATURE, None, problem);
    }

    /// What the manifest claims, against what the records come to.
    fn compare(&mut self, manifest: &Manifest) {
        let mut differs = |what: &str, claimed: &str, found: &str| {
            if claimed != found {
                self.findings.add(WHOLE, None, format!("the manifest says {what} {claimed}, the records come to {found}"));
            }
        };
        let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        differs("sequence", &manifest.sequence.to_string(), &self.fold.size().to_string());
        differs("root", &manifest.root.to_string(), &self.fold.root().to_string());
        differs("cluster", &manifest.cluster.to_string(), &shown(cluster_id(&self.fold).map(|id| id.to_string())));
        let key = self.fold.cluster_public_key();
        differs("cluster key", &manifest.cluster_public_key.to_string(), &shown(key.map(|key| key.to_string())));
    }

    /// Every secret and every module that the records refer to must be there.
    fn references(&mut self) {
        let mut missing = Vec::new();
        for one in referred(&self.fold) {
            match has_both(&*self.keys, &one.address) {
                Ok(true) => self.secrets += 1,
                Ok(false) => self.lost(&one, "is missing"),
                Err(error) => missing.push((Part::Keys, chain(&error))),
            }
        }
        for row in self.fold.streams().values() {
            if let Some(Aggregate::Policy(policy)) = &row.aggregate
                && !self.modules.contains(&policy.uploaded.digest)
            {
                let problem = format!("the module of policy {} ({}) is missing", policy.uploaded.digest, policy.uploaded.name);
                missing.push((Part::Artefacts, problem));
            }
        }
        for (part, problem) in missing {
            self.findings.add(part.as_str(), None, problem);
        }
    }

    /// A secret that is not as it must be: a finding, unless a node can go on without it.
    fn lost(&mut self, secret: &Referred, what: &str) {
        let (name, part) = (&secret.name, Part::Keys.as_str());
        match secret.cure {
            None => self.findings.add(part, None, format!("the secret of {name} {what}")),
            Some(cure) => self.warnings.add(part, None, format!("the secret of {name} {what}: {cure}")),
        }
    }

    /// Opens the vault and every secret that the records refer to.
    fn open(&mut self, root_key: &RootKey) {
        let Some(Aggregate::Cluster(cluster)) = self.fold.streams().get(&Stream::CLUSTER).and_then(|row| row.aggregate.clone()) else {
            return;
        };
        let given = root_key.commitment();
        if given != cluster.root_keys.active().commitment {
            let problem = format!(
                "the backup is of cluster {} under the root key {}, and the one given is {given}: give the root.key that was kept apart \
                 from this cluster's data",
                cluster.id,
                cluster.root_keys.active().commitment
            );
            self.findings.add("root key", None, problem);
            self.secrets_opened = Some(0);
            return;
        }
        let vault = match Vault::open_existing(root_key.clone(), self.keys.clone()) {
            Ok(vault) => vault,
            Err(error) => {
                self.findings.add(Part::Keys.as_str(), None, format!("the vault does not open: {}", chain(&error)));
                return;
            }
        };
        if let Err(error) = vault.cluster_key(&cluster.id) {
            self.findings.add(Part::Keys.as_str(), None, format!("the cluster's key does not open: {}", chain(&error)));
        }
        let mut opened = 0;
        for one in referred(&self.fold) {
            match vault.unseal(&one.address) {
                Ok(_) => opened += 1,
                // It was told of already.
                Err(UnsealError::Missing | UnsealError::Erased) if one.cure.is_some() => {}
                Err(UnsealError::Missing | UnsealError::Erased) => self.lost(&one, "does not open: it is not there"),
                // One that is there and was changed is damage, whatever it is needed for.
                Err(error) => {
                    let problem = format!("the secret of {} does not open: {}", one.name, chain(&error));
                    self.findings.add(Part::Keys.as_str(), None, problem);
                }
            }
        }
        self.secrets_opened = Some(opened);
    }

    fn report(self, manifest: Option<Manifest>) -> BackupReport {
        let Self { fold, findings, warnings, modules, usage_batches, decision_batches, secrets, secrets_opened, .. } = self;
        let void = fold.voids().len() as u64;
        BackupReport {
            ok: findings.told.is_empty(),
            cluster: cluster_id(&fold),
            cluster_public_key: fold.cluster_public_key(),
            sequence: fold.size(),
            root: fold.root(),
            valid: fold.size().0 - void,
            void,
            created_at: manifest.as_ref().map(|manifest| manifest.created_at),
            release: manifest.as_ref().map(|manifest| manifest.release.clone()),
            secrets,
            secrets_opened,
            modules: modules.len() as u64,
            usage_batches,
            usage_unreadable: manifest.map_or(0, |manifest| manifest.usage_unreadable),
            decision_batches,
            findings: findings.told,
            findings_more: findings.more,
            warnings: warnings.told,
            warnings_more: warnings.more,
        }
    }
}

fn cluster_id(fold: &Fold) -> Option<ClusterId> {
    use schemas::judge::Prefix as _;
    fold.cluster().map(|(id, _)| id)
}

fn has_both(keys: &dyn KeyStore, address: &SecretAddress) -> Result<bool, StoreError> {
    let slot = address.slot();
    Ok(keys.read(Entry::Sealed, &slot)?.is_some() && keys.read(Entry::Wrapped, &slot)?.is_some())
}

/// Tells how much was read.
pub(super) struct Told<R, F> {
    pub(super) from: R,
    pub(super) progress: F,
}

impl<R: Read, F: FnMut(u64)> Read for Told<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.from.read(buffer)?;
        (self.progress)(length as u64);
        Ok(length)
    }
}

#[cfg(test)]
pub(super) mod tests;
