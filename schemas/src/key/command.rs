//! What can be asked of a key, and why it may be refused.

use thiserror::Error;

use super::{
    Dedicated, Endpoint, Expiry, KeyDetails, KeyImport, Limits, METADATA_BYTES_MAX, OVERLAP_SECONDS_MAX, ROTATION_SECONDS_MAX,
    RotationSchedule, SecretScheme,
};
use crate::id::{Digest, PoolId};
use crate::name::{self, NameError};
use crate::sealed::Sealed;
use crate::time::Timestamp;

/// The longest time after the first use, in seconds: a hundred years.
pub const ACTIVATION_SECONDS_MAX: u64 = 100 * 365 * 86_400;

/// How long a key is to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    Never,
    At(Timestamp),
    /// From its first accepted request on.
    AfterFirstUse {
        seconds: u64,
    },
    /// For ever until somebody decides: what is imported without an expiry.
    Unset,
}

/// The first secret of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSecret {
    pub hash: Digest,
    pub scheme: SecretScheme,
}

/// A key to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    pub details: KeyDetails,
    pub secret: NewSecret,
    pub term: Term,
    /// A canonical JSON object, [`super::METADATA_EMPTY`] for none.
    pub metadata: String,
    pub dedicated: Option<Dedicated>,
    pub rotation: Option<RotationSchedule>,
}

/// What is done about a key whose secret was found in the open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeakAction {
    /// For ever.
    Revoke,
    /// Until an operator enables it.
    Disable,
}

/// A secret that was found in the open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeakReport {
    /// The hash of the secret that was found.
    pub hash: Digest,
    pub scanner: String,
    pub source: Option<String>,
    pub url: Option<Sealed>,
    pub action: LeakAction,
    pub reason: Option<Sealed>,
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
    pub metadata: Option<String>,
    pub dedicated: Option<Option<Dedicated>>,
    pub rotation: Option<Option<RotationSchedule>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyCommand {
    Create(Box<NewKey>),
    /// Makes the key what it was elsewhere, facts and secrets included, in one record.
    Import(Box<KeyImport>),
    /// Lifts a recorded expiry; an operator's `disabled` only where `enable` asks for it.
    Renew {
        term: Term,
        enable: bool,
    },
    /// `finish_previous` ends an overlap that is still running; without it a second rotation is refused.
    Rotate {
        hash: Digest,
        overlap_seconds: u64,
        finish_previous: bool,
    },
    /// Gives the key the secret that a schedule sealed for it. Nothing to do where the key has another secret of that number, or one that waits.
    RotateBySchedule {
        number: u32,
        hash: Digest,
        overlap_seconds: u64,
    },
    /// Takes the secret that waits out of the vault.
    CollectSuccessor {
        number: u32,
    },
    /// Ends an overlap that is still running.
    FinishOverlap,
    Disable {
        reason: Option<Sealed>,
    },
    Enable,
    /// Records that the expiry has passed.
    Expire,
    /// Records the first accepted request of a key that awaits it.
    Activate {
        first_used_at: Timestamp,
        /// Which waiting that request met, see [`super::Activation`]: one that was renewed since is left alone.
        since: Timestamp,
    },
    /// Knows a brought secret by the hash of a newer scheme from here on.
    UpgradeSecret {
        number: u32,
        /// The hash that was presented: a secret that has another by now is left alone.
        from: Digest,
        hash: Digest,
        pepper: u32,
    },
    Revoke {
        reason: Option<Sealed>,
    },
    /// Records that a secret was found in the open, and makes the key useless to whoever found it.
    ReportLeak(Box<LeakReport>),
    Change(Box<KeyPatch>),
    Archive {
        reason: Option<Sealed>,
    },
    Restore,
    Purge,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("the key exists already")]
    Exists,
    #[error("there is no such key")]
    NotFound,
    #[error("the key is revoked, which is final")]
    Revoked,
    #[error("the key is archived; restore it first")]
    Archived,
    #[error("the key is not archived; only an archived key can be purged")]
    NotArchived,
    #[error("the expiry lies in the past")]
    ExpiryInThePast,
    #[error("the time after the first use must be between a second and a hundred years")]
    ActivationLength,
    #[error("the key has not expired")]
    NotExpired,
    #[error("the key has expired; renew it first")]
    Expired,
    #[error("the secret before this one is still good until {valid_until}; wait, or ask to finish it")]
    RotationRunning { valid_until: Timestamp },
    #[error("an overlap is at most 30 days")]
    OverlapTooLong,
    #[error("a rotation is scheduled every second to ten years, with an overlap of 30 days at most that is no longer than that")]
    RotationSchedule,
    #[error("the key has no secret that waits to be collected")]
    NoSuccessor,
    #[error("the new secret is the old one")]
    SameSecret,
    #[error("the key has no brought secret of that number")]
    NoSuchSecret,
    #[error("an imported key has one secret, or two of rising numbers whose older one has an end, and facts that go together")]
    Imported,
    #[error("a key needs at least one pool")]
    NoPools,
    #[error("{field} must be at least 1; leave it out for no limit")]
    LimitZero { field: &'static str },
    #[error("{field} names an entry twice or has more than {} entries", name::LIST_MAX)]
    List { field: &'static str },
    #[error("metadata is a JSON object of at most {METADATA_BYTES_MAX} bytes")]
    Metadata,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl KeyPatch {
    pub(super) fn applied_to(&self, details: &KeyDetails) -> KeyDetails {
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

impl Term {
    /// The expiry that stands in the log beside the first use that may be awaited.
    pub const fn expiry(&self) -> Expiry {
        match self {
            Self::At(at) => Expiry::At(*at),
            Self::Never | Self::AfterFirstUse { .. } | Self::Unset => Expiry::Never,
        }
    }

    pub(super) fn check(&self, now: Timestamp) -> Result<(), KeyError> {
        match self {
            Self::At(at) if *at <= now => Err(KeyError::ExpiryInThePast),
            Self::AfterFirstUse { seconds } if !(1..=ACTIVATION_SECONDS_MAX).contains(seconds) => Err(KeyError::ActivationLength),
            Self::Never | Self::At(_) | Self::AfterFirstUse { .. } | Self::Unset => Ok(()),
        }
    }
}

impl RotationSchedule {
    pub fn check(&self) -> Result<(), KeyError> {
        let Self { every_seconds, overlap_seconds } = *self;
        let fits = (1..=ROTATION_SECONDS_MAX).contains(&every_seconds) && overlap_seconds <= every_seconds.min(OVERLAP_SECONDS_MAX);
        if fits { Ok(()) } else { Err(KeyError::RotationSchedule) }
    }
}

/// The edge writes metadata as canonical JSON; here it is only bounded, since this crate reads no JSON.
pub(super) fn check_metadata(metadata: &str) -> Result<(), KeyError> {
    let is_object = metadata.starts_with('{') && metadata.ends_with('}');
    if is_object && metadata.len() <= METADATA_BYTES_MAX { Ok(()) } else { Err(KeyError::Metadata) }
}

pub(super) fn check_details(details: &KeyDetails) -> Result<(), KeyError> {
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
