//! The rows of the usage models, and their keys.

use schemas::usage::{AddressClass, Outcome, TokenParts, UsageRecord, UsageSource};
use schemas::{IncarnationId, KeyId, RequestId, Sequence, TenantId, Timestamp, WriterId};
use serde::{Deserialize, Serialize};

use crate::store::{Family, key};

/// One row, [`UsagePosition`].
pub(super) const META: Family = "meta";
/// (Node, incarnation) -> number of the last batch.
pub(super) const INCARNATIONS: Family = "incarnations";
/// (Tenant, dimension, day, member) -> [`Totals`].
pub(super) const TOTALS: Family = "totals";
/// (Tenant, key, model) -> [`Totals`].
pub(super) const KEY_MODELS: Family = "key_models";
/// (Tenant, key, day) -> [`Totals`].
pub(super) const KEY_DAYS: Family = "key_days";
/// (Tenant, last use, key), without a value: keys in the order of their last use.
pub(super) const KEYS_BY_USE: Family = "keys_by_use";
/// (Tenant, key, number of the secret that was shown) -> [`Totals`].
pub(super) const KEY_SECRETS: Family = "key_secrets";
/// (Tenant, key, number of the secret, class of the client's address) -> [`Totals`].
pub(super) const KEY_CLIENTS: Family = "key_clients";
/// (Tenant, dimension, day, member, served) -> [`super::Tally`]. Of the dimensions only key and day, from which the others are summed up.
pub(super) const TALLIES: Family = "tallies";
/// (Tenant, scope, served) -> [`super::Recent`].
pub(super) const RECENT: Family = "recent";
/// Request id -> usage record.
pub(super) const REQUESTS: Family = "requests";
/// Number of the request modulo [`REQUESTS_KEPT`] -> request id.
pub(super) const REQUEST_RING: Family = "request_ring";
/// Sequence -> [`GapFinding`].
pub(super) const GAPS: Family = "gaps";
/// Sequence -> [`event_log::usage::UsageVoid`].
pub(super) const VOIDS: Family = "voids";

pub(super) const FAMILIES: &[Family] = &[
    META,
    INCARNATIONS,
    TOTALS,
    KEY_MODELS,
    KEY_DAYS,
    KEYS_BY_USE,
    KEY_SECRETS,
    KEY_CLIENTS,
    TALLIES,
    RECENT,
    REQUESTS,
    REQUEST_RING,
    GAPS,
    VOIDS,
];

/// How many requests are kept in detail. The bound is a number, so that the disk they take is bounded too: about 200 MiB.
pub const REQUESTS_KEPT: u64 = 1_000_000;

/// The day under which [`TOTALS`] keeps sums over all days.
pub(super) const EVER: u32 = 0;

/// What has been folded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsagePosition {
    pub sequence: Sequence,
    /// Requests counted, over all time.
    pub requests: u64,
    /// Batches dropped because they had been counted.
    pub repeats: u64,
    /// Alarming: batches that never came.
    pub gaps: u64,
    /// Alarming: places of the stream that hold no batch.
    pub voids: u64,
}

/// Batches of an incarnation that are missing from the stream: use that is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapFinding {
    pub node: WriterId,
    pub incarnation: IncarnationId,
    pub expected: u64,
    pub found: u64,
}

/// What the key of a row of [`TOTALS`] groups by. The numbers are bytes of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Dimension {
    Key = 1,
    Model = 2,
    Upstream = 3,
    Day = 4,
}

/// Requests by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeCounts {
    pub completed: u64,
    pub upstream_error: u64,
    pub upstream_failed: u64,
    pub client_left: u64,
}

/// Sums over requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub requests: u64,
    /// Sums of the parts that were reported; a part that no request reported is absent.
    pub tokens: TokenParts,
    /// Requests of whose prompt tokens nothing is known, and of whose answer tokens.
    pub input_unknown: u64,
    pub output_unknown: u64,
    /// Requests whose figures are estimates, in whole or in part.
    pub estimated: u64,
    pub outcomes: OutcomeCounts,
    pub last_used: Timestamp,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            requests: 0,
            tokens: TokenParts::default(),
            input_unknown: 0,
            output_unknown: 0,
            estimated: 0,
            outcomes: OutcomeCounts::default(),
            last_used: Timestamp::from_micros(0),
        }
    }
}

