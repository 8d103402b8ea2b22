//! Batches to store.

use event_log::usage::StoredBatch;
use schemas::upstream::Dialect;
use schemas::usage::{Outcome, TokenParts, UsageBatch, UsageRecord, UsageSource};
use schemas::{IncarnationId, KeyId, RequestId, TenantId, Timestamp, UpstreamId, WriterId};

/// A batch of one request, told apart by its number.
pub(crate) fn batch(node: u8, incarnation: u8, number: u64) -> UsageBatch {
    let (node, incarnation) = (WriterId::from_bytes([node; 16]), IncarnationId::from_bytes([incarnation; 16]));
    UsageBatch { node, incarnation, number, records: vec![record(number)] }
}

pub(crate) fn record(number: u64) -> UsageRecord {
    let mut request = [0; 16];
    request[8..].copy_from_slice(&number.to_be_bytes());
    UsageRecord {
        request: RequestId::from_bytes(request),
        tenant: TenantId::default_tenant(),
        key: KeyId::from_bytes([4; 16]),
        secret_number: 1,
        upstream: UpstreamId::from_bytes([5; 16]),
        dialect: Dialect::Openai,
        model_requested: "gpt-4o".into(),
        model_billed: None,
        streamed: true,
        attempts: 1,
        status: 200,
        outcome: Outcome::Completed,
        source: UsageSource::Provider,
        tokens: TokenParts { output_visible: Some(number), ..TokenParts::default() },
        started_at: Timestamp::from_micros(number),
        settled_at: Timestamp::from_micros(number),
        client: None,
    }
}

/// All output tokens of the batches.
pub(crate) fn sum<'a>(batches: impl IntoIterator<Item = &'a UsageBatch>) -> u64 {
    batches.into_iter().flat_map(|batch| &batch.records).filter_map(|record| record.tokens.output()).sum()
}

/// The batches at places that hold nothing else.
pub(crate) fn batches(places: &[StoredBatch]) -> Vec<UsageBatch> {
    places.iter().map(|place| place.batch.clone().unwrap()).collect()
}
