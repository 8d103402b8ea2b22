//! The rows of the decision models, and their keys.
//!
//! A decision's place is its time and its number in the order of the fold, both turned round, so that the newest comes first.

use schemas::decision::DecisionRecord;
use schemas::{IncarnationId, Sequence, TenantId, Timestamp, WriterId};
use serde::{Deserialize, Serialize};

use crate::store::{Family, key};

/// One row, [`DecisionPosition`].
pub(super) const META: Family = "meta";
/// (Node, incarnation) -> number of the last batch.
pub(super) const INCARNATIONS: Family = "incarnations";
/// (Tenant, place) -> [`DecisionRow`].
pub(super) const RECORDS: Family = "records";
/// (Tenant, request, place) -> nothing.
pub(super) const BY_REQUEST: Family = "by_request";
/// (Tenant, key, place) -> nothing.
pub(super) const BY_KEY: Family = "by_key";
/// (Tenant, binding, place) -> nothing.
pub(super) const BY_BINDING: Family = "by_binding";
/// (Tenant, digest of the policy, place) -> nothing.
pub(super) const BY_POLICY: Family = "by_policy";
/// Number -> [`RingRow`].
pub(super) const RING: Family = "ring";

pub(super) const FAMILIES: &[Family] = &[META, INCARNATIONS, RECORDS, BY_REQUEST, BY_KEY, BY_BINDING, BY_POLICY, RING];

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionBounds {
    pub records: u64,
    /// Of the records, as [`DecisionRecord::bytes`] counts them.
    pub bytes: u64,
}

impl Default for DecisionBounds {
    /// Days of denials, and what a back-test of a candidate needs.
    fn default() -> Self {
        Self { records: 1_000_000, bytes: 1024 * 1024 * 1024 }
    }
}

/// What has been folded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DecisionPosition {
    pub sequence: Sequence,
    /// Decisions folded, over all time: the number of the last.
    pub last: u64,
    /// The number of the last that was dropped again.
    pub dropped: u64,
    /// Of the decisions that are kept.
    pub bytes: u64,
    /// Batches passed over because they had been folded.
    pub repeats: u64,
    /// Batches that never came.
    pub missing: u64,
    /// Places of the stream that hold no batch.
    pub voids: u64,
}

/// A decision, and where in the stream it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DecisionRow {
    pub sequence: Sequence,
    /// Within its batch.
    pub index: u32,
    pub node: WriterId,
    pub record: DecisionRecord,
}

/// How the oldest is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RingRow {
    pub tenant: TenantId,
    pub at: Timestamp,
    pub bytes: u64,
}

/// Time and number of a decision, newest first.
pub(super) fn place(at: Timestamp, number: u64) -> [u8; 16] {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&(!at.as_micros()).to_be_bytes());
    place[8..].copy_from_slice(&(!number).to_be_bytes());
    place
}

/// The inverse of [`place`].
pub(super) fn parse_place(bytes: &[u8]) -> Option<(Timestamp, u64)> {
    let (at, number) = bytes.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    Some((Timestamp::from_micros(!u64::from_be_bytes(*at)), !number))
}

/// What the keys of a tenant's rows under a member begin with; no member in [`RECORDS`].
pub(super) fn prefix(tenant: &TenantId, member: &[u8]) -> Vec<u8> {
    let mut key = key::of_tenant(tenant);
    key.extend_from_slice(member);
    key
}

/// The keys of all rows of a decision but those of the ring and of the record itself.
pub(super) fn index_keys(record: &DecisionRecord, place: &[u8; 16]) -> [(Family, Vec<u8>); 4] {
    let of = |member: &[u8]| {
        let mut key = prefix(&record.tenant, member);
        key.extend_from_slice(place);
        key
    };
    [
        (BY_REQUEST, of(record.request.as_bytes())),
        (BY_KEY, of(record.key.as_bytes())),
        (BY_BINDING, of(record.binding.as_bytes())),
        (BY_POLICY, of(record.policy.as_bytes())),
    ]
}

pub(super) fn record_key(tenant: &TenantId, place: &[u8]) -> Vec<u8> {
    prefix(tenant, place)
}

pub(super) fn of_incarnation(node: WriterId, incarnation: IncarnationId) -> Vec<u8> {
    key::cluster_wide(&[node.as_bytes(), incarnation.as_bytes()])
}

pub(super) fn of_ring(number: u64) -> Vec<u8> {
    key::cluster_wide(&[&number.to_be_bytes()])
}

pub(super) fn position_key() -> Vec<u8> {
    key::cluster_wide(&[b"position"])
}
