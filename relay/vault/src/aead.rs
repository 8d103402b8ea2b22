//! The one cipher, XChaCha20-Poly1305, and what it is fed: random keys, random nonces, and associated data in one spelling.
//!
//! Buffers are sized before plaintext enters them, and ciphertext is authenticated before any of it is decrypted, so that no copy of a
//! plaintext stays behind in memory.

use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// Number of this cipher in headers.
pub(crate) const ALGORITHM: u8 = 1;
/// 24 random bytes: so many that two never meet, and no counter needs keeping.
pub(crate) const NONCE_LENGTH: usize = 24;
pub(crate) const TAG_LENGTH: usize = 16;
pub(crate) const COMMITMENT_LENGTH: usize = 16;

/// The system's random source failed; nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the system's random source failed")]
pub struct NoRandomness(#[source] getrandom::Error);

/// Bytes were not sealed by this key for this place, or were changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

/// Random bytes for a key or a nonce, erased when dropped.
pub(crate) fn random<const LENGTH: usize>() -> Result<Zeroizing<[u8; LENGTH]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    getrandom::fill(&mut bytes[..]).map_err(NoRandomness)?;
    Ok(bytes)
}

/// A random key of one secret or one subject. It exists in memory only while it is used.
pub(crate) struct DataKey(Zeroizing<[u8; Self::LENGTH]>);

impl DataKey {
    pub(crate) const LENGTH: usize = 32;

    pub(crate) fn generate() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    pub(crate) fn from_bytes(bytes: Zeroizing<[u8; Self::LENGTH]>) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// A tag that only this key gives over `context`. Poly1305 does not commit to its key: without this, one could craft bytes that open
    /// under two keys.
    pub(crate) fn commitment(&self, context: &[u8]) -> [u8; COMMITMENT_LENGTH] {
        let mut tag = [0; COMMITMENT_LENGTH];
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"keyrelay 2026 vault key commitment v1\n").update(context);
        hasher.finalize_xof().fill(&mut tag);
        tag
    }

    /// Compares in constant time.
    pub(crate) fn is_committed(&self, context: &[u8], commitment: &[u8]) -> bool {
        self.commitment(context).ct_eq(commitment).into()
    }
}

/// Appends the ciphertext and tag of `plaintext` to `out`.
pub(crate) fn encrypt(key: &[u8; 32], nonce: &[u8; NONCE_LENGTH], associated: &[u8], plaintext: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    // Reserved at once: growing later would leave the plaintext in the old allocation.
    out.reserve_exact(plaintext.len() + TAG_LENGTH);
    out.extend_from_slice(plaintext);
    let tag = XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(&XNonce::from(*nonce), associated, (&mut out[start..]).into())
        .expect("the cipher refuses only messages beyond 256 GiB");
    out.extend_from_slice(&tag);
}

/// Checks the tag, then decrypts.
pub(crate) fn decrypt(key: &[u8; 32], nonce: &[u8], associated: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Forged> {
    let nonce: [u8; NONCE_LENGTH] = nonce.try_into().map_err(|_| Forged)?;
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LENGTH>().ok_or(Forged)?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let opened = XChaCha20Poly1305::new(key.into()).decrypt_inout_detached(
        &XNonce::from(nonce),
        associated,
        buffer.as_mut_slice().into(),
        &Tag::from(*tag),
    );
    match opened {
        Ok(()) => Ok(buffer),
        Err(_) => {
            buffer.zeroize();
            Err(Forged)
        }
    }
}

/// Associated data: each part after its length, so that no two lists of parts spell the same bytes.
pub(crate) fn associated_data(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| 8 + part.len()).sum());
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_associated_data_cannot_flow_into_each_other() {
        assert_ne!(associated_data(&[b"ab", b"c"]), associated_data(&[b"a", b"bc"]));
        assert_ne!(associated_data(&[b"", b"x"]), associated_data(&[b"x", b""]));
        assert_ne!(associated_data(&[b"x"]), associated_data(&[b"x", b""]));
    }

    /// The vector of draft-irtf-cfrg-xchacha, A.3.1, so that a change of crate cannot change the cipher unseen.
    #[test]
    fn the_cipher_is_xchacha20_poly1305() {
        let key: [u8; 32] = std::array::from_fn(|n| 0x80 + n as u8);
        let nonce: [u8; 24] = std::array::from_fn(|n| 0x40 + n as u8);
        let associated = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let plaintext =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let mut out = Vec::new();
        encrypt(&key, &nonce, &associated, plaintext, &mut out);
        assert_eq!(out[..8], [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]);
        let tag = [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49];
        assert_eq!(out[plaintext.len()..], tag);
    }
}
