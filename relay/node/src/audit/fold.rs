//! The log folded in memory, judging every record: what the records mean, worked out from sequence 1 by the same functions as on a node.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use ed25519_dalek::VerifyingKey;
use event_log::merkle::{self, Frontier};
use schemas::aggregate::{ApplyError, Head, apply_record};
use schemas::judge::{Prefix, StopReason};
use schemas::record::{Frame, Seen};
use schemas::{Aggregate, ClusterId, Digest, PublicKey, Record, Sequence, Stream, Verdict, Version, VoidReason, WriterId, judge};
use thiserror::Error;

/// The log up to a sequence. Memory grows with its streams, and by 32 bytes a record.
#[derive(Default)]
pub struct Fold {
    cluster: Option<(ClusterId, VerifyingKey)>,
    writers: HashMap<WriterId, VerifyingKey>,
    streams: BTreeMap<Stream, Row>,
    voids: BTreeMap<Sequence, (VoidReason, Digest)>,
    frontier: Frontier,
    /// The root at every size, from the empty log on: what a record's `seen` is checked against.
    roots: Vec<Digest>,
    events: u64,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    pub head: Head,
    pub aggregate: Option<Aggregate>,
}

/// A valid record whose writer saw another log than this one, at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenFault {
    pub place: Sequence,
}

impl fmt::Display for SeenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its writer saw another log than this one at sequence {}; something up to there was changed", self.place)
    }
}

/// Why the log cannot be folded past a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FoldError {
    #[error(transparent)]
    Stop(StopReason),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl Prefix for Fold {
    fn cluster(&self) -> Option<(ClusterId, VerifyingKey)> {
        self.cluster
    }

    fn writer(&self, id: WriterId) -> Option<VerifyingKey> {
        self.writers.get(&id).copied()
    }

    fn version(&self, stream: &Stream) -> Version {
        self.streams.get(stream).map(|row| row.head.version).unwrap_or_default()
    }
}

impl Fold {
    /// Judges and applies the next record. An error leaves the fold as it was.
    pub fn add(&mut self, subject: &str, bytes: &[u8]) -> Result<Option<SeenFault>, FoldError> {
        let sequence = self.size().next();
        if self.roots.is_empty() {
            self.roots.push(self.frontier.root());
        }
        let (leaf, fault) = match judge(self, subject, bytes) {
            Verdict::Stop(reason) => return Err(FoldError::Stop(reason)),
            Verdict::Valid(record) => {
                self.apply(&record)?;
                let frame = Frame::parse(bytes).expect("a valid record has a frame");
                (merkle::leaf_of_valid(&frame), self.seen_fault(&record.header.seen))
            }
            Verdict::Void(reason) => {
                let leaf = merkle::leaf_of_void(subject, bytes);
                self.voids.insert(sequence, (reason, Digest::from_bytes(leaf)));
                (leaf, None)
            }
        };
        if let Some(stream) = Stream::from_subject(subject) {
            self.streams.entry(stream).or_default().head.sequence = sequence;
        }
        self.frontier.push(leaf);
        self.roots.push(self.frontier.root());
        Ok(fault)
    }

    pub const fn size(&self) -> Sequence {
        Sequence(self.frontier.size())
    }

    pub fn root(&self) -> Digest {
        self.frontier.root()
    }

    /// The root at a size that was reached.
    pub fn root_at(&self, size: Sequence) -> Option<Digest> {
        self.roots.get(usize::try_from(size.0).ok()?).copied()
    }

    /// The cluster's public key, as the founding has it.
    pub fn cluster_public_key(&self) -> Option<PublicKey> {
        self.cluster.map(|(_, key)| PublicKey::from_bytes(key.to_bytes()))
    }

    pub const fn streams(&self) -> &BTreeMap<Stream, Row> {
        &self.streams
    }

    /// The void records, with their leaves in the tree.
    pub const fn voids(&self) -> &BTreeMap<Sequence, (VoidReason, Digest)> {
        &self.voids
    }

    /// The events of all valid records.
    pub const fn events(&self) -> u64 {
        self.events
    }

    fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        let stream = &record.header.stream;
        let before = self.streams.get(stream).and_then(|row| row.aggregate.clone());
        let aggregate = apply_record(before, record)?;
        self.learn(stream, aggregate.as_ref());
        let row = self.streams.entry(stream.clone()).or_default();
        row.aggregate = aggregate;
        row.head.version = record.header.version;
        self.events += record.events.len() as u64;
        Ok(())
    }

    /// Keeps whose signatures count from here on. A writer counts on the stream of its own id only.
    fn learn(&mut self, stream: &Stream, aggregate: Option<&Aggregate>) {
        match aggregate {
            Some(Aggregate::Cluster(cluster)) => {
                self.cluster = VerifyingKey::from_bytes(cluster.public_key.as_bytes()).ok().map(|key| (cluster.id, key));
            }
            Some(Aggregate::Writer(writer)) if *stream == Stream::writer(writer.id) => {
                match VerifyingKey::from_bytes(writer.public_key.as_bytes()) {
                    Ok(key) if !writer.retired => self.writers.insert(writer.id, key),
                    _ => self.writers.remove(&writer.id),
                };
            }
            _ => {}
        }
    }

    /// What a record's writer saw must be a place below the record, with the root that this log has there.
    fn seen_fault(&self, seen: &Seen) -> Option<SeenFault> {
        (self.root_at(seen.sequence) != Some(seen.root)).then_some(SeenFault { place: seen.sequence })
    }
}
