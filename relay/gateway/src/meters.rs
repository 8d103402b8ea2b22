//! Meters: what a key or a tenant has used of a unit in a window, and what requests under way hold of it.
//!
//! Used is what the usage models have counted of all nodes, and what this process has settled and they have not counted yet. What other nodes
//! have settled shows when it is counted here, as what an earlier run of this process left in its spool does: within two seconds while the usage
//! stream is in reach. Money is what tokens cost by the present prices of the pool of the upstream that served; what has no price costs nothing.
//!
//! A request reserves before it reads, and sees the reservations of those that came before it and not of those that came after. So however many
//! requests ask at once, those that are let in together stay below a limit that each compares with used, reserved and its own estimate.

mod account;
mod name;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use policy_host::contract::quota;
use projector::usage::{Recent, RecentUse, Served, Tally, UsageScope};
use projector::{Prices, ReadError, ReadModels, UsageModels};
use schemas::pool::micro_dollars;
use schemas::usage::UsageRecord;
use schemas::{IncarnationId, KeyId, TenantId, Timestamp, WriterId};

use account::{Account, Counted, Stamp};

pub(crate) use account::Amounts;
pub(crate) use name::{MeterName, Scope, Window};

const SHARDS: usize = 16;
/// A shard with fewer accounts is not worth a sweep.
const SWEEP_MIN: usize = 256;
const MILLION: u128 = 1_000_000;

/// The meters of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Meters(Arc<Inner>);

struct Inner {
    models: ReadModels,
    usage: UsageModels,
    /// Under which name this process numbers its batches.
    origin: (WriterId, IncarnationId),
    prices: ArcSwap<PriceList>,
    shards: [Mutex<Shard>; SHARDS],
}

/// Prices, and how often they have changed.
struct PriceList {
    prices: Prices,
    number: u64,
}

/// Guarded by its lock, which is held for look-ups in memory only.
#[derive(Default)]
struct Shard {
    accounts: HashMap<Holder, Account>,
    /// The number of accounts at which idle ones are swept out.
    sweep_at: usize,
    /// The last batch that was counted when accounts were swept out.
    swept: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    Tenant(TenantId),
    Key(KeyId),
}

/// What a request is expected to use. That it is one request goes without saying.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) tokens: u64,
    /// 0 where no price is known.
    pub(crate) micro_usd: u64,
}

/// What a request under way holds of its key's and its tenant's meters. Dropped unsettled, it gives all of it back.
pub(crate) struct Reservation {
    meters: Meters,
    tenant: TenantId,
    key: KeyId,
    /// Its place in the order of the key's, and of the tenant's.
    places: Option<(u64, u64)>,
}

/// What is known of a key's use over its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
    pub(crate) last_used: Option<Timestamp>,
}

impl Meters {
    /// `origin` is the name under which the usage batches of this process are numbered.
    pub(crate) fn new(models: ReadModels, usage: UsageModels, origin: (WriterId, IncarnationId)) -> Self {
        let prices = ArcSwap::from_pointee(PriceList { prices: Prices::new(&models), number: 1 });
        Self(Arc::new(Inner { models, usage, origin, prices, shards: Default::default() }))
    }

    /// Holds what a request is expected to use, before anybody decides on it.
    pub(crate) fn reserve(&self, tenant: &TenantId, key: KeyId, estimate: Estimate) -> Reservation {
        let cost = u128::from(estimate.micro_usd) * MILLION;
        let amounts = Amounts { requests: 1, tokens: estimate.tokens, cost };
        let place = |holder| self.with(holder, |account| account.reserve(amounts));
        let places = Some((place(Holder::Key(key)), place(Holder::Tenant(tenant.clone()))));
        Reservation { meters: self.clone(), tenant: tenant.clone(), key, places }
    }

    /// The meters as they stand, with all reservations.
    #[cfg(test)]
    pub(crate) fn read(&self, names: &[MeterName], tenant: &TenantId, key: KeyId, now: Timestamp) -> Result<Vec<quota::Meter>, ReadError> {
        self.show(names, tenant, key, now, None)
    }

    /// A key's use over its whole life.
    pub(crate) fn life(&self, tenant: &TenantId, key: KeyId) -> Result<Life, ReadError> {
        self.with_fresh(tenant, Holder::Key(key), |account| {
            let total = account.used(Window::Total, Timestamp::from_micros(0));
            Life { requests: total.requests, tokens: total.tokens, last_used: account.last_used() }
        })
    }

