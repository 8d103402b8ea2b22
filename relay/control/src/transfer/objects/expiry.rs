//! How long a key of a file is good here: as long as it was, within what its tenant allows.
//!
//! A file that was written before its tenant had a maximum, or elsewhere, may hold keys that go beyond it. They are not left out: clients hold
//! their secrets. They get the maximum, and are told of.

use projector::ReadError;
use schemas::key::{Key, Term};
use schemas::tenant::TenantChanged;
use schemas::{DurationText, Timestamp};

use super::Import;
use crate::transfer::line::KeyLine;

/// The time of a key as it is to be here.
pub(super) struct Time {
    pub(super) term: Term,
    pub(super) first_used_at: Option<Timestamp>,
    pub(super) expired_at: Option<Timestamp>,
    /// What is told where it is not the file's.
    pub(super) detail: Option<String>,
}

impl Import {
    /// A key's time here. A key that is here already is not given another one for the tenant's sake: the same file would at each import.
    pub(super) fn time(&self, line: &KeyLine, term: Term, before: Option<&Key>) -> Result<Time, ReadError> {
        let of_file = Time { term, first_used_at: line.first_used_at, expired_at: line.expired_at, detail: None };
        let TenantChanged { default_expiry_seconds: default, expiry_seconds_max: max, .. } = match self.tenants.get(&line.tenant) {
            Some(details) => details.clone(),
            None => match self.app.models.routes().tenant(&line.tenant) {
                Some(tenant) => tenant.value.details.clone(),
                None => return Ok(of_file),
            },
        };
        let now = self.app.now();
        let given = match term {
            Term::Unset => default.map(|seconds| (seconds, "default")).or(max.map(|seconds| (seconds, "maximum"))),
            _ => max.filter(|max| is_beyond(term, now, *max)).map(|seconds| (seconds, "maximum")),
        };
        let Some((seconds, by)) = given else { return Ok(of_file) };
        if let Some(key) = before {
            let is_as_before = (key.term(), key.first_used_at, key.expired_at) == (term, line.first_used_at, line.expired_at);
            let is_allowed = key.term() != Term::Unset && max.is_none_or(|max| !is_beyond(key.term(), now, max));
            if is_as_before || is_allowed {
                return Ok(Time { term: key.term(), first_used_at: key.first_used_at, expired_at: key.expired_at, detail: None });
            }
        }
        let cut = match term {
            Term::AfterFirstUse { .. } => Term::AfterFirstUse { seconds },
            Term::Unset | Term::Never | Term::At(_) => Term::At(now.plus_seconds(seconds)),
        };
        let why = if term == Term::Unset { "it had no expiry" } else { "it was good for longer than is allowed here" };
        let detail = Some(format!("{why}: it gets the tenant's {by}, {}", DurationText::from_seconds(seconds)));
        Ok(Time { term: cut, detail, ..of_file })
    }
}

/// Whether a key would be good for longer than so many seconds.
fn is_beyond(term: Term, now: Timestamp, seconds_max: u64) -> bool {
    match term {
        Term::Never | Term::Unset => true,
        Term::At(at) => at > now.plus_seconds(seconds_max),
        Term::AfterFirstUse { seconds } => seconds > seconds_max,
    }
}
