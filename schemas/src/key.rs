//! Client keys: what a client shows the relay, and everything that can happen to one.
//!
//! Whether a key may be used is never stored. It follows from separate facts (archived, revoked, expired, disabled by an operator) and the
//! time of the question, see [`Key::refusal`]; so lifting one fact can never lift another.
//!
//! [`event`] has what happened, [`command`] what can be asked, [`decision`] the rules between the two, [`import`] those of a key that comes whole from elsewhere.

pub mod command;
pub mod decision;
pub mod event;
pub mod import;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::actor::Actor;
use crate::id::{Digest, KeyId, PoolId, TenantId, UpstreamId};
use crate::sealed::Sealed;
use crate::time::Timestamp;

pub use command::{KeyCommand, KeyError, KeyPatch, LeakAction, LeakReport, NewKey, NewSecret, Term};
pub use event::{
    ImportedSecret, KeyActivated, KeyActivationAwaited, KeyArchived, KeyChanged, KeyCreated, KeyDisabled, KeyEnabled, KeyExpired,
    KeyExpiryUnset, KeyImported, KeyLeakReported, KeyMetadataSet, KeyOverlapFinished, KeyPurged, KeyRenewed, KeyRestored, KeyRevoked,
    KeyRotated, KeyRotationScheduled, KeyRotationUnscheduled, KeySecretBrought, KeySecretUpgraded, KeySuccessorCollected,
    KeySuccessorSealed, KeyUpstreamDedicated,
};
pub use import::KeyImport;

/// The longest overlap of two secrets, in seconds: 30 days.
pub const OVERLAP_SECONDS_MAX: u64 = 30 * 86_400;
/// The longest time between two rotations by a schedule, in seconds: ten years.
pub const ROTATION_SECONDS_MAX: u64 = 10 * 365 * 86_400;
/// The most bytes of a key's metadata.
pub const METADATA_BYTES_MAX: usize = 4096;
/// The metadata of a key that has none.
pub const METADATA_EMPTY: &str = "{}";

/// Until when a key is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    Never,
    At(Timestamp),
}

/// What of the relay's API a key may be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// OpenAI: `/v1/chat/completions`.
    ChatCompletions,
    /// Anthropic: `/v1/messages`.
    Messages,
    /// `/v1/models`, both dialects.
    Models,
}

/// How much a key may do. Absent is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests in any 60 seconds.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub requests_per_minute: Option<u32>,
    /// Requests under way at once; one is under way until its last byte was sent.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub concurrency: Option<u32>,
}

/// What of a key can be changed at any time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyDetails {
    pub name: String,
    pub description: Option<Sealed>,
    /// A plain label or a user's id; not personal.
    pub owner: Option<String>,
    pub tags: Vec<String>,
    /// The pools whose upstreams the key may use, in order of preference.
    pub pools: Vec<PoolId>,
    /// Patterns of model names (`*` stands for any run of characters); empty allows all.
    pub models: Vec<String>,
    /// Empty allows all.
    pub endpoints: Vec<Endpoint>,
    pub limits: Limits,
}

/// The one upstream that a key's requests go to, whether or not it stands in one of the key's pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dedicated {
    pub upstream: UpstreamId,
    /// Whether the key's pools follow when that upstream cannot answer.
    pub fallback: bool,
}

/// How the hash of a secret is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SecretScheme {
    /// The secret is of our form and has 256 random bits: [`crate::client_key::hash`].
    Issued,
    /// BLAKE3 under a key that the vault derives from its pepper of this version.
    Peppered { pepper: u32 },
    /// SHA-256 over the secret and the vault's salt of this version, as claude-relay-service stores keys.
    ClaudeRelayService { salt: u32 },
}

impl SecretScheme {
    /// SHA-256 over the secret alone: salt 0 is the empty one, and in no vault. LiteLLM stores keys so.
    pub const UNSALTED: Self = Self::ClaudeRelayService { salt: 0 };
}

/// One secret of a key, by number and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySecret {
    pub number: u32,
    pub hash: Digest,
    pub scheme: SecretScheme,
    /// Set on the older of two secrets only.
    pub valid_until: Option<Timestamp>,
}

/// Something that an actor did to a key, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub at: Timestamp,
    pub by: Actor,
    pub reason: Option<Sealed>,
}

/// The time of a key that begins with its first accepted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// How long the key is good from then on.
    pub seconds: u64,
    /// Since when this is awaited; tells one waiting from another of the same key.
    pub since: Timestamp,
}

