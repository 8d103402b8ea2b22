//! Sealing to recipients: how the key of a file goes to whoever holds an X25519 identity of age, and to nobody else.
//!
//! What is written is an age file, version 1 (<https://age-encryption.org/v1>), in its armour, of one chunk: `age -d` opens it too. Only X25519
//! recipients are known here; stanzas of others are passed over. The crate `age` would be the way to do this, but brings 75 crates with it: those of
//! every other kind of recipient, one of them a pre-release, translations of its messages, and another generation of the ciphers that stand here
//! already. What is needed of the format is this file and those below it, on the primitives of aws-lc and the one cipher.

mod armor;
mod header;
mod keys;

use aws_lc_rs::hkdf;
use chacha20poly1305::{AeadInOut as _, ChaCha20Poly1305, KeyInit as _, Nonce, Tag};
use thiserror::Error;
use zeroize::Zeroizing;

use self::header::Header;
pub use self::keys::{Identity, ParseKeyError, Recipient};
use crate::aead::{self, DataKey, NoRandomness, TAG_LENGTH};
use crate::file_key::FileKey;

/// The most recipients of a file, and the most identities that are tried on one.
pub const KEYS_MAX: usize = 64;

const FILE_KEY_LENGTH: usize = 16;
const PAYLOAD_NONCE_LENGTH: usize = 16;
/// Of the first chunk, which is the last one as well: a counter of eleven bytes, and the mark of the last.
const ONLY_CHUNK: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Why a key was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealAgeError {
    #[error("a file is sealed to 1 to {KEYS_MAX} recipients")]
    Recipients,
    #[error("recipient {0} is a key that nothing can be sealed to")]
    Weak(Recipient),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Why a sealed key was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenAgeError {
    #[error("what is sealed to recipients is no age file: {0}")]
    Malformed(&'static str),
    #[error("none of the identities is a recipient")]
    NoIdentity,
}

/// Seals the key of a file to recipients. Gives an armoured age file.
pub fn seal(key: &FileKey, recipients: &[Recipient]) -> Result<String, SealAgeError> {
    if recipients.is_empty() || recipients.len() > KEYS_MAX {
        return Err(SealAgeError::Recipients);
    }
    let file_key = aead::random::<FILE_KEY_LENGTH>()?;
    let stanzas = recipients.iter().map(|recipient| recipient.wrap(&file_key).ok_or(SealAgeError::Weak(*recipient)));
    let header = header::text(&stanzas.collect::<Result<Vec<_>, _>>()?, &file_key);
    let nonce = aead::random::<PAYLOAD_NONCE_LENGTH>()?;
    let mut file = header.into_bytes();
    file.extend_from_slice(&*nonce);
    file.extend_from_slice(&encrypt(&derive(&*file_key, &*nonce, b"payload"), &ONLY_CHUNK, key.as_bytes()));
    Ok(armor::text(&file))
}

/// Opens what [`seal`] gave, with the first identity that it was sealed to.
pub fn open(text: &str, identities: &[Identity]) -> Result<FileKey, OpenAgeError> {
    let file = armor::read(text).ok_or(OpenAgeError::Malformed("its armour is broken"))?;
    let (header, payload) = Header::read(&file).map_err(OpenAgeError::Malformed)?;
    let pairs = identities.iter().flat_map(|identity| header.stanzas.iter().map(move |stanza| (identity, stanza)));
    let file_key = pairs.filter_map(|(identity, stanza)| identity.unwrap(stanza)).next().ok_or(OpenAgeError::NoIdentity)?;
    if !header.is_by(&file_key) {
        return Err(OpenAgeError::Malformed("its header was changed"));
    }
    let (nonce, chunk) = payload.split_at_checked(PAYLOAD_NONCE_LENGTH).ok_or(OpenAgeError::Malformed("it has no payload"))?;
    let key = decrypt(&derive(&*file_key, nonce, b"payload"), &ONLY_CHUNK, chunk);
    key.map(FileKey::from_bytes).ok_or(OpenAgeError::Malformed("its payload was changed"))
}

/// HKDF with SHA-256, to 32 bytes.
fn derive(secret: &[u8], salt: &[u8], purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let filled = pseudorandom.expand(&[purpose], hkdf::HKDF_SHA256).and_then(|output| output.fill(&mut key[..]));
    filled.expect("32 bytes are what this HKDF gives at once");
    key
}

/// ChaCha20-Poly1305 without associated data. Every key here is for one text.
fn encrypt(key: &[u8; 32], nonce: &[u8; 12], text: &[u8]) -> Vec<u8> {
    // Sized at once: growing later would leave the text in the old allocation.
    let mut sealed = Vec::with_capacity(text.len() + TAG_LENGTH);
    sealed.extend_from_slice(text);
    let tag = ChaCha20Poly1305::new(key.into()).encrypt_inout_detached(&Nonce::from(*nonce), &[], sealed.as_mut_slice().into());
    sealed.extend_from_slice(&tag.expect("the cipher refuses only messages beyond 256 GiB"));
    sealed
}

/// A text of exactly this length that [`encrypt`] sealed.
fn decrypt<const LENGTH: usize>(key: &[u8; 32], nonce: &[u8; 12], sealed: &[u8]) -> Option<Zeroizing<[u8; LENGTH]>> {
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LENGTH>()?;
    let mut text = Zeroizing::new(<[u8; LENGTH]>::try_from(ciphertext).ok()?);
    let nonce = Nonce::from(*nonce);
    let opened = ChaCha20Poly1305::new(key.into()).decrypt_inout_detached(&nonce, &[], text.as_mut_slice().into(), &Tag::from(*tag));
    opened.ok().map(|()| text)
}

const _: () = assert!(DataKey::LENGTH == 32, "a chunk holds the key of a file whole");

#[cfg(test)]
#[path = "age/tests.rs"]
mod tests;
