//! Streams: the records of one aggregate, in order, and the subject each stands on.
//!
//! A subject is literal, `kr.e.<tenant>.<kind>.<id>`; the stream is the same without `kr.e.`. On JetStream the subject is the
//! message's subject, on the embedded log a key. There is never a wildcard in it: tenants, kinds and ids cannot spell one.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::id::{
    BindingId, CredentialId, KeyId, LoginId, PoolId, SessionId, TenantId, UpstreamId, UserId, WriterId, base32, parse_base32, text_schema,
};

/// What every subject of the event log begins with.
pub const SUBJECT_PREFIX: &str = "kr.e.";

/// The kind of aggregate a stream belongs to. The numbers are bytes of the record header and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StreamKind {
    Cluster = 1,
    Key = 2,
    Upstream = 3,
    Credential = 4,
    Pool = 5,
    Policy = 6,
    Binding = 7,
    Writer = 8,
    Tenant = 9,
    User = 10,
    Session = 11,
    Login = 12,
}

impl StreamKind {
    /// Every kind, reserved from the first record on; some have no aggregate in this release.
    pub const ALL: [Self; 12] = [
        Self::Cluster,
        Self::Key,
        Self::Upstream,
        Self::Credential,
        Self::Pool,
        Self::Policy,
        Self::Binding,
        Self::Writer,
        Self::Tenant,
        Self::User,
        Self::Session,
        Self::Login,
    ];

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Key => "key",
            Self::Upstream => "upstream",
            Self::Credential => "credential",
            Self::Pool => "pool",
            Self::Policy => "policy",
            Self::Binding => "binding",
            Self::Writer => "writer",
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Session => "session",
            Self::Login => "login",
        }
    }

    /// What the text form of this kind's ids begins with.
    const fn id_prefix(self) -> &'static str {
        match self {
            Self::Cluster | Self::Tenant => "",
            Self::Key => KeyId::PREFIX,
            Self::Upstream => UpstreamId::PREFIX,
            Self::Credential => CredentialId::PREFIX,
            Self::Pool => PoolId::PREFIX,
            Self::Policy => "pol_",
            Self::Binding => BindingId::PREFIX,
            Self::Writer => WriterId::PREFIX,
            Self::User => UserId::PREFIX,
            Self::Session => SessionId::PREFIX,
            Self::Login => LoginId::PREFIX,
        }
    }

    /// The kinds of which there is one per tenant or one at all: their id is the constant `0`.
    const fn is_single(self) -> bool {
        matches!(self, Self::Cluster | Self::Tenant)
    }

    /// The kinds that belong to the cluster as a whole: their tenant is `_`.
    const fn is_cluster_wide(self) -> bool {
        matches!(self, Self::Cluster | Self::Writer)
    }
}

/// The name of one aggregate's stream: tenant, kind and id. Text: `default.key.key_…`, `_.cluster.0`, `default.tenant.0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    tenant: TenantId,
    kind: StreamKind,
    id: [u8; 16],
}

/// Why a text or a header's fields do not name a stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected a stream such as default.key.key_… (tenant, kind, id)")]
pub struct ParseStreamError;

impl Stream {
    /// The stream of the one cluster aggregate, where every log begins.
    pub const CLUSTER: Self = Self { tenant: TenantId::none(), kind: StreamKind::Cluster, id: [0; 16] };

    /// A stream from its parts; refuses a tenant or an id that the kind cannot have.
    pub fn new(tenant: TenantId, kind: StreamKind, id: [u8; 16]) -> Result<Self, ParseStreamError> {
        let tenant_fits = kind.is_cluster_wide() == (tenant == TenantId::none());
        let id_fits = !kind.is_single() || id == [0; 16];
        if tenant_fits && id_fits { Ok(Self { tenant, kind, id }) } else { Err(ParseStreamError) }
    }

    pub fn writer(id: WriterId) -> Self {
        Self { tenant: TenantId::none(), kind: StreamKind::Writer, id: *id.as_bytes() }
    }

    pub fn tenant_of(tenant: TenantId) -> Self {
        Self { tenant, kind: StreamKind::Tenant, id: [0; 16] }
    }

