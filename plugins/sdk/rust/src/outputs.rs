//! Outputs, from verdicts.

use crate::{Effect, Verdict, expiry, quota, route};

impl From<Verdict> for route::Output {
    /// Without picks: for a permit, say which candidates stay ([`route::Output::picks`]), or [`route::Output::permit`].
    fn from(verdict: Verdict) -> Self {
        Self { verdict, picks: Vec::new() }
    }
}

impl route::Output {
    /// A permit for these candidates, in this order.
    pub fn permit(picks: Vec<route::Pick>) -> Self {
        Self { verdict: Verdict::permit(), picks }
    }
}

impl route::Candidate {
    /// Keeps this candidate at a rank, lower first, with the operator's weight.
    pub fn ranked(&self, rank: u32) -> route::Pick {
        route::Pick { id: self.id.clone(), rank, weight: self.weight }
    }

    /// Whether the operator gave this upstream the tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

impl From<Verdict> for quota::Output {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, reserve: Vec::new(), retry_ms: None }
    }
}

impl quota::Output {
    /// Tells a client that is refused how long to wait.
    #[must_use]
    pub const fn retry_in(mut self, wait_ms: u64) -> Self {
        self.retry_ms = Some(wait_ms);
        self
    }

    /// Holds so much of a meter until the request is settled. The host reserves at least its own estimate.
    #[must_use]
    pub fn reserving(mut self, meter: &str, amount: u64) -> Self {
        self.reserve.push(quota::Charge { meter: meter.to_owned(), amount });
        self
    }
}

impl quota::Input {
    /// The meter of this name; the manifest must list it.
    pub fn meter(&self, name: &str) -> Option<&quota::Meter> {
        self.meters.iter().find(|meter| meter.name == name)
    }
}

impl quota::Meter {
    /// What is used, and what requests under way hold.
    pub const fn taken(&self) -> u64 {
        self.used.saturating_add(self.reserved)
    }
}

impl From<Verdict> for expiry::Output {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, valid_until_ms: None }
    }
}

impl expiry::Output {
    /// A permit that holds until this moment, in milliseconds since the Unix epoch, at the latest.
    pub const fn permit_until(at_ms: i64) -> Self {
        Self { verdict: Verdict::permit(), valid_until_ms: Some(at_ms) }
    }
}

impl Verdict {
    /// Whether it refuses.
    pub fn is_deny(&self) -> bool {
        self.effect == Effect::Deny
    }
}
