//! The rows of the read models of the event log.

use event_log::merkle::Frontier;
use schemas::aggregate::Head;
use schemas::{Aggregate, ClusterId, CommandId, Digest, RecordId, Sequence, Stream, Timestamp, Version};
use serde::{Deserialize, Serialize};

use crate::keys::KEY_ORDERS;
use crate::models::Position;
use crate::store::{Family, key};

/// One row, [`PositionRow`].
pub(crate) const META: Family = "meta";
/// Stream -> [`StreamRow`], in the order of tenant, kind and id.
pub(crate) const AGGREGATES: Family = "aggregates";
/// Command id -> [`CommandRow`].
pub(crate) const COMMANDS: Family = "commands";
/// (Time, sequence) -> command id, for forgetting commands.
pub(crate) const COMMANDS_BY_TIME: Family = "commands_by_time";
/// Hash of a client key's secret -> stream of the key.
pub(crate) const KEYS_BY_HASH: Family = "keys_by_hash";
/// (Stream of a key, hash) -> hash of a secret that the key has no more, for purging it.
pub(crate) const KEYS_FORMER_HASHES: Family = "keys_former_hashes";
/// (Time, stream of a key) -> stream of a key whose expiry has to be recorded then.
pub(crate) const KEYS_BY_EXPIRY: Family = "keys_by_expiry";
/// Salt of an older scheme -> how many secrets of present keys are known by a hash under it. No row stands for none.
pub(crate) const KEYS_BY_SALT: Family = "keys_by_salt";
/// (Due time, stream) -> stream: keys with a rotation schedule of their own.
pub(crate) const KEYS_BY_ROTATION: Family = "keys_by_rotation";
/// Sequence of a void record -> reason.
pub(crate) const VOIDS: Family = "voids";
/// Sequence modulo [`super::ROOTS_KEPT`] -> (sequence, root).
pub(crate) const ROOTS: Family = "roots";
/// Sequence of a record whose `seen` is not this log -> [`super::SeenFinding`].
pub(crate) const FINDINGS: Family = "findings";

pub(crate) const FAMILIES: &[Family] = &[
    META,
    AGGREGATES,
    COMMANDS,
    COMMANDS_BY_TIME,
    KEYS_BY_HASH,
    KEYS_FORMER_HASHES,
    KEYS_BY_EXPIRY,
    KEYS_BY_SALT,
    KEYS_BY_ROTATION,
    VOIDS,
    ROOTS,
    FINDINGS,
    KEY_ORDERS,
];

/// What the log held up to a position. It is committed with the rows of that position.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PositionRow {
    /// None before sequence 1.
    pub cluster: Option<ClusterId>,
    pub sequence: Sequence,
    pub root: Digest,
    pub frontier: Frontier,
    /// The Merkle leaf of the record at the position, by which a start tells this log from another.
    pub leaf: Option<Digest>,
    /// The running maximum of the header times of valid records: the clock of everything that expires in the rows.
    pub time_max: Timestamp,
    pub counts: Counts,
}

/// Records judged so far, from the first of the log on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub valid: u64,
    /// Alarming: somebody without an enrolled key wrote to the log, or a writer is faulty.
    pub void: u64,
    /// Valid records whose `seen` was older than the roots kept here.
    pub seen_unchecked: u64,
    /// Alarming: valid records whose writer saw another log than this one.
    pub seen_findings: u64,
}

impl PositionRow {
    /// Where every fold begins.
    pub(crate) fn empty() -> Self {
        let nothing = schemas::record::Seen::nothing();
        Self {
            cluster: None,
            sequence: nothing.sequence,
            root: nothing.root,
            frontier: Frontier::default(),
            leaf: None,
            time_max: Timestamp::from_micros(0),
            counts: Counts::default(),
        }
    }

    pub(crate) fn position(&self) -> Position {
        Position { sequence: self.sequence, root: self.root }
    }
}

/// Where a stream stands, and its state. Streams on which only void records stand have a head and no state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct StreamRow {
    pub head: Head,
    pub aggregate: Option<Aggregate>,
}

/// What became of a command: kept for 30 days by the times of records, so that a repeat is answered and not done twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRow {
    pub request_digest: Digest,
    pub stream: Stream,
    pub sequence: Sequence,
    pub version: Version,
    pub record_id: RecordId,
    pub time: Timestamp,
}

/// A row of [`COMMANDS_BY_TIME`]: its key says again when and where, in byte order.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct CommandTime {
    pub time: Timestamp,
    pub sequence: Sequence,
    pub command: CommandId,
}

impl CommandTime {
    pub(crate) fn key(&self) -> Vec<u8> {
        key::cluster_wide(&[&self.time.as_micros().to_be_bytes(), &self.sequence.0.to_be_bytes()])
    }
}

/// The key of the one row of [`META`].
pub(crate) fn position_key() -> Vec<u8> {
    key::cluster_wide(&[b"position"])
}

/// The key of a row that belongs to a place in the log.
pub(crate) fn of_sequence(sequence: Sequence) -> Vec<u8> {
    key::cluster_wide(&[&sequence.0.to_be_bytes()])
}

/// The key of the row of a client key's secret.
pub(crate) fn of_hash(hash: &Digest) -> Vec<u8> {
    key::cluster_wide(&[hash.as_bytes()])
}

/// What the keys of the rows of a key's former secrets begin with.
pub(crate) fn of_former_hashes(stream: &Stream) -> Vec<u8> {
    key::of_stream(stream)
}

/// The key of the row of a secret that a key has no more.
pub(crate) fn of_former_hash(stream: &Stream, hash: &Digest) -> Vec<u8> {
    let mut key = of_former_hashes(stream);
    key.extend_from_slice(hash.as_bytes());
    key
}

/// The key of the row of an expiry that is due. It begins with the time, since one sweep serves all tenants.
pub(crate) fn of_expiry(at: Timestamp, stream: &Stream) -> Vec<u8> {
    key::cluster_wide(&[&at.as_micros().to_be_bytes(), &key::of_stream(stream)])
}

/// The key of the row of a salt.
pub(crate) fn of_salt(salt: u32) -> Vec<u8> {
    key::cluster_wide(&[&salt.to_be_bytes()])
}

/// The key of the row of a command.
pub(crate) fn of_command(id: &CommandId) -> Vec<u8> {
    key::cluster_wide(&[id.as_bytes()])
}
