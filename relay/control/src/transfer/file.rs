//! The frame of a file: a head on the first line, then a line for each object, in the order of the kinds.
//!
//! The digest in the head covers every byte of the file: the body, and the head with the digest left blank. It tells damage, not forgery:
//! whoever can write a file can write its digest.

use schemas::{ClusterId, Digest, Sequence, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vault::{ParseKeyError, SealAgeError, StretchError};

use super::sealing::SealingTerms;

/// The format that this release writes, and the only one that it reads.
pub const FORMAT: u32 = 1;
/// The most bytes of a line: a policy's module in base64, and room around it.
pub const LINE_BYTES_MAX: usize = 40 * 1024 * 1024;
const DIGEST_DOMAIN: &str = "keyrelay 2026 export file v1";
const BLANK: Digest = Digest::from_bytes([0; 32]);

/// What a file can hold, in the order of its lines: what a line refers to stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Tenants,
    Pools,
    Prices,
    Upstreams,
    Keys,
    Policies,
    Bindings,
    Usage,
    /// There are none yet. A file holds the type where it is asked for, with no lines.
    Users,
}

impl Kind {
    /// What an export holds that asks for nothing in particular.
    pub const ALL: [Self; 8] =
        [Self::Tenants, Self::Pools, Self::Prices, Self::Upstreams, Self::Keys, Self::Policies, Self::Bindings, Self::Usage];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Pools => "pools",
            Self::Prices => "prices",
            Self::Upstreams => "upstreams",
            Self::Keys => "keys",
            Self::Policies => "policies",
            Self::Bindings => "bindings",
            Self::Usage => "usage",
            Self::Users => "users",
        }
    }

    /// Whether its lines may hold secrets or personal texts.
    pub const fn is_private(self) -> bool {
        matches!(self, Self::Tenants | Self::Upstreams | Self::Keys)
    }

    /// The kind of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().chain([Self::Users]).find(|kind| kind.as_str() == text)
    }
}

/// How many lines of a kind a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    pub kind: Kind,
    pub lines: u64,
}

/// Something that the file does not hold, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    pub what: String,
    pub why: String,
}

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The file's format, 1.
    pub keyrelay_export: u32,
    pub created_at: Timestamp,
    /// The cluster whose data it is. Of another system's data: what it was made of, as an id.
    pub cluster_id: ClusterId,
    /// The place in that cluster's log as of which it is.
    pub sequence: Sequence,
    /// `keyrelay`, or the other system that it came from.
    pub origin: String,
    /// Whose data it is, where it is one tenant's only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Whether secrets, hashes of secrets and personal texts are left out.
    pub sanitized: bool,
    pub kinds: Vec<Count>,
    pub left_out: Vec<LeftOut>,
    pub sealing: Option<SealingTerms>,
    /// BLAKE3 over the whole file.
    pub digest: Digest,
}

/// Why a file is not taken, as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FileError {
    #[error("the first line is not the head of a Keyrelay export: {0}")]
    Head(String),
    #[error("the file has format {0}, this release reads format {FORMAT}")]
    Format(u32),
    #[error("the file was changed or damaged: its digest is not the one in its head")]
    Digest,
    #[error("a file with secrets is sealed: give a passphrase or recipients, or sanitise it")]
    Unsealed,
    #[error("the file's secrets are sealed; give the passphrase")]
    PassphraseNeeded,
    #[error("the file's secrets are sealed under a passphrase, and no identity opens it; give the passphrase")]
    UnderPassphrase,
    #[error("the file's secrets are sealed to recipients; give the identity of one of them")]
    IdentityNeeded,
    #[error("the file's secrets are sealed to recipients, and no passphrase opens it; give the identity of one of them")]
    ToRecipients,
    #[error("the file is sealed to other recipients than those of the identities that were given")]
    WrongIdentity,
    #[error("the passphrase is not the one that the file was sealed under")]
    WrongPassphrase,
    #[error(transparent)]
    Stretch(#[from] StretchError),
    #[error(transparent)]
    Recipient(ParseKeyError),
    #[error(transparent)]
    Identity(ParseKeyError),
    #[error("at most {max} identities are tried on a file")]
    TooManyIdentities { max: usize },
    #[error("a file is sealed under a passphrase or to recipients, not both, and a sanitised one is not sealed at all")]
    SealedTwice,
    #[error(transparent)]
    Seal(SealAgeError),
    #[error("the file is sanitised, and there are keys here whose secrets work; force it if that is meant")]
    Sanitized,
    #[error("in its own cluster a tenant's data has its place already: another tenant would have the same ids")]
    SameCluster,
    #[error("only a whole export of a Keyrelay cluster, imported with force, says what to prune")]
    Prune,
}

