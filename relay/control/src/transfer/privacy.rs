//! What becomes of secrets and personal texts in a file: sealed under a passphrase or to recipients, or left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemas::{Digest, KeyId};
use vault::{Altered, FileKey, NoRandomness, Recipient, SealAgeError, Stretching};
use zeroize::Zeroizing;

use super::file::FileError;
use super::line::SealedText;
use super::sealing::{self, SealingTerms};

/// How a file is written.
pub enum Privacy {
    Sealed {
        terms: SealingTerms,
        key: FileKey,
    },
    /// No secret, no hash of one, no personal text.
    Sanitized,
    /// The kinds that are written have nothing to seal.
    Plain,
}

/// Why nothing is sealed.
#[derive(Debug, thiserror::Error)]
pub enum PrivacyError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Privacy {
    /// Under a passphrase and a fresh salt. Takes tenths of a second.
    pub fn sealed(passphrase: &str) -> Result<Self, PrivacyError> {
        let stretching = Stretching::draw()?;
        let key = stretching.key(passphrase).map_err(FileError::from)?;
        Ok(Self::Sealed { terms: SealingTerms::under(&stretching, &key), key })
    }

    /// To recipients, under a key that is drawn for the file.
    pub fn sealed_to(recipients: &[Recipient]) -> Result<Self, PrivacyError> {
        match sealing::draw(recipients) {
            Ok((terms, key)) => Ok(Self::Sealed { terms, key }),
            Err(SealAgeError::NoRandomness(error)) => Err(error.into()),
            Err(error) => Err(FileError::Seal(error).into()),
        }
    }

    pub const fn is_sanitized(&self) -> bool {
        matches!(self, Self::Sanitized)
    }

    pub const fn terms(&self) -> Option<&SealingTerms> {
        match self {
            Self::Sealed { terms, .. } => Some(terms),
            Self::Sanitized | Self::Plain => None,
        }
    }

    /// A text in a place of the file; none where it is left out.
    pub fn text(&self, place: &str, text: &[u8]) -> Result<Option<SealedText>, NoRandomness> {
        match self {
            Self::Sealed { key, .. } => Ok(Some(SealedText { sealed: STANDARD.encode(key.seal(place, text)?) })),
            Self::Sanitized | Self::Plain => Ok(None),
        }
    }
}

/// Opens a text of a file.
pub fn open(key: &FileKey, place: &str, text: &SealedText) -> Result<Zeroizing<String>, Altered> {
    key.open(place, &STANDARD.decode(&text.sealed).map_err(|_| Altered)?)
}

/// A text in a line that was made here and never leaves this process.
pub(crate) fn plain(text: &str) -> SealedText {
    SealedText { sealed: STANDARD.encode(text) }
}

/// The text of [`plain`].
pub(crate) fn read_plain(text: &SealedText) -> Option<Zeroizing<String>> {
    String::from_utf8(STANDARD.decode(&text.sealed).ok()?).ok().map(Zeroizing::new)
}

/// Where a text stands in a file: of which object, and which member.
pub fn place(kind: &str, id: impl std::fmt::Display, member: &str) -> String {
    format!("{kind}/{id}/{member}")
}

/// The hash that a key gets whose secret the file does not tell: nothing has it, and it is the same at each import.
pub fn withheld_hash(id: KeyId) -> Digest {
    Digest::from_bytes(blake3::derive_key("keyrelay 2026 withheld secret v1", id.as_bytes()))
}
