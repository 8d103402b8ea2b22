//! What one key, or one tenant, has used and holds: no clock, no lock, no disk.
//!
//! What is settled here stands under the number of its batch until a count from the usage models is known to hold that batch, so that it is
//! counted once at any moment: either here or there.

use std::collections::BTreeMap;

use schemas::{Sequence, Timestamp};

use super::name::Window;

/// The most batches that wait to be counted and are kept apart. Beyond it the latest are put together and count as one, which goes when the last
/// of them is counted: for that while some use is counted twice, and never less than once.
pub(super) const BATCHES_MAX: usize = 256;

/// The place of what is settled and in no batch yet: after all batches.
const UNNUMBERED: u64 = u64::MAX;

/// So much of each unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(super) requests: u64,
    pub(super) tokens: u64,
    /// In millionths of a micro-dollar.
    pub(super) cost: u128,
}

/// What the usage models have counted, as of one moment and one list of prices.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    pub(super) stamp: Stamp,
    /// The last of this node's batches that is in it.
    pub(super) last_batch: u64,
    pub(super) hours: BTreeMap<u32, Amounts>,
    pub(super) days: BTreeMap<u32, Amounts>,
    pub(super) months: BTreeMap<u32, Amounts>,
    pub(super) total: Amounts,
    pub(super) last_used: Option<Timestamp>,
}

/// How fresh a count is: first by what is counted, then by what it is priced with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    pub(super) as_of: Sequence,
    /// Counts the changes of prices.
    pub(super) prices: u64,
}

#[derive(Default)]
pub(super) struct Account {
    /// Reservations of requests under way, in the order in which they were made.
    open: BTreeMap<u64, Amounts>,
    /// The sum of them.
    reserved: Amounts,
    next_place: u64,
    /// Settled by this process, by batch and hour.
    settled: BTreeMap<(u64, u32), Amounts>,
    /// What was settled in batches up to this one may be gone from `settled`: a count must hold it.
    forgotten: u64,
    counted: Option<Counted>,
    last_used: Option<Timestamp>,
}

impl Amounts {
    pub(super) fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.cost = self.cost.saturating_add(other.cost);
    }

    fn subtract(&mut self, other: &Self) {
        self.requests = self.requests.saturating_sub(other.requests);
        self.tokens = self.tokens.saturating_sub(other.tokens);
        self.cost = self.cost.saturating_sub(other.cost);
    }

    /// At least as much of each.
    fn raise(&mut self, other: &Self) {
        *self =
            Self { requests: self.requests.max(other.requests), tokens: self.tokens.max(other.tokens), cost: self.cost.max(other.cost) };
    }
}

impl Account {
    /// An account that was dropped before may have known of batches up to `forgotten`.
    pub(super) fn new(forgotten: u64) -> Self {
        Self { forgotten, ..Self::default() }
    }

    /// Takes a place in the order of reservations.
    pub(super) fn reserve(&mut self, amounts: Amounts) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        self.reserved.add(&amounts);
        self.open.insert(place, amounts);
        place
    }

    /// Lets a reservation hold at least so much.
    pub(super) fn raise(&mut self, place: u64, amounts: &Amounts) {
        if let Some(held) = self.open.get_mut(&place) {
            self.reserved.subtract(held);
            held.raise(amounts);
            self.reserved.add(held);
        }
    }

    pub(super) fn release(&mut self, place: u64) {
        if let Some(held) = self.open.remove(&place) {
            self.reserved.subtract(&held);
        }
    }

    /// Books the real use of a request, and releases what it held.
    pub(super) fn settle(&mut self, place: Option<u64>, at: Timestamp, amounts: &Amounts) {
        if let Some(place) = place {
            self.release(place);
        }
        self.settled.entry((UNNUMBERED, at.hour())).or_default().add(amounts);
        self.last_used = self.last_used.max(Some(at));
    }

    /// What was settled got its batch.
    pub(super) fn number(&mut self, batch: u64, at: Timestamp, amounts: &Amounts) {
        let hour = at.hour();
        if let Some(unnumbered) = self.settled.get_mut(&(UNNUMBERED, hour)) {
            unnumbered.subtract(amounts);
            if *unnumbered == Amounts::default() {
                self.settled.remove(&(UNNUMBERED, hour));
            }
        }
        let mut sum = *amounts;
        if self.settled.len() >= BATCHES_MAX {
            let latest = self.settled.range(..(UNNUMBERED, 0)).rev().map(|(place, _)| *place).find(|(_, of)| *of == hour);
            if let Some(earlier) = latest.and_then(|place| self.settled.remove(&place)) {
                sum.add(&earlier);
            }
        }
        self.settled.entry((batch, hour)).or_default().add(&sum);
    }

    /// Forgets what the usage models have, where nobody reads the account and so nobody else would.
    pub(super) fn forget(&mut self, last_batch: u64) {
        if self.counted.as_ref().is_some_and(|counted| counted.last_batch < last_batch) {
            self.counted = None;
        }
        self.drop_settled(last_batch);
    }

    /// Takes a count over, unless it is older than what is here.
    pub(super) fn install(&mut self, counted: Counted) {
        if counted.last_batch < self.forgotten || self.counted.as_ref().is_some_and(|present| present.stamp > counted.stamp) {
            return;
        }
        self.drop_settled(counted.last_batch);
        self.last_used = self.last_used.max(counted.last_used);
        self.counted = Some(counted);
    }

    /// Whether what is counted is at least as fresh as this.
    pub(super) fn is_fresh(&self, stamp: Stamp) -> bool {
        let is_fresh = |counted: &Counted| counted.stamp.as_of >= stamp.as_of && counted.stamp.prices >= stamp.prices;
        self.counted.as_ref().is_some_and(is_fresh)
    }

    pub(super) fn is_counted(&self) -> bool {
        self.counted.is_some()
    }

    /// Whether the account may be dropped: the usage models know all that it knows.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.settled.is_empty()
    }

    /// What was used in the window that holds `now`.
    pub(super) fn used(&self, window: Window, now: Timestamp) -> Amounts {
        let counted = self.counted.as_ref();
        let mut used = match window {
            Window::Hour => counted.and_then(|counted| counted.hours.get(&now.hour())),
            Window::Day => counted.and_then(|counted| counted.days.get(&now.day())),
            Window::Month => counted.and_then(|counted| counted.months.get(&now.month())),
            Window::Total => counted.map(|counted| &counted.total),
        }
        .copied()
        .unwrap_or_default();
        let is_in = |hour: u32| {
            let at = Timestamp::from_micros(u64::from(hour) * 3_600_000_000);
            match window {
                Window::Hour => hour == now.hour(),
                Window::Day => at.day() == now.day(),
                Window::Month => at.month() == now.month(),
                Window::Total => true,
            }
        };
        self.settled.iter().filter(|((_, hour), _)| is_in(*hour)).for_each(|(_, amounts)| used.add(amounts));
        used
    }

    /// What requests under way hold: all of them, or those that reserved before one did.
    pub(super) fn reserved(&self, before: Option<u64>) -> Amounts {
        let mut reserved = self.reserved;
        if let Some(place) = before {
            self.open.range(place..).for_each(|(_, later)| reserved.subtract(later));
        }
        reserved
    }

    pub(super) fn last_used(&self) -> Option<Timestamp> {
        self.last_used
    }

    fn drop_settled(&mut self, last_batch: u64) {
        self.forgotten = self.forgotten.max(last_batch);
        while let Some(first) = self.settled.first_entry().filter(|first| first.key().0 <= last_batch) {
            first.remove();
        }
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
