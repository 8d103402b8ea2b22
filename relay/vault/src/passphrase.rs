//! Sealing under a passphrase: how secrets leave the vault for a file that travels, and come into another one.
//!
//! The key is Argon2id of the passphrase under a salt that each file draws for itself.
//! A passphrase is guessed offline by whoever has the file, so the key is made costly, and a file says how costly.

use argon2::{Algorithm, Argon2, Params, Version};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::aead::{self, DataKey, NoRandomness};
use crate::file_key::FileKey;

/// The fewest bytes of a passphrase.
pub const PASSPHRASE_BYTES_MIN: usize = 8;
/// The most bytes of a passphrase.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;

/// The second choice of RFC 9106 (64 MiB, three passes), on one lane since nothing here runs lanes side by side.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// What a file may ask of a node that opens it.
const MEMORY_KIB_RANGE: std::ops::RangeInclusive<u32> = 8 * 1024..=256 * 1024;
const PASSES_RANGE: std::ops::RangeInclusive<u32> = 1..=10;

/// How a key is made of a passphrase: Argon2id, version 1.3, on one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretching {
    pub salt: [u8; 16],
    /// In KiB.
    pub memory_kib: u32,
    pub passes: u32,
}

/// Why no key was made of a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StretchError {
    #[error("a passphrase has {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes")]
    Length,
    #[error("the file asks for more work, or less, than a passphrase is given: {memory_kib} KiB, {passes} passes")]
    Cost { memory_kib: u32, passes: u32 },
}

impl Stretching {
    /// What new files have, with a salt of their own.
    pub fn draw() -> Result<Self, NoRandomness> {
        Ok(Self { salt: *aead::random()?, memory_kib: MEMORY_KIB, passes: PASSES })
    }

    /// Takes as long as a passphrase should take to try: tenths of a second, and the memory.
    pub fn key(&self, passphrase: &str) -> Result<FileKey, StretchError> {
        let &Self { ref salt, memory_kib, passes } = self;
        if !(PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX).contains(&passphrase.len()) {
            return Err(StretchError::Length);
        }
        if !MEMORY_KIB_RANGE.contains(&memory_kib) || !PASSES_RANGE.contains(&passes) {
            return Err(StretchError::Cost { memory_kib, passes });
        }
        let cost = |_| StretchError::Cost { memory_kib, passes };
        let parameters = Params::new(memory_kib, passes, 1, Some(DataKey::LENGTH)).map_err(cost)?;
        let mut key = Zeroizing::new([0; DataKey::LENGTH]);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
        argon2.hash_password_into(passphrase.as_bytes(), salt, &mut key[..]).map_err(cost)?;
        Ok(FileKey::from_bytes(key))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;
    use crate::file_key::Altered;

    fn cheap() -> Stretching {
        Stretching { salt: [7; 16], memory_kib: 8 * 1024, passes: 1 }
    }

    #[test]
    fn a_text_opens_under_its_passphrase_and_in_its_place_only() {
        let key = cheap().key("correct horse").unwrap();
        let sealed = key.seal("upstream/a", b"sk-secret").unwrap();
        assert_eq!(key.open("upstream/a", &sealed).unwrap().as_str(), "sk-secret");
        assert_eq!(key.open("upstream/b", &sealed), Err(Altered));
        for at in 0..sealed.len() {
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            assert_eq!(key.open("upstream/a", &wrong), Err(Altered), "byte {at}");
        }
        let others = [cheap().key("correct horsf").unwrap(), Stretching { salt: [8; 16], ..cheap() }.key("correct horse").unwrap()];
        for other in others {
            assert_eq!(other.open("upstream/a", &sealed), Err(Altered));
            assert_ne!(other.check(), key.check());
        }
        assert_eq!(cheap().key("correct horse").unwrap().check(), key.check());
    }

    #[test]
    fn what_a_file_asks_for_is_bounded() {
        for (memory_kib, passes) in [(1024, 1), (1024 * 1024, 1), (8 * 1024, 0), (8 * 1024, 11)] {
            let refused = Stretching { memory_kib, passes, ..cheap() }.key("correct horse").err();
            assert_eq!(refused, Some(StretchError::Cost { memory_kib, passes }));
        }
        assert_eq!(cheap().key("short").err(), Some(StretchError::Length));
    }
}
