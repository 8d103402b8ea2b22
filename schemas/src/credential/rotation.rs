//! Rotations: how the secret of a credential gives way to the next one without a request being refused for it.
//!
//! A rotation goes `staged` -> `installed` -> `tested` -> `dual` -> `draining` -> `finished`. Up to `tested` the old secret is the one in use, and the
//! rotation can be aborted; in `dual` the new one is, with the old one as the fall-back; in `draining` the old one is asked no more but is still
//! there, so that `dual` and `draining` can be rolled back. After `finished` the old secret is destroyed, and nothing brings it back.
//!
//! Every step names its rotation, so that the same step again, by whoever and after whatever crash, changes nothing. A credential has one open
//! rotation at most.

mod decision;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actor::Actor;
use crate::id::{RotationId, WriterId};
use crate::sealed::Sealed;
use crate::time::Timestamp;

pub use decision::{RotationCommand, RotationError};
pub(in crate::credential) use decision::{apply, decide};

/// The newest rotations that a credential remembers; what was before stands in the log.
pub const ROTATIONS_KEPT: usize = 16;
/// The longest time with two secrets: a week.
pub const WINDOW_SECONDS_MAX: u64 = 7 * 86_400;
/// The longest time from the promotion to the end of the old secret: ninety days.
pub const GRACE_SECONDS_MAX: u64 = 90 * 86_400;
/// How long the old secret must not have been the fall-back before time alone takes it out of use. A shorter window is its own measure.
pub const QUIET_SECONDS: u64 = 600;
/// How long after the promotion a provider may still learn of the new secret: what it refuses in that time is no evidence, and costs no request.
pub const SETTLE_SECONDS: u64 = 15;
/// Requests that needed the old secret, the last of them after that, from which on a rotation is rolled back whatever a call of our own says.
pub const REFUSALS_MAX: u64 = 3;

/// The next secret of a credential is sealed in the vault, and a rotation to it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationStaged {
    pub rotation: RotationId,
    /// The number of the new secret in the vault.
    pub secret_version: u32,
    /// Of the new secret, as [`CredentialAdded`](super::CredentialAdded) has it.
    pub fingerprint: String,
    /// The old secret is known to others: it is out of use as soon as the new one is tested.
    pub compromise: bool,
    /// From the promotion on, how long the old secret is the fall-back.
    pub window_seconds: u64,
    /// From the promotion on, how long the old secret is kept for a rollback.
    pub grace_seconds: u64,
    /// The old secret goes earlier, once it was not needed for this long.
    pub unused_seconds: Option<u64>,
    pub reason: Option<Sealed>,
}

/// Who made the new secret known to the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Installer {
    /// An operator, who made it there and pasted it here.
    Operator,
    /// The provider itself, when it was asked for one.
    Provider,
}

/// The provider knows the new secret, as far as anybody says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationInstalled {
    pub rotation: RotationId,
    pub by: Installer,
}

/// The provider has answered a real call with the new secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationTested {
    pub rotation: RotationId,
    /// The node that made the call.
    pub node: WriterId,
    /// The HTTP status of the answer.
    pub status: u16,
    /// A keyed digest of the account that the provider named, for the new secret and for the old one; none where it named none. They are equal
    /// where both are there.
    pub account: Option<String>,
    pub previous_account: Option<String>,
}

/// The new secret is the one in use, the old one is the fall-back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationPromoted {
    pub rotation: RotationId,
}

/// Why a rotation went on to a step that takes something away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepCause {
    /// Somebody asked for it.
    Asked,
    /// Its time had come.
    Due,
    /// The old secret was not needed for as long as the rotation says.
    Unused,
    /// The old secret is known to others.
    Compromise,
}

/// The old secret is asked no more; it is kept for a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationDraining {
    pub rotation: RotationId,
    pub cause: StepCause,
}

/// The old secret is out of use for good; it is destroyed after this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationFinished {
    pub rotation: RotationId,
    pub cause: StepCause,
}

/// Why a rotation did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// Somebody asked for it.
    Asked,
    /// The provider refused the new secret.
    Refused,
    /// The new secret is another account's.
    OtherAccount,
    /// The new secret could not be tested for too long.
    Untestable,
}

/// The new secret was given up before it was used; it is destroyed after this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationAborted {
    pub rotation: RotationId,
    /// The step it had come to.
    pub at: RotationStep,
    pub cause: EndCause,
}

/// The old secret is the one in use again; the new one is destroyed after this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationRolledBack {
    pub rotation: RotationId,
    /// The step it had come to.
    pub at: RotationStep,
    pub cause: EndCause,
}