    /// Books a settled request in place of what it held. What it returns goes with the record, for [`Meters::number`].
    pub(crate) fn settle(&self, record: &UsageRecord, reservation: Option<Reservation>) -> Amounts {
        let amounts = self.amounts(record);
        let places = reservation.and_then(|mut reservation| reservation.places.take());
        let settle = |holder, place| self.with(holder, |account| account.settle(place, record.settled_at, &amounts));
        settle(Holder::Key(record.key), places.map(|(of_key, _)| of_key));
        settle(Holder::Tenant(record.tenant.clone()), places.map(|(_, of_tenant)| of_tenant));
        amounts
    }

    /// Notes in which batch settled requests go to the usage models. To be called before the batch is appended.
    pub(crate) fn number<'a>(&self, batch: u64, settled: impl Iterator<Item = (&'a UsageRecord, &'a Amounts)>) {
        // Losing the error is right: what is not forgotten now is forgotten later.
        let last_batch = self.0.usage.last_batch(self.0.origin).unwrap_or(0);
        for (record, amounts) in settled {
            for holder in [Holder::Key(record.key), Holder::Tenant(record.tenant.clone())] {
                self.with(holder, |account| {
                    account.number(batch, record.settled_at, amounts);
                    account.forget(last_batch);
                });
            }
        }
    }

    fn show(
        &self,
        names: &[MeterName],
        tenant: &TenantId,
        key: KeyId,
        now: Timestamp,
        before: Option<(u64, u64)>,
    ) -> Result<Vec<quota::Meter>, ReadError> {
        let mut meters: Vec<Option<quota::Meter>> = vec![None; names.len()];
        for scope in [Scope::Key, Scope::Tenant] {
            if !names.iter().any(|name| name.scope == scope) {
                continue;
            }
            let (holder, before) = match scope {
                Scope::Key => (Holder::Key(key), before.map(|(of_key, _)| of_key)),
                Scope::Tenant => (Holder::Tenant(tenant.clone()), before.map(|(_, of_tenant)| of_tenant)),
            };
            self.with_fresh(tenant, holder, |account| {
                let reserved = account.reserved(before);
                for (name, meter) in names.iter().zip(&mut meters).filter(|(name, _)| name.scope == scope) {
                    *meter = Some(meter_of(*name, &account.used(name.window, now), &reserved, now));
                }
            })?;
        }
        Ok(meters.into_iter().flatten().collect())
    }

    /// Looks at an account that is as fresh as the usage models and the prices are now.
    fn with_fresh<T>(&self, tenant: &TenantId, holder: Holder, mut look: impl FnMut(&Account) -> T) -> Result<T, ReadError> {
        let list = self.prices();
        let stamp = Stamp { as_of: self.0.usage.position(), prices: list.number };
        let seen = self.with(holder.clone(), |account| account.is_fresh(stamp).then(|| look(account)));
        if let Some(seen) = seen {
            return Ok(seen);
        }
        loop {
            let counted = self.count(tenant, &holder, &list)?;
            let seen = self.with(holder.clone(), |account| {
                account.install(counted);
                account.is_counted().then(|| look(account))
            });
            // None if more was counted and forgotten meanwhile: the next count holds it.
            if let Some(seen) = seen {
                return Ok(seen);
            }
        }
    }

    fn count(&self, tenant: &TenantId, holder: &Holder, list: &PriceList) -> Result<Counted, ReadError> {
        let scope = match holder {
            Holder::Tenant(_) => UsageScope::Tenant,
            Holder::Key(id) => UsageScope::Key(*id),
        };
        let RecentUse { as_of, last_batch, served } = self.0.usage.recent(tenant, scope, self.0.origin)?;
        let mut counted = Counted { stamp: Stamp { as_of, prices: list.number }, last_batch, ..Counted::default() };
        for (served, recent) in &served {
            add(&mut counted, recent, |tally| amounts_of(&list.prices, tenant, served, tally))?;
        }
        Ok(counted)
    }

    fn amounts(&self, record: &UsageRecord) -> Amounts {
        let UsageRecord { tenant, upstream, model_billed, model_requested, tokens, .. } = record;
        let cost = self.prices().prices.exact_cost(tenant, *upstream, model_billed.as_deref(), model_requested, tokens);
        let cost = cost.unwrap_or_else(|error| {
            tracing::error!(request.id = %record.request, error = &error as &dyn std::error::Error, "a request could not be priced");
            None
        });
        Amounts { requests: 1, tokens: tokens_of(tokens), cost: cost.unwrap_or(0) }
    }

    fn prices(&self) -> Arc<PriceList> {
        let list = self.0.prices.load_full();
        if list.prices.is_current() {
            return list;
        }
        let newer = Arc::new(PriceList { prices: Prices::new(&self.0.models), number: list.number + 1 });
        // Of two that come at once, one is first; both lists hold the same change.
        let before = self.0.prices.compare_and_swap(&list, Arc::clone(&newer));
        if Arc::ptr_eq(&before, &list) { newer } else { Arc::clone(&before) }
    }

    fn with<T>(&self, holder: Holder, change: impl FnOnce(&mut Account) -> T) -> T {
        let mut shard = self.0.shards[holder.shard()].lock();
        shard.sweep(|| self.0.usage.last_batch(self.0.origin).unwrap_or(0));
        let swept = shard.swept;
        change(shard.accounts.entry(holder).or_insert_with(|| Account::new(swept)))
    }
}

