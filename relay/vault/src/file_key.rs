//! The key of a file that travels: each of its texts is sealed under it, for its place in the file.
//!
//! It is made of a passphrase ([`crate::passphrase`]), or drawn and given to recipients ([`crate::age`]).

use schemas::Digest;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::aead::{self, DataKey, Forged, NONCE_LENGTH, NoRandomness, associated_data};

// Both were named when a passphrase was the only way to a key; files that exist have them.
const DOMAIN: &[u8] = b"keyrelay 2026 vault passphrase sealing v1";
const CHECK_DOMAIN: &[u8] = b"keyrelay 2026 vault passphrase check v1";

/// A sealed text was not sealed under this key for this place, or was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a sealed text was changed, or stands in another's place")]
pub struct Altered;

/// The key of one file.
pub struct FileKey(DataKey);

impl FileKey {
    /// A new one, that nobody can guess.
    pub fn draw() -> Result<Self, NoRandomness> {
        DataKey::generate().map(Self)
    }

    pub(crate) fn from_bytes(bytes: Zeroizing<[u8; DataKey::LENGTH]>) -> Self {
        Self(DataKey::from_bytes(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; DataKey::LENGTH] {
        self.0.as_bytes()
    }

    /// What stands in the file, so that a wrong key is told before anything is opened. It lets nobody guess faster than a sealed text.
    pub fn check(&self) -> Digest {
        Digest::from_bytes(*blake3::keyed_hash(self.0.as_bytes(), CHECK_DOMAIN).as_bytes())
    }

    /// Seals a text for a place: a nonce, the ciphertext, and its tag.
    pub fn seal(&self, place: &str, text: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let nonce = aead::random::<NONCE_LENGTH>()?;
        let mut sealed = nonce.to_vec();
        aead::encrypt(self.0.as_bytes(), &nonce, &associated_data(&[DOMAIN, place.as_bytes()]), text, &mut sealed);
        Ok(sealed)
    }

    /// Opens what was sealed for a place.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<String>, Altered> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LENGTH).ok_or(Altered)?;
        let associated = associated_data(&[DOMAIN, place.as_bytes()]);
        let mut text = aead::decrypt(self.0.as_bytes(), nonce, &associated, ciphertext).map_err(|Forged| Altered)?;
        match String::from_utf8(std::mem::take(&mut *text)) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(error) => {
                error.into_bytes().zeroize();
                Err(Altered)
            }
        }
    }
}
