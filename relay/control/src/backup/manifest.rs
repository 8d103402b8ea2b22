//! The manifest: what a backup is, and what its parts must come to.

use schemas::{ClusterId, Digest, PublicKey, Sequence, Timestamp, WriterId};
use serde::{Deserialize, Serialize};

/// The format of backups that this release writes, and the only one it reads.
pub const FORMAT: u16 = 2;
pub const KIND: &str = "keyrelay backup";

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub kind: String,
    pub format: u16,
    pub cluster: ClusterId,
    pub cluster_public_key: PublicKey,
    /// The number of records: the backup is the log's prefix of this size, and everything that these records refer to.
    pub sequence: Sequence,
    /// The RFC 6962 root over these records, as the node had it.
    pub root: Digest,
    pub created_at: Timestamp,
    /// The node that wrote and signed it, and its release.
    pub node: WriterId,
    pub release: String,
    /// Places of the usage stream that nobody could read, and that are not in the backup.
    pub usage_unreadable: u64,
    /// All parts, in their order.
    pub parts: Vec<PartEntry>,
}

/// What one part comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartEntry {
    pub part: Part,
    pub entries: u64,
    /// Of the contents of its frames, which is what the digest is over.
    pub bytes: u64,
    pub blake3: Digest,
}

/// A part of a backup. The numbers are the kinds of its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Part {
    Log = 1,
    Keys = 2,
    Artefacts = 3,
    Usage = 4,
    Decisions = 5,
}

impl Part {
    /// All parts, in the order in which they stand in a backup.
    pub const ALL: [Self; 5] = [Self::Log, Self::Keys, Self::Artefacts, Self::Usage, Self::Decisions];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Keys => "keys",
            Self::Artefacts => "artefacts",
            Self::Usage => "usage",
            Self::Decisions => "decisions",
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|part| *part as u8 == number)
    }
}