/// The provider refused the new secret and took the old one for the same requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationFallbackUsed {
    pub rotation: RotationId,
    /// The node that sent the requests.
    pub node: WriterId,
    /// How many there were since it told last.
    pub uses: u32,
    pub last_used_at: Timestamp,
}

/// Where a rotation stands, in the order of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RotationStep {
    /// The new secret is sealed.
    Staged,
    /// The provider knows it.
    Installed,
    /// The provider has taken it.
    Tested,
    /// It is in use, the old one is the fall-back.
    Dual,
    /// The old one is asked no more, and kept for a rollback.
    Draining,
    /// The old one is destroyed.
    Finished,
    /// Given up before the new one was in use.
    Aborted,
    /// The old one is in use again.
    RolledBack,
}

impl RotationStep {
    pub const ALL: [Self; 8] =
        [Self::Staged, Self::Installed, Self::Tested, Self::Dual, Self::Draining, Self::Finished, Self::Aborted, Self::RolledBack];

    /// Whether there is more to come.
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::Finished | Self::Aborted | Self::RolledBack)
    }

    /// Whether the new secret is in use and the old one is still there.
    pub const fn is_promoted(self) -> bool {
        matches!(self, Self::Dual | Self::Draining)
    }

    /// As JSON has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Installed => "installed",
            Self::Tested => "tested",
            Self::Dual => "dual",
            Self::Draining => "draining",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// A secret that a rotation replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedSecret {
    pub version: u32,
    pub fingerprint: String,
    /// Since when it was the one in use.
    pub since: Timestamp,
}

/// What is known of the old secret's use as the fall-back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackUse {
    /// Requests that the provider refused with the new secret and took with the old one.
    pub uses: u64,
    pub last_used_at: Option<Timestamp>,
}

/// One rotation of a credential, open or over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    pub id: RotationId,
    /// The number of the new secret.
    pub secret_version: u32,
    /// Of the new secret.
    pub fingerprint: String,
    pub previous: ReplacedSecret,
    pub compromise: bool,
    pub window_seconds: u64,
    pub grace_seconds: u64,
    pub unused_seconds: Option<u64>,
    pub reason: Option<Sealed>,
    pub staged_at: Timestamp,
    pub staged_by: Actor,
    pub step: RotationStep,
    /// Since when it stands there, and who brought it there.
    pub step_at: Timestamp,
    pub step_by: Actor,
    pub tested: Option<RotationTested>,
    pub promoted_at: Option<Timestamp>,
    pub fallback: FallbackUse,
    /// Why it went where it stands, where that was a choice.
    pub cause: Option<StepCause>,
    /// Why it did not come to its end.
    pub end: Option<EndCause>,
}

impl Rotation {
    /// Whether what the provider refuses now speaks against the new secret, and not only for a provider that has not heard of it everywhere.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        self.promoted_at.is_some_and(|promoted| promoted.plus_seconds(SETTLE_SECONDS) <= now)
    }

    /// Whether the requests that needed the old secret are reason enough to take it back.
    pub fn is_refused_in_use(&self) -> bool {
        self.step == RotationStep::Dual
            && self.fallback.uses >= REFUSALS_MAX
            && self.fallback.last_used_at.is_some_and(|last| self.is_settled(last))
    }

    /// Whether time or evidence alone takes the rotation on from `dual` or `draining` now, and why.
    pub fn due(&self, now: Timestamp) -> Option<StepCause> {
        let promoted_at = self.promoted_at?;
        if self.compromise {
            return self.step.is_promoted().then_some(StepCause::Compromise);
        }
        let needed_at = self.fallback.last_used_at.map_or(promoted_at, |used| used.max(promoted_at));
        let quiet = |seconds: u64| needed_at.plus_seconds(seconds) <= now;
        let is_unused = self.unused_seconds.is_some_and(quiet);
        let ends_at = match self.step {
            RotationStep::Dual => promoted_at.plus_seconds(self.window_seconds),
            RotationStep::Draining => promoted_at.plus_seconds(self.grace_seconds),
            _ => return None,
        };
        // While the provider still refuses the new secret at times, the window stays open.
        let is_due = ends_at <= now && (self.step == RotationStep::Draining || quiet(QUIET_SECONDS.min(self.window_seconds)));
        match (is_unused, is_due) {
            (true, _) => Some(StepCause::Unused),
            (false, true) => Some(StepCause::Due),
            (false, false) => None,
        }
    }
}
