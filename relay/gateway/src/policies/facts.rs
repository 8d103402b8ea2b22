//! What policies are told: facts about the key, the request and the candidates, in the contract's words.

use policy_host::contract::expiry::KeyFacts;
use policy_host::contract::{Attribute, Demand, Price, Subject, route};
use schemas::Timestamp;
use schemas::key::{Endpoint, Expiry, Key, METADATA_EMPTY};
use schemas::upstream::Dialect;

use crate::choose::Candidate;
use crate::meter::{BYTES_PER_TOKEN, short};
use crate::meters::Life;
use crate::request_head::RequestHead;
use crate::targets::Snapshot;

/// What an answer is taken to have at the most, in tokens, where the client set no bound: about the longest that models give unasked.
pub(crate) const OUTPUT_TOKENS_DEFAULT: u64 = 4096;

pub(super) const fn ms(at: Timestamp) -> i64 {
    (at.as_micros() / 1000) as i64
}

pub(super) fn subject(key: &Key) -> Subject {
    Subject {
        tenant: key.tenant.as_str().to_owned(),
        key: key.id.to_string(),
        owner: key.details.owner.clone(),
        tags: key.details.tags.clone(),
        more: metadata(key),
    }
}

/// The key's metadata, for policies that read it: the attribute `key.metadata`, a JSON object. Absent where there is none.
fn metadata(key: &Key) -> Vec<Attribute> {
    let is_there = key.metadata != METADATA_EMPTY;
    is_there.then(|| Attribute { name: "key.metadata".to_owned(), value: key.metadata.clone() }).into_iter().collect()
}

pub(super) fn demand(dialect: Dialect, endpoint: Endpoint, head: &RequestHead<'_>, request_bytes: usize) -> Demand {
    let request_bytes = request_bytes as u64;
    Demand {
        dialect: dialect.as_str().to_owned(),
        endpoint: endpoint_text(endpoint).to_owned(),
        model: short(head.model.clone().into_owned()),
        is_stream: head.stream,
        request_bytes,
        input_tokens: request_bytes.div_ceil(BYTES_PER_TOKEN),
        output_tokens_max: head.output_tokens_max(dialect),
        more: Vec::new(),
    }
}

const fn endpoint_text(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions => "chat_completions",
        Endpoint::Messages => "messages",
        Endpoint::Models => "models",
    }
}

pub(super) fn key_facts(key: &Key, life: &Life) -> KeyFacts {
    KeyFacts {
        created_ms: ms(key.created_at),
        renewed_ms: key.renewed_at.map(ms),
        rotated_ms: key.rotated_at.map(ms),
        last_used_ms: life.last_used.map(ms),
        expires_ms: match key.expiry {
            Expiry::Never => None,
            Expiry::At(at) => Some(ms(at)),
        },
        requests: life.requests,
        tokens: life.tokens,
        more: Vec::new(),
    }
}

/// A candidate as a route policy sees it.
pub(super) fn candidate(candidate: &Candidate, snapshot: &Snapshot, model: &str) -> route::Candidate {
    let target = &candidate.target;
    route::Candidate {
        is_cooling: candidate.is_cooling(),
        in_flight: target.pulse.in_flight(),
        latency_ms: target.pulse.latency_ms(),
        price: snapshot.price(&target.route.upstream, model),
        ..target.facts.clone()
    }
}

/// What a request may cost at the most, in micro-dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ceiling {
    /// With the dearest candidate; none if one of them has no price.
    pub(super) cost_max: Option<u64>,
    /// With the dearest of those that have a price.
    pub(super) known: u64,
}

impl Ceiling {
    pub(super) fn new(prices: impl Iterator<Item = Option<Price>>, demand: &Demand) -> Self {
        let (mut is_whole, mut known) = (true, None);
        for price in prices {
            is_whole &= price.is_some();
            known = known.max(price.map(|price| cost_max(&price, demand)));
        }
        Self { cost_max: known.filter(|_| is_whole), known: known.unwrap_or(0) }
    }
}

/// Rounded up. Whether tokens are read from a cache, or written to one, is not known before: the dearest is assumed.
fn cost_max(price: &Price, demand: &Demand) -> u64 {
    let input = price.input.max(price.cache_read).max(price.cache_write);
    let output_tokens = demand.output_tokens_max.unwrap_or(OUTPUT_TOKENS_DEFAULT);
    let sum = (u128::from(demand.input_tokens) * u128::from(input)).saturating_add(u128::from(output_tokens) * u128::from(price.output));
    u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price { input: 3_000_000, output: 15_000_000, cache_read: 300_000, cache_write: 3_750_000 };

    fn demand(output_tokens_max: Option<u64>) -> Demand {
        Demand { input_tokens: 1_000, output_tokens_max, ..Demand::default() }
    }

    #[test]
    fn the_ceiling_is_that_of_the_dearest_candidate() {
        let cheap = Price { input: 1, output: 1, cache_read: 1, cache_write: 1 };
        let both = Ceiling::new([Some(cheap), Some(PRICE)].into_iter(), &demand(Some(100)));
        // Input tokens may all be written to a cache.
        assert_eq!(both, Ceiling { cost_max: Some(3_750 + 1_500), known: 5_250 });
        let unset = Ceiling::new([Some(PRICE)].into_iter(), &demand(None));
        assert_eq!(unset.cost_max, Some(3_750 + OUTPUT_TOKENS_DEFAULT * 15));
    }

    #[test]
    fn a_candidate_without_a_price_leaves_no_ceiling_but_what_is_known_is_still_held() {
        let ceiling = Ceiling::new([None, Some(PRICE)].into_iter(), &demand(Some(0)));
        assert_eq!(ceiling, Ceiling { cost_max: None, known: 3_750 });
        assert_eq!(Ceiling::new([None].into_iter(), &demand(None)), Ceiling::default());
    }

    #[test]
    fn costs_beyond_all_bounds_do_not_wrap() {
        let price = Price { input: u64::MAX, ..PRICE };
        let demand = Demand { input_tokens: u64::MAX, ..demand(Some(u64::MAX)) };
        assert_eq!(Ceiling::new([Some(price)].into_iter(), &demand).cost_max, Some(u64::MAX));
    }
}
