//! The order in which upstreams are tried for one request.
//!
//! Pools in the key's order, inside a pool lower priority first, inside a priority by chance in proportion to weight. Weight 0 comes
//! when no other is left, and upstreams in a cool-down come last of all, the one whose pause ends soonest first: they are put back,
//! never left out, so the last one is always tried.
//!
//! Policies may take candidates away and put others first, but for the cooling; a request that they decided on draws from its own seed.

use std::cmp::Reverse;
use std::sync::Arc;

use policy_host::chain::Order;
use schemas::Timestamp;
use schemas::key::Key;
use schemas::upstream::Dialect;

use crate::cooling::Cooling;
use crate::random::{Random, Seeded};
use crate::targets::{Snapshot, Target};

/// Upstreams for one request that were not tried yet.
pub(crate) struct Selection {
    left: Vec<Candidate>,
    /// Of a request that policies decided on.
    seeded: Option<Seeded>,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) target: Arc<Target>,
    tier: Tier,
    weight: u32,
}

impl Candidate {
    pub(crate) const fn is_cooling(&self) -> bool {
        matches!(self.tier, Tier::Cooling { .. })
    }
}

/// Lower is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Ready {
        pool: usize,
        priority: u32,
    },
    /// Of weight 0.
    Reserve {
        pool: usize,
        priority: u32,
    },
    Cooling {
        until: Timestamp,
    },
}

impl Tier {
    /// The place that a policy gives. A cool-down stays what it is.
    const fn ranked(self, rank: u32, weight: u32, is_across: bool) -> Self {
        let pool = match self {
            Self::Cooling { .. } => return self,
            Self::Ready { .. } | Self::Reserve { .. } if is_across => 0,
            Self::Ready { pool, .. } | Self::Reserve { pool, .. } => pool,
        };
        if weight == 0 { Self::Reserve { pool, priority: rank } } else { Self::Ready { pool, priority: rank } }
    }
}