    pub fn key(tenant: TenantId, id: KeyId) -> Self {
        Self { tenant, kind: StreamKind::Key, id: *id.as_bytes() }
    }

    pub fn upstream(tenant: TenantId, id: UpstreamId) -> Self {
        Self { tenant, kind: StreamKind::Upstream, id: *id.as_bytes() }
    }

    pub fn credential(tenant: TenantId, id: CredentialId) -> Self {
        Self { tenant, kind: StreamKind::Credential, id: *id.as_bytes() }
    }

    pub fn pool(tenant: TenantId, id: PoolId) -> Self {
        Self { tenant, kind: StreamKind::Pool, id: *id.as_bytes() }
    }

    pub fn binding(tenant: TenantId, id: BindingId) -> Self {
        Self { tenant, kind: StreamKind::Binding, id: *id.as_bytes() }
    }

    pub fn login(tenant: TenantId, id: LoginId) -> Self {
        Self { tenant, kind: StreamKind::Login, id: *id.as_bytes() }
    }

    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub const fn kind(&self) -> StreamKind {
        self.kind
    }

    pub const fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// The literal subject this stream's records stand on.
    pub fn subject(&self) -> String {
        format!("{SUBJECT_PREFIX}{self}")
    }

    /// The stream that a subject names; none for a subject that no stream has.
    pub fn from_subject(subject: &str) -> Option<Self> {
        subject.strip_prefix(SUBJECT_PREFIX)?.parse().ok()
    }

    /// The id as users write it: `key_…`, or `0` for a single aggregate.
    pub fn id_text(&self) -> String {
        if self.kind.is_single() { "0".to_owned() } else { format!("{}{}", self.kind.id_prefix(), base32(&self.id)) }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.tenant, self.kind.as_str(), self.id_text())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Stream {
    type Err = ParseStreamError;

    fn from_str(text: &str) -> Result<Self, ParseStreamError> {
        let mut parts = text.splitn(3, '.');
        let (Some(tenant), Some(kind), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ParseStreamError);
        };
        let tenant = tenant.parse().map_err(|_| ParseStreamError)?;
        let kind = StreamKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or(ParseStreamError)?;
        let id = if kind.is_single() {
            if id != "0" {
                return Err(ParseStreamError);
            }
            [0; 16]
        } else {
            let id = id.strip_prefix(kind.id_prefix()).ok_or(ParseStreamError)?;
            parse_base32(id).and_then(|bytes| bytes.try_into().ok()).ok_or(ParseStreamError)?
        };
        Self::new(tenant, kind, id)
    }
}

impl Serialize for Stream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (&self.tenant, self.kind as u8, &self.id).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = Cow::<'de, str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            let (tenant, kind, id) = <(TenantId, u8, [u8; 16])>::deserialize(deserializer)?;
            let kind = StreamKind::from_number(kind).ok_or_else(|| serde::de::Error::custom(ParseStreamError))?;
            Self::new(tenant, kind, id).map_err(serde::de::Error::custom)
        }
    }
}

text_schema!(Stream, r"^[a-z0-9_-]{1,32}\.[a-z]+\.[a-z0-9_]+$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_one_subject_and_back() {
        let id = KeyId::from_bytes([9; 16]);
        let stream = Stream::key(TenantId::default_tenant(), id);
        assert_eq!(stream.subject(), format!("kr.e.default.key.{id}"));
        assert_eq!(Stream::from_subject(&stream.subject()), Some(stream));
        assert_eq!(Stream::CLUSTER.subject(), "kr.e._.cluster.0");
        assert_eq!(Stream::tenant_of(TenantId::default_tenant()).subject(), "kr.e.default.tenant.0");
    }

    #[test]
    fn a_stream_of_a_wrong_tenant_or_id_is_refused() {
        let key = KeyId::from_bytes([9; 16]);
        let writer = WriterId::from_bytes([9; 16]);
        for text in [
            format!("_.key.{key}"),
            format!("default.writer.{writer}"),
            "default.cluster.0".into(),
            "_.cluster.1".into(),
            "default.key.*".into(),
        ] {
            assert_eq!(text.parse::<Stream>(), Err(ParseStreamError), "{text}");
        }
    }
}
