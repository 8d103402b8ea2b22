//! Ids as newtypes, parsed once at the edge.
//!
//! An id is 16 bytes. Its text form is a prefix and 26 characters of lower-case base32 (RFC 4648 alphabet, no padding), for
//! example `key_mfrggzdfmztwq2lknnwg23tpoa`. In postcard it is the 16 bytes; in JSON and in subjects it is the text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Length of the base32 text of 16 bytes.
pub const ID_TEXT_LENGTH: usize = 26;

/// Why a text is not an id, a tenant or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseIdError {
    #[error("expected an id that begins with {expected}")]
    Prefix { expected: &'static str },
    #[error("expected 26 characters of lower-case base32 after the prefix")]
    Text,
    #[error("a tenant is 1 to 32 characters of a-z, 0-9 and '-'")]
    Tenant,
    #[error("expected 64 characters of lower-case hexadecimal")]
    Digest,
}

/// Lower-case base32 without padding, the one text form of binary values that users meet.
pub(crate) fn base32(bytes: &[u8]) -> String {
    data_encoding::BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// The inverse of [`base32`]; refuses upper case, padding and trailing bits, so that a value has one spelling.
pub(crate) fn parse_base32(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    data_encoding::BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()
}

/// 16 bytes derived from parts, under a domain. Each part is preceded by its length, so that no two lists of parts collide.
pub(crate) fn derive16(domain: &'static str, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// What the text form begins with.
            pub const PREFIX: &'static str = $prefix;

            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, base32(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let rest = text.strip_prefix($prefix).ok_or(ParseIdError::Prefix { expected: $prefix })?;
                let bytes = parse_base32(rest).ok_or(ParseIdError::Text)?;
                bytes.try_into().map(Self).map_err(|_| ParseIdError::Text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }

        text_schema!($name, concat!("^", $prefix, "[a-z2-7]{26}$"));
    )*};
}

/// Describes a type that is a string on every human-readable wire.
macro_rules! text_schema {
    ($name:ident, $pattern:expr) => {
        impl schemars::JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String).pattern(Some($pattern)).into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}
pub(crate) use text_schema;

ids! {
    /// The cluster whose log this is; drawn at founding.
    ClusterId "cl_";
    /// A node's signing identity; node id and writer id are one. Derived from its public key, see [`WriterId::of`].
    WriterId "node_";
    /// A client key: what a client shows the relay.
    KeyId "key_";
    /// One account at one provider.
    UpstreamId "up_";
    /// What the relay shows an upstream.
    CredentialId "cred_";
    /// One rotation of a credential; drawn by the caller or derived from its command, see [`CommandId::new_rotation_id`].
    RotationId "rot_";
    /// A group of upstreams.
    PoolId "pool_";
    /// Where a policy applies, and how.
    BindingId "bind_";
    /// A person who logs in to the admin side.
    UserId "usr_";
    /// A login session of a user.
    SessionId "ses_";
    /// A login of an operator at an upstream's provider.
    LoginId "login_";
    /// One command, for idempotency: derived from the caller's `Idempotency-Key` or drawn at random.
    CommandId "cmd_";
    /// One record of the event log.
    RecordId "rec_";
    /// One request that a client sent to the relay.
    RequestId "req_";
    /// One run of a node's process, new at each start.
    IncarnationId "inc_";
}

impl WriterId {
    /// The id of the writer with this Ed25519 public key. Deriving it binds the id to the key, so that a record cannot name one and be signed by another.
    pub fn of(public_key: &PublicKey) -> Self {
        Self(derive16("keyrelay 2026 writer id v1", &[public_key.as_bytes()]))
    }
}

impl CommandId {
    /// The id of the command that `actor` of `tenant` sent under this `Idempotency-Key`.
    pub fn of(tenant: &TenantId, actor: &crate::Actor, idempotency_key: &str) -> Self {
        let actor = postcard::to_allocvec(actor).expect("an actor is a small enum; encoding to memory cannot fail");
        Self(derive16("keyrelay 2026 command id v1", &[tenant.as_str().as_bytes(), &actor, idempotency_key.as_bytes()]))
    }

