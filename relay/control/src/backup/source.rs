//! What a backup is taken from, and in which order, so that its parts fit each other.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::artefacts::{ArtefactError, ArtefactKind, Artefacts};
use event_log::decisions::DecisionStream;
use event_log::usage::UsageStream;
use event_log::{EventLog, ReadError, Stored};
use futures_util::StreamExt as _;
use projector::{Position, ReadModels};
use schemas::record::Frame;
use schemas::stream::StreamKind;
use schemas::{Aggregate, Event, Sequence, Stream, Timestamp};
use thiserror::Error;
use tokio::runtime::Handle;
use vault::{Entry, KeyStore, Slot, StoreError};

use super::manifest::{FORMAT, KIND};
use super::{Archive, Manifest, Part, entry};
use crate::Writer;

/// Records, batches or secrets of one read.
const PAGE: usize = 1024;
/// How often the key store is read anew at the least, and for how long, because secrets were destroyed meanwhile.
const ATTEMPTS_MIN: usize = 5;
const SETTLE_WAIT: Duration = Duration::from_secs(10);
/// How long the read models may take to come level with the log as it was when the backup was asked for.
const LEVEL_WAIT: Duration = Duration::from_secs(10);
/// How long the next of the decisions may take. They are kept for a bounded time, so the last of them may be gone by the time it is asked for.
const DECISIONS_WAIT: Duration = Duration::from_secs(10);

/// The stores that a backup is taken from, beside the log.
#[derive(Clone)]
pub struct BackupSources {
    pub keys: Arc<dyn KeyStore>,
    pub artefacts: Arc<dyn Artefacts>,
    pub usage: Arc<dyn UsageStream>,
    pub decisions: Arc<dyn DecisionStream>,
}

