//! How the secrets of a file are sealed: under a passphrase, or to recipients, and what opens them again.

use schemas::Digest;
use serde::{Deserialize, Serialize};
use vault::{FileKey, Identity, NoRandomness, OpenAgeError, Recipient, SealAgeError, Stretching, age};
use zeroize::Zeroizing;

use super::file::FileError;

/// What may stand between recipients, or identities, in one text.
const SEPARATOR: char = ',';

/// How the file's secrets and personal texts are sealed. Each text is sealed with XChaCha20-Poly1305 for its place, under one key for the file; the
/// schemes differ in how one comes to that key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scheme", deny_unknown_fields)]
pub enum SealingTerms {
    /// The key is made of a passphrase.
    #[serde(rename = "argon2id-xchacha20poly1305")]
    Passphrase {
        /// 32 hexadecimal digits.
        salt: String,
        memory_kib: u32,
        passes: u32,
        /// By which a wrong passphrase is told.
        check: Digest,
    },
    /// The key was drawn, and is for whoever has an identity of age that it is sealed to.
    #[serde(rename = "age-x25519-xchacha20poly1305")]
    Recipients {
        /// Public keys, `age1…`, as they were given.
        recipients: Vec<String>,
        /// An armoured age file that holds the 32 bytes of the key.
        sealed_key: String,
        /// By which a key is told that another file's head was given.
        check: Digest,
    },
}

/// What opens a file, as far as it was given.
#[derive(Debug, Default)]
pub struct Opener {
    pub passphrase: Option<Zeroizing<String>>,
    pub identities: Vec<Identity>,
}

impl SealingTerms {
    /// Under a key that was made of a passphrase.
    pub fn under(stretching: &Stretching, key: &FileKey) -> Self {
        let &Stretching { salt, memory_kib, passes } = stretching;
        let salt = salt.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::Passphrase { salt, memory_kib, passes, check: key.check() }
    }

    /// To these recipients.
    pub fn to(recipients: &[Recipient], key: &FileKey) -> Result<Self, SealAgeError> {
        let sealed_key = age::seal(key, recipients)?;
        Ok(Self::Recipients { recipients: recipients.iter().map(ToString::to_string).collect(), sealed_key, check: key.check() })
    }

    /// The key of the file, if it is opened by what was given. Takes tenths of a second for a passphrase.
    pub fn key(&self, opener: &Opener) -> Result<FileKey, FileError> {
        let fault = |what: &str| FileError::Head(format!("its sealing has {what}"));
        match self {
            Self::Passphrase { salt, memory_kib, passes, check } => {
                let Some(passphrase) = &opener.passphrase else {
                    return Err(if opener.identities.is_empty() { FileError::PassphraseNeeded } else { FileError::UnderPassphrase });
                };
                let salt = parse_hex16(salt).ok_or_else(|| fault("a salt that is none"))?;
                let key = Stretching { salt, memory_kib: *memory_kib, passes: *passes }.key(passphrase)?;
                if key.check() == *check { Ok(key) } else { Err(FileError::WrongPassphrase) }
            }
            Self::Recipients { sealed_key, check, .. } => {
                if opener.identities.is_empty() {
                    return Err(if opener.passphrase.is_none() { FileError::IdentityNeeded } else { FileError::ToRecipients });
                }
                let key = age::open(sealed_key, &opener.identities).map_err(|error| match error {
                    OpenAgeError::NoIdentity => FileError::WrongIdentity,
                    OpenAgeError::Malformed(_) => FileError::Head(error.to_string()),
                })?;
                if key.check() == *check { Ok(key) } else { Err(fault("the key of another file")) }
            }
        }
    }
}

/// Recipients in a text, after each other with commas.
pub fn parse_recipients(text: &str) -> Result<Vec<Recipient>, FileError> {
    text.split(SEPARATOR).map(|one| one.trim().parse().map_err(FileError::Recipient)).collect()
}

/// Identities in a text, after each other with commas.
pub fn parse_identities(text: &str) -> Result<Vec<Identity>, FileError> {
    if text.split(SEPARATOR).count() > age::KEYS_MAX {
        return Err(FileError::TooManyIdentities { max: age::KEYS_MAX });
    }
    text.split(SEPARATOR).map(|one| one.trim().parse().map_err(FileError::Identity)).collect()
}