    /// The id of a command that is one step of this one, for commands that touch several aggregates.
    pub fn step(&self, step: &str) -> Self {
        Self(derive16("keyrelay 2026 command step v1", &[&self.0, step.as_bytes()]))
    }

    /// The id of the record that carries this command's events.
    pub fn record_id(&self) -> RecordId {
        RecordId(derive16("keyrelay 2026 record id v1", &[&self.0]))
    }

    pub fn new_key_id(&self) -> KeyId {
        KeyId(self.aggregate("key"))
    }

    pub fn new_binding_id(&self) -> BindingId {
        BindingId(self.aggregate("binding"))
    }

    pub fn new_upstream_id(&self) -> UpstreamId {
        UpstreamId(self.aggregate("upstream"))
    }

    pub fn new_credential_id(&self) -> CredentialId {
        CredentialId(self.aggregate("credential"))
    }

    pub fn new_rotation_id(&self) -> RotationId {
        RotationId(self.aggregate("rotation"))
    }

    pub fn new_login_id(&self) -> LoginId {
        LoginId(self.aggregate("login"))
    }

    pub fn new_pool_id(&self) -> PoolId {
        PoolId(self.aggregate("pool"))
    }

    fn aggregate(&self, kind: &str) -> [u8; 16] {
        derive16("keyrelay 2026 aggregate id v1", &[&self.0, kind.as_bytes()])
    }
}

impl ClusterId {
    /// The command that founds a part of the cluster's fixed furniture (`tenant`, `pool`), the same on every node.
    pub fn founding_command(&self, part: &str) -> CommandId {
        CommandId(derive16("keyrelay 2026 founding command v1", &[&self.0, part.as_bytes()]))
    }

    /// The command that founds the pool `default` of a further tenant, the same on every node and at every try.
    pub fn tenant_pool_command(&self, tenant: &TenantId) -> CommandId {
        self.founding_command(&format!("pool of {tenant}"))
    }

    /// The id of the pool `default` that every cluster has from the start.
    pub fn default_pool_id(&self) -> PoolId {
        self.founding_command("pool").new_pool_id()
    }
}

/// A tenant: 1 to 32 characters of `a-z`, `0-9` and `-`. Every row, subject and lookup key begins with it.
///
/// `_` is no tenant: it stands for what belongs to the cluster as a whole ([`TenantId::none`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Cow<'static, str>);

impl TenantId {
    /// The most characters a tenant may have, and the width of its field in a record's header.
    pub const LENGTH_MAX: usize = 32;

    /// The tenant that exists from the start.
    pub const fn default_tenant() -> Self {
        Self(Cow::Borrowed("default"))
    }

    /// `_`: the cluster itself, in subjects of the kinds `cluster` and `writer`.
    pub const fn none() -> Self {
        Self(Cow::Borrowed("_"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TenantId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        // Most logs name these two alone, several times in each record.
        for known in [Self::default_tenant(), Self::none()] {
            if text == known.as_str() {
                return Ok(known);
            }
        }
        let fits = (1..=Self::LENGTH_MAX).contains(&text.len());
        let spelt = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits && spelt { Ok(Self(Cow::Owned(text.to_owned()))) } else { Err(ParseIdError::Tenant) }
    }
}

impl Serialize for TenantId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

text_schema!(TenantId, "^(_|[a-z0-9-]{1,32})$");

macro_rules! hex32 {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| ParseIdError::Digest)?;
                bytes.try_into().map(Self).map_err(|_| ParseIdError::Digest)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }

        text_schema!($name, "^[0-9a-f]{64}$");
    )*};
}

hex32! {
    /// 32 bytes that stand for other bytes: a BLAKE3 or SHA-256 digest, a Merkle root. Lower-case hexadecimal in JSON.
    Digest;
    /// An Ed25519 public key (RFC 8032). Lower-case hexadecimal in JSON.
    PublicKey;
}

