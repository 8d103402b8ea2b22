//! Tenants: whom keys, upstreams and pools belong to.
//!
//! A suspended tenant is one whose keys are refused; nothing of it is changed by that, and it can be changed as before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::aggregate::At;
use crate::event::Event;
use crate::id::TenantId;
use crate::key::{Fact, Key, KeyError, RotationSchedule};
use crate::name::{self, NameError};
use crate::sealed::Sealed;
use crate::stream::Stream;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantCreated {
    /// For people; the tenant's id is its stream's.
    pub name: String,
}

/// What can be changed of a tenant at any time, after the change, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantChanged {
    pub name: String,
    /// How long a key is good whose creation says nothing about it. Absent: a creation must say.
    pub default_expiry_seconds: Option<u64>,
    /// The longest that a key may be given, at its creation and at each renewal. Absent: any time, and for ever.
    pub expiry_seconds_max: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantSuspended {
    pub reason: Option<Sealed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantResumed {}

/// How often keys with a tag get a new secret by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TagRotation {
    pub tag: String,
    pub every_seconds: u64,
    /// How long the secret before the new one stays good.
    pub overlap_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantRotationsSet {
    /// All of them, after the change.
    pub rotations: Vec<TagRotation>,
}

/// The state of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: TenantId,
    pub details: TenantChanged,
    pub created_at: Timestamp,
    /// Its keys are refused until it is resumed.
    pub suspended: Option<Fact>,
    /// For keys without a schedule of their own; of those that fit, the one with the shortest time.
    pub rotations: Vec<TagRotation>,
}

