//! Sums that can be priced: by what served the requests, since a price belongs to an upstream's pool and a model.
//!
//! Prices are applied when sums are read, never when they are folded, so that a corrected price corrects the past as well.

use schemas::usage::{TokenParts, UsageRecord};
use schemas::{KeyId, TenantId, Timestamp, UpstreamId};
use serde::{Deserialize, Serialize};

use super::rows::{Dimension, sum};
use crate::store::key;

/// How many of the latest hours, days and months a [`Recent`] row holds. More than one, because nodes deliver in no common order, and a
/// record of a clock that is ahead must not hide the present.
const WINDOWS_KEPT: usize = 4;

/// The names of what served some requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Served {
    pub upstream: UpstreamId,
    /// As the upstream says it answered.
    pub model_billed: Option<String>,
    pub model_requested: String,
}

/// Requests and the sums of their token parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub requests: u64,
    pub tokens: TokenParts,
}

/// What somebody used lately, and over all time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// By hour, day and month in UTC, as [`Timestamp`] numbers them, the latest last.
    pub hours: Vec<(u32, Tally)>,
    pub days: Vec<(u32, Tally)>,
    pub months: Vec<(u32, Tally)>,
    pub total: Tally,
    pub last_used: Timestamp,
}

/// Whose use a [`Recent`] row sums up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UsageScope {
    Tenant,
    Key(KeyId),
}

impl Served {
    pub(super) fn of(record: &UsageRecord) -> Self {
        Self { upstream: record.upstream, model_billed: record.model_billed.clone(), model_requested: record.model_requested.clone() }
    }

    /// Requests of which no token is known cost nothing that could be told, so that their models, which are the clients' text, are left out.
    pub(super) fn of_recent(record: &UsageRecord) -> Self {
        if has_tokens(&record.tokens) {
            Self::of(record)
        } else {
            Self { upstream: record.upstream, model_billed: None, model_requested: String::new() }
        }
    }

    /// The end of a row's key. The length of the billed model tells where it ends; zero is that of none, one more than it is that of some.
    fn bytes(&self) -> Vec<u8> {
        let billed = self.model_billed.as_deref();
        let length = billed.map_or(0, |billed| u32::try_from(billed.len()).unwrap_or(u32::MAX - 1) + 1);
        [self.upstream.as_bytes(), &length.to_be_bytes()[..], billed.unwrap_or_default().as_bytes(), self.model_requested.as_bytes()]
            .concat()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (upstream, rest) = bytes.split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let (billed, requested) = rest.split_at_checked(length.saturating_sub(1))?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let model_billed = if length == 0 { None } else { Some(text(billed)?) };
        Some(Self { upstream: UpstreamId::from_bytes(*upstream), model_billed, model_requested: text(requested)? })
    }
}

impl Tally {
    pub(super) fn of(record: &UsageRecord) -> Self {
        Self { requests: 1, tokens: record.tokens }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.tokens = sum(&self.tokens, &other.tokens);
    }
}

impl Default for Recent {
    fn default() -> Self {
        let (hours, days, months) = Default::default();
        Self { hours, days, months, total: Tally::default(), last_used: Timestamp::from_micros(0) }
    }
}

impl Recent {
    pub(super) fn count(&mut self, record: &UsageRecord) {
        let (tally, at) = (Tally::of(record), record.settled_at);
        count_in(&mut self.hours, at.hour(), &tally);
        count_in(&mut self.days, at.day(), &tally);
        count_in(&mut self.months, at.month(), &tally);
        self.total.add(&tally);
        self.last_used = self.last_used.max(at);
    }
}

/// Counts in one window, and lets the earliest go where there are too many.
fn count_in(windows: &mut Vec<(u32, Tally)>, window: u32, tally: &Tally) {
    match windows.binary_search_by_key(&window, |(window, _)| *window) {
        Ok(place) => windows[place].1.add(tally),
        Err(0) if windows.len() >= WINDOWS_KEPT => {}
        Err(place) => {
            windows.insert(place, (window, *tally));
            if windows.len() > WINDOWS_KEPT {
                windows.remove(0);
            }
        }
    }
}

/// Whether anything is known of the tokens.
pub(super) fn has_tokens(tokens: &TokenParts) -> bool {
    tokens.input().or(tokens.output()).is_some()
}

/// What the keys of the tallies of one member begin with; of all members of a day where none is given.
pub(super) fn tallies_prefix(tenant: &TenantId, dimension: Dimension, day: Option<u32>, member: &[u8]) -> Vec<u8> {
    let mut prefix = key::of_tenant(tenant);
    prefix.push(dimension as u8);
    prefix.extend(day.map(u32::to_be_bytes).into_iter().flatten());
    prefix.extend_from_slice(member);
    prefix
}

pub(super) fn tally_key(tenant: &TenantId, dimension: Dimension, day: u32, member: &[u8], served: &Served) -> Vec<u8> {
    [tallies_prefix(tenant, dimension, Some(day), member), served.bytes()].concat()
}

pub(super) fn recent_prefix(tenant: &TenantId, scope: UsageScope) -> Vec<u8> {
    let mut prefix = key::of_tenant(tenant);
    match scope {
        UsageScope::Tenant => prefix.push(0),
        UsageScope::Key(id) => {
            prefix.push(1);
            prefix.extend_from_slice(id.as_bytes());
        }
    }
    prefix
}

pub(super) fn recent_key(tenant: &TenantId, scope: UsageScope, served: &Served) -> Vec<u8> {
    [recent_prefix(tenant, scope), served.bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_served_is_read_back_from_a_key() {
        for billed in [None, Some(String::new()), Some("gpt-4o".to_owned()), Some("x".repeat(300))] {
            for requested in ["", "gpt", "\u{0}\u{1}é"] {
                let upstream = UpstreamId::from_bytes([7; 16]);
                let served = Served { upstream, model_billed: billed.clone(), model_requested: requested.to_owned() };
                assert_eq!(Served::parse(&served.bytes()), Some(served));
            }
        }
        assert_eq!(Served::parse(&[0; 19]), None);
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_hide_the_present() {
        let one = Tally { requests: 1, ..Tally::default() };
        let mut windows = Vec::new();
        for window in [9_999, 5, 5, 6, 7, 7, 7, 4, 5] {
            count_in(&mut windows, window, &one);
        }
        let requests: Vec<_> = windows.iter().map(|(window, tally)| (*window, tally.requests)).collect();
        // The fifth window came too late to be kept.
        assert_eq!(requests, [(5, 3), (6, 1), (7, 3), (9_999, 1)]);
    }
}
