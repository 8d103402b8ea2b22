//! X25519 keys as age spells them: `age1…` for a recipient, `AGE-SECRET-KEY-1…` for the identity that opens what is sealed to it.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use thiserror::Error;
use zeroize::Zeroizing;

use super::header::Stanza;
use super::{FILE_KEY_LENGTH, decrypt, derive, encrypt};

const RECIPIENT: Hrp = Hrp::parse_unchecked("age");
const IDENTITY: Hrp = Hrp::parse_unchecked("age-secret-key-");
const KIND: &str = "X25519";
const PURPOSE: &[u8] = b"age-encryption.org/v1/X25519";
const KEY_LENGTH: usize = 32;
/// The wrapping key is never used again, so its nonce is nothing.
const NONCE: [u8; 12] = [0; 12];

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseKeyError {
    #[error("a recipient is an X25519 public key of age, age1 and 58 characters; other kinds are not known here")]
    Recipient,
    #[error("an identity is an X25519 secret key of age, AGE-SECRET-KEY-1 and 58 characters; other kinds are not known here")]
    Identity,
    #[error("this is an identity, and secret: a file is sealed to its recipient, age1…, and nobody else needs to see the identity")]
    IdentityForRecipient,
    #[error("this is a recipient, age1…: what is sealed to it is opened with its identity, AGE-SECRET-KEY-1…")]
    RecipientForIdentity,
}

/// Whoever may open a file: a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recipient([u8; KEY_LENGTH]);

/// The secret key of a recipient.
pub struct Identity {
    secret: PrivateKey,
    recipient: Recipient,
}

impl Recipient {
    /// Wraps a key for it; none where the public key is of small order, which would make the shared secret known to all.
    pub(super) fn wrap(&self, file_key: &[u8; FILE_KEY_LENGTH]) -> Option<Stanza> {
        let ephemeral = PrivateKey::generate(&X25519).ok()?;
        let share = public(&ephemeral)?;
        let wrapping = wrapping_key(&ephemeral, &self.0, &share, &self.0)?;
        let arguments = vec![KIND.to_owned(), STANDARD_NO_PAD.encode(share)];
        Some(Stanza { arguments, body: encrypt(&wrapping, &NONCE, file_key) })
    }
}

impl Identity {
    /// Of its secret key.
    pub fn recipient(&self) -> Recipient {
        self.recipient
    }

    /// The key in a stanza, if it is for this identity.
    pub(super) fn unwrap(&self, stanza: &Stanza) -> Option<Zeroizing<[u8; FILE_KEY_LENGTH]>> {
        let [kind, share] = stanza.arguments.as_slice() else { return None };
        let share = STANDARD_NO_PAD.decode(share).ok().filter(|_| kind == KIND)?;
        let share = <[u8; KEY_LENGTH]>::try_from(share).ok()?;
        decrypt(&*wrapping_key(&self.secret, &share, &share, &self.recipient.0)?, &NONCE, &stanza.body)
    }
}

fn public(secret: &PrivateKey) -> Option<[u8; KEY_LENGTH]> {
    secret.compute_public_key().ok()?.as_ref().try_into().ok()
}

fn wrapping_key(
    ours: &PrivateKey,
    theirs: &[u8; KEY_LENGTH],
    share: &[u8; KEY_LENGTH],
    recipient: &[u8; KEY_LENGTH],
) -> Option<Zeroizing<[u8; 32]>> {
    let salt = [*share, *recipient].concat();
    // It fails where the shared secret would be nothing but zeros.
    agree(ours, UnparsedPublicKey::new(&X25519, theirs), (), |shared| Ok(derive(shared, &salt, PURPOSE))).ok()
}

/// The 32 bytes of a key in this spelling, whole and in one case only.
fn parse(text: &str, prefix: Hrp) -> Option<Zeroizing<[u8; KEY_LENGTH]>> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok().filter(|checked| checked.hrp() == prefix)?;
    let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
    let mut given = checked.byte_iter();
    for byte in bytes.iter_mut() {
        *byte = given.next()?;
    }
    given.next().is_none().then_some(bytes)
}

fn is_of(text: &str, prefix: Hrp) -> bool {
    CheckedHrpstring::new::<Bech32>(text).is_ok_and(|checked| checked.hrp() == prefix)
}

impl FromStr for Recipient {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let wrong = || if is_of(text, IDENTITY) { ParseKeyError::IdentityForRecipient } else { ParseKeyError::Recipient };
        let recipient = Self(*parse(text, RECIPIENT).ok_or_else(wrong)?);
        // Bits that are left over may say anything in a lenient reading, and then two texts would be one key.
        if recipient.to_string() == text { Ok(recipient) } else { Err(ParseKeyError::Recipient) }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32, _>(f, RECIPIENT, &self.0).map_err(|_| fmt::Error)
    }
}

impl FromStr for Identity {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let wrong = || if is_of(text, RECIPIENT) { ParseKeyError::RecipientForIdentity } else { ParseKeyError::Identity };
        let bytes = parse(text, IDENTITY).ok_or_else(wrong)?;
        let secret = PrivateKey::from_private_key(&X25519, &*bytes).map_err(|_| ParseKeyError::Identity)?;
        let recipient = Recipient(public(&secret).ok_or(ParseKeyError::Identity)?);
        Ok(Self { secret, recipient })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity of {}", self.recipient)
    }
}
