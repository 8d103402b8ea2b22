//! Usage records: one per settled request, in numbered batches on a stream of their own.
//!
//! Token parts are disjoint, so that sums are safe, and absent is not zero: a part that the provider did not report stays `None`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{IncarnationId, KeyId, RequestId, TenantId, UpstreamId, WriterId};
use crate::time::Timestamp;
use crate::upstream::Dialect;

/// Disjoint parts of the tokens of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct TokenParts {
    /// Prompt tokens that were neither read from nor written to a cache.
    pub input_uncached: Option<u64>,
    pub cache_read: Option<u64>,
    /// Written to a cache that lives about five minutes, or of unstated life.
    pub cache_write_5m: Option<u64>,
    pub cache_write_1h: Option<u64>,
    /// Answer tokens that are not reasoning.
    pub output_visible: Option<u64>,
    pub output_reasoning: Option<u64>,
}

impl TokenParts {
    /// All prompt tokens; none if nothing of them is known.
    pub fn input(&self) -> Option<u64> {
        sum([self.input_uncached, self.cache_read, self.cache_write_5m, self.cache_write_1h])
    }

    /// All answer tokens; none if nothing of them is known.
    pub fn output(&self) -> Option<u64> {
        sum([self.output_visible, self.output_reasoning])
    }
}

fn sum<const N: usize>(parts: [Option<u64>; N]) -> Option<u64> {
    parts.into_iter().flatten().reduce(u64::saturating_add)
}

/// Where the figures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The provider's final count.
    Provider,
    /// Our own estimate: the provider gave none.
    Estimated,
    /// What was known when the stream ended early, by whichever side; the rest is our estimate.
    Partial,
}

/// How a request that reached an upstream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Completed,
    /// The upstream answered with an error, or an error event ended the stream.
    UpstreamError,
    /// The upstream could not be reached, or broke off.
    UpstreamFailed,
    ClientLeft,
}

/// Where a client's address belongs: all that is kept of it. Behind a proxy it is the proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressClass {
    /// The machine that the node runs on.
    Loopback,
    /// What the public internet does not route: private, link-local, reserved.
    Private,
    Public,
}

impl AddressClass {
    pub const ALL: [Self; 3] = [Self::Loopback, Self::Private, Self::Public];
}

/// One settled request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageRecord {
    pub request: RequestId,
    pub tenant: TenantId,
    pub key: KeyId,
    /// Which of the key's secrets was shown.
    pub secret_number: u32,
    pub upstream: UpstreamId,
    pub dialect: Dialect,
    /// As the client asked, and as the upstream says it answered.
    pub model_requested: String,
    pub model_billed: Option<String>,
    pub streamed: bool,
    pub attempts: u32,
    pub status: u16,
    pub outcome: Outcome,
    pub source: UsageSource,
    pub tokens: TokenParts,
    pub started_at: Timestamp,
    pub settled_at: Timestamp,
    /// None where it is not known. It is no part of the frozen record: a batch of format 2 holds it beside its records.
    #[serde(skip)]
    pub client: Option<AddressClass>,
}

/// What one append to the usage stream stores. A batch is numbered per incarnation: 1, 2, 3, ... without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageBatch {
    pub node: WriterId,
    pub incarnation: IncarnationId,
    pub number: u64,
    pub records: Vec<UsageRecord>,
}

impl UsageBatch {
    /// The first byte of an encoded batch: of one whose records say nothing of clients, and of one where the class of each record's client, or
    /// none, follows behind the batch.
    const PLAIN: u8 = 1;
    const WITH_CLIENTS: u8 = 2;

    pub fn encode(&self) -> Vec<u8> {
        let clients: Vec<Option<AddressClass>> = self.records.iter().map(|record| record.client).collect();
        let encoded = if clients.iter().all(Option::is_none) {
            postcard::to_extend(self, vec![Self::PLAIN])
        } else {
            postcard::to_extend(&(self, clients), vec![Self::WITH_CLIENTS])
        };
        encoded.expect("plain data; encoding to memory cannot fail")
    }

    /// None for bytes that no release up to this one writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, body) = bytes.split_first()?;
        match *format {
            Self::PLAIN => crate::event::exactly(body),
            Self::WITH_CLIENTS => {
                let (mut batch, clients): (Self, Vec<Option<AddressClass>>) = crate::event::exactly(body)?;
                if clients.len() != batch.records.len() || clients.iter().all(Option::is_none) {
                    return None;
                }
                for (record, client) in batch.records.iter_mut().zip(clients) {
                    record.client = client;
                }
                Some(batch)
            }
            _ => None,
        }
    }
}