/// Why a backup broke off.
#[derive(Debug, Error)]
pub(crate) enum TakeError {
    #[error("the backup cannot be written")]
    Write(#[from] io::Error),
    #[error("the log or a stream cannot be read")]
    Log(#[from] ReadError),
    #[error("the read models cannot be read")]
    Models(#[from] projector::ReadError),
    #[error("the key store cannot be read")]
    Keys(#[from] StoreError),
    #[error("the policy modules cannot be read")]
    Artefacts(#[from] ArtefactError),
    #[error("record {0} was judged valid and cannot be read")]
    Unreadable(Sequence),
    #[error("credentials were revoked all the time; try again later")]
    Unsettled,
    #[error("the read models have no cluster")]
    NotFounded,
}

/// A backup about to be taken. Blocking: it belongs on a thread of its own.
pub(crate) struct Taking<'a> {
    pub(crate) log: &'a dyn EventLog,
    pub(crate) models: &'a ReadModels,
    pub(crate) sources: &'a BackupSources,
    pub(crate) runtime: &'a Handle,
    /// Signs the manifest.
    pub(crate) writer: &'a Writer,
    pub(crate) now: Timestamp,
}

impl Taking<'_> {
    /// Writes the whole backup.
    pub(crate) fn write<W: Write>(&self, out: W) -> Result<W, TakeError> {
        let Some(Aggregate::Cluster(cluster)) = self.models.load(&Stream::CLUSTER)?.0 else { return Err(TakeError::NotFounded) };
        self.until_level()?;
        let (position, keys) = self.settled_keys()?;
        let mut archive = Archive::begin(out)?;
        let credentials = self.write_log(&mut archive, position.sequence)?;
        self.write_keys(&mut archive, keys, credentials)?;
        self.write_artefacts(&mut archive)?;
        let usage_unreadable = self.write_usage(&mut archive)?;
        self.write_decisions(&mut archive)?;
        let manifest = Manifest {
            kind: KIND.to_owned(),
            format: FORMAT,
            cluster: cluster.id,
            cluster_public_key: cluster.public_key,
            sequence: position.sequence,
            root: position.root,
            created_at: self.now,
            node: self.writer.id(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            usage_unreadable,
            parts: Vec::new(),
        };
        Ok(archive.finish(manifest, |statement| self.writer.sign_statement(statement))?)
    }

    /// Everything that was acknowledged anywhere before the backup was asked for shall be in it. A node that falls far behind gives what it has.
    fn until_level(&self) -> Result<(), TakeError> {
        let head = self.runtime.block_on(self.log.head())?;
        if !self.runtime.block_on(self.models.wait_for(head, LEVEL_WAIT)) {
            tracing::warn!(head = head.0, position = self.models.position().sequence.0, "the backup is taken behind the log's head");
        }
        Ok(())
    }

    /// A position, and the key store as it was after it, in an unnamed file: nothing of it may go out before it is known to fit.
    fn settled_keys(&self) -> Result<(Position, File), TakeError> {
        let begin = Instant::now();
        let mut attempts = 0;
        while attempts < ATTEMPTS_MIN || begin.elapsed() < SETTLE_WAIT {
            let position = self.models.position();
            let keys = self.spooled_keys()?;
            if !self.has_revoked_since(position.sequence)? {
                return Ok((position, keys));
            }
            attempts += 1;
        }
        Err(TakeError::Unsettled)
    }

    fn spooled_keys(&self) -> Result<File, TakeError> {
        let mut spool = BufWriter::new(tempfile::tempfile()?);
        for kind in [Entry::Wrapped, Entry::Sealed] {
            let mut after: Option<Slot> = None;
            loop {
                let page = self.sources.keys.scan(kind, after.as_ref(), PAGE)?;
                for (slot, bytes) in &page {
                    let entry = entry::of_key(kind, slot, bytes);
                    spool.write_all(&u32::try_from(entry.len()).map_err(io::Error::other)?.to_be_bytes())?;
                    spool.write_all(&entry)?;
                }
                match page.into_iter().last() {
                    Some((slot, _)) => after = Some(slot),
                    None => break,
                }
            }
        }
        let mut file = spool.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }

    /// Whether the log has revoked a credential, or ended a rotation, after a position: a secret is destroyed then, though the log up to the
    /// position needs it.
    fn has_revoked_since(&self, position: Sequence) -> Result<bool, TakeError> {
        let head = self.runtime.block_on(self.log.head())?;
        let mut from = position.next();
        while from <= head {
            let records = self.runtime.block_on(self.log.read_range(from, PAGE))?;
            if records.iter().any(is_revocation) {
                return Ok(true);
            }
            from = records.last().ok_or(TakeError::Unreadable(from))?.sequence.next();
        }
        Ok(false)
    }

    /// Gives the streams of all credentials.
    fn write_log<W: Write>(&self, archive: &mut Archive<W>, last: Sequence) -> Result<BTreeSet<Stream>, TakeError> {
        let (mut credentials, mut from) = (BTreeSet::new(), Sequence(1));
        while from <= last {
            let records = self.runtime.block_on(self.log.read_range(from, PAGE))?;
            for record in records.iter().take_while(|record| record.sequence <= last) {
                archive.entry(Part::Log, &entry::of_record(&record.subject, &record.bytes))?;
                credentials.extend(Stream::from_subject(&record.subject).filter(|stream| stream.kind() == StreamKind::Credential));
            }
            from = records.last().ok_or(TakeError::Unreadable(from))?.sequence.next();
        }
        Ok(credentials)
    }

    /// The spooled entries, and what a mirror of a cluster's key store did not know yet of the secrets that the log refers to.
    fn write_keys<W: Write>(&self, archive: &mut Archive<W>, spool: File, credentials: BTreeSet<Stream>) -> Result<(), TakeError> {
        let mut spool = BufReader::new(spool);
        let mut seen = BTreeSet::new();
        let mut length = [0; 4];
        while spool.fill_exactly(&mut length)? {
            let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?];
            spool.read_exact(&mut bytes)?;
            archive.entry(Part::Keys, &bytes)?;
            seen.extend(entry::key(&bytes).map(|(kind, slot, _)| (kind, slot)).filter(|(_, slot)| slot.owner_kind == CREDENTIAL));
        }
        for stream in credentials {
            let Some(Aggregate::Credential(credential)) = self.models.load(&stream)?.0.filter(is_in_use) else { continue };
            // It may have been replaced or rotated since the position; what went out of use earlier may be gone, and nobody asks for it.
            let before = credential.rotations.last().map(|rotation| rotation.previous.version);
            let mut versions = credential.secret_versions();
            versions.extend(before.or(credential.secret_version.checked_sub(1)).filter(|version| *version > 0));
            versions.sort_unstable();
            versions.dedup();
            for version in versions {
                let slot = Slot {
                    tenant: credential.tenant.clone(),
                    owner_kind: CREDENTIAL.into(),
                    owner_id: *stream.id(),
                    field: "secret".into(),
                    version,
                };
                for kind in [Entry::Wrapped, Entry::Sealed] {
                    if !seen.contains(&(kind, slot.clone())) {
                        let found = self.sources.keys.read(kind, &slot)?;
                        found.map_or(Ok(()), |bytes| archive.entry(Part::Keys, &entry::of_key(kind, &slot, &bytes)))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_artefacts<W: Write>(&self, archive: &mut Archive<W>) -> Result<(), TakeError> {
        let kind = ArtefactKind::PolicyModule;
        for listed in self.runtime.block_on(self.sources.artefacts.list(kind))? {
            // One that went away, or is damaged, is no reason to be without a backup: verifying it tells which policy lacks its module.
            match self.runtime.block_on(self.sources.artefacts.get(kind, &listed.digest)) {
                Ok(Some(bytes)) => archive.entry(Part::Artefacts, &entry::of_artefact(kind, &listed.digest, &bytes))?,
                Ok(None) => {}
                Err(error @ ArtefactError::Damaged { .. }) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a policy module is left out of the backup");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives how many places held nothing that can be read.
    fn write_usage<W: Write>(&self, archive: &mut Archive<W>) -> Result<u64, TakeError> {
        let head = self.runtime.block_on(self.sources.usage.head())?;
        let (mut from, mut unreadable) = (Sequence(1), 0);
        while from <= head {
            let run = self.runtime.block_on(self.sources.usage.read_range(from, PAGE))?;
            for stored in &run {
                match &stored.batch {
                    Ok(batch) => archive.entry(Part::Usage, &batch.encode())?,
                    Err(_) => unreadable += 1,
                }
            }
            from = run.last().ok_or(TakeError::Unreadable(from))?.sequence.next();
        }
        Ok(unreadable)
    }

    fn write_decisions<W: Write>(&self, archive: &mut Archive<W>) -> Result<(), TakeError> {
        let head = self.runtime.block_on(self.sources.decisions.head())?;
        let mut position = Sequence::ZERO;
        let mut runs = self.sources.decisions.read(Sequence(1));
        while position < head {
            let next = self.runtime.block_on(async { tokio::time::timeout(DECISIONS_WAIT, runs.next()).await });
            let Ok(run) = next else {
                tracing::warn!(
                    position = position.0,
                    head = head.0,
                    "the decision stream does not answer; the backup has what came before"
                );
                return Ok(());
            };
            let run = run.ok_or(ReadError::Closed)??;
            for batch in run.iter().filter_map(|stored| stored.batch.as_ref()) {
                archive.entry(Part::Decisions, &batch.encode())?;
            }
            position = run.last().map_or(position, |last| last.sequence);
        }
        Ok(())
    }
}

/// The owner kind of upstream credentials in the key store.
const CREDENTIAL: &str = "credential";

fn is_in_use(aggregate: &Aggregate) -> bool {
    matches!(aggregate, Aggregate::Credential(credential) if !credential.revoked)
}

fn is_revocation(stored: &Stored) -> bool {
    let is_credential = Stream::from_subject(&stored.subject).is_some_and(|stream| stream.kind() == StreamKind::Credential);
    // What cannot be read may be one: reading the key store once more harms nobody.
    is_credential
        && Frame::parse(&stored.bytes).ok().and_then(|frame| frame.events().ok()).is_none_or(|events| events.iter().any(destroys_a_secret))
}

const fn destroys_a_secret(event: &Event) -> bool {
    matches!(event, Event::CredentialRevoked(_) | Event::RotationFinished(_) | Event::RotationAborted(_) | Event::RotationRolledBack(_))
}

/// Reading that tells an end from a part.
trait FillExactly {
    /// False at the end; an end in the middle is an error.
    fn fill_exactly(&mut self, buffer: &mut [u8]) -> io::Result<bool>;
}

impl FillExactly for BufReader<File> {
    fn fill_exactly(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        use std::io::BufRead as _;
        if self.fill_buf()?.is_empty() {
            return Ok(false);
        }
        self.read_exact(buffer)?;
        Ok(true)
    }
}