impl Totals {
    pub(super) fn count(&mut self, record: &UsageRecord) {
        let outcome = |at| u64::from(record.outcome == at);
        self.add(&Self {
            requests: 1,
            tokens: record.tokens,
            input_unknown: u64::from(record.tokens.input().is_none()),
            output_unknown: u64::from(record.tokens.output().is_none()),
            estimated: u64::from(record.source != UsageSource::Provider),
            outcomes: OutcomeCounts {
                completed: outcome(Outcome::Completed),
                upstream_error: outcome(Outcome::UpstreamError),
                upstream_failed: outcome(Outcome::UpstreamFailed),
                client_left: outcome(Outcome::ClientLeft),
            },
            last_used: record.settled_at,
        });
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.tokens = sum(&self.tokens, &other.tokens);
        self.input_unknown += other.input_unknown;
        self.output_unknown += other.output_unknown;
        self.estimated += other.estimated;
        self.outcomes = OutcomeCounts {
            completed: self.outcomes.completed + other.outcomes.completed,
            upstream_error: self.outcomes.upstream_error + other.outcomes.upstream_error,
            upstream_failed: self.outcomes.upstream_failed + other.outcomes.upstream_failed,
            client_left: self.outcomes.client_left + other.outcomes.client_left,
        };
        self.last_used = self.last_used.max(other.last_used);
    }
}

/// Part by part; absent and a number is the number. Providers send the numbers, so no sum of them may overflow.
pub(super) fn sum(a: &TokenParts, b: &TokenParts) -> TokenParts {
    let part = |a: Option<u64>, b: Option<u64>| [a, b].into_iter().flatten().reduce(u64::saturating_add);
    TokenParts {
        input_uncached: part(a.input_uncached, b.input_uncached),
        cache_read: part(a.cache_read, b.cache_read),
        cache_write_5m: part(a.cache_write_5m, b.cache_write_5m),
        cache_write_1h: part(a.cache_write_1h, b.cache_write_1h),
        output_visible: part(a.output_visible, b.output_visible),
        output_reasoning: part(a.output_reasoning, b.output_reasoning),
    }
}

/// A key of the tenant with parts after it.
fn of(tenant: &TenantId, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = key::of_tenant(tenant);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub(super) fn totals_prefix(tenant: &TenantId, dimension: Dimension) -> Vec<u8> {
    of(tenant, &[&[dimension as u8]])
}

pub(super) fn totals_day(tenant: &TenantId, dimension: Dimension, day: u32) -> Vec<u8> {
    of(tenant, &[&[dimension as u8], &day.to_be_bytes()])
}

pub(super) fn totals_key(tenant: &TenantId, dimension: Dimension, day: u32, member: &[u8]) -> Vec<u8> {
    of(tenant, &[&[dimension as u8], &day.to_be_bytes(), member])
}

pub(super) fn of_key(tenant: &TenantId, id: KeyId, rest: &[u8]) -> Vec<u8> {
    of(tenant, &[id.as_bytes(), rest])
}

/// The numbers are bytes of keys.
pub(super) fn of_client(tenant: &TenantId, id: KeyId, secret_number: u32, class: AddressClass) -> Vec<u8> {
    let class = match class {
        AddressClass::Loopback => 1,
        AddressClass::Private => 2,
        AddressClass::Public => 3,
    };
    of(tenant, &[id.as_bytes(), &secret_number.to_be_bytes(), &[class]])
}

pub(super) fn of_use(tenant: &TenantId, last_used: Timestamp, id: KeyId) -> Vec<u8> {
    of(tenant, &[&last_used.as_micros().to_be_bytes(), id.as_bytes()])
}

pub(super) fn of_request(id: &RequestId) -> Vec<u8> {
    key::cluster_wide(&[id.as_bytes()])
}

pub(super) fn of_ring(number: u64) -> Vec<u8> {
    key::cluster_wide(&[&((number % REQUESTS_KEPT) as u32).to_be_bytes()])
}

pub(super) fn of_incarnation(node: WriterId, incarnation: IncarnationId) -> Vec<u8> {
    key::cluster_wide(&[node.as_bytes(), incarnation.as_bytes()])
}

pub(super) fn of_sequence(sequence: Sequence) -> Vec<u8> {
    key::cluster_wide(&[&sequence.0.to_be_bytes()])
}

pub(super) fn position_key() -> Vec<u8> {
    key::cluster_wide(&[b"position"])
}