impl Selection {
    /// All upstreams of the dialect that the key may use for the model; for any model if none is given.
    pub(crate) fn new(snapshot: &Snapshot, cooling: &Cooling, key: &Key, dialect: Dialect, model: Option<&str>, now: Timestamp) -> Self {
        let candidate = |target: &Arc<Target>| {
            let upstream = &target.route.upstream;
            let details = &upstream.details;
            if details.dialect != dialect || !model.is_none_or(|model| target.serves(model)) {
                return None;
            }
            let (pool, priority) = (target.pool_rank(key)?, details.priority);
            let tier = match cooling.until(upstream.id, target.standing(), now) {
                Some(until) => Tier::Cooling { until },
                None if details.weight == 0 => Tier::Reserve { pool, priority },
                None => Tier::Ready { pool, priority },
            };
            Some(Candidate { target: Arc::clone(target), tier, weight: details.weight })
        };
        Self { left: snapshot.targets.iter().filter_map(candidate).collect(), seeded: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// All candidates in an order that does not depend on chance: the host's own, heavier ones first.
    pub(crate) fn candidates(&mut self) -> &[Candidate] {
        self.left.sort_by_key(|candidate| (candidate.tier, Reverse(candidate.weight), candidate.target.route.upstream.id));
        &self.left
    }

    /// Of these candidates those that stay, in the order that policies gave them.
    pub(crate) fn decided(candidates: &[Candidate], stays: impl Fn(usize) -> bool, order: &Order, seed: u64) -> Self {
        let place = |(place, candidate): (usize, &Candidate)| {
            stays(place).then(|| {
                let mut candidate = candidate.clone();
                let (rank, is_across) = match order {
                    Order::Host => (None, false),
                    Order::Across(ranks) => (ranks[place], true),
                    Order::Within(ranks) => (ranks[place], false),
                };
                if let Some(rank) = rank {
                    candidate.weight = rank.weight;
                    candidate.tier = candidate.tier.ranked(rank.rank, rank.weight, is_across);
                }
                candidate
            })
        };
        let left = candidates.iter().enumerate().filter_map(place).collect();
        Self { left, seeded: Some(Seeded::new(seed)) }
    }

    pub(crate) fn retain(&mut self, stays: impl Fn(&Arc<Target>) -> bool) {
        self.left.retain(|candidate| stays(&candidate.target));
    }

    /// The next one to try.
    pub(crate) fn next(&mut self, random: &Random) -> Option<Arc<Target>> {
        let Self { left, seeded } = self;
        let below = |bound| seeded.as_mut().map_or_else(|| random.below(bound), |seeded| seeded.below(bound));
        let place = next_place(left, |candidate| (candidate.tier, candidate.weight), below)?;
        Some(left.swap_remove(place).target)
    }

    /// All of them, in the order of this moment.
    pub(crate) fn into_order(mut self, random: &Random) -> Vec<Arc<Target>> {
        std::iter::from_fn(|| self.next(random)).collect()
    }
}

/// Draws from the lowest tier, by weight; equal chances where all weights are 0.
fn next_place<T>(left: &[T], rank: impl Fn(&T) -> (Tier, u32), below: impl FnOnce(u64) -> u64) -> Option<usize> {
    let lowest = left.iter().map(|one| rank(one).0).min()?;
    let shares = left.iter().enumerate().filter_map(|(place, one)| {
        let (tier, weight) = rank(one);
        // One share for those of weight 0, which are alone in their tier.
        (tier == lowest).then_some((place, u64::from(weight.max(1))))
    });
    let mut draw = match shares.clone().map(|(_, share)| share).sum() {
        total if left.len() > 1 => below(total),
        _ => 0,
    };
    shares.into_iter().find_map(|(place, share)| {
        let hit = draw < share;
        draw = draw.saturating_sub(share);
        hit.then_some(place)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const DRAWS: usize = 20_000;

    fn ready(pool: usize, priority: u32, weight: u32) -> (Tier, u32) {
        (if weight == 0 { Tier::Reserve { pool, priority } } else { Tier::Ready { pool, priority } }, weight)
    }

    fn cooling(seconds: u64) -> (Tier, u32) {
        (Tier::Cooling { until: Timestamp::from_micros(seconds) }, 1)
    }

    fn order(ranks: &[(Tier, u32)], random: &Random) -> Vec<usize> {
        let mut left: Vec<_> = ranks.iter().copied().enumerate().collect();
        std::iter::from_fn(|| {
            let place = next_place(&left, |(_, rank)| *rank, |bound| random.below(bound))?;
            Some(left.swap_remove(place).0)
        })
        .collect()
    }

    #[test]
    fn pools_then_priorities_then_reserves_then_the_cooling() {
        let random = Random::new().unwrap();
        let ranks = [cooling(9), ready(1, 1, 1), ready(0, 50, 1), cooling(3), ready(0, 10, 0), ready(0, 10, 5)];
        for _ in 0..100 {
            assert_eq!(order(&ranks, &random), [5, 2, 1, 4, 3, 0]);
        }
    }

    #[test]
    fn inside_a_priority_chances_are_as_the_weights() {
        let random = Random::new().unwrap();
        let ranks = [ready(0, 1, 1), ready(0, 1, 3), ready(0, 1, 6), ready(0, 1, 0)];
        let mut firsts = [0_usize; 4];
        let mut seconds_after_the_heaviest = [0_usize; 4];
        for _ in 0..DRAWS {
            let order = order(&ranks, &random);
            firsts[order[0]] += 1;
            if order[0] == 2 {
                seconds_after_the_heaviest[order[1]] += 1;
            }
            assert_eq!(order[3], 3);
        }
        // Six standard deviations of a binomial with these chances are below 3 % of the draws.
        for (count, chance) in firsts.into_iter().zip([0.1, 0.3, 0.6, 0.0]) {
            assert!((count as f64 / DRAWS as f64 - chance).abs() < 0.03, "{firsts:?}");
        }
        let share = seconds_after_the_heaviest[1] as f64 / firsts[2] as f64;
        assert!((share - 0.75).abs() < 0.03, "{seconds_after_the_heaviest:?}");
    }

    #[test]
    fn a_policys_rank_moves_all_but_the_cooling() {
        let ready = Tier::Ready { pool: 3, priority: 50 };
        assert_eq!(ready.ranked(1, 5, true), Tier::Ready { pool: 0, priority: 1 });
        assert_eq!(ready.ranked(1, 5, false), Tier::Ready { pool: 3, priority: 1 });
        assert_eq!(ready.ranked(1, 0, false), Tier::Reserve { pool: 3, priority: 1 });
        assert_eq!(cooling(7).0.ranked(0, 5, true), cooling(7).0);
    }

    #[test]
    fn a_seed_draws_the_same_again() {
        let draw = |seed| {
            let mut seeded = Seeded::new(seed);
            let ranks = [ready(0, 1, 1), ready(0, 1, 1), ready(0, 1, 1)];
            let mut left: Vec<_> = ranks.into_iter().enumerate().collect();
            std::iter::from_fn(|| {
                let place = next_place(&left, |(_, rank)| *rank, |bound| seeded.below(bound))?;
                Some(left.swap_remove(place).0)
            })
            .collect::<Vec<_>>()
        };
        assert!((0..50).all(|seed| draw(seed) == draw(seed)));
        assert!((0..50).any(|seed| draw(seed) != draw(0)));
    }

    #[test]
    fn reserves_have_equal_chances() {
        let random = Random::new().unwrap();
        let ranks = [ready(0, 1, 0), ready(0, 1, 0)];
        let firsts = (0..DRAWS).filter(|_| order(&ranks, &random)[0] == 0).count();
        assert!((firsts as f64 / DRAWS as f64 - 0.5).abs() < 0.03, "{firsts}");
    }
}
