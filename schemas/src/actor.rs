//! Who acted: named in every record from the first on.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{Digest, KeyId, SessionId, UserId, WriterId};

/// Whoever made a command. In a record's header it is one byte and 32 bytes of id, see [`Actor::to_bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// Whoever holds the owner token.
    Owner,
    /// A person, by something they set up that acts without a session.
    User(UserId),
    /// A person, in a login session.
    Session(SessionId),
    /// A client key, on its own account.
    Key(KeyId),
    /// A node, for what it does by itself: founding, enrolment.
    Node(WriterId),
    /// A policy module, by its digest.
    Policy(Digest),
    /// A schedule: expiry, rotation, refresh.
    Scheduler,
    /// A data import, by the digest of its file.
    Import(Digest),
}

impl Actor {
    /// The header's form: a kind, and an id padded with zeros.
    pub fn to_bytes(self) -> (u8, [u8; 32]) {
        let padded = |id: &[u8; 16]| {
            let mut out = [0; 32];
            out[..16].copy_from_slice(id);
            out
        };
        match self {
            Self::Owner => (1, [0; 32]),
            Self::User(id) => (2, padded(id.as_bytes())),
            Self::Session(id) => (3, padded(id.as_bytes())),
            Self::Key(id) => (4, padded(id.as_bytes())),
            Self::Node(id) => (5, padded(id.as_bytes())),
            Self::Policy(digest) => (6, *digest.as_bytes()),
            Self::Scheduler => (7, [0; 32]),
            Self::Import(digest) => (8, *digest.as_bytes()),
        }
    }

    /// The inverse of [`Actor::to_bytes`]; none for a kind or padding that no actor has.
    pub fn from_bytes(kind: u8, id: [u8; 32]) -> Option<Self> {
        let (head, tail) = id.split_at(16);
        let short: [u8; 16] = head.try_into().ok()?;
        let is_short = tail == [0; 16];
        match kind {
            1 | 7 if id != [0; 32] => None,
            1 => Some(Self::Owner),
            7 => Some(Self::Scheduler),
            6 => Some(Self::Policy(Digest::from_bytes(id))),
            8 => Some(Self::Import(Digest::from_bytes(id))),
            2 if is_short => Some(Self::User(UserId::from_bytes(short))),
            3 if is_short => Some(Self::Session(SessionId::from_bytes(short))),
            4 if is_short => Some(Self::Key(KeyId::from_bytes(short))),
            5 if is_short => Some(Self::Node(WriterId::from_bytes(short))),
            _ => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::User(id) => id.fmt(f),
            Self::Session(id) => id.fmt(f),
            Self::Key(id) => id.fmt(f),
            Self::Node(id) => id.fmt(f),
            Self::Policy(digest) => write!(f, "policy {digest}"),
            Self::Scheduler => f.write_str("scheduler"),
            Self::Import(digest) => write!(f, "import {digest}"),
        }
    }
}
