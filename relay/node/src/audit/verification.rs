//! One verification: files come in, in the order of an export; a report comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{self, BufReader, Read};

use control::audit::StateRow;
use control::audit::manifest::{self, FORMAT, MANIFEST, Manifest, SIGNATURE};
use control::audit::record::{self, ReadRecordError};
use control::audit::state::{self, ReadRowError, STATE};
use ed25519_dalek::{Signature, VerifyingKey};
use schemas::judge::Prefix as _;
use schemas::{Digest, PublicKey, Sequence, Stream};

use super::fold::Fold;
use super::hashing::Hashing;
use super::report::{Expected, Findings, Report};

/// Room for the manifest of a log of a terabyte.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;
const SIGNATURE_BYTES_MAX: u64 = 1024;

/// Takes in the files of an export, records first, and judges the whole.
#[derive(Default)]
pub struct Verification {
    fold: Fold,
    findings: Findings,
    /// Length and digest of every file that came, but the manifest and its signature.
    files: BTreeMap<String, (u64, Digest)>,
    manifest: Option<Vec<u8>>,
    signature: Option<Vec<u8>>,
    /// The records from here on cannot be folded, so what is compared with the fold is not compared.
    is_broken: bool,
    /// One record whose `seen` fails is a finding; all that follow on a changed record fail with it.
    has_seen_fault: bool,
}

impl Verification {
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of records folded so far.
    pub const fn size(&self) -> Sequence {
        self.fold.size()
    }

    /// Takes in one file. An error is the reader's; whatever is wrong with the content is a finding.
    pub fn file(&mut self, name: &str, content: impl Read) -> io::Result<()> {
        match name {
            MANIFEST => return keep(&mut self.manifest, content, MANIFEST_BYTES_MAX),
            SIGNATURE => return keep(&mut self.signature, content, SIGNATURE_BYTES_MAX),
            _ => {}
        }
        let mut content = Hashing::new(content);
        let mut buffered = BufReader::with_capacity(64 * 1024, &mut content);
        if let Some(first) = record::first_of(name) {
            self.records(name, first, &mut buffered)?;
        } else if name == STATE {
            self.state(&mut buffered)?;
        }
        let digest = content.finish()?;
        if self.files.insert(name.to_owned(), digest).is_some() {
            self.findings.add(name, None, "the file comes twice");
        }
        Ok(())
    }

    /// A finding about a file that cannot be taken in.
    pub fn refuse(&mut self, name: &str, problem: &str) {
        self.findings.add(name, None, problem);
    }

    /// Compares everything with the manifest, and that with its signature and with what was known before.
    pub fn finish(mut self, expected: Expected) -> Report {
        let manifest = self.parse_manifest();
        if let Some(manifest) = &manifest {
            self.compare_files(manifest);
            self.compare_claims(manifest);
            self.check_signature(manifest);
        }
        self.findings.compare(&record::file_name(Sequence(1)), &self.fold, &expected);
        Report::new(&self.fold, self.findings, &expected, manifest.as_ref())
    }

    /// Folds a file of records.
    fn records(&mut self, name: &str, first: Sequence, content: &mut impl Read) -> io::Result<()> {
        if self.is_broken {
            return Ok(());
        }
        let next = self.fold.size().next();
        if first != next {
            self.break_at(name, next, &format!("the records go on with {first}, those from {next} on are missing"));
            return Ok(());
        }
        loop {
            let sequence = self.fold.size().next();
            let (subject, bytes) = match record::read(content) {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(()),
                Err(ReadRecordError::Io(error)) => return Err(error),
                Err(error) => {
                    self.break_at(name, sequence, &error.to_string());
                    return Ok(());
                }
            };
            match self.fold.add(&subject, &bytes) {
                Ok(None) => {}
                Ok(Some(_)) if self.has_seen_fault => {}
                Ok(Some(fault)) => {
                    self.has_seen_fault = true;
                    self.findings.add(name, Some(sequence), fault.to_string());
                }
                Err(error) => {
                    self.break_at(name, sequence, &chain(&error));
                    return Ok(());
                }
            }
        }
    }

    fn break_at(&mut self, name: &str, sequence: Sequence, problem: &str) {
        self.is_broken = true;
        self.findings.add(name, Some(sequence), format!("{problem}; what follows was not folded"));
    }

    /// Compares what the node believed with what the records lead to, row by row.
    fn state(&mut self, content: &mut impl Read) -> io::Result<()> {
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("trusting-audit") {
            return Ok(());
        }
        if self.is_broken {
            self.findings.add(STATE, None, "not compared, because not all records could be folded");
            return Ok(());
        }
        let (mut streams, mut voids) = (BTreeSet::new(), BTreeSet::new());
        loop {
            match state::read(content) {
                Ok(None) => break,
                Ok(Some(StateRow::Void { sequence, reason, leaf })) => {
                    let is_right = self.fold.voids().get(&sequence) == Some(&(reason, leaf));
                    if !voids.insert(sequence) || !is_right {
                        let problem = format!("the node had a void record here ({}), this is another", reason.as_str());
                        self.findings.add(&file_of(&self.files, sequence), Some(sequence), problem);
                    }
                }
                Ok(Some(StateRow::Stream { stream, head, aggregate })) => {
                    let row = self.fold.streams().get(&stream);
                    let is_right = row.is_some_and(|row| row.head == head && row.aggregate == aggregate);
                    let sequence = row.map_or(head.sequence, |row| row.head.sequence);
                    if !streams.insert(stream.clone()) || !is_right {
                        self.stream_differs(&stream, sequence);
                    }
                }
                Err(ReadRowError::Framing(ReadRecordError::Io(error))) => return Err(error),
                Err(error) => {
                    self.findings.add(STATE, None, chain(&error));
                    return Ok(());
                }
            }
        }
        let missing: Vec<_> = self.fold.voids().iter().filter(|(sequence, _)| !voids.contains(sequence)).map(|(s, v)| (*s, v.0)).collect();
        for (sequence, reason) in missing {
            let problem = format!("the record is void ({}), the node had it as valid", reason.as_str());
            self.findings.add(&file_of(&self.files, sequence), Some(sequence), problem);
        }
        let missing = self.fold.streams().iter().filter(|(stream, _)| !streams.contains(stream));
        let missing: Vec<_> = missing.map(|(stream, row)| (stream.clone(), row.head.sequence)).collect();
        missing.iter().for_each(|(stream, sequence)| self.stream_differs(stream, *sequence));
        Ok(())
    }

