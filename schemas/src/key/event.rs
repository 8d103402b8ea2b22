//! What can happen to a key, as the log tells it. Each struct is frozen once released, see [`crate::event`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dedicated, Expiry, KeyDetails, SecretScheme};
use crate::id::Digest;
use crate::sealed::Sealed;
use crate::time::Timestamp;

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

/// Beside `KeyCreated` or `KeyRenewed` with the expiry `Never`: the key's time begins with its first accepted request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyActivationAwaited {
    /// How long the key is good from then on.
    pub seconds: u64,
}

/// Beside `KeyCreated` or `KeyRenewed` with the expiry `Never`: where the key comes from nobody had decided on an expiry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyExpiryUnset {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyActivated {
    pub first_used_at: Timestamp,
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyOverlapFinished {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyArchived {
    pub reason: Option<Sealed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRestored {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyPurged {}

/// Beside `KeyCreated`: its secret was not issued here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeySecretBrought {
    /// The secret's number.
    pub number: u32,
    /// How the hash in `KeyCreated` was made.
    pub scheme: SecretScheme,
}

/// A secret under an older scheme was shown, and is known by the hash of a newer one from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeySecretUpgraded {
    pub number: u32,
    pub hash: Digest,
    /// The version of the pepper under `hash`.
    pub pepper: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyMetadataSet {
    /// The metadata after the change, whole: a canonical JSON object.
    pub metadata: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyUpstreamDedicated {
    /// None makes the key use its pools again.
    pub dedicated: Option<Dedicated>,
}

/// A secret of a key that came from elsewhere, under its number there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportedSecret {
    pub number: u32,
    pub hash: Digest,
    pub scheme: SecretScheme,
    /// Set on the older of two secrets only.
    pub valid_until: Option<Timestamp>,
}

/// Beside `KeyCreated`, or alone where an import sets a key that is there: what the key was elsewhere. The facts about it follow as events of
/// their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyImported {
    /// One secret, or two during an overlap; the last is current.
    pub secrets: Vec<ImportedSecret>,
    pub created_at: Timestamp,
    pub renewed_at: Option<Timestamp>,
    pub rotated_at: Option<Timestamp>,
}

/// A secret of the key was found in the open. What was done about it follows as an event of its own in the same record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyLeakReported {
    /// The number of the secret that was found.
    pub number: u32,
    /// The scanner's name: who the report's signature was checked for.
    pub scanner: String,
    /// What kind of place it was found in, in the scanner's words, such as `content` or `issue_body`.
    pub source: Option<String>,
    /// Where it was found.
    pub url: Option<Sealed>,
}

/// The key gets a new secret by itself whenever its secret has reached this age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRotationScheduled {
    pub every_seconds: u64,
    /// How long the secret before the new one stays good.
    pub overlap_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRotationUnscheduled {}

/// Beside `KeyRotated` by a schedule: the new secret waits in the vault for whoever the key belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeySuccessorSealed {
    /// The new secret's number.
    pub number: u32,
}

/// The secret that waited was given out, and is in the vault no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeySuccessorCollected {
    pub number: u32,
}
