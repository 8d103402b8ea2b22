//! The root key: one line of text, from which only a commitment and the wrapping key are derived.
//!
//! A root key never encrypts anything itself and is not kept after the vault is open.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemas::Digest;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::aead::{NoRandomness, random};

/// What the text of a root key begins with; the number is the version of the text form.
pub const PREFIX: &str = "kr-root-1:";

/// Fewer different bytes than this among 32 do not come from a random source (expected are 30; 15 or fewer happen once in 10^15).
const DISTINCT_MIN: usize = 16;

const COMMITMENT_DOMAIN: &str = "keyrelay 2026 vault root key commitment v1";
const WRAPPING_DOMAIN: &str = "keyrelay 2026 vault wrapping key v1";

/// What people type where a key is asked for. Long enough that a random key does not spell one by chance.
const SAMPLE_WORDS: [&str; 6] = ["changeme", "replaceme", "yourrootkey", "password", "keyrelay", "example"];

/// 32 random bytes that everything in the vault hangs on.
#[derive(Clone)]
pub struct RootKey(Zeroizing<[u8; 32]>);

/// Why a text is not a root key. No variant repeats any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseRootKeyError {
    #[error("a root key is one line that begins with {PREFIX}")]
    Prefix,
    #[error("expected the standard base64 of 32 bytes after {PREFIX}, and at most one newline at the end")]
    Encoding,
    #[error("the root key is weak: its bytes follow a pattern")]
    Pattern,
    #[error("the root key is weak: it is made of words")]
    Words,
    #[error("the root key is weak: it has fewer than {DISTINCT_MIN} different bytes")]
    FewDistinct,
}

impl RootKey {
    /// A new key from the system's random source.
    pub fn generate() -> Result<Self, NoRandomness> {
        loop {
            let key = Self(random()?);
            if key.check().is_ok() {
                return Ok(key);
            }
        }
    }

    /// Reads the text form. One newline at the end is accepted, because files end in one; nothing else is.
    pub fn parse(text: &str) -> Result<Self, ParseRootKeyError> {
        let encoded = text.strip_suffix('\n').unwrap_or(text).strip_prefix(PREFIX).ok_or(ParseRootKeyError::Prefix)?;
        let lower = Zeroizing::new(encoded.to_ascii_lowercase());
        if SAMPLE_WORDS.iter().any(|word| lower.contains(word)) {
            return Err(ParseRootKeyError::Words);
        }
        // Larger than 32, because the decoder wants room for the longest output that text of this length could have.
        let mut buffer = Zeroizing::new([0; 48]);
        let length = STANDARD.decode_slice(encoded, &mut buffer[..]).map_err(|_| ParseRootKeyError::Encoding)?;
        let mut key = Zeroizing::new([0; 32]);
        if length != key.len() {
            return Err(ParseRootKeyError::Encoding);
        }
        key.copy_from_slice(&buffer[..length]);
        let key = Self(key);
        key.check()?;
        Ok(key)
    }

    /// The text form, without a newline.
    pub fn text(&self) -> Zeroizing<String> {
        // The capacity is the whole length, so that no reallocation leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 44));
        text.push_str(PREFIX);
        STANDARD.encode_string(*self.0, &mut text);
        text
    }

    /// What the log keeps of this key: two keys never share it, and nothing of the key can be told from it.
    pub fn commitment(&self) -> Digest {
        Digest::from_bytes(blake3::derive_key(COMMITMENT_DOMAIN, &self.0[..]))
    }

    /// The name that wrapped data keys give this root key.
    pub fn version(&self) -> RootKeyVersion {
        RootKeyVersion::of(&self.commitment())
    }

    /// The key that data keys are wrapped under.
    pub(crate) fn wrapping_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(WRAPPING_DOMAIN, &self.0[..]))
    }

    fn check(&self) -> Result<(), ParseRootKeyError> {
        let bytes = &self.0[..];
        let step = bytes[1].wrapping_sub(bytes[0]);
        let counts = bytes.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step);
        if counts || bytes[..16] == bytes[16..] {
            return Err(ParseRootKeyError::Pattern);
        }
        let text_end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if bytes[..text_end].iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n')) {
            return Err(ParseRootKeyError::Words);
        }
        let mut seen = Zeroizing::new([false; 256]);
        bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        if seen.iter().filter(|seen| **seen).count() < DISTINCT_MIN {
            return Err(ParseRootKeyError::FewDistinct);
        }
        Ok(())
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(hidden)")
    }
}