impl Shard {
    /// Amortised: a sweep comes only after the shard has doubled since the last one.
    fn sweep(&mut self, last_batch: impl FnOnce() -> u64) {
        if self.accounts.len() >= self.sweep_at.max(SWEEP_MIN) {
            let last_batch = last_batch();
            self.accounts.retain(|_, account| {
                account.forget(last_batch);
                !account.is_idle()
            });
            self.sweep_at = self.accounts.len() * 2;
            self.swept = self.swept.max(last_batch);
        }
    }
}

impl Holder {
    fn shard(&self) -> usize {
        let byte = match self {
            Self::Tenant(tenant) => tenant.as_str().bytes().fold(0, u8::wrapping_add),
            // The last byte of an id is as random as any.
            Self::Key(id) => id.as_bytes()[15],
        };
        usize::from(byte) % SHARDS
    }
}

impl Reservation {
    /// The meters as the request finds them: with the reservations of those that came before it.
    pub(crate) fn read(&self, names: &[MeterName], now: Timestamp) -> Result<Vec<quota::Meter>, ReadError> {
        self.meters.show(names, &self.tenant, self.key, now, self.places)
    }

    /// Holds at least what is charged. One sum is held of a unit whatever the window, so the highest charge counts; a name that is no meter's is
    /// passed over.
    pub(crate) fn raise(&mut self, charges: &[quota::Charge]) {
        let Some((of_key, of_tenant)) = self.places else { return };
        for charge in charges {
            let Ok(name) = charge.meter.parse::<MeterName>() else { continue };
            let amounts = match name.unit {
                quota::Unit::Requests => Amounts { requests: charge.amount, ..Amounts::default() },
                quota::Unit::Tokens => Amounts { tokens: charge.amount, ..Amounts::default() },
                quota::Unit::MicroUsd => Amounts { cost: u128::from(charge.amount) * MILLION, ..Amounts::default() },
            };
            match name.scope {
                Scope::Key => self.meters.with(Holder::Key(self.key), |account| account.raise(of_key, &amounts)),
                Scope::Tenant => self.meters.with(Holder::Tenant(self.tenant.clone()), |account| account.raise(of_tenant, &amounts)),
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((of_key, of_tenant)) = self.places.take() {
            self.meters.with(Holder::Key(self.key), |account| account.release(of_key));
            self.meters.with(Holder::Tenant(self.tenant.clone()), |account| account.release(of_tenant));
        }
    }
}

fn meter_of(name: MeterName, used: &Amounts, reserved: &Amounts, now: Timestamp) -> quota::Meter {
    let of = |amounts: &Amounts| match name.unit {
        quota::Unit::Requests => amounts.requests,
        quota::Unit::Tokens => amounts.tokens,
        quota::Unit::MicroUsd => micro_dollars(amounts.cost),
    };
    let resets_ms = name.window.resets_ms(now);
    quota::Meter { name: name.to_string(), unit: name.unit, used: of(used), reserved: of(reserved), resets_ms }
}

/// Adds what one upstream served under one model's name.
fn add(counted: &mut Counted, recent: &Recent, amounts: impl Fn(&Tally) -> Result<Amounts, ReadError>) -> Result<(), ReadError> {
    let kinds = [(&recent.hours, &mut counted.hours), (&recent.days, &mut counted.days), (&recent.months, &mut counted.months)];
    for (windows, sums) in kinds {
        for (window, tally) in windows {
            sums.entry(*window).or_default().add(&amounts(tally)?);
        }
    }
    counted.total.add(&amounts(&recent.total)?);
    counted.last_used = counted.last_used.max(Some(recent.last_used));
    Ok(())
}

fn amounts_of(prices: &Prices, tenant: &TenantId, served: &Served, tally: &Tally) -> Result<Amounts, ReadError> {
    let Served { upstream, model_billed, model_requested } = served;
    let cost = prices.exact_cost(tenant, *upstream, model_billed.as_deref(), model_requested, &tally.tokens)?;
    Ok(Amounts { requests: tally.requests, tokens: tokens_of(&tally.tokens), cost: cost.unwrap_or(0) })
}

fn tokens_of(tokens: &schemas::usage::TokenParts) -> u64 {
    tokens.input().unwrap_or(0).saturating_add(tokens.output().unwrap_or(0))
}