/// The state of a client key. Of one that was purged only id, tenant and `purged_at` are left: its stream goes on to have a version, and its id
/// is never given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub id: KeyId,
    pub tenant: TenantId,
    pub details: KeyDetails,
    /// A canonical JSON object, for policies.
    pub metadata: String,
    pub dedicated: Option<Dedicated>,
    /// One secret, or two during an overlap; the current one is the last. None once purged.
    pub secrets: Vec<KeySecret>,
    /// `Never` while `activation` is awaited.
    pub expiry: Expiry,
    pub activation: Option<Activation>,
    /// `expiry` is `Never` because nobody has decided on it; gone with the next renewal.
    pub is_expiry_unset: bool,
    /// Of a key whose time began with its first request; gone with the next renewal.
    pub first_used_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub renewed_at: Option<Timestamp>,
    pub rotated_at: Option<Timestamp>,
    /// Set by an operator, lifted only by an operator.
    pub disabled: Option<Fact>,
    /// The recorded expiry; lifted by a renewal.
    pub expired_at: Option<Timestamp>,
    /// Never lifted.
    pub revoked: Option<Fact>,
    /// Lifted by a restore.
    pub archived: Option<Fact>,
    pub purged_at: Option<Timestamp>,
    /// Of the secrets that the key has, those that were found in the open.
    pub leaks: Vec<Leak>,
    /// Of its own; a tenant may have one for all keys with a tag.
    pub rotation: Option<RotationSchedule>,
    /// The number of the current secret while it waits in the vault: nobody has it yet.
    pub successor: Option<u32>,
}

/// When a key gets a new secret by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationSchedule {
    /// The age of the current secret at which the next one takes its place.
    pub every_seconds: u64,
    /// How long the secret before the new one stays good.
    pub overlap_seconds: u64,
}

/// A secret that was found in the open: the first report of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// The secret's number.
    pub number: u32,
    pub at: Timestamp,
    pub scanner: String,
    pub source: Option<String>,
    pub url: Option<Sealed>,
}

/// Why a key may not be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyRefusal {
    #[error("the key is archived")]
    Archived,
    #[error("the key is revoked")]
    Revoked,
    #[error("the key has expired")]
    Expired,
    #[error("the key is disabled")]
    Disabled,
}

/// What the API calls the state of a key at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    Active,
    Disabled,
    Expired,
    Revoked,
    Archived,
}

impl Key {
    /// Why the key is refused at this moment, if it is. Archived weighs more than revoked, revoked than expired, expired than disabled.
    pub fn refusal(&self, now: Timestamp) -> Option<KeyRefusal> {
        if self.archived.is_some() {
            Some(KeyRefusal::Archived)
        } else if self.revoked.is_some() {
            Some(KeyRefusal::Revoked)
        } else if self.is_expired(now) {
            Some(KeyRefusal::Expired)
        } else if self.disabled.is_some() {
            Some(KeyRefusal::Disabled)
        } else {
            None
        }
    }

    /// The state at this moment.
    pub fn state(&self, now: Timestamp) -> KeyState {
        match self.refusal(now) {
            None => KeyState::Active,
            Some(KeyRefusal::Disabled) => KeyState::Disabled,
            Some(KeyRefusal::Expired) => KeyState::Expired,
            Some(KeyRefusal::Revoked) => KeyState::Revoked,
            Some(KeyRefusal::Archived) => KeyState::Archived,
        }
    }

    /// Whether the expiry has passed, recorded or not.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expired_at.is_some() || matches!(self.expiry, Expiry::At(at) if at <= now)
    }

    /// Whether nothing is left of the key but its place in the log: to readers there is no such key.
    pub const fn is_purged(&self) -> bool {
        self.purged_at.is_some()
    }

    /// The moment at which an expiry has to be recorded; none if there is none or it was recorded.
    pub fn expiry_due_at(&self) -> Option<Timestamp> {
        match self.expiry {
            Expiry::At(at) if self.expired_at.is_none() && self.revoked.is_none() => Some(at),
            Expiry::At(_) | Expiry::Never => None,
        }
    }

    /// How long the key is good, as a renewal would ask for it.
    pub fn term(&self) -> Term {
        match (self.activation, self.expiry) {
            (Some(Activation { seconds, .. }), _) => Term::AfterFirstUse { seconds },
            (None, Expiry::At(at)) => Term::At(at),
            (None, Expiry::Never) if self.is_expiry_unset => Term::Unset,
            (None, Expiry::Never) => Term::Never,
        }
    }

    /// The secret with this hash, if it is one of the key's and good at this moment.
    pub fn secret(&self, hash: &Digest, now: Timestamp) -> Option<&KeySecret> {
        self.secrets.iter().find(|secret| secret.hash == *hash && secret.is_valid(now))
    }

    /// When the schedule, the key's own or another, gives the key its next secret. None where it must not: the key is out of use, or its
    /// current secret still waits to be collected. Not before the overlap of the last rotation is over.
    pub fn rotation_due_at(&self, schedule: RotationSchedule) -> Option<Timestamp> {
        let is_held = self.revoked.is_some() || self.archived.is_some() || self.disabled.is_some() || self.expired_at.is_some();
        if is_held || self.is_purged() || self.successor.is_some() {
            return None;
        }
        let due = self.rotated_at.unwrap_or(self.created_at).plus_seconds(schedule.every_seconds);
        let overlap_end = self.secrets.iter().filter_map(|secret| secret.valid_until).max();
        Some(overlap_end.map_or(due, |end| end.max(due)))
    }

    /// The secret that new clients should have.
    pub fn current_secret(&self) -> &KeySecret {
        self.secrets.last().expect("a key is created with a secret and never loses its last before it is purged")
    }
}

impl KeySecret {
    /// Whether the secret is good at this moment, as far as the overlap goes.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.valid_until.is_none_or(|until| until > now)
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "key_model_tests.rs"]
mod model_tests;
