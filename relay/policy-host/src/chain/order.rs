//! In which order the candidates that are left are tried: the word of the first applicable route policy from narrow to broad.

use schemas::binding::Scope;
use schemas::{BindingId, PoolId};

use super::Candidate;
use super::terms::{BREADTH_OF_KEY, breadth};
use crate::contract::route::Pick;

/// A place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Lower is tried first.
    pub rank: u32,
    /// The share among candidates of one rank; 0 is used only when no other is left.
    pub weight: u32,
}

impl Rank {
    pub(super) const fn of(pick: &Pick) -> Self {
        Self { rank: pick.rank, weight: pick.weight }
    }
}

/// The order of the candidates. Whatever it is, those that are cooling come last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// The host's own: pools as the key names them, then priority and weight.
    Host,
    /// One policy ranks all of them, whatever their pool. One for each candidate; none only for those that are not left.
    Across(Vec<Option<Rank>>),
    /// Pools as the key names them; ranks count inside a pool only, and where there is none it is the host's priority and weight.
    Within(Vec<Option<Rank>>),
}

/// Who ranks what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rankers {
    /// Of the key, else of the tenant.
    all: Option<Ranker>,
    pools: Vec<(PoolId, Ranker)>,
    /// A policy that failed has put the host's own order in the place of all ranks.
    is_host: bool,
    /// The same for one pool.
    host_pools: Vec<PoolId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranker {
    /// Lower comes first: breadth of the scope, then the binding.
    precedence: (u8, BindingId),
    ranks: Vec<Option<Rank>>,
}

impl Rankers {
    pub(super) fn rank(&mut self, scope: Scope, binding: BindingId, ranks: impl FnOnce() -> Vec<Option<Rank>>) {
        let precedence = (breadth(scope), binding);
        let earlier = match scope {
            Scope::Tenant | Scope::Key(_) => self.all.as_ref(),
            Scope::Pool(pool) => self.pool(pool),
        };
        let is_later = earlier.is_some_and(|earlier| earlier.precedence < precedence);
        #[cfg(test)]
        let is_later = is_later && !super::planted::is(super::planted::Bug::LastRanks);
        if is_later {
            return;
        }
        let ranker = Ranker { precedence, ranks: ranks() };
        match scope {
            Scope::Tenant | Scope::Key(_) => self.all = Some(ranker),
            Scope::Pool(pool) => match self.pools.binary_search_by_key(&pool, |(id, _)| *id) {
                Ok(place) => self.pools[place].1 = ranker,
                Err(place) => self.pools.insert(place, (pool, ranker)),
            },
        }
    }

    pub(super) fn fall_back(&mut self, scope: Scope) {
        match scope {
            Scope::Tenant | Scope::Key(_) => self.is_host = true,
            Scope::Pool(pool) => {
                if let Err(place) = self.host_pools.binary_search(&pool) {
                    self.host_pools.insert(place, pool);
                }
            }
        }
    }

    pub(super) fn order(&self, candidates: &[Candidate<'_>]) -> Order {
        if self.is_host {
            return Order::Host;
        }
        let key = self.all.as_ref().filter(|ranker| ranker.precedence.0 == BREADTH_OF_KEY);
        let has_pool_ranks = !self.pools.is_empty() && key.is_none();
        match &self.all {
            None if self.pools.is_empty() => Order::Host,
            Some(ranker) if !has_pool_ranks && self.host_pools.is_empty() => Order::Across(ranker.ranks.clone()),
            _ => Order::Within(candidates.iter().enumerate().map(|(place, one)| self.within(key, place, one.pool)).collect()),
        }
    }

    /// The rank of a candidate inside its pool.
    fn within(&self, key: Option<&Ranker>, place: usize, pool: PoolId) -> Option<Rank> {
        if self.host_pools.contains(&pool) {
            return None;
        }
        let ranker = key.or_else(|| self.pool(pool)).or(self.all.as_ref())?;
        ranker.ranks.get(place).copied().flatten()
    }

    fn pool(&self, pool: PoolId) -> Option<&Ranker> {
        self.pools.binary_search_by_key(&pool, |(id, _)| *id).ok().map(|place| &self.pools[place].1)
    }
}
