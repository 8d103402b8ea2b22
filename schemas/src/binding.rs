//! Bindings: where a policy applies, and how. They change only by events, so "which policy was active at sequence n" has one answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::aggregate::At;
use crate::event::Event;
use crate::id::{BindingId, Digest, KeyId, PoolId, TenantId};
use crate::policy::PolicyKind;
use crate::stream::Stream;
use crate::time::Timestamp;

/// The most bytes of a binding's settings.
pub const SETTINGS_BYTES_MAX: usize = 16 * 1024;

/// The requests that a binding is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of the tenant.
    Tenant,
    /// Those that may go to the pool's upstreams. What the policy decides holds for that pool alone.
    Pool(PoolId),
    /// Those of one key.
    Key(KeyId),
}

/// How much of what a policy says counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Enforce,
    /// Enforced for so many per cent of the keys, chosen by a hash of the key; for the others what was enforced before, if anything.
    Canary(u8),
    /// Evaluated and recorded; nothing it says counts.
    Shadow,
    Off,
}

/// What a policy's fault (a trap, an overrun, an answer that breaks the contract) counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFault {
    Deny,
    /// The stage falls back to the host's own limits and order.
    Baseline,
    /// As if the policy were not bound.
    Skip,
}

impl OnFault {
    /// What a binding has that does not say: a dead key must not live on through a fault, and neither must a fault be an outage.
    pub const fn default_for(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Expiry => Self::Deny,
            PolicyKind::Quota | PolicyKind::Route => Self::Baseline,
        }
    }
}