/// A new key for recipients, and the terms that say so.
pub fn draw(recipients: &[Recipient]) -> Result<(SealingTerms, FileKey), SealAgeError> {
    let key = FileKey::draw().map_err(|error: NoRandomness| SealAgeError::from(error))?;
    Ok((SealingTerms::to(recipients, &key)?, key))
}

fn parse_hex16(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let is_hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    for (index, byte) in bytes.iter_mut().enumerate().take(if is_hex { 16 } else { 0 }) {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    is_hex.then_some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    const IDENTITY: &str = "AGE-SECRET-KEY-1YWEX5H9GR4S3FS0RGKVG7D8556JGD6CJ8HX58986FCCGHEJVY2XSLWUAVT";
    const OTHER: &str = "AGE-SECRET-KEY-19VTCJFHKAXR83JKT75TM52GJ9TQJR5GAGLUT2C4RZX59A7JNECASWDTEVC";
    const RECIPIENT: &str = "age1w9k3rmc02y02v5559rvljzuqpxcwsfcmyph7028m3ummf9avt5lsgq49sx";

    fn passphrase(text: &str) -> Opener {
        Opener { passphrase: Some(Zeroizing::new(text.to_owned())), ..Opener::default() }
    }

    fn identity(text: &str) -> Opener {
        Opener { identities: parse_identities(text).unwrap(), ..Opener::default() }
    }

    fn under_passphrase() -> SealingTerms {
        let stretching = Stretching { salt: [9; 16], memory_kib: 8 * 1024, passes: 1 };
        SealingTerms::under(&stretching, &stretching.key("correct horse").unwrap())
    }

    #[test]
    fn only_the_right_passphrase_opens_a_file() {
        let terms = under_passphrase();
        assert!(terms.key(&passphrase("correct horse")).is_ok());
        assert_eq!(terms.key(&passphrase("correct horsf")).err(), Some(FileError::WrongPassphrase));
        assert_eq!(terms.key(&Opener::default()).err(), Some(FileError::PassphraseNeeded));
        assert_eq!(terms.key(&identity(IDENTITY)).err(), Some(FileError::UnderPassphrase));
        let SealingTerms::Passphrase { salt, passes, check, .. } = terms else { panic!("it is under a passphrase") };
        let costly = SealingTerms::Passphrase { salt, memory_kib: u32::MAX, passes, check };
        assert!(matches!(costly.key(&passphrase("correct horse")).err(), Some(FileError::Stretch(_))));
        let odd = SealingTerms::Passphrase { salt: "zz".repeat(16), memory_kib: 8 * 1024, passes, check };
        assert!(matches!(odd.key(&passphrase("correct horse")).err(), Some(FileError::Head(_))));
    }

    #[test]
    fn only_the_identity_of_a_recipient_opens_a_file() {
        let (terms, key) = draw(&parse_recipients(RECIPIENT).unwrap()).unwrap();
        assert_eq!(terms.key(&identity(IDENTITY)).unwrap().check(), key.check());
        assert!(terms.key(&identity(&format!("{OTHER}, {IDENTITY}"))).is_ok());
        assert_eq!(terms.key(&identity(OTHER)).err(), Some(FileError::WrongIdentity));
        assert_eq!(terms.key(&Opener::default()).err(), Some(FileError::IdentityNeeded));
        assert_eq!(terms.key(&passphrase("correct horse")).err(), Some(FileError::ToRecipients));
        let SealingTerms::Recipients { recipients, sealed_key, .. } = terms else { panic!("it is to a recipient") };
        assert_eq!(recipients, [RECIPIENT]);
        let odd = SealingTerms::Recipients { recipients, sealed_key, check: Digest::blake3(b"another") };
        assert!(matches!(odd.key(&identity(IDENTITY)).err(), Some(FileError::Head(_))));
    }

    #[test]
    fn the_terms_of_files_that_exist_are_read_and_written_as_they_were() {
        let text = serde_json::to_string(&under_passphrase()).unwrap();
        assert!(text.starts_with(
            r#"{"scheme":"argon2id-xchacha20poly1305","salt":"09090909090909090909090909090909","memory_kib":8192,"passes":1,"#
        ));
        assert_eq!(serde_json::from_str::<SealingTerms>(&text).unwrap(), under_passphrase());
        assert!(serde_json::from_str::<SealingTerms>(&text.replacen("argon2id", "argon3", 1)).is_err());
        assert!(serde_json::from_str::<SealingTerms>(&text.replacen("\"passes\"", "\"more\":1,\"passes\"", 1)).is_err());
    }
}
