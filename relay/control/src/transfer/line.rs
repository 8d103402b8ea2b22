//! The lines of a file: one object each, a JSON object whose `type` says which.
//!
//! Ids are kept, so that an imported key goes on working under the secret that names it. Members that are not known are refused.

use schemas::binding::OnFault;
use schemas::key::{Endpoint, Limits, SecretScheme};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::pool::ModelPrice;
use schemas::tenant::{TagRotation, TenantChanged};
use schemas::upstream::Dialect;
use schemas::{Actor, BindingId, Digest, KeyId, PoolId, TenantId, Timestamp, UpstreamId};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::file::Kind;

/// Any line but the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    Tenant(TenantLine),
    Pool(PoolLine),
    Price(PriceLine),
    Upstream(Box<UpstreamLine>),
    Key(Box<KeyLine>),
    Policy(PolicyLine),
    Binding(Box<BindingLine>),
    Usage(Box<UsageLine>),
}

/// A secret or a personal text, sealed under the file's passphrase for its place: base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedText {
    pub sealed: String,
}

/// Something that somebody did. Who and when is for readers: elsewhere it stands from the import on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactLine {
    pub at: Timestamp,
    #[serde(default)]
    pub by: Option<Actor>,
    #[serde(default)]
    pub reason: Option<SealedText>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantLine {
    pub tenant: TenantId,
    pub name: String,
    pub default_expiry_seconds: Option<u64>,
    pub expiry_seconds_max: Option<u64>,
    /// Of its keys with a tag. Not there in files of releases that did not carry them: then those that are here stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotations: Option<Vec<TagRotation>>,
    pub suspended: Option<FactLine>,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolLine {
    pub tenant: TenantId,
    pub id: PoolId,
    pub name: String,
    pub created_at: Timestamp,
    /// It is gone, and only named because keys may still name it: nothing is made of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// The prices of a pool, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceLine {
    pub tenant: TenantId,
    pub pool: PoolId,
    pub prices: Vec<ModelPrice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamLine {
    pub tenant: TenantId,
    pub id: UpstreamId,
    pub name: String,
    pub dialect: Dialect,
    pub base_url: String,
    pub pool: PoolId,
    pub priority: u32,
    pub weight: u32,
    pub models: Vec<String>,
    pub region: Option<String>,
    pub tags: Vec<String>,
    /// None where the upstream has none, and in a sanitised file.
    pub credential: Option<SealedText>,
    pub disabled: Option<FactLine>,
    pub created_at: Timestamp,
}

/// A key, without any secret. The hash of a secret that a relay issued gives nothing away: it has 256 random bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyLine {
    pub tenant: TenantId,
    pub id: KeyId,
    pub name: String,
    pub description: Option<SealedText>,
    pub owner: Option<String>,
    pub tags: Vec<String>,
    pub pools: Vec<PoolId>,
    pub models: Vec<String>,
    pub endpoints: Vec<Endpoint>,
    pub limits: Limits,
    /// Left out where the file is sanitised: what stands in it is the operator's.
    pub metadata: Map<String, Value>,
    pub dedicated: Option<DedicatedLine>,
    /// `null` for none. Not there in files of releases that did not carry it, nor of other systems: then what is here stays.
    #[serde(default, deserialize_with = "told", skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Option<RotationLine>>,
    /// One, or two during an overlap; the last is current. None in a sanitised file.
    pub secrets: Vec<SecretLine>,
    /// None: the key does not expire, or its time has not begun.
    pub expires_at: Option<Timestamp>,
    /// It does not expire because nobody has decided on it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expiry_unset: bool,
    /// The key's time, in seconds, begins with its first accepted request.
    pub activation_seconds: Option<u64>,
    pub first_used_at: Option<Timestamp>,
    pub expired_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub renewed_at: Option<Timestamp>,
    pub rotated_at: Option<Timestamp>,
    pub disabled: Option<FactLine>,
    pub revoked: Option<FactLine>,
    pub archived: Option<FactLine>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedicatedLine {
    pub upstream: UpstreamId,
    pub fallback: bool,
}

/// When a key gets a new secret by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationLine {
    pub every_seconds: u64,
    pub overlap_seconds: u64,
}

/// A member that is there, be it `null`.
fn told<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretLine {
    pub number: u32,
    pub hash: Digest,
    pub scheme: SchemeText,
    pub valid_until: Option<Timestamp>,
}

/// How a hash was made, as [`SecretScheme`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemeText {
    Issued,
    /// Under the exporting cluster's pepper of this version: of use in that cluster only.
    Peppered(u32),
    ClaudeRelayService(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyLine {
    pub tenant: TenantId,
    pub digest: Digest,
    pub uploaded_digest: Digest,
    pub name: String,
    pub kind: PolicyKind,
    pub class: PolicyClass,
    /// The component's bytes, base64.
    pub module: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingLine {
    pub tenant: TenantId,
    pub id: BindingId,
    pub kind: PolicyKind,
    pub scope: ScopeLine,
    pub policy: Digest,
    pub settings: Value,
    pub mode: ModeLine,
    pub on_fault: OnFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScopeLine {
    Tenant,
    Pool(PoolId),
    Key(KeyId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModeLine {
    Enforce,
    /// Per cent of the keys.
    Canary(u8),
    Shadow,
    Off,
}

/// What a key used on a day. For readers only: usage is counted from requests, and never imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageLine {
    pub tenant: TenantId,
    pub key: KeyId,
    /// In UTC, such as `2026-11-22`.
    pub day: String,
    pub requests: u64,
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
}

impl TenantLine {
    /// The tenant's name and rules.
    pub fn details(&self) -> TenantChanged {
        let &Self { default_expiry_seconds, expiry_seconds_max, .. } = self;
        TenantChanged { name: self.name.clone(), default_expiry_seconds, expiry_seconds_max }
    }
}

impl Line {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Tenant(_) => Kind::Tenants,
            Self::Pool(_) => Kind::Pools,
            Self::Price(_) => Kind::Prices,
            Self::Upstream(_) => Kind::Upstreams,
            Self::Key(_) => Kind::Keys,
            Self::Policy(_) => Kind::Policies,
            Self::Binding(_) => Kind::Bindings,
            Self::Usage(_) => Kind::Usage,
        }
    }

    /// The id of the line's object, as people name it.
    pub fn id(&self) -> String {
        match self {
            Self::Tenant(line) => line.tenant.to_string(),
            Self::Pool(line) => line.id.to_string(),
            Self::Price(line) => line.pool.to_string(),
            Self::Upstream(line) => line.id.to_string(),
            Self::Key(line) => line.id.to_string(),
            Self::Policy(line) => line.digest.to_string(),
            Self::Binding(line) => line.id.to_string(),
            Self::Usage(line) => format!("{} {}", line.key, line.day),
        }
    }

    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Tenant(line) => &line.tenant,
            Self::Pool(line) => &line.tenant,
            Self::Price(line) => &line.tenant,
            Self::Upstream(line) => &line.tenant,
            Self::Key(line) => &line.tenant,
            Self::Policy(line) => &line.tenant,
            Self::Binding(line) => &line.tenant,
            Self::Usage(line) => &line.tenant,
        }
    }
}

impl Line {
    /// Makes it another tenant's.
    pub(crate) fn set_tenant(&mut self, tenant: TenantId) {
        let place = match self {
            Self::Tenant(line) => &mut line.tenant,
            Self::Pool(line) => &mut line.tenant,
            Self::Price(line) => &mut line.tenant,
            Self::Upstream(line) => &mut line.tenant,
            Self::Key(line) => &mut line.tenant,
            Self::Policy(line) => &mut line.tenant,
            Self::Binding(line) => &mut line.tenant,
            Self::Usage(line) => &mut line.tenant,
        };
        *place = tenant;
    }
}

impl From<SecretScheme> for SchemeText {
    fn from(scheme: SecretScheme) -> Self {
        match scheme {
            SecretScheme::Issued => Self::Issued,
            SecretScheme::Peppered { pepper } => Self::Peppered(pepper),
            SecretScheme::ClaudeRelayService { salt } => Self::ClaudeRelayService(salt),
        }
    }
}

impl From<SchemeText> for SecretScheme {
    fn from(scheme: SchemeText) -> Self {
        match scheme {
            SchemeText::Issued => Self::Issued,
            SchemeText::Peppered(pepper) => Self::Peppered { pepper },
            SchemeText::ClaudeRelayService(salt) => Self::ClaudeRelayService { salt },
        }
    }
}