/// What is bound: a policy with its settings, and how much of it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bound {
    pub policy: Digest,
    /// Canonical JSON, accepted by the policy's `configure`.
    pub settings: String,
    pub mode: Mode,
    pub on_fault: OnFault,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindingCreated {
    pub kind: PolicyKind,
    pub scope: Scope,
    pub bound: Bound,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindingChanged {
    /// What is bound after the change, whole.
    pub bound: Bound,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindingRolledBack {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BindingRemoved {}

/// How a policy that was enforced came to be so no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Left {
    /// Another policy, or other settings, took its place.
    Replaced,
    /// The binding was off since, or the policy itself was in another mode before something took its place.
    StoodDown,
    /// Somebody went back from it.
    RolledBack,
}

/// The state of a binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub id: BindingId,
    pub tenant: TenantId,
    pub kind: PolicyKind,
    pub scope: Scope,
    pub bound: Bound,
    /// What was enforced last with another policy or other settings: what a rollback returns to.
    pub previous: Option<Bound>,
    /// What was enforced last, which may be the policy and settings that are bound now, in another mode.
    pub enforced: Option<Bound>,
    /// How [`Self::previous`] was left.
    pub left: Left,
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
    pub removed: bool,
}

/// A change; an absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BindingPatch {
    /// The policy and its kind.
    pub policy: Option<(Digest, PolicyKind)>,
    pub settings: Option<String>,
    pub mode: Option<Mode>,
    pub on_fault: Option<OnFault>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindingCommand {
    Create(Box<BindingCreated>),
    /// Makes the binding what it was elsewhere. One that was removed here is there again.
    Import(Box<BindingCreated>),
    Change(Box<BindingPatch>),
    RollBack,
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BindingError {
    #[error("the binding exists already")]
    Exists,
    #[error("there is no such binding")]
    NotFound,
    #[error("the binding is of kind {}, the policy of kind {}", binding.as_str(), policy.as_str())]
    Kind { binding: PolicyKind, policy: PolicyKind },
    #[error("settings have at most {SETTINGS_BYTES_MAX} bytes")]
    SettingsTooLarge,
    #[error("a canary has 1 to 99 per cent of the keys")]
    Canary,
    #[error("nothing was bound before")]
    NothingBefore,
}

impl Bound {
    /// Whether policy or settings differ. The same in another mode is the same.
    fn is_other(&self, other: &Self) -> bool {
        (&self.policy, &self.settings) != (&other.policy, &other.settings)
    }
}

impl Binding {
    /// What a canary's other keys have, and what a node falls back to that cannot run what is bound.
    pub fn fallback(&self) -> Option<&Bound> {
        self.previous.as_ref().filter(|_| self.left == Left::Replaced)
    }

    pub(crate) fn decide(state: Option<&Self>, command: &BindingCommand) -> Result<Vec<Event>, BindingError> {
        let binding = match (state, command) {
            (None, BindingCommand::Create(created)) | (None | Some(Self { removed: true, .. }), BindingCommand::Import(created)) => {
                check(&created.bound)?;
                return Ok(vec![Event::BindingCreated((**created).clone())]);
            }
            (Some(_), BindingCommand::Create(_)) => return Err(BindingError::Exists),
            (None | Some(Self { removed: true, .. }), _) => return Err(BindingError::NotFound),
            (Some(binding), _) => binding,
        };
        match command {
            BindingCommand::Create(_) => Err(BindingError::Exists),
            BindingCommand::Import(created) if (created.kind, created.scope) != (binding.kind, binding.scope) => Err(BindingError::Exists),
            BindingCommand::Import(created) => {
                check(&created.bound)?;
                let changed = || Event::BindingChanged(BindingChanged { bound: created.bound.clone() });
                Ok(if created.bound == binding.bound { vec![] } else { vec![changed()] })
            }
            BindingCommand::Change(patch) => {
                let bound = patch.applied_to(binding)?;
                check(&bound)?;
                Ok(if bound == binding.bound { vec![] } else { vec![Event::BindingChanged(BindingChanged { bound })] })
            }
            BindingCommand::RollBack if binding.previous.is_none() => Err(BindingError::NothingBefore),
            BindingCommand::RollBack => Ok(vec![Event::BindingRolledBack(BindingRolledBack {})]),
            BindingCommand::Remove => Ok(vec![Event::BindingRemoved(BindingRemoved {})]),
        }
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        match (state, event) {
            // One that was removed comes back by an import only.
            (None | Some(Self { removed: true, .. }), Event::BindingCreated(created)) => Some(Self {
                id: BindingId::from_bytes(*stream.id()),
                tenant: stream.tenant().clone(),
                kind: created.kind,
                scope: created.scope,
                bound: created.bound.clone(),
                previous: None,
                enforced: None,
                left: Left::Replaced,
                created_at: at.time,
                changed_at: at.time,
                removed: false,
            }),
            (Some(binding), Event::BindingChanged(changed)) => {
                let Self { bound: before, previous, enforced, left, .. } = binding;
                let bound = changed.bound.clone();
                let is_enforced = before.mode == Mode::Enforce;
                let is_replaced = is_enforced && before.is_other(&bound);
                let enforced = if is_enforced { Some(before) } else { enforced };
                // What was only on trial is no place to return to.
                let (previous, left) = match enforced.clone().filter(|enforced| enforced.is_other(&bound)) {
                    Some(enforced) if is_replaced && bound.mode != Mode::Off => (Some(enforced), Left::Replaced),
                    Some(enforced) if previous.as_ref() != Some(&enforced) => (Some(enforced), Left::StoodDown),
                    _ if bound.mode == Mode::Off && left == Left::Replaced => (previous, Left::StoodDown),
                    _ => (previous, left),
                };
                Some(Self { bound, previous, enforced, left, changed_at: at.time, ..binding })
            }
            (Some(binding), Event::BindingRolledBack(_)) => {
                let Self { bound: before, previous, enforced, left, .. } = binding;
                let (bound, is_enforced) = (previous?, before.mode == Mode::Enforce);
                // Going back from a rollback is going on: what had been returned to was good.
                let left = match left == Left::RolledBack && is_enforced {
                    true if bound.mode == Mode::Off => Left::StoodDown,
                    true => Left::Replaced,
                    false => Left::RolledBack,
                };
                let enforced = if is_enforced { Some(before.clone()) } else { enforced };
                Some(Self { bound, previous: Some(before), enforced, left, changed_at: at.time, ..binding })
            }
            (Some(binding), Event::BindingRemoved(_)) => Some(Self { removed: true, changed_at: at.time, ..binding }),
            _ => None,
        }
    }
}

impl BindingPatch {
    fn applied_to(&self, binding: &Binding) -> Result<Bound, BindingError> {
        let (patch, bound) = (self.clone(), &binding.bound);
        if let Some((_, policy)) = patch.policy.filter(|(_, kind)| *kind != binding.kind) {
            return Err(BindingError::Kind { binding: binding.kind, policy });
        }
        Ok(Bound {
            policy: patch.policy.map_or(bound.policy, |(digest, _)| digest),
            settings: patch.settings.unwrap_or_else(|| bound.settings.clone()),
            mode: patch.mode.unwrap_or(bound.mode),
            on_fault: patch.on_fault.unwrap_or(bound.on_fault),
        })
    }
}

fn check(bound: &Bound) -> Result<(), BindingError> {
    if bound.settings.len() > SETTINGS_BYTES_MAX {
        return Err(BindingError::SettingsTooLarge);
    }
    match bound.mode {
        Mode::Canary(percent) if !(1..=99).contains(&percent) => Err(BindingError::Canary),
        Mode::Enforce | Mode::Canary(_) | Mode::Shadow | Mode::Off => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Aggregate, Command};
    use crate::rules::{self, Given, tenant};

    fn bound(policy: u8, mode: Mode) -> Bound {
        Bound { policy: Digest::from_bytes([policy; 32]), settings: "{}".into(), mode, on_fault: OnFault::Baseline }
    }

    fn created(mode: Mode) -> BindingCreated {
        BindingCreated { kind: PolicyKind::Route, scope: Scope::Tenant, bound: bound(1, mode) }
    }

    fn given(mode: Mode) -> Given {
        rules::given(Stream::binding(tenant(), BindingId::from_bytes([7; 16])), [Event::BindingCreated(created(mode))])
    }

    fn change(patch: BindingPatch) -> Command {
        Command::Binding(BindingCommand::Change(Box::new(patch)))
    }

    fn to(policy: u8, mode: Mode) -> Command {
        change(BindingPatch { policy: Some((Digest::from_bytes([policy; 32]), PolicyKind::Route)), mode: Some(mode), ..Default::default() })
    }

    fn changed(policy: u8, mode: Mode) -> Event {
        Event::BindingChanged(BindingChanged { bound: bound(policy, mode) })
    }

    fn state(given: Given) -> Binding {
        let Aggregate::Binding(binding) = given.state() else { panic!("a binding") };
        *binding
    }

    const ROLL_BACK: Command = Command::Binding(BindingCommand::RollBack);

    #[test]
    fn a_rollback_is_one_event_and_can_itself_be_undone() {
        let rolled_back = || [Event::BindingRolledBack(BindingRolledBack {})];
        let given = given(Mode::Enforce).when(to(2, Mode::Enforce)).then([changed(2, Mode::Enforce)]).when(ROLL_BACK).then(rolled_back());
        let given = given.when(ROLL_BACK).then(rolled_back());
        let binding = state(given);
        assert_eq!(
            (binding.bound.policy, binding.previous.map(|bound| bound.policy)),
            (Digest::from_bytes([2; 32]), Some(Digest::from_bytes([1; 32])))
        );
    }

    #[test]
    fn a_canary_that_is_widened_or_replaced_still_returns_to_what_was_enforced() {
        let given = given(Mode::Enforce).when(to(2, Mode::Canary(10))).then([changed(2, Mode::Canary(10))]);
        let given = given.when(to(2, Mode::Canary(50))).then([changed(2, Mode::Canary(50))]);
        let given = given.when(to(3, Mode::Canary(10))).then([changed(3, Mode::Canary(10))]);
        let binding = state(given.when(ROLL_BACK).then([Event::BindingRolledBack(BindingRolledBack {})]));
        assert_eq!(binding.bound, bound(1, Mode::Enforce));
    }

    #[test]
    fn what_was_turned_off_can_be_returned_to_and_is_no_fallback() {
        let tried = || {
            let given = given(Mode::Enforce).when(to(2, Mode::Enforce)).accepted().when(to(2, Mode::Off)).accepted();
            given.when(to(3, Mode::Off)).accepted().when(to(3, Mode::Canary(10))).accepted()
        };
        let binding = state(tried());
        assert_eq!((binding.fallback(), &binding.previous), (None, &Some(bound(2, Mode::Enforce))));
        assert_eq!(state(tried().when(ROLL_BACK).accepted()).bound, bound(2, Mode::Enforce));
        // Enforced again, and replaced without a pause.
        let binding = state(tried().when(to(3, Mode::Enforce)).accepted().when(to(4, Mode::Canary(10))).accepted());
        assert_eq!(binding.fallback(), Some(&bound(3, Mode::Enforce)));
    }

    #[test]
    fn what_was_rolled_back_is_no_fallback_until_the_rollback_is_undone() {
        let replaced = || given(Mode::Enforce).when(to(2, Mode::Enforce)).accepted();
        assert_eq!(state(replaced()).fallback(), Some(&bound(1, Mode::Enforce)));
        let rolled_back = || replaced().when(ROLL_BACK).accepted();
        assert_eq!(state(rolled_back()).fallback(), None);
        assert_eq!(state(rolled_back().when(to(1, Mode::Canary(50))).accepted()).fallback(), None);
        assert_eq!(state(rolled_back().when(ROLL_BACK).accepted()).fallback(), Some(&bound(1, Mode::Enforce)));
        let binding = state(rolled_back().when(to(3, Mode::Enforce)).accepted());
        assert_eq!(binding.fallback(), Some(&bound(1, Mode::Enforce)));
        assert_eq!(state(given(Mode::Enforce).when(to(2, Mode::Off)).accepted()).fallback(), None);
        // Back to what is off: what was enforced is still where the next rollback leads.
        let off = replaced().when(to(2, Mode::Off)).accepted().when(ROLL_BACK).accepted().when(ROLL_BACK).accepted();
        let binding = state(off.when(to(3, Mode::Canary(10))).accepted());
        assert_eq!((binding.fallback(), &binding.previous), (None, &Some(bound(1, Mode::Enforce))));
    }

    #[test]
    fn other_settings_for_what_was_turned_off_can_be_rolled_back() {
        let settings = BindingPatch { settings: Some("{\"a\":1}".into()), mode: Some(Mode::Enforce), ..Default::default() };
        let given = given(Mode::Enforce).when(to(1, Mode::Off)).accepted().when(change(settings)).accepted();
        assert_eq!(state(given.when(ROLL_BACK).accepted()).bound, bound(1, Mode::Enforce));
    }

    #[test]
    fn nothing_is_rolled_back_before_a_change() {
        given(Mode::Enforce).when(ROLL_BACK).then_refused(BindingError::NothingBefore);
        given(Mode::Enforce).when(to(1, Mode::Enforce)).then_nothing().when(ROLL_BACK).then_refused(BindingError::NothingBefore);
    }

    #[test]
    fn a_policy_of_another_kind_is_refused() {
        let patch = BindingPatch { policy: Some((Digest::from_bytes([2; 32]), PolicyKind::Quota)), ..Default::default() };
        let error = BindingError::Kind { binding: PolicyKind::Route, policy: PolicyKind::Quota };
        given(Mode::Enforce).when(change(patch)).then_refused(error);
    }

    #[test]
    fn shares_of_a_canary_and_the_size_of_settings_are_bounded() {
        for percent in [0, 100] {
            given(Mode::Enforce).when(to(2, Mode::Canary(percent))).then_refused(BindingError::Canary);
        }
        let patch = BindingPatch { settings: Some("x".repeat(SETTINGS_BYTES_MAX + 1)), ..Default::default() };
        given(Mode::Enforce).when(change(patch)).then_refused(BindingError::SettingsTooLarge);
    }

    #[test]
    fn an_import_sets_what_is_bound_and_brings_a_removed_binding_back() {
        let import = |created: BindingCreated| Command::Binding(BindingCommand::Import(Box::new(created)));
        let enforced = || created(Mode::Enforce);
        let given = given(Mode::Shadow).when(import(enforced())).then([changed(1, Mode::Enforce)]).when(import(enforced())).then_nothing();
        let elsewhere = BindingCreated { kind: PolicyKind::Quota, ..enforced() };
        let given = given.when(import(elsewhere)).then_refused(BindingError::Exists);
        let given = given.when(Command::Binding(BindingCommand::Remove)).accepted();
        given.when(import(enforced())).then([Event::BindingCreated(enforced())]);
    }

    #[test]
    fn a_removed_binding_is_gone() {
        let remove = Command::Binding(BindingCommand::Remove);
        let given = given(Mode::Off).when(remove.clone()).then([Event::BindingRemoved(BindingRemoved {})]);
        given.when(remove).then_refused(BindingError::NotFound).when(ROLL_BACK).then_refused(BindingError::NotFound);
    }
}