    fn stream_differs(&mut self, stream: &Stream, sequence: Sequence) {
        self.findings.add(STATE, Some(sequence), format!("what the node believed of {stream} is not what the records lead to"));
    }

    fn parse_manifest(&mut self) -> Option<Manifest> {
        let Some(bytes) = &self.manifest else {
            self.findings.add(MANIFEST, None, "the file is missing");
            return None;
        };
        match serde_json::from_slice::<Manifest>(bytes) {
            Ok(manifest) if manifest.format == FORMAT => return Some(manifest),
            Ok(manifest) => {
                self.findings.add(MANIFEST, None, format!("the export has format {}, this release reads {FORMAT}", manifest.format))
            }
            Err(error) => self.findings.add(MANIFEST, None, format!("not a manifest: {error}")),
        }
        None
    }

    /// Every file is in the manifest and every file of the manifest is there, with its length and digest.
    fn compare_files(&mut self, manifest: &Manifest) {
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("trusting-audit") {
            return;
        }
        let mut extra: BTreeSet<&str> = self.files.keys().map(String::as_str).collect();
        for entry in &manifest.files {
            extra.remove(entry.name.as_str());
            match self.files.get(&entry.name) {
                None => self.findings.add(&entry.name, None, "the file is missing"),
                Some((bytes, _)) if *bytes != entry.bytes => {
                    self.findings.add(&entry.name, None, format!("the file has {bytes} bytes, the manifest says {}", entry.bytes));
                }
                Some((_, digest)) if *digest != entry.blake3 => {
                    self.findings.add(&entry.name, None, "the file's digest is not the manifest's");
                }
                Some(_) => {}
            }
        }
        for name in extra {
            self.findings.add(name, None, "the file is not in the manifest");
        }
        if self.files.get(STATE).map(|(_, digest)| *digest) != Some(manifest.state) {
            self.findings.add(STATE, None, "the state's digest is not the manifest's");
        }
    }

    fn compare_claims(&mut self, manifest: &Manifest) {
        if self.is_broken {
            return;
        }
        let (size, root) = (self.fold.size(), self.fold.root());
        if size != manifest.size {
            self.findings.add(MANIFEST, None, format!("the manifest says {} records, there are {size}", manifest.size));
        }
        if root != manifest.root {
            self.findings.add(MANIFEST, None, format!("the manifest has the root {}, the records have {root}", manifest.root));
        }
        let claimed = Some((manifest.cluster, manifest.cluster_public_key));
        if self.fold.cluster().map(|(id, key)| (id, PublicKey::from_bytes(key.to_bytes()))) != claimed {
            self.findings.add(MANIFEST, None, "the manifest names another cluster than the founding record");
        }
    }

    /// The manifest is signed by a writer that is enrolled in the exported log, at its end.
    fn check_signature(&mut self, manifest: &Manifest) {
        let Some(key) = self.fold.writer(manifest.writer) else {
            self.findings.add(
                MANIFEST,
                None,
                format!("{} is not enrolled in the exported records, its signature proves nothing", manifest.writer),
            );
            return;
        };
        let signature = self.signature.as_deref().map(manifest::parse_signature);
        match signature {
            None => self.findings.add(SIGNATURE, None, "the file is missing"),
            Some(None) => self.findings.add(SIGNATURE, None, "not a signature in base64"),
            Some(Some(signature)) if !is_signed(&key, self.manifest.as_deref().unwrap_or_default(), &signature) => {
                self.findings.add(SIGNATURE, None, format!("not the signature of {} over this manifest", manifest.writer));
            }
            Some(Some(_)) => {}
        }
    }
}

fn is_signed(key: &VerifyingKey, manifest: &[u8], signature: &[u8; 64]) -> bool {
    key.verify_strict(&manifest::statement(manifest), &Signature::from_bytes(signature)).is_ok()
}

/// The record file that holds a sequence.
fn file_of(files: &BTreeMap<String, (u64, Digest)>, sequence: Sequence) -> String {
    let firsts = files.keys().filter_map(|name| record::first_of(name)).filter(|first| *first <= sequence);
    record::file_name(firsts.max().unwrap_or(Sequence(1)))
}

/// Keeps a small file whole.
fn keep(place: &mut Option<Vec<u8>>, content: impl Read, bytes_max: u64) -> io::Result<()> {
    let mut bytes = Vec::new();
    // One byte more than is taken, so that an oversized file cannot pass for its beginning.
    content.take(bytes_max + 1).read_to_end(&mut bytes)?;
    *place = Some(bytes);
    Ok(())
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
