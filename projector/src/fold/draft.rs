//! The rows of one batch while its records are folded: what they change, over what the store holds.

use std::collections::HashMap;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use event_log::{Stored, merkle};
use schemas::aggregate::apply_record;
use schemas::judge::{Prefix, SignatureCheck, judge_with};
use schemas::record::{Frame, Seen};
use schemas::{Aggregate, ClusterId, CommandId, Digest, Record, Sequence, Stream, StreamKind, Verdict, Version, VoidReason, WriterId};

use super::authority::Authority;
use super::key_index::KeyIndex;
use super::rows::{AGGREGATES, CommandRow, FINDINGS, META, PositionRow, ROOTS, StreamRow, VOIDS, of_sequence, position_key};
use super::seen::{Roots, SeenCheck, SeenFinding};
use super::{Changes, CheckedAhead, StopCause, Voids, commands};
use crate::keys::{self, KeyRows};
use crate::store::{Batch, ReadError, Store, key};

/// What is known of records before they are judged.
#[derive(Clone, Copy)]
pub(super) enum Sight<'a> {
    /// Some signatures were looked at ahead.
    Ahead(&'a CheckedAhead),
    /// This node has judged the records before; these are the void ones.
    Known(&'a Voids),
}

pub(super) struct Draft<'a> {
    store: &'a Store,
    /// The position before the batch.
    base: &'a PositionRow,
    pub(super) row: PositionRow,
    pub(super) authority: Arc<Authority>,
    roots: &'a mut Roots,
    /// Every stream that the batch names; changed are those whose head lies past the base.
    streams: HashMap<Stream, StreamRow>,
    key_index: KeyIndex,
    commands: Vec<(CommandId, CommandRow)>,
    voids: Vec<(Sequence, VoidReason)>,
    findings: Vec<(Sequence, SeenFinding)>,
    /// The rows in the orders that changed keys had before the batch; none for a key that it creates.
    keys_before: HashMap<Stream, Option<KeyRows>>,
    pub(super) changes: Changes,
}

impl Prefix for Draft<'_> {
    fn cluster(&self) -> Option<(ClusterId, VerifyingKey)> {
        self.authority.cluster
    }

    fn writer(&self, id: WriterId) -> Option<VerifyingKey> {
        self.authority.writers.get(&id).copied()
    }

    fn version(&self, stream: &Stream) -> Version {
        // A version is asked for the stream of the record's own subject only, and those are loaded.
        self.streams.get(stream).map(|row| row.head.version).unwrap_or_default()
    }
}

impl<'a> Draft<'a> {
    /// Loads what the records will be judged against. `streams` are those their subjects name.
    pub(super) fn begin(
        store: &'a Store,
        base: &'a PositionRow,
        authority: Arc<Authority>,
        roots: &'a mut Roots,
        streams: &[Option<Stream>],
    ) -> Result<Self, ReadError> {
        let mut named: Vec<&Stream> = streams.iter().flatten().collect();
        named.sort_unstable();
        named.dedup();
        let keys: Vec<Vec<u8>> = named.iter().map(|stream| key::of_stream(stream)).collect();
        let rows = store.get_all::<StreamRow>(AGGREGATES, &keys)?;
        let streams = named.into_iter().cloned().zip(rows.into_iter().map(Option::unwrap_or_default)).collect();
        Ok(Self {
            store,
            base,
            row: base.clone(),
            authority,
            roots,
            streams,
            key_index: KeyIndex::default(),
            commands: Vec::new(),
            voids: Vec::new(),
            findings: Vec::new(),
            keys_before: HashMap::new(),
            changes: Changes::default(),
        })
    }

    /// Judges and folds the next record; a cause to stop leaves the draft as it was.
    pub(super) fn add(&mut self, stored: &Stored, stream: Option<&Stream>, sight: Sight<'_>) -> Result<(), Halt> {
        let sequence = stored.sequence;
        let leaf = match self.verdict(stored, sight)? {
            Verdict::Stop(reason) => return Err(Halt::Stop(StopCause::Judged(reason))),
            Verdict::Valid(record) => {
                self.fold(sequence, &record)?;
                let frame = Frame::parse(&stored.bytes).expect("a valid record has a frame");
                merkle::leaf_of_valid(&frame)
            }
            Verdict::Void(reason) => {
                self.row.counts.void += 1;
                self.voids.push((sequence, reason));
                merkle::leaf_of_void(&stored.subject, &stored.bytes)
            }
        };
        if let Some(row) = stream.and_then(|stream| self.streams.get_mut(stream)) {
            row.head.sequence = sequence;
        }
        self.row.frontier.push(leaf);
        self.row.sequence = sequence;
        self.row.root = self.row.frontier.root();
        self.row.leaf = Some(Digest::from_bytes(leaf));
        self.roots.push(self.row.root);
        Ok(())
    }

    fn verdict(&self, stored: &Stored, sight: Sight<'_>) -> Result<Verdict, Halt> {
        let voids = match sight {
            Sight::Known(voids) => voids,
            Sight::Ahead(ahead) => {
                let check = if ahead.stands(stored.sequence, &self.authority) { SignatureCheck::Known } else { signature_check() };
                return Ok(judge_with(self, &stored.subject, &stored.bytes, check));
            }
        };
        if let Some(reason) = voids.get(&stored.sequence) {
            return Ok(Verdict::Void(*reason));
        }
        match judge_with(self, &stored.subject, &stored.bytes, SignatureCheck::Known) {
            Verdict::Void(_) => Err(Halt::OtherVerdict),
            verdict => Ok(verdict),
        }
    }

