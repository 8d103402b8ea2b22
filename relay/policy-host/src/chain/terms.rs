//! What a permit asks of the relay: caps and tags. They only ever get stricter.

use schemas::BindingId;
use schemas::binding::Scope;

use crate::contract::Attribute;

/// What must hold for the permits to count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// In tokens.
    pub output_max: Option<u64>,
    /// Requests of the key under way at once.
    pub parallel_max: Option<u32>,
    /// Milliseconds since the Unix epoch.
    pub valid_until_ms: Option<i64>,
    /// In the order of names, which are unique.
    pub tags: Vec<Tag>,
}

/// A tag of the usage record, and who set it: of two values for one name that of the narrower scope counts, then that of the lower id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub name: String,
    pub value: String,
    scope: u8,
    binding: BindingId,
}

impl Terms {
    pub(super) fn cap_output(&mut self, tokens: u64) {
        self.output_max = Some(at_most(self.output_max, tokens));
    }

    pub(super) fn cap_parallel(&mut self, requests: u32) {
        self.parallel_max = Some(at_most(self.parallel_max, requests));
    }

    pub(super) fn end_at(&mut self, until_ms: i64) {
        self.valid_until_ms = Some(at_most(self.valid_until_ms, until_ms));
    }

    pub(super) fn tag(&mut self, tag: &Attribute, scope: Scope, binding: BindingId) {
        self.add_tag(Tag { name: tag.name.clone(), value: tag.value.clone(), scope: breadth(scope), binding });
    }

    pub(super) fn add_tag(&mut self, tag: Tag) {
        match self.tags.binary_search_by(|one| one.name.cmp(&tag.name)) {
            Err(place) => self.tags.insert(place, tag),
            Ok(place) if tag.precedence() < self.tags[place].precedence() => self.tags[place] = tag,
            Ok(_) => {}
        }
    }

    /// Whether anything at all is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Tag {
    /// A policy that sets one tag twice says nothing sensible; the lesser value then counts, in whatever order they come.
    fn precedence(&self) -> (u8, BindingId, &str) {
        (self.scope, self.binding, &self.value)
    }
}

pub(super) const BREADTH_OF_KEY: u8 = 0;

/// Lower is narrower.
pub(super) const fn breadth(scope: Scope) -> u8 {
    match scope {
        Scope::Key(_) => BREADTH_OF_KEY,
        Scope::Pool(_) => 1,
        Scope::Tenant => 2,
    }
}

fn at_most<T: Ord>(cap: Option<T>, other: T) -> T {
    match cap {
        #[cfg(test)]
        Some(cap) if super::planted::is(super::planted::Bug::HighestCap) => cap.max(other),
        Some(cap) => cap.min(other),
        None => other,
    }
}
