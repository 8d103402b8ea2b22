//! The form of a client key, `sk-kr-<id>-<secret><crc>`, and the hash under which it is known.
//!
//! `<id>` is the key's id (26 characters), `<secret>` 256 random bits (52), `<crc>` CRC-32 of everything before it (7), all in
//! lower-case base32. The checksum lets a typing error be told without a look-up and a scanner match without false alarms; the hash is
//! over the whole text. 256 random bits need no slow hash: there is nothing to guess.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::id::{Digest, ID_TEXT_LENGTH, KeyId, base32, parse_base32};

/// What every client key issued here begins with.
pub const PREFIX: &str = "sk-kr-";

const SECRET_TEXT_LENGTH: usize = 52;
const CRC_TEXT_LENGTH: usize = 7;
const LENGTH: usize = PREFIX.len() + ID_TEXT_LENGTH + 1 + SECRET_TEXT_LENGTH + CRC_TEXT_LENGTH;

/// Why a text is not a client key of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseClientKeyError {
    #[error("a client key begins with sk-kr-")]
    Prefix,
    #[error("the client key is cut short or has extra characters")]
    Length,
    #[error("the client key has a typing error: its checksum does not match")]
    Checksum,
}

/// The text of a new client key. `secret` is 32 bytes from the system's random source.
pub fn format(id: KeyId, secret: &[u8; 32]) -> Zeroizing<String> {
    let id = id.to_string();
    let secret = Zeroizing::new(base32(secret));
    let mut text = Zeroizing::new(String::with_capacity(LENGTH));
    for part in [PREFIX, &id[KeyId::PREFIX.len()..], "-", &secret] {
        text.push_str(part);
    }
    let crc = base32(&crc32fast::hash(text.as_bytes()).to_be_bytes());
    text.push_str(&crc);
    text
}

/// Checks form and checksum and gives the id the text names. It proves nothing about the secret.
pub fn parse(text: &str) -> Result<KeyId, ParseClientKeyError> {
    let rest = text.strip_prefix(PREFIX).ok_or(ParseClientKeyError::Prefix)?;
    if text.len() != LENGTH || !text.is_ascii() || rest.as_bytes()[ID_TEXT_LENGTH] != b'-' {
        return Err(ParseClientKeyError::Length);
    }
    let (body, crc) = text.split_at(LENGTH - CRC_TEXT_LENGTH);
    if parse_base32(crc).as_deref() != Some(&crc32fast::hash(body.as_bytes()).to_be_bytes()[..]) {
        return Err(ParseClientKeyError::Checksum);
    }
    let id = parse_base32(&rest[..ID_TEXT_LENGTH]).and_then(|bytes| bytes.try_into().ok());
    id.map(KeyId::from_bytes).ok_or(ParseClientKeyError::Checksum)
}

/// The hash that stands in the log and in the read model for a client key that we issued.
pub fn hash(text: &str) -> Digest {
    Digest::from_bytes(blake3::derive_key("keyrelay 2026 client key v1", text.as_bytes()))
}

/// The text of a new owner token, `kr-owner-` and 256 random bits in base32.
pub fn format_owner_token(secret: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(format!("kr-owner-{}", base32(secret)))
}

/// The owner token's hash, as `ClusterFounded` carries it.
pub fn owner_token_hash(text: &str) -> Digest {
    Digest::from_bytes(blake3::derive_key("keyrelay 2026 owner token v1", text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_parses_back_and_a_typing_error_is_told() {
        let id = KeyId::from_bytes([3; 16]);
        let text = format(id, &[5; 32]);
        assert_eq!(text.len(), LENGTH);
        assert_eq!(parse(&text), Ok(id));
        assert_eq!(parse(&text[1..]), Err(ParseClientKeyError::Prefix));
        assert_eq!(parse(&text[..80]), Err(ParseClientKeyError::Length));
        for at in [8, 40, LENGTH - 1] {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(parse(&String::from_utf8(wrong).unwrap()), Err(ParseClientKeyError::Checksum));
        }
    }
}