    fn fold(&mut self, sequence: Sequence, record: &Record) -> Result<(), Halt> {
        let header = &record.header;
        let row = self.streams.get_mut(&header.stream).expect("a valid record stands on the subject of its stream, which is loaded");
        let aggregate = apply_record(row.aggregate.clone(), record).map_err(StopCause::Apply)?;
        // Nothing is changed before this line, and nothing below can refuse the record.
        let before = std::mem::replace(&mut row.aggregate, aggregate);
        self.key_index.note(self.store, &header.stream, before.as_ref(), row.aggregate.as_ref())?;
        row.head.version = header.version;
        if header.stream.kind() == StreamKind::Key {
            self.keys_before.entry(header.stream.clone()).or_insert_with(|| key_rows(before.as_ref()));
        }
        self.changes.note(header.stream.kind(), before.as_ref(), row.aggregate.as_ref());
        if matches!(header.stream.kind(), StreamKind::Cluster | StreamKind::Writer) {
            Arc::make_mut(&mut self.authority).learn(&header.stream, row.aggregate.as_ref());
        }
        if let Some(Aggregate::Cluster(cluster)) = &row.aggregate {
            self.row.cluster = Some(cluster.id);
        }
        self.row.time_max = self.row.time_max.max(header.time);
        self.row.counts.valid += 1;
        self.check_seen(sequence, &header.seen);
        self.commands.push((
            header.command_id,
            CommandRow {
                request_digest: header.request_digest,
                stream: header.stream.clone(),
                sequence,
                version: header.version,
                record_id: header.record_id,
                time: header.time,
            },
        ));
        Ok(())
    }

    fn check_seen(&mut self, sequence: Sequence, seen: &Seen) {
        match self.roots.check(seen) {
            SeenCheck::Same => {}
            SeenCheck::Unchecked => self.row.counts.seen_unchecked += 1,
            SeenCheck::Fault(fault) => {
                self.row.counts.seen_findings += 1;
                self.findings.push((sequence, SeenFinding { seen: *seen, fault }));
            }
        }
    }

    /// How many records were added.
    pub(super) fn len(&self) -> usize {
        (self.row.sequence.0 - self.base.sequence.0) as usize
    }

    /// The writes of all that was added, position included. Those of a family are in the order of their keys, which the store takes several times
    /// faster than the order of the log.
    pub(super) fn batch(&self) -> Result<Batch<'a>, ReadError> {
        let mut batch = self.store.batch();
        let changed = self.streams.iter().filter(|(_, row)| row.head.sequence > self.base.sequence);
        for (stream, row) in sorted(changed) {
            batch.put(AGGREGATES, &key::of_stream(stream), row);
        }
        self.key_index.write(&mut batch, self.store)?;
        for (sequence, reason) in &self.voids {
            batch.put(VOIDS, &of_sequence(*sequence), reason);
        }
        for (sequence, finding) in &self.findings {
            batch.put(FINDINGS, &of_sequence(*sequence), finding);
        }
        for root in self.roots.newest(self.len()) {
            batch.put(ROOTS, &root.key(), &root);
        }
        commands::write(&mut batch, self.store, &self.commands, self.base.time_max, self.row.time_max)?;
        self.order_keys(&mut batch)?;
        batch.put(META, &position_key(), &self.row);
        Ok(batch)
    }

    /// Writes the changed keys into their orders.
    fn order_keys(&self, batch: &mut Batch<'_>) -> Result<(), ReadError> {
        let changes = self.keys_before.iter().map(|(stream, before)| {
            let after = self.streams.get(stream).and_then(|row| key_rows(row.aggregate.as_ref()));
            (before.as_ref(), after)
        });
        keys::write(batch, self.store, &changes.collect::<Vec<_>>())
    }
}

fn key_rows(aggregate: Option<&Aggregate>) -> Option<KeyRows> {
    match aggregate {
        Some(Aggregate::Key(key)) if !key.is_purged() => Some(KeyRows::of(key)),
        _ => None,
    }
}

/// Rows in the order of what their keys are made of.
pub(super) fn sorted<'r, K: Ord + 'r, R>(rows: impl IntoIterator<Item = (&'r K, R)>) -> Vec<(&'r K, R)> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_unstable_by_key(|(key, _)| *key);
    rows
}

/// Why a record was not added.
pub(super) enum Halt {
    Stop(StopCause),
    OtherVerdict,
    Read(ReadError),
}

impl From<StopCause> for Halt {
    fn from(cause: StopCause) -> Self {
        Self::Stop(cause)
    }
}

impl From<ReadError> for Halt {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Signatures that nobody has checked before are checked here.
fn signature_check() -> SignatureCheck {
    #[cfg(feature = "faults")]
    if crate::faults::is_planted("skip-signature-check") {
        return SignatureCheck::Known;
    }
    SignatureCheck::Verify
}
