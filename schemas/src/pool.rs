//! Pools: groups of upstreams. A key names the pools it may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::aggregate::At;
use crate::event::Event;
use crate::id::{PoolId, TenantId};
use crate::name::{self, NameError};
use crate::stream::Stream;
use crate::time::Timestamp;
use crate::usage::TokenParts;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolCreated {
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolChanged {
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolRemoved {}

/// The most prices of a pool.
pub const PRICES_MAX: usize = 200;
/// The highest price: a million dollars per million tokens.
pub const PRICE_MAX: u64 = 1_000_000_000_000;

/// What a model costs, in micro-dollars per million tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// A pattern of model names; `*` stands for any run of characters.
    pub model: String,
    pub input: u64,
    pub output: u64,
    /// Absent: as `input`.
    #[serde(default)]
    pub cache_read: Option<u64>,
    /// Absent: as `input`.
    #[serde(default)]
    pub cache_write: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolPriced {
    /// All prices after the change. The first whose pattern matches a model is the model's.
    pub prices: Vec<ModelPrice>,
}

/// The state of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub id: PoolId,
    pub tenant: TenantId,
    pub name: String,
    /// The first whose pattern matches a model is the model's.
    pub prices: Vec<ModelPrice>,
    pub created_at: Timestamp,
    pub removed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolCommand {
    Create {
        name: String,
    },
    /// Makes the pool what it was elsewhere. One that was removed here is there again.
    Import {
        name: String,
    },
    Change {
        name: String,
    },
    Price {
        prices: Vec<ModelPrice>,
    },
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoolError {
    #[error("the pool exists already")]
    Exists,
    #[error("there is no such pool")]
    NotFound,
    #[error("a pool has at most {PRICES_MAX} prices")]
    TooManyPrices,
    #[error("a price is at most {PRICE_MAX} micro-dollars per million tokens")]
    Price,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl ModelPrice {
    /// What tokens cost, in micro-dollars, rounded up; parts that nobody reported cost nothing.
    pub fn cost(&self, tokens: &TokenParts) -> u64 {
        micro_dollars(self.exact_cost(tokens))
    }

    /// What tokens cost, in millionths of a micro-dollar: nothing is rounded, so sums of it are exact.
    pub fn exact_cost(&self, tokens: &TokenParts) -> u128 {
        let of = |tokens: Option<u64>, price: u64| u128::from(tokens.unwrap_or(0)) * u128::from(price);
        let write = self.cache_write.unwrap_or(self.input);
        of(tokens.input_uncached, self.input)
            + of(tokens.cache_read, self.cache_read.unwrap_or(self.input))
            + of(tokens.cache_write_5m, write)
            + of(tokens.cache_write_1h, write)
            + of(tokens.output_visible, self.output)
            + of(tokens.output_reasoning, self.output)
    }
}

/// Micro-dollars for millionths of them, rounded up.
pub fn micro_dollars(exact: u128) -> u64 {
    u64::try_from(exact.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Pool {
    /// The price of a model here.
    pub fn price(&self, model: &str) -> Option<&ModelPrice> {
        self.prices.iter().find(|price| name::matches(&price.model, model))
    }

    /// The price of what was served: that of the model the upstream says it billed, else that of the model that was asked for.
    pub fn price_of(&self, model_billed: Option<&str>, model_requested: &str) -> Option<&ModelPrice> {
        model_billed.and_then(|model| self.price(model)).or_else(|| self.price(model_requested))
    }

    pub(crate) fn decide(state: Option<&Self>, command: &PoolCommand) -> Result<Vec<Event>, PoolError> {
        if let PoolCommand::Create { name } | PoolCommand::Import { name } | PoolCommand::Change { name } = command {
            name::check("name", name)?;
        }
        match (state, command) {
            (None, PoolCommand::Create { name }) | (None | Some(Self { removed: true, .. }), PoolCommand::Import { name }) => {
                Ok(vec![Event::PoolCreated(PoolCreated { name: name.clone() })])
            }
            (Some(_), PoolCommand::Create { .. }) => Err(PoolError::Exists),
            (None | Some(Self { removed: true, .. }), _) => Err(PoolError::NotFound),
            (Some(pool), PoolCommand::Change { name } | PoolCommand::Import { name }) if pool.name == *name => Ok(vec![]),
            (Some(_), PoolCommand::Change { name } | PoolCommand::Import { name }) => {
                Ok(vec![Event::PoolChanged(PoolChanged { name: name.clone() })])
            }
            (Some(pool), PoolCommand::Price { prices }) => {
                check_prices(prices)?;
                Ok(if pool.prices == *prices { vec![] } else { vec![Event::PoolPriced(PoolPriced { prices: prices.clone() })] })
            }
            (Some(_), PoolCommand::Remove) => Ok(vec![Event::PoolRemoved(PoolRemoved {})]),
        }
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        match (state, event) {
            // One that was removed comes back by an import only.
            (None | Some(Self { removed: true, .. }), Event::PoolCreated(created)) => Some(Self {
                id: PoolId::from_bytes(*stream.id()),
                tenant: stream.tenant().clone(),
                name: created.name.clone(),
                prices: Vec::new(),
                created_at: at.time,
                removed: false,
            }),
            (Some(pool), Event::PoolChanged(changed)) => Some(Self { name: changed.name.clone(), ..pool }),
            (Some(pool), Event::PoolPriced(priced)) => Some(Self { prices: priced.prices.clone(), ..pool }),
            (Some(pool), Event::PoolRemoved(_)) => Some(Self { removed: true, ..pool }),
            _ => None,
        }
    }
}

fn check_prices(prices: &[ModelPrice]) -> Result<(), PoolError> {
    if prices.len() > PRICES_MAX {
        return Err(PoolError::TooManyPrices);
    }
    for price in prices {
        name::check("model", &price.model)?;
        if [Some(price.input), Some(price.output), price.cache_read, price.cache_write].into_iter().flatten().any(|one| one > PRICE_MAX) {
            return Err(PoolError::Price);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Aggregate, Command};
    use crate::rules::{self, Given, tenant};

    fn given(events: impl IntoIterator<Item = Event>) -> Given {
        rules::given(Stream::pool(tenant(), PoolId::from_bytes([1; 16])), events)
    }

    fn created(name: &str) -> Event {
        Event::PoolCreated(PoolCreated { name: name.into() })
    }

    fn create(name: &str) -> Command {
        Command::Pool(PoolCommand::Create { name: name.into() })
    }

    fn change(name: &str) -> Command {
        Command::Pool(PoolCommand::Change { name: name.into() })
    }

    const REMOVE: Command = Command::Pool(PoolCommand::Remove);

    #[test]
    fn a_pool_is_created_renamed_and_removed() {
        given([])
            .when(create("default"))
            .then([created("default")])
            .when(change("fast"))
            .then([Event::PoolChanged(PoolChanged { name: "fast".into() })])
            .when(REMOVE)
            .then([Event::PoolRemoved(PoolRemoved {})]);
    }

    #[test]
    fn a_pool_is_created_once_even_after_it_was_removed() {
        given([created("a")]).when(create("a")).then_refused(PoolError::Exists);
        given([created("a"), Event::PoolRemoved(PoolRemoved {})]).when(create("a")).then_refused(PoolError::Exists);
    }

    #[test]
    fn an_import_makes_a_pool_renames_it_and_brings_a_removed_one_back() {
        let import = |name: &str| Command::Pool(PoolCommand::Import { name: name.into() });
        let given = given([]).when(import("a")).then([created("a")]).when(import("a")).then_nothing();
        let given = given.when(import("b")).then([Event::PoolChanged(PoolChanged { name: "b".into() })]);
        given.when(REMOVE).accepted().when(import("a")).then([created("a")]).when(change("c")).accepted();
    }

    #[test]
    fn the_same_name_again_changes_nothing() {
        given([created("a")]).when(change("a")).then_nothing();
    }

    fn price(model: &str, input: u64) -> ModelPrice {
        ModelPrice { model: model.into(), input, output: 2 * input, cache_read: None, cache_write: None }
    }

    #[test]
    fn prices_are_set_whole_and_the_first_that_matches_counts() {
        let prices = vec![price("gpt-4*", 3_000_000), price("*", 10)];
        let priced = Event::PoolPriced(PoolPriced { prices: prices.clone() });
        let set = Command::Pool(PoolCommand::Price { prices });
        let given = given([created("a")]).when(set.clone()).then([priced]).when(set).then_nothing();
        let Aggregate::Pool(pool) = given.state() else { panic!("a pool") };
        assert_eq!(pool.price("gpt-4o").map(|price| price.input), Some(3_000_000));
        assert_eq!(pool.price("o1").map(|price| price.input), Some(10));
    }

    #[test]
    fn the_billed_model_is_priced_before_the_requested_one() {
        let priced = PoolPriced { prices: vec![price("gpt-4o", 1), price("gpt-4o-2026", 2)] };
        let Aggregate::Pool(pool) = given([created("a"), Event::PoolPriced(priced)]).state() else { panic!("a pool") };
        let input = |billed, requested| pool.price_of(billed, requested).map(|price| price.input);
        assert_eq!(input(Some("gpt-4o-2026"), "gpt-4o"), Some(2));
        assert_eq!(input(Some("gpt-4o-2027"), "gpt-4o"), Some(1));
        assert_eq!(input(None, "gpt-4o"), Some(1));
        assert_eq!(input(Some("o1"), "o1"), None);
    }

    #[test]
    fn costs_are_rounded_up_and_cached_tokens_cost_as_input_unless_priced() {
        let tokens = TokenParts { input_uncached: Some(1), cache_read: Some(2), output_visible: Some(3), ..TokenParts::default() };
        assert_eq!(price("*", 1_000_000).cost(&tokens), 1 + 2 + 6);
        assert_eq!(ModelPrice { cache_read: Some(0), ..price("*", 1) }.cost(&tokens), 1);
        assert_eq!(price("*", PRICE_MAX).cost(&TokenParts { output_visible: Some(u64::MAX), ..TokenParts::default() }), u64::MAX);
    }

    #[test]
    fn prices_out_of_bounds_are_refused() {
        let set = |prices| Command::Pool(PoolCommand::Price { prices });
        given([created("a")]).when(set(vec![price("*", PRICE_MAX)])).then_refused(PoolError::Price);
        given([created("a")]).when(set(vec![price("*", 1); PRICES_MAX + 1])).then_refused(PoolError::TooManyPrices);
        given([]).when(set(vec![])).then_refused(PoolError::NotFound);
    }

    #[test]
    fn a_pool_that_is_not_there_can_be_neither_changed_nor_removed() {
        for events in [vec![], vec![created("a"), Event::PoolRemoved(PoolRemoved {})]] {
            given(events.clone()).when(change("b")).then_refused(PoolError::NotFound);
            given(events).when(REMOVE).then_refused(PoolError::NotFound);
        }
    }

    #[test]
    fn a_pool_needs_a_clean_name() {
        given([]).when(create("")).then_refused(PoolError::Name(NameError::Empty { field: "name" }));
        given([created("a")]).when(change(" b")).then_refused(PoolError::Name(NameError::Untrimmed { field: "name" }));
    }
}