/// A change; an absent field stays as it is, a present inner `None` clears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantPatch {
    pub name: Option<String>,
    pub default_expiry_seconds: Option<Option<u64>>,
    pub expiry_seconds_max: Option<Option<u64>>,
    pub rotations: Option<Vec<TagRotation>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantCommand {
    Create(TenantChanged),
    /// Makes the tenant what it was elsewhere, in one record; suspended, for this reason if there is one. Its rotations stay where they are not told.
    Import {
        details: TenantChanged,
        rotations: Option<Vec<TagRotation>>,
        suspended: Option<Option<Sealed>>,
    },
    Change(TenantPatch),
    Suspend {
        reason: Option<Sealed>,
    },
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TenantError {
    #[error("the tenant exists already")]
    Exists,
    #[error("there is no such tenant")]
    NotFound,
    #[error("a default expiry and a maximum are at least one second; leave out what there shall be none of")]
    ExpiryZero,
    #[error("the default expiry is longer than the maximum")]
    DefaultBeyondMaximum,
    #[error("the schedule of a tag cannot be")]
    Rotation(#[source] KeyError),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl TenantChanged {
    /// A tenant with a name, which leaves the expiry of keys to whoever makes them.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), default_expiry_seconds: None, expiry_seconds_max: None }
    }

    fn check(&self) -> Result<(), TenantError> {
        name::check("name", &self.name)?;
        let Self { default_expiry_seconds: default, expiry_seconds_max: max, .. } = self;
        if [default, max].into_iter().flatten().any(|seconds| *seconds == 0) {
            return Err(TenantError::ExpiryZero);
        }
        match (default, max) {
            (Some(default), Some(max)) if default > max => Err(TenantError::DefaultBeyondMaximum),
            _ => Ok(()),
        }
    }
}

impl TenantPatch {
    fn applied_to(&self, details: &TenantChanged) -> TenantChanged {
        TenantChanged {
            name: self.name.clone().unwrap_or_else(|| details.name.clone()),
            default_expiry_seconds: self.default_expiry_seconds.unwrap_or(details.default_expiry_seconds),
            expiry_seconds_max: self.expiry_seconds_max.unwrap_or(details.expiry_seconds_max),
        }
    }
}

impl Tenant {
    pub(crate) fn decide(state: Option<&Self>, command: &TenantCommand) -> Result<Vec<Event>, TenantError> {
        let tenant = match (state, command) {
            (None, TenantCommand::Create(details)) => {
                details.check()?;
                let created = Event::TenantCreated(TenantCreated { name: details.name.clone() });
                let has_more = *details != TenantChanged::named(details.name.clone());
                return Ok([created].into_iter().chain(has_more.then(|| Event::TenantChanged(details.clone()))).collect());
            }
            (_, TenantCommand::Import { details, rotations, suspended }) => {
                return Self::decide_import(state, details, rotations.as_deref(), suspended.as_ref());
            }
            (Some(_), TenantCommand::Create(_)) => return Err(TenantError::Exists),
            (None, _) => return Err(TenantError::NotFound),
            (Some(tenant), _) => tenant,
        };
        match command {
            TenantCommand::Create(_) | TenantCommand::Import { .. } => Err(TenantError::Exists),
            TenantCommand::Change(patch) => {
                let details = patch.applied_to(&tenant.details);
                details.check()?;
                let mut events = if details == tenant.details { vec![] } else { vec![Event::TenantChanged(details)] };
                events.extend(rotations_set(patch.rotations.as_deref(), &tenant.rotations)?);
                Ok(events)
            }
            TenantCommand::Suspend { .. } if tenant.suspended.is_some() => Ok(vec![]),
            TenantCommand::Suspend { reason } => Ok(vec![Event::TenantSuspended(TenantSuspended { reason: reason.clone() })]),
            TenantCommand::Resume if tenant.suspended.is_none() => Ok(vec![]),
            TenantCommand::Resume => Ok(vec![Event::TenantResumed(TenantResumed {})]),
        }
    }

    fn decide_import(
        state: Option<&Self>,
        details: &TenantChanged,
        rotations: Option<&[TagRotation]>,
        suspended: Option<&Option<Sealed>>,
    ) -> Result<Vec<Event>, TenantError> {
        let mut events = match state {
            None => Self::decide(None, &TenantCommand::Create(details.clone()))?,
            Some(tenant) => {
                details.check()?;
                if *details == tenant.details { vec![] } else { vec![Event::TenantChanged(details.clone())] }
            }
        };
        events.extend(rotations_set(rotations, state.map_or(&[], |tenant| &tenant.rotations))?);
        match (suspended, state.is_some_and(|tenant| tenant.suspended.is_some())) {
            (Some(reason), false) => events.push(Event::TenantSuspended(TenantSuspended { reason: reason.clone() })),
            (None, true) => events.push(Event::TenantResumed(TenantResumed {})),
            (Some(_), true) | (None, false) => {}
        }
        Ok(events)
    }

    /// The schedule of a key: its own, else the shortest of those for its tags.
    pub fn rotation_of(&self, key: &Key) -> Option<RotationSchedule> {
        let of_tags = self.rotations.iter().filter(|rotation| key.details.tags.contains(&rotation.tag)).map(TagRotation::schedule);
        key.rotation.or_else(|| of_tags.min_by_key(|schedule| schedule.every_seconds))
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        match (state, event) {
            (None, Event::TenantCreated(created)) => Some(Self {
                id: stream.tenant().clone(),
                details: TenantChanged::named(created.name.clone()),
                created_at: at.time,
                suspended: None,
                rotations: vec![],
            }),
            (Some(tenant), Event::TenantChanged(details)) => Some(Self { details: details.clone(), ..tenant }),
            (Some(tenant), Event::TenantSuspended(suspended)) => {
                Some(Self { suspended: Some(Fact { at: at.time, by: at.actor, reason: suspended.reason.clone() }), ..tenant })
            }
            (Some(tenant), Event::TenantRotationsSet(set)) => Some(Self { rotations: set.rotations.clone(), ..tenant }),
            (Some(tenant), Event::TenantResumed(_)) => Some(Self { suspended: None, ..tenant }),
            _ => None,
        }
    }
}

impl TagRotation {
    pub const fn schedule(&self) -> RotationSchedule {
        RotationSchedule { every_seconds: self.every_seconds, overlap_seconds: self.overlap_seconds }
    }
}

/// What sets the rotations that are given, if they are not those that are there.
fn rotations_set(given: Option<&[TagRotation]>, present: &[TagRotation]) -> Result<Option<Event>, TenantError> {
    let Some(rotations) = given.filter(|given| *given != present) else { return Ok(None) };
    check_rotations(rotations)?;
    Ok(Some(Event::TenantRotationsSet(TenantRotationsSet { rotations: rotations.to_vec() })))
}

fn check_rotations(rotations: &[TagRotation]) -> Result<(), TenantError> {
    let tags: Vec<String> = rotations.iter().map(|rotation| rotation.tag.clone()).collect();
    name::check_list("rotations", &tags)?;
    rotations.iter().try_for_each(|rotation| rotation.schedule().check()).map_err(TenantError::Rotation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Aggregate, Command};
    use crate::rules::{self, Given, tenant};

    fn given(events: impl IntoIterator<Item = Event>) -> Given {
        rules::given(Stream::tenant_of(tenant()), events)
    }

    fn created() -> Event {
        Event::TenantCreated(TenantCreated { name: "Acme".into() })
    }

    fn details(default_expiry_seconds: Option<u64>, expiry_seconds_max: Option<u64>) -> TenantChanged {
        TenantChanged { default_expiry_seconds, expiry_seconds_max, ..TenantChanged::named("Acme") }
    }

    fn changed(default: Option<u64>, max: Option<u64>) -> Event {
        Event::TenantChanged(details(default, max))
    }

    fn create(details: TenantChanged) -> Command {
        Command::Tenant(TenantCommand::Create(details))
    }

    fn change(patch: TenantPatch) -> Command {
        Command::Tenant(TenantCommand::Change(patch))
    }

    fn suspend() -> Command {
        Command::Tenant(TenantCommand::Suspend { reason: None })
    }

    fn resume() -> Command {
        Command::Tenant(TenantCommand::Resume)
    }

    fn is_suspended(given: Given) -> bool {
        matches!(given.state(), Aggregate::Tenant(tenant) if tenant.suspended.is_some())
    }

    #[test]
    fn a_tenant_is_created_once() {
        let create = || create(TenantChanged::named("Acme"));
        given([]).when(create()).then([created()]).when(create()).then_refused(TenantError::Exists);
    }

    #[test]
    fn a_tenant_is_created_with_its_bounds_in_one_record() {
        given([]).when(create(details(Some(60), Some(3_600)))).then([created(), changed(Some(60), Some(3_600))]);
    }

    #[test]
    fn a_tenant_needs_a_clean_name_and_bounds_that_fit() {
        given([]).when(create(TenantChanged::named(""))).then_refused(TenantError::Name(NameError::Empty { field: "name" }));
        given([]).when(create(details(Some(0), None))).then_refused(TenantError::ExpiryZero);
        given([]).when(create(details(None, Some(0)))).then_refused(TenantError::ExpiryZero);
        given([]).when(create(details(Some(2), Some(1)))).then_refused(TenantError::DefaultBeyondMaximum);
        given([]).when(create(details(Some(2), Some(2)))).then([created(), changed(Some(2), Some(2))]);
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let max = |seconds| change(TenantPatch { expiry_seconds_max: Some(seconds), ..TenantPatch::default() });
        given([created(), changed(Some(60), None)])
            .when(max(Some(90)))
            .then([changed(Some(60), Some(90))])
            .when(max(Some(90)))
            .then_nothing()
            .when(max(Some(30)))
            .then_refused(TenantError::DefaultBeyondMaximum)
            .when(change(TenantPatch { default_expiry_seconds: Some(None), expiry_seconds_max: Some(Some(30)), ..TenantPatch::default() }))
            .then([changed(None, Some(30))])
            .when(max(None))
            .then([changed(None, None)]);
    }

    #[test]
    fn a_tenant_is_suspended_and_resumed() {
        let suspended = || Event::TenantSuspended(TenantSuspended { reason: None });
        let given = given([created()]).when(suspend()).then([suspended()]).when(suspend()).then_nothing();
        // A change of a suspended tenant does not resume it.
        let rename = change(TenantPatch { name: Some("New".into()), ..TenantPatch::default() });
        let given = given.when(rename).then([Event::TenantChanged(TenantChanged::named("New"))]);
        let resumed = given.when(suspend()).then_nothing().when(resume()).then([Event::TenantResumed(TenantResumed {})]);
        let resumed = resumed.when(resume()).then_nothing();
        assert!(!is_suspended(resumed));
        assert!(is_suspended(self::given([created(), suspended()])));
    }

    #[test]
    fn a_tenant_that_is_not_there_cannot_be_changed() {
        for command in [change(TenantPatch::default()), suspend(), resume()] {
            given([]).when(command).then_refused(TenantError::NotFound);
        }
    }

    #[test]
    fn an_import_makes_a_tenant_and_sets_one_that_is_there() {
        let import = |details: &TenantChanged, suspended: bool| {
            Command::Tenant(TenantCommand::Import { details: details.clone(), rotations: None, suspended: suspended.then_some(None) })
        };
        let (plain, bound) = (TenantChanged::named("a"), TenantChanged { expiry_seconds_max: Some(5), ..TenantChanged::named("b") });
        let suspended = || Event::TenantSuspended(TenantSuspended { reason: None });
        let given = given([]).when(import(&plain, true)).then([Event::TenantCreated(TenantCreated { name: "a".into() }), suspended()]);
        let given = given.when(import(&plain, true)).then_nothing();
        let given = given.when(import(&bound, false)).then([Event::TenantChanged(bound.clone()), Event::TenantResumed(TenantResumed {})]);
        let given = given.when(import(&bound, false)).then_nothing();
        let with = |rotations: &[TagRotation]| {
            let (details, rotations) = (bound.clone(), Some(rotations.to_vec()));
            Command::Tenant(TenantCommand::Import { details, rotations, suspended: None })
        };
        let set = |rotations: Vec<TagRotation>| Event::TenantRotationsSet(TenantRotationsSet { rotations });
        let given = given.when(with(&[])).then_nothing().when(with(&[rotation("ci", 60)])).then([set(vec![rotation("ci", 60)])]);
        // Where they are not told they stay.
        let given = given.when(import(&bound, false)).then_nothing().when(with(&[])).then([set(vec![])]);
        given.when(with(&[rotation("ci", 0)])).then_refused(TenantError::Rotation(KeyError::RotationSchedule));
    }

    fn rotation(tag: &str, every_seconds: u64) -> TagRotation {
        TagRotation { tag: tag.into(), every_seconds, overlap_seconds: 1 }
    }

    #[test]
    fn the_keys_of_a_tag_have_one_schedule() {
        let set = |rotations: &[TagRotation]| change(TenantPatch { rotations: Some(rotations.to_vec()), ..TenantPatch::default() });
        let both = [rotation("ci", 60), rotation("eu", 30)];
        let told = given([created()]).when(set(&both)).then([Event::TenantRotationsSet(TenantRotationsSet { rotations: both.to_vec() })]);
        let told = told.when(set(&both)).then_nothing();
        told.when(set(&[])).then([Event::TenantRotationsSet(TenantRotationsSet { rotations: vec![] })]);
        let wrong = given([created()]).when(set(&[rotation("ci", 0)]));
        wrong.then_refused(TenantError::Rotation(KeyError::RotationSchedule));
        let twice = given([created()]).when(set(&[rotation("ci", 60), rotation("ci", 30)]));
        twice.then_refused(TenantError::Name(NameError::Twice { field: "rotations", entry: "ci".into() }));
    }
}
