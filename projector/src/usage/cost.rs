//! What use cost, by the prices that are in force when it is asked.
//!
//! Costs are summed up exactly and rounded up once per sum that is shown.

use std::collections::BTreeMap;

use schemas::pool::micro_dollars;
use schemas::usage::UsageRecord;
use schemas::{KeyId, TenantId};

use super::query::{GroupBy, UsageGroup, UsageModels, UsageQuery};
use super::rows::{Dimension, KEY_DAYS, TALLIES, Totals, of_key};
use super::tally::{Served, Tally, tallies_prefix};
use crate::prices::Prices;
use crate::store::{Frozen, ReadError};

/// What some requests cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// In millionths of a micro-dollar; none if nothing had a price.
    exact: Option<u128>,
    /// Requests of whose tokens something is known and that have no price.
    pub unpriced: u64,
}

/// The sums of one group, and what they cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedUsage {
    pub group: UsageGroup,
    pub totals: Totals,
    pub cost: Cost,
}

impl Cost {
    /// In micro-dollars, rounded up; none if nothing had a price.
    pub fn micro_usd(&self) -> Option<u64> {
        self.exact.map(micro_dollars)
    }

    fn add(&mut self, requests: u64, exact: Option<u128>) {
        match exact {
            Some(exact) => self.exact = Some(self.exact.unwrap_or(0).saturating_add(exact)),
            None => self.unpriced += requests,
        }
    }
}

impl Prices {
    /// What one request cost, in micro-dollars; none without a price, and where no token is known.
    pub fn cost(&self, record: &UsageRecord) -> Result<Option<u64>, ReadError> {
        let UsageRecord { tenant, upstream, model_billed, model_requested, tokens, .. } = record;
        Ok(self.exact_cost(tenant, *upstream, model_billed.as_deref(), model_requested, tokens)?.map(micro_dollars))
    }

    fn exact_cost_of(&self, tenant: &TenantId, served: &Served, tally: &Tally) -> Result<Option<u128>, ReadError> {
        self.exact_cost(tenant, served.upstream, served.model_billed.as_deref(), &served.model_requested, &tally.tokens)
    }
}

impl UsageModels {
    /// As [`UsageModels::usage`], with what it cost.
    pub fn priced_usage(&self, query: &UsageQuery, prices: &Prices) -> Result<Vec<PricedUsage>, ReadError> {
        let rows = self.store.frozen();
        let mut costs = costs(&rows, query, prices)?;
        let priced = |(group, totals)| PricedUsage { cost: costs.remove(&group).unwrap_or_default(), group, totals };
        Ok(super::query::sums(&rows, query)?.into_iter().map(priced).collect())
    }

    /// The use of one key by day, earliest first, with what it cost.
    pub fn priced_key_days(&self, tenant: &TenantId, id: KeyId, prices: &Prices) -> Result<Vec<PricedUsage>, ReadError> {
        let (rows, prefix) = (self.store.frozen(), of_key(tenant, id, &[]));
        let mut days = Vec::new();
        for row in rows.scan::<Totals>(KEY_DAYS, &prefix, prefix.clone()) {
            let (key, totals) = row?;
            let day = u32::from_be_bytes(key[prefix.len()..].try_into().map_err(|_| ReadError::Row { family: KEY_DAYS })?);
            let mut cost = Cost::default();
            let of_day = tallies_prefix(tenant, Dimension::Key, Some(day), id.as_bytes());
            for row in rows.scan::<Tally>(TALLIES, &of_day, of_day.clone()) {
                let (key, tally) = row?;
                let served = Served::parse(&key[of_day.len()..]).ok_or(ReadError::Row { family: TALLIES })?;
                cost.add(tally.requests, prices.exact_cost_of(tenant, &served, &tally)?);
            }
            days.push(PricedUsage { group: UsageGroup::Day(day), totals, cost });
        }
        Ok(days)
    }
}

/// The cost of each group that has something to be priced.
fn costs(rows: &Frozen<'_>, query: &UsageQuery, prices: &Prices) -> Result<BTreeMap<UsageGroup, Cost>, ReadError> {
    let (tenant, days) = (&query.tenant, query.stored_days());
    let (dimension, member_bytes) = match query.group_by {
        GroupBy::Key => (Dimension::Key, KeyId::from_bytes([0; 16]).as_bytes().len()),
        GroupBy::Model | GroupBy::Upstream | GroupBy::Day => (Dimension::Day, 0),
    };
    let prefix = tallies_prefix(tenant, dimension, None, &[]);
    let first = tallies_prefix(tenant, dimension, Some(*days.start()), &[]);
    let mut costs: BTreeMap<UsageGroup, Cost> = BTreeMap::new();
    for row in rows.scan::<Tally>(TALLIES, &first, prefix.clone()) {
        let (key, tally) = row?;
        let shape = || ReadError::Row { family: TALLIES };
        let (day, rest) = key[prefix.len()..].split_first_chunk::<4>().ok_or_else(shape)?;
        let day = u32::from_be_bytes(*day);
        if day > *days.end() {
            break;
        }
        let (member, served) = rest.split_at_checked(member_bytes).ok_or_else(shape)?;
        let served = Served::parse(served).ok_or_else(shape)?;
        let exact = prices.exact_cost_of(tenant, &served, &tally)?;
        let group = match query.group_by {
            GroupBy::Key => UsageGroup::Key(KeyId::from_bytes(member.try_into().map_err(|_| shape())?)),
            GroupBy::Model => UsageGroup::Model(served.model_requested),
            GroupBy::Upstream => UsageGroup::Upstream(served.upstream),
            GroupBy::Day => UsageGroup::Day(day),
        };
        costs.entry(group).or_default().add(tally.requests, exact);
    }
    Ok(costs)
}