impl Digest {
    /// BLAKE3 of the bytes, without a domain: payloads and artefacts.
    pub fn blake3(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = KeyId::from_bytes(*b"0123456789abcdef");
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.len(), "key_".len() + ID_TEXT_LENGTH);
        assert!(text.to_uppercase().replace("KEY_", "key_").parse::<KeyId>().is_err());
        // 26 characters hold 130 bits: the last two must be zero.
        assert!("key_aaaaaaaaaaaaaaaaaaaaaaaaab".parse::<KeyId>().is_err());
        assert_eq!("up_x".parse::<KeyId>(), Err(ParseIdError::Prefix { expected: "key_" }));
    }

    #[test]
    fn ids_are_bytes_in_postcard_and_text_in_json() {
        let id = UpstreamId::from_bytes([7; 16]);
        assert_eq!(postcard::to_allocvec(&id).unwrap(), [7; 16]);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
    }

    #[test]
    fn tenants_are_short_and_lower_case() {
        assert!("acme-1".parse::<TenantId>().is_ok());
        for wrong in ["", "A", "a.b", "a b", "*", ">", &"x".repeat(33)] {
            assert_eq!(wrong.parse::<TenantId>(), Err(ParseIdError::Tenant), "{wrong}");
        }
    }
    #[test]
    fn base32_reads_exactly_what_it_writes() {
        for length in 0..40 {
            let bytes: Vec<u8> = (0..length).map(|n: u8| n.wrapping_mul(151)).collect();
            assert_eq!(parse_base32(&base32(&bytes)), Some(bytes));
        }
        let zeros = "a".repeat(26);
        assert_eq!(parse_base32(&zeros), Some(vec![0; 16]));
        let wrong = [
            // Upper case, padding, digits and letters outside the alphabet, white space, look-alikes.
            zeros.replacen('a', "A", 1),
            format!("{zeros}======"),
            format!("{zeros}="),
            zeros.replacen('a', "0", 1),
            zeros.replacen('a', "1", 1),
            zeros.replacen('a', "8", 1),
            zeros.replacen('a', "-", 1),
            zeros.replacen('a', " ", 1),
            format!("{zeros}\n"),
            "а".repeat(26),
            // Lengths that no whole number of bytes has.
            "a".repeat(25),
            "a".repeat(27),
        ];
        for text in wrong {
            assert_eq!(parse_base32(&text), None, "{text:?}");
        }
    }

    #[test]
    fn trailing_bits_of_an_id_must_be_zero() {
        for last in "abcdefghijklmnopqrstuvwxyz234567".chars() {
            let text = format!("key_{}{last}", "a".repeat(25));
            // The last character carries three bits of the id and two that belong to nothing.
            let is_spelling = "aeimquy4".contains(last);
            assert_eq!(text.parse::<KeyId>().is_ok(), is_spelling, "{text}");
        }
    }

    #[test]
    fn an_id_of_another_length_or_kind_is_refused() {
        let id = KeyId::from_bytes([7; 16]).to_string();
        for wrong in [&id[..id.len() - 1], &format!("{id}a"), &id[4..], &id.replace("key_", "KEY_"), "key_", ""] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
        assert!(id.parse::<UpstreamId>().is_err());
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in [digest.to_string().to_uppercase(), "ab".repeat(31), "ab".repeat(33), "xy".repeat(32), String::new()] {
            assert_eq!(wrong.parse::<Digest>(), Err(ParseIdError::Digest), "{wrong}");
        }
    }

    #[test]
    fn parts_of_a_derivation_do_not_run_into_each_other() {
        assert_ne!(derive16("test", &[b"ab", b"c"]), derive16("test", &[b"a", b"bc"]));
        assert_ne!(derive16("test", &[b"", b"a"]), derive16("test", &[b"a", b""]));
        assert_ne!(derive16("test", &[b"a"]), derive16("other test", &[b"a"]));
    }
}