impl Head {
    /// Sets the digest for a body.
    #[must_use]
    pub fn over(mut self, body: &Digest) -> Self {
        self.digest = self.digest_over(body);
        self
    }

    /// Whether this head and that body are as they were written.
    pub fn is_over(&self, body: &Digest) -> bool {
        self.digest == self.digest_over(body)
    }

    fn digest_over(&self, body: &Digest) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_DOMAIN);
        hasher.update(body.as_bytes()).update(Self { digest: BLANK, ..self.clone() }.text().as_bytes());
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }

    /// The first line, without its end.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a head is plain data with text keys")
    }

    /// Reads the first line. It must be as [`Head::text`] writes it, so that the digest covers each of its bytes.
    pub fn parse(line: &str) -> Result<Self, FileError> {
        #[derive(Deserialize)]
        struct Version {
            keyrelay_export: u32,
        }
        let fault = |error: serde_json::Error| FileError::Head(error.to_string());
        let Version { keyrelay_export } = serde_json::from_str(line).map_err(fault)?;
        if keyrelay_export != FORMAT {
            return Err(FileError::Format(keyrelay_export));
        }
        let head: Self = serde_json::from_str(line).map_err(fault)?;
        if head.text() == line { Ok(head) } else { Err(FileError::Digest) }
    }

    /// Whether the file holds all there is of a kind.
    pub fn has(&self, kind: Kind) -> bool {
        self.kinds.iter().any(|count| count.kind == kind)
    }

    /// How many lines follow.
    pub fn lines(&self) -> u64 {
        self.kinds.iter().map(|count| count.lines).sum()
    }

    /// Whether an export of a cluster made it.
    pub fn is_ours(&self) -> bool {
        self.origin == ORIGIN
    }
}

/// The origin of what a cluster exports.
pub const ORIGIN: &str = "keyrelay";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    fn head() -> Head {
        Head {
            keyrelay_export: FORMAT,
            created_at: Timestamp::from_micros(1_795_334_400_123_456),
            cluster_id: ClusterId::from_bytes([3; 16]),
            sequence: Sequence(41),
            origin: ORIGIN.to_owned(),
            tenant: None,
            sanitized: false,
            kinds: vec![Count { kind: Kind::Keys, lines: 2 }],
            left_out: vec![LeftOut { what: "events".to_owned(), why: "they stay".to_owned() }],
            sealing: None,
            digest: BLANK,
        }
    }

    #[test]
    fn a_digest_covers_the_body_and_every_byte_of_the_head() {
        let body = Digest::blake3(b"a body");
        let written = head().over(&body);
        let read = Head::parse(&written.text()).unwrap();
        assert_eq!(read, written);
        assert!(read.is_over(&body) && !read.is_over(&Digest::blake3(b"another")));
        let text = written.text();
        for at in 0..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] ^= 1;
            let taken = String::from_utf8(wrong).ok().and_then(|wrong| Head::parse(&wrong).ok()).is_some_and(|head| head.is_over(&body));
            assert!(!taken, "byte {at} of {text}");
        }
    }

    #[test]
    fn a_head_that_says_the_same_in_other_bytes_is_not_taken() {
        let text = head().over(&Digest::blake3(b"")).text();
        assert_eq!(Head::parse(&text.replacen(':', ": ", 1)), Err(FileError::Digest));
        assert!(matches!(Head::parse(&text.replacen('{', "{\"more\":1,", 1)), Err(FileError::Head(_))));
        assert_eq!(Head::parse(&text.replacen(":1,", ":2,", 1)), Err(FileError::Format(2)));
        assert!(matches!(Head::parse("{}"), Err(FileError::Head(_))));
    }
}
