//! All events, and how each is stored.
//!
//! An event is stored as (type number, schema version, postcard bytes). The struct of one (type, version) is frozen once released: it is
//! never edited, its golden file in `golden/` holds its bytes. A change is a new version of the struct under the same type
//! number, and an arm in `upcast.rs` that turns the old shape into the current one on reading.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::stream::StreamKind;
use crate::upcast;
use crate::{binding, cluster, credential, key, login, policy, pool, root_key, tenant, upstream, writer};

/// Why a stored event cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeEventError {
    #[error("event type {event_type} is not known to this release")]
    UnknownType { event_type: u16 },
    #[error("{name} has schema version {schema_version}, this release reads up to {current}")]
    NewerVersion { name: &'static str, schema_version: u8, current: u8 },
    #[error("the bytes of {name} (schema version {schema_version}) do not have its shape")]
    Shape { name: &'static str, schema_version: u8 },
}

macro_rules! events {
    ($($(#[$doc:meta])* $number:literal $name:ident($payload:ty) of $kind:ident, version $version:literal;)*) => {
        /// Any event, in its current shape.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "type", content = "data")]
        pub enum Event {
            $($(#[$doc])* $name($payload),)*
        }

        impl Event {
            /// The names of all events, in the order of their numbers.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// The event's name, as the API shows it: `KeyCreated`.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            /// The number that stands in the payload. It never changes and is never used again.
            pub const fn type_number(&self) -> u16 {
                match self { $(Self::$name(_) => $number,)* }
            }

            /// The schema version that this release writes.
            pub const fn schema_version(&self) -> u8 {
                match self { $(Self::$name(_) => $version,)* }
            }

            /// The kind of stream on which this event may stand.
            pub const fn stream_kind(&self) -> StreamKind {
                match self { $(Self::$name(_) => StreamKind::$kind,)* }
            }

            /// The postcard bytes of the event alone.
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(Self::$name(event) => postcard::to_allocvec(event),)*
                }
                .expect("an event is plain data; encoding to memory cannot fail")
            }

            /// Reads an event of this or an older schema version.
            pub fn decode(event_type: u16, schema_version: u8, bytes: &[u8]) -> Result<Self, DecodeEventError> {
                match event_type {
                    $($number => {
                        let name = stringify!($name);
                        if schema_version > $version {
                            return Err(DecodeEventError::NewerVersion { name, schema_version, current: $version });
                        }
                        if schema_version < $version {
                            return upcast::decode(event_type, schema_version, bytes).ok_or(DecodeEventError::Shape { name, schema_version });
                        }
                        exactly(bytes).map(Self::$name).ok_or(DecodeEventError::Shape { name, schema_version })
                    })*
                    _ => Err(DecodeEventError::UnknownType { event_type }),
                }
            }
        }

        /// The JSON Schema of each event's `data`, by name.
        pub fn json_schemas() -> Vec<(&'static str, schemars::Schema)> {
            vec![$((stringify!($name), schemars::schema_for!($payload))),*]
        }
    };
}

/// Decodes all of the bytes, or nothing.
pub(crate) fn exactly<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}

events! {
    /// The log begins: sequence 1.
    0x0101 ClusterFounded(cluster::ClusterFounded) of Cluster, version 1;
    /// A root key is to follow on the one in use.
    0x0110 RootKeyAnnounced(root_key::RootKeyAnnounced) of Cluster, version 1;
    0x0111 RootKeyWithdrawn(root_key::RootKeyWithdrawn) of Cluster, version 1;
    /// Data keys are wrapped under another root key from here on.
    0x0112 RootKeyChanged(root_key::RootKeyChanged) of Cluster, version 1;
    /// Nothing lies under a root key any more.
    0x0113 RootKeyDestroyed(root_key::RootKeyDestroyed) of Cluster, version 1;
    0x0114 RootKeyBackedUp(root_key::RootKeyBackedUp) of Cluster, version 1;
    /// A node may sign records from here on.
    0x0801 WriterEnrolled(writer::WriterEnrolled) of Writer, version 1;
    /// A node may sign no more.
    0x0802 WriterRetired(writer::WriterRetired) of Writer, version 1;
    0x0901 TenantCreated(tenant::TenantCreated) of Tenant, version 1;
    /// The name, or what the tenant says about the expiry of keys.
    0x0902 TenantChanged(tenant::TenantChanged) of Tenant, version 1;
    /// The tenant's keys are refused until it is resumed.
    0x0903 TenantSuspended(tenant::TenantSuspended) of Tenant, version 1;
    0x0904 TenantResumed(tenant::TenantResumed) of Tenant, version 1;
    /// How often keys with certain tags get a new secret by themselves.
    0x0905 TenantRotationsSet(tenant::TenantRotationsSet) of Tenant, version 1;
    0x0201 KeyCreated(key::KeyCreated) of Key, version 1;
    /// The expiry was moved; a recorded expiry is lifted.
    0x0202 KeyRenewed(key::KeyRenewed) of Key, version 1;
    /// The key has a new secret; the old one is good until the overlap ends.
    0x0203 KeyRotated(key::KeyRotated) of Key, version 1;
    0x0204 KeyDisabled(key::KeyDisabled) of Key, version 1;
    0x0205 KeyEnabled(key::KeyEnabled) of Key, version 1;
    /// The expiry has passed. The key was refused from that moment on, whether or not this was recorded yet.
    0x0206 KeyExpired(key::KeyExpired) of Key, version 1;
    0x0207 KeyRevoked(key::KeyRevoked) of Key, version 1;
    /// Details or limits were changed.
    0x0208 KeyChanged(key::KeyChanged) of Key, version 1;
    /// The key's time begins with its first accepted request.
    0x0209 KeyActivationAwaited(key::KeyActivationAwaited) of Key, version 1;
    /// The first accepted request was seen; the first such event fixes the expiry for all.
    0x020a KeyActivated(key::KeyActivated) of Key, version 1;
    /// The older of two secrets is good no more.
    0x020b KeyOverlapFinished(key::KeyOverlapFinished) of Key, version 1;
    0x020c KeyArchived(key::KeyArchived) of Key, version 1;
    0x020d KeyRestored(key::KeyRestored) of Key, version 1;
    /// The key is gone from all read models and its personal fields are destroyed; what happened to it stays provable.
    0x020e KeyPurged(key::KeyPurged) of Key, version 1;
    /// The secret is one that a client had before.
    0x020f KeySecretBrought(key::KeySecretBrought) of Key, version 1;
    0x0210 KeySecretUpgraded(key::KeySecretUpgraded) of Key, version 1;
    0x0211 KeyMetadataSet(key::KeyMetadataSet) of Key, version 1;
    /// All requests go to one upstream.
    0x0212 KeyUpstreamDedicated(key::KeyUpstreamDedicated) of Key, version 1;
    /// The key does not expire because nobody has decided on it yet: it was imported so.
    0x0213 KeyExpiryUnset(key::KeyExpiryUnset) of Key, version 1;
    /// A secret of the key was found in the open.
    0x0214 KeyLeakReported(key::KeyLeakReported) of Key, version 1;
    /// The key gets new secrets by itself from here on.
    0x0215 KeyRotationScheduled(key::KeyRotationScheduled) of Key, version 1;
    0x0216 KeyRotationUnscheduled(key::KeyRotationUnscheduled) of Key, version 1;
    /// The new secret of a rotation by schedule waits to be collected.
    0x0217 KeySuccessorSealed(key::KeySuccessorSealed) of Key, version 1;
    0x0218 KeySuccessorCollected(key::KeySuccessorCollected) of Key, version 1;
    /// The key was another cluster's, or another system's: its secrets by number and hash, and since when it is there.
    0x0220 KeyImported(key::KeyImported) of Key, version 1;
    0x0301 UpstreamAdded(upstream::UpstreamAdded) of Upstream, version 1;
    0x0302 UpstreamChanged(upstream::UpstreamChanged) of Upstream, version 1;
    0x0303 UpstreamDisabled(upstream::UpstreamDisabled) of Upstream, version 1;
    0x0304 UpstreamEnabled(upstream::UpstreamEnabled) of Upstream, version 1;
    0x0305 UpstreamRemoved(upstream::UpstreamRemoved) of Upstream, version 1;
    0x0306 UpstreamLabelled(upstream::UpstreamLabelled) of Upstream, version 1;
    0x0401 CredentialAdded(credential::CredentialAdded) of Credential, version 1;
    /// An operator entered another secret for the same account.
    0x0402 CredentialReplaced(credential::CredentialReplaced) of Credential, version 1;
    /// The credential is out of use; its sealed secret is destroyed after this.
    0x0403 CredentialRevoked(credential::CredentialRevoked) of Credential, version 1;
    /// The next secret is sealed, and a rotation to it begins.
    0x0410 RotationStaged(credential::rotation::RotationStaged) of Credential, version 1;
    /// The provider knows the new secret.
    0x0411 RotationInstalled(credential::rotation::RotationInstalled) of Credential, version 1;
    /// The provider has answered a call with it.
    0x0412 RotationTested(credential::rotation::RotationTested) of Credential, version 1;
    /// The new secret is the one in use, the old one is the fall-back.
    0x0413 RotationPromoted(credential::rotation::RotationPromoted) of Credential, version 1;
    /// The old secret is asked no more; it is kept for a rollback.
    0x0414 RotationDraining(credential::rotation::RotationDraining) of Credential, version 1;
    /// The old secret is out of use for good; it is destroyed after this.
    0x0415 RotationFinished(credential::rotation::RotationFinished) of Credential, version 1;
    /// The new secret was given up before it was used.
    0x0416 RotationAborted(credential::rotation::RotationAborted) of Credential, version 1;
    /// The old secret is the one in use again.
    0x0417 RotationRolledBack(credential::rotation::RotationRolledBack) of Credential, version 1;
    /// The provider refused the new secret and took the old one.
    0x0418 RotationFallbackUsed(credential::rotation::RotationFallbackUsed) of Credential, version 1;
    /// The next secret is to come from a provider.
    0x0419 RotationOrdered(credential::order::RotationOrdered) of Credential, version 1;
    /// A node is about to ask the provider for it.
    0x041a RotationOrderClaimed(credential::order::RotationOrderClaimed) of Credential, version 1;
    /// It was given up before a secret came.
    0x041b RotationOrderDropped(credential::order::RotationOrderDropped) of Credential, version 1;
    /// What the provider calls the key with a secret.
    0x041c ProviderKeyNoted(credential::order::ProviderKeyNoted) of Credential, version 1;
    /// The provider takes that key no more.
    0x041d ProviderKeyRetired(credential::order::ProviderKeyRetired) of Credential, version 1;
    /// The secret is a provider's grant to an account.
    0x0420 CredentialAuthorized(credential::grant::CredentialAuthorized) of Credential, version 1;
    /// A node takes the right to refresh a grant, before the provider hears of it.
    0x0421 CredentialRefreshClaimed(credential::grant::CredentialRefreshClaimed) of Credential, version 1;
    /// The holder of the claim is about to show the provider the refresh token.
    0x0422 CredentialRefreshSent(credential::grant::CredentialRefreshSent) of Credential, version 1;
    0x0423 CredentialRefreshed(credential::grant::CredentialRefreshed) of Credential, version 1;
    /// The claim ended without a new secret.
    0x0424 CredentialRefreshReleased(credential::grant::CredentialRefreshReleased) of Credential, version 1;
    /// The grant is at its end until somebody logs in to the provider.
    0x0425 CredentialLoginRequired(credential::grant::CredentialLoginRequired) of Credential, version 1;
    /// An upstream refused an access token before its time.
    0x0426 CredentialRefreshAsked(credential::grant::CredentialRefreshAsked) of Credential, version 1;
    0x0501 PoolCreated(pool::PoolCreated) of Pool, version 1;
    0x0502 PoolChanged(pool::PoolChanged) of Pool, version 1;
    0x0503 PoolRemoved(pool::PoolRemoved) of Pool, version 1;
    0x0504 PoolPriced(pool::PoolPriced) of Pool, version 1;
    0x0601 PolicyUploaded(policy::PolicyUploaded) of Policy, version 1;
    0x0701 BindingCreated(binding::BindingCreated) of Binding, version 1;
    0x0702 BindingChanged(binding::BindingChanged) of Binding, version 1;
    /// What was bound before the last change is bound again.
    0x0703 BindingRolledBack(binding::BindingRolledBack) of Binding, version 1;
    0x0704 BindingRemoved(binding::BindingRemoved) of Binding, version 1;
    /// Somebody logs in at a provider, to make or renew an upstream's credential.
    0x0c01 LoginStarted(login::LoginStarted) of Login, version 1;
    /// The provider's answer is taken, once.
    0x0c02 LoginConsumed(login::LoginConsumed) of Login, version 1;
    /// Nothing was sent to the provider; its answer may be brought again.
    0x0c03 LoginReopened(login::LoginReopened) of Login, version 1;
    /// The provider gave tokens, which wait to be confirmed.
    0x0c04 LoginExchanged(login::LoginExchanged) of Login, version 1;
    0x0c05 LoginConfirmed(login::LoginConfirmed) of Login, version 1;
    0x0c06 LoginFailed(login::LoginFailed) of Login, version 1;
    0x0c07 LoginCancelled(login::LoginCancelled) of Login, version 1;
    /// Somebody tried what an attacker would.
    0x0c08 LoginMisused(login::LoginMisused) of Login, version 1;
}