/// Names a root key by the first 16 bytes of its commitment, so that nodes need agree on no counter, and a wrapped data key that names
/// it is committed to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootKeyVersion([u8; Self::LENGTH]);

impl RootKeyVersion {
    pub(crate) const LENGTH: usize = 16;

    /// The version of the root key with this commitment, as `ClusterFounded` carries it.
    pub fn of(commitment: &Digest) -> Self {
        let mut version = [0; Self::LENGTH];
        version.copy_from_slice(&commitment.as_bytes()[..Self::LENGTH]);
        Self(version)
    }

    pub(crate) const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl fmt::Display for RootKeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootKeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use super::*;

    fn text_of(bytes: &[u8]) -> String {
        format!("{PREFIX}{}", STANDARD.encode(bytes))
    }

    #[test]
    fn a_generated_key_has_one_line_and_parses_back() {
        let key = RootKey::generate().unwrap();
        let text = key.text();
        assert_eq!((text.len(), text.lines().count()), (54, 1));
        for accepted in [text.to_string(), format!("{}\n", *text)] {
            assert_eq!(RootKey::parse(&accepted).unwrap().commitment(), key.commitment());
        }
        assert_eq!(format!("{key:?}"), "RootKey(hidden)");
        assert_ne!(RootKey::generate().unwrap().commitment(), key.commitment());
    }

    #[test]
    fn anything_around_the_line_is_refused() {
        let text = RootKey::generate().unwrap().text();
        let encoded = &text[PREFIX.len()..];
        for (wrong, why) in [
            (format!(" {}", *text), ParseRootKeyError::Prefix),
            (encoded.to_owned(), ParseRootKeyError::Prefix),
            (format!("kr-root-2:{encoded}"), ParseRootKeyError::Prefix),
            (String::new(), ParseRootKeyError::Prefix),
            (format!("{}\n\n", *text), ParseRootKeyError::Encoding),
            (format!("{}\r\n", *text), ParseRootKeyError::Encoding),
            (format!("{} ", *text), ParseRootKeyError::Encoding),
            (text[..53].to_owned(), ParseRootKeyError::Encoding),
            (text_of(&[7; 31]), ParseRootKeyError::Encoding),
            (text_of(&[7; 33]), ParseRootKeyError::Encoding),
            (text_of(&[7; 64]), ParseRootKeyError::Encoding),
        ] {
            assert_eq!(RootKey::parse(&wrong).unwrap_err(), why, "{wrong:?}");
        }
    }

    #[test]
    fn weak_and_sample_keys_are_refused() {
        let counting: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (100..132).rev().collect();
        let twice: Vec<u8> = (0..32_u8).map(|n| (n % 16).wrapping_mul(37) ^ 0x5a).collect();
        let mut few = [0x91; 32];
        (0..14_u8).for_each(|n| few[usize::from(n)] = n.wrapping_mul(n) ^ 0xc3);
        let mut padded = [0; 32];
        padded[..20].copy_from_slice(b"a text of 20 letters");
        for (bytes, why) in [
            (&[0; 32][..], ParseRootKeyError::Pattern),
            (&[0xff; 32], ParseRootKeyError::Pattern),
            (&counting, ParseRootKeyError::Pattern),
            (&down, ParseRootKeyError::Pattern),
            (&twice, ParseRootKeyError::Pattern),
            (b"changeme-please-changeme-quickly", ParseRootKeyError::Words),
            (b"0123456789abcdefghijklmnopqrstuv", ParseRootKeyError::Words),
            (&padded, ParseRootKeyError::Words),
            (&few, ParseRootKeyError::FewDistinct),
        ] {
            assert_eq!(RootKey::parse(&text_of(bytes)).unwrap_err(), why, "{bytes:?}");
        }
        let spelt = format!("{PREFIX}changemeq7Zt0Pv9Lw3Xk1Rj5Nh8Bd2Fg4Hs6Ty0Ua=");
        assert_eq!(RootKey::parse(&spelt).unwrap_err(), ParseRootKeyError::Words);
    }

    #[test]
    fn the_commitment_is_not_the_wrapping_key() {
        let key = RootKey::generate().unwrap();
        assert_ne!(key.commitment().as_bytes(), &*key.wrapping_key());
        assert_ne!(&*key.0, &*key.wrapping_key());
        assert_eq!(key.version(), RootKeyVersion::of(&key.commitment()));
    }
}
