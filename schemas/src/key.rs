//! Client keys: what a client shows the relay, and everything that can happen to one.
//!
//! Whether a key may be used is never stored. It follows from separate facts (disabled by an operator, expired, revoked) and the
//! time of the question, see [`Key::refusal`]; so lifting one fact can never lift another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::actor::Actor;
use crate::aggregate::{At, Context};
use crate::event::Event;
use crate::id::{Digest, KeyId, PoolId, TenantId};
use crate::name::{self, NameError};
use crate::sealed::Sealed;
use crate::stream::Stream;
use crate::time::Timestamp;

/// The longest overlap of two secrets, in seconds: 30 days.
pub const OVERLAP_SECONDS_MAX: u64 = 30 * 86_400;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyCreated {
    pub details: KeyDetails,
    /// Hash of secret number 1, see [`crate::client_key::hash`].
    pub hash: Digest,
    pub expiry: Expiry,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRenewed {
    pub expiry: Expiry,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRotated {
    /// Number of the new secret: 2, 3, ...
    pub number: u32,
    pub hash: Digest,
    /// Until when the secret before this one is good.
    pub previous_valid_until: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyDisabled {
    pub reason: Option<Sealed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyEnabled {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyExpired {
    /// The moment from which the key was refused.
    pub expired_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRevoked {
    pub reason: Option<Sealed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyChanged {
    /// The details after the change, whole.
    pub details: KeyDetails,
}

/// One secret of a key, by number and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySecret {
    pub number: u32,
    pub hash: Digest,
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

/// The state of a client key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub id: KeyId,
    pub tenant: TenantId,
    pub details: KeyDetails,
    /// One secret, or two during an overlap; the current one is the last.
    pub secrets: Vec<KeySecret>,
    pub expiry: Expiry,
    pub created_at: Timestamp,
    pub renewed_at: Option<Timestamp>,
    pub rotated_at: Option<Timestamp>,
    /// Set by an operator, lifted only by an operator.
    pub disabled: Option<Fact>,
    /// The recorded expiry; lifted by a renewal.
    pub expired_at: Option<Timestamp>,
    /// Never lifted.
    pub revoked: Option<Fact>,
}

/// Why a key may not be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyRefusal {
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
}

/// A change of details; an absent field stays as it is, a present inner `None` clears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPatch {
    pub name: Option<String>,
    pub description: Option<Option<Sealed>>,
    pub owner: Option<Option<String>>,
    pub tags: Option<Vec<String>>,
    pub pools: Option<Vec<PoolId>>,
    pub models: Option<Vec<String>>,
    pub endpoints: Option<Vec<Endpoint>>,
    pub limits: Option<Limits>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyCommand {
    Create {
        details: Box<KeyDetails>,
        hash: Digest,
        expiry: Expiry,
    },
    Renew {
        expiry: Expiry,
    },
    /// `finish_previous` ends an overlap that is still running; without it a second rotation is refused.
    Rotate {
        hash: Digest,
        overlap_seconds: u64,
        finish_previous: bool,
    },
    Disable {
        reason: Option<Sealed>,
    },
    Enable,
    /// Records that the expiry has passed.
    Expire,
    Revoke {
        reason: Option<Sealed>,
    },
    Change(Box<KeyPatch>),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("the key exists already")]
    Exists,
    #[error("there is no such key")]
    NotFound,
    #[error("the key is revoked, which is final")]
    Revoked,
    #[error("the expiry lies in the past")]
    ExpiryInThePast,
    #[error("the key has not expired")]
    NotExpired,
    #[error("the key has expired; renew it first")]
    Expired,
    #[error("the secret before this one is still good until {valid_until}; wait, or ask to finish it")]
    RotationRunning { valid_until: Timestamp },
    #[error("an overlap is at most 30 days")]
    OverlapTooLong,
    #[error("the new secret is the old one")]
    SameSecret,
    #[error("a key needs at least one pool")]
    NoPools,
    #[error("{field} must be at least 1; leave it out for no limit")]
    LimitZero { field: &'static str },
    #[error("{field} names an entry twice or has more than {} entries", name::LIST_MAX)]
    List { field: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Key {
    /// Why the key is refused at this moment, if it is. Revoked weighs more than expired, expired more than disabled.
    pub fn refusal(&self, now: Timestamp) -> Option<KeyRefusal> {
        if self.revoked.is_some() {
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
        }
    }

    /// Whether the expiry has passed, recorded or not.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expired_at.is_some() || matches!(self.expiry, Expiry::At(at) if at <= now)
    }

    /// The secret with this hash, if it is one of the key's and good at this moment.
    pub fn secret(&self, hash: &Digest, now: Timestamp) -> Option<&KeySecret> {
        self.secrets.iter().find(|secret| secret.hash == *hash && secret.is_valid(now))
    }

    /// The secret that new clients should have.
    pub fn current_secret(&self) -> &KeySecret {
        self.secrets.last().expect("a key is created with a secret and never loses its last")
    }

    pub(crate) fn decide(state: Option<&Self>, command: &KeyCommand, context: &Context) -> Result<Vec<Event>, KeyError> {
        let key = match (state, command) {
            (None, KeyCommand::Create { details, hash, expiry }) => {
                check_details(details)?;
                check_expiry(expiry, context.now)?;
                return Ok(vec![Event::KeyCreated(KeyCreated { details: (**details).clone(), hash: *hash, expiry: *expiry })]);
            }
            (Some(_), KeyCommand::Create { .. }) => return Err(KeyError::Exists),
            (None, _) => return Err(KeyError::NotFound),
            (Some(key), _) => key,
        };
        if key.revoked.is_some() {
            return if matches!(command, KeyCommand::Revoke { .. }) { Ok(vec![]) } else { Err(KeyError::Revoked) };
        }
        match command {
            KeyCommand::Create { .. } => Err(KeyError::Exists),
            KeyCommand::Renew { expiry } => {
                check_expiry(expiry, context.now)?;
                let changes = key.expiry != *expiry || key.expired_at.is_some();
                Ok(if changes { vec![Event::KeyRenewed(KeyRenewed { expiry: *expiry })] } else { vec![] })
            }
            KeyCommand::Rotate { hash, overlap_seconds, finish_previous } => {
                key.decide_rotate(*hash, *overlap_seconds, *finish_previous, context.now)
            }
            KeyCommand::Disable { .. } if key.disabled.is_some() => Ok(vec![]),
            KeyCommand::Disable { reason } => Ok(vec![Event::KeyDisabled(KeyDisabled { reason: reason.clone() })]),
            KeyCommand::Enable if key.disabled.is_none() => Ok(vec![]),
            KeyCommand::Enable => Ok(vec![Event::KeyEnabled(KeyEnabled {})]),
            KeyCommand::Expire => match key.expiry {
                _ if key.expired_at.is_some() => Ok(vec![]),
                Expiry::At(at) if at <= context.now => Ok(vec![Event::KeyExpired(KeyExpired { expired_at: at })]),
                Expiry::At(_) | Expiry::Never => Err(KeyError::NotExpired),
            },
            KeyCommand::Revoke { reason } => Ok(vec![Event::KeyRevoked(KeyRevoked { reason: reason.clone() })]),
            KeyCommand::Change(patch) => {
                let details = patch.applied_to(&key.details);
                check_details(&details)?;
                Ok(if details == key.details { vec![] } else { vec![Event::KeyChanged(KeyChanged { details })] })
            }
        }
    }

    /// The overlap ends with the key at the latest; the older of two secrets must be over, or be finished, before a third comes.
    fn decide_rotate(&self, hash: Digest, overlap_seconds: u64, finish_previous: bool, now: Timestamp) -> Result<Vec<Event>, KeyError> {
        if self.is_expired(now) {
            return Err(KeyError::Expired);
        }
        if overlap_seconds > OVERLAP_SECONDS_MAX {
            return Err(KeyError::OverlapTooLong);
        }
        if self.secrets.iter().any(|secret| secret.hash == hash) {
            return Err(KeyError::SameSecret);
        }
        let running = self.secrets.iter().filter_map(|secret| secret.valid_until).find(|until| *until > now);
        if let Some(valid_until) = running.filter(|_| !finish_previous) {
            return Err(KeyError::RotationRunning { valid_until });
        }
        let overlap_end = now.plus_seconds(overlap_seconds);
        let previous_valid_until = match self.expiry {
            Expiry::At(expires_at) => overlap_end.min(expires_at),
            Expiry::Never => overlap_end,
        };
        Ok(vec![Event::KeyRotated(KeyRotated { number: self.current_secret().number.saturating_add(1), hash, previous_valid_until })])
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        let fact = |reason: &Option<Sealed>| Some(Fact { at: at.time, by: at.actor, reason: reason.clone() });
        match (state, event) {
            (None, Event::KeyCreated(created)) => Some(Self {
                id: KeyId::from_bytes(*stream.id()),
                tenant: stream.tenant().clone(),
                details: created.details.clone(),
                secrets: vec![KeySecret { number: 1, hash: created.hash, valid_until: None }],
                expiry: created.expiry,
                created_at: at.time,
                renewed_at: None,
                rotated_at: None,
                disabled: None,
                expired_at: None,
                revoked: None,
            }),
            (Some(key), Event::KeyRenewed(renewed)) => {
                Some(Self { expiry: renewed.expiry, expired_at: None, renewed_at: Some(at.time), ..key })
            }
            (Some(key), Event::KeyRotated(rotated)) => {
                let previous = KeySecret { valid_until: Some(rotated.previous_valid_until), ..key.current_secret().clone() };
                let current = KeySecret { number: rotated.number, hash: rotated.hash, valid_until: None };
                Some(Self { secrets: vec![previous, current], rotated_at: Some(at.time), ..key })
            }
            (Some(key), Event::KeyDisabled(disabled)) => Some(Self { disabled: fact(&disabled.reason), ..key }),
            (Some(key), Event::KeyEnabled(_)) => Some(Self { disabled: None, ..key }),
            (Some(key), Event::KeyExpired(expired)) => Some(Self { expired_at: Some(expired.expired_at), ..key }),
            (Some(key), Event::KeyRevoked(revoked)) => Some(Self { revoked: fact(&revoked.reason), ..key }),
            (Some(key), Event::KeyChanged(changed)) => Some(Self { details: changed.details.clone(), ..key }),
            _ => None,
        }
    }
}

impl KeySecret {
    /// Whether the secret is good at this moment, as far as the overlap goes.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.valid_until.is_none_or(|until| until > now)
    }
}

impl KeyPatch {
    fn applied_to(&self, details: &KeyDetails) -> KeyDetails {
        let patch = self.clone();
        KeyDetails {
            name: patch.name.unwrap_or_else(|| details.name.clone()),
            description: patch.description.unwrap_or_else(|| details.description.clone()),
            owner: patch.owner.unwrap_or_else(|| details.owner.clone()),
            tags: patch.tags.unwrap_or_else(|| details.tags.clone()),
            pools: patch.pools.unwrap_or_else(|| details.pools.clone()),
            models: patch.models.unwrap_or_else(|| details.models.clone()),
            endpoints: patch.endpoints.unwrap_or_else(|| details.endpoints.clone()),
            limits: patch.limits.unwrap_or_else(|| details.limits.clone()),
        }
    }
}

fn check_expiry(expiry: &Expiry, now: Timestamp) -> Result<(), KeyError> {
    match expiry {
        Expiry::At(at) if *at <= now => Err(KeyError::ExpiryInThePast),
        Expiry::At(_) | Expiry::Never => Ok(()),
    }
}

fn check_details(details: &KeyDetails) -> Result<(), KeyError> {
    name::check("name", &details.name)?;
    if let Some(owner) = &details.owner {
        name::check("owner", owner)?;
    }
    name::check_list("tags", &details.tags)?;
    name::check_list("models", &details.models)?;
    if details.pools.is_empty() {
        return Err(KeyError::NoPools);
    }
    if has_twice_or_too_many(&details.pools) {
        return Err(KeyError::List { field: "pools" });
    }
    if has_twice_or_too_many(&details.endpoints) {
        return Err(KeyError::List { field: "endpoints" });
    }
    for (field, limit) in [("requests_per_minute", details.limits.requests_per_minute), ("concurrency", details.limits.concurrency)] {
        if limit == Some(0) {
            return Err(KeyError::LimitZero { field });
        }
    }
    Ok(())
}

fn has_twice_or_too_many<T: PartialEq>(entries: &[T]) -> bool {
    entries.len() > name::LIST_MAX || entries.iter().enumerate().any(|(index, entry)| entries[..index].contains(entry))
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
