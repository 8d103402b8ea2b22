//! Sealed personal fields: free text that stands in the log as ciphertext under a key of its subject.
//!
//! A subject key is a wrapped entry without sealed bytes beside it; destroying it erases the subject's fields in every copy of the log.
//!
//! ```text
//! format 1 | nonce 24 | key commitment 16 | ciphertext | tag 16
//! ```
//! Associated data: the domain, the format and nonce, the subject's stream.

use std::sync::atomic::Ordering;

use schemas::{Sealed, Stream, StreamKind, Timestamp};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::address::Slot;
use crate::aead::{self, COMMITMENT_LENGTH, DataKey, Forged, NONCE_LENGTH, NoRandomness, TAG_LENGTH};
use crate::key_store::{Entry, StoreError, Swap};
use crate::root_key::RootKeyVersion;
use crate::vault::{SWAP_ATTEMPTS, Vault};
use crate::wrap::{Times, UnwrapError};

/// Owner kinds of subject keys begin with this; no kind of a secret's owner has a slash.
pub(crate) const OWNER_KIND_PREFIX: &str = "subject/";

const FORMAT: u8 = 1;
const DOMAIN: &[u8] = b"keyrelay 2026 vault sealed field v1";
const HEADER_LENGTH: usize = 1 + NONCE_LENGTH;
const OVERHEAD: usize = HEADER_LENGTH + COMMITMENT_LENGTH + TAG_LENGTH;

/// The longest text of a field.
pub const TEXT_BYTES_MAX: usize = 4096;

const _: () = assert!(TEXT_BYTES_MAX + OVERHEAD <= Sealed::BYTES_MAX);

/// Subject keys have no age: they hold nothing by themselves and are never swept.
const NO_TIMES: Times = Times { touched_at: Timestamp::from_micros(0), expires_at: None };

/// Why a field was not sealed.
#[derive(Debug, Error)]
pub enum SealFieldError {
    #[error("a personal text has at most {TEXT_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong { bytes: usize },
    #[error("the key of the personal fields of {subject} was changed from outside")]
    Tampered { subject: Stream },
    #[error("the key of the personal fields of {subject} is wrapped under another root key, {named}")]
    WrongRootKey { subject: Stream, named: RootKeyVersion },
    #[error("too many others write the key of the personal fields of {subject}")]
    Contended { subject: Stream },
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a field does not unseal.
#[derive(Debug, Error)]
pub enum UnsealFieldError {
    #[error("the personal fields of this subject are erased")]
    Erased,
    #[error("the field was changed, or does not belong to its subject")]
    Tampered,
    #[error("the key of this subject's personal fields is wrapped under another root key, {named}")]
    WrongRootKey { named: RootKeyVersion },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Vault {
    /// Seals a personal text for the aggregate that carries it. The subject's key is drawn, and durable, when it is first used.
    pub fn seal_field(&self, subject: &Stream, text: &str) -> Result<Sealed, SealFieldError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(SealFieldError::TooLong { bytes: text.len() });
        }
        let key = self.subject_key(subject)?;
        Ok(Sealed { subject: subject.clone(), bytes: seal(&key, subject, text)? })
    }

    /// Opens a personal text.
    pub fn unseal_field(&self, sealed: &Sealed) -> Result<Zeroizing<String>, UnsealFieldError> {
        let slot = slot(&sealed.subject);
        let wrapped = self.store.read(Entry::Wrapped, &slot)?.ok_or(UnsealFieldError::Erased)?;
        let (key, _) = self.keyring.unwrap(&wrapped, &slot).map_err(|error| match error {
            UnwrapError::Forged => UnsealFieldError::Tampered,
            UnwrapError::WrongRootKey(named) => UnsealFieldError::WrongRootKey { named },
        })?;
        unseal(&key, &sealed.subject, &sealed.bytes).map_err(|Forged| UnsealFieldError::Tampered)
    }

    /// Destroys the subject's key, and with it every personal field of the subject. Doing it again is safe; what failed is left to
    /// [`Vault::sweep_subjects`].
    pub fn erase_subject(&self, subject: &Stream) -> Result<(), StoreError> {
        self.erase_slots(&[slot(subject)]).inspect_err(|_| self.is_erase_unfinished.store(true, Ordering::Relaxed))
    }

    fn subject_key(&self, subject: &Stream) -> Result<DataKey, SealFieldError> {
        let slot = slot(subject);
        for _ in 0..SWAP_ATTEMPTS {
            if let Some(wrapped) = self.store.read(Entry::Wrapped, &slot)? {
                return match self.keyring.unwrap(&wrapped, &slot) {
                    Ok((key, _)) => Ok(key),
                    Err(UnwrapError::Forged) => Err(SealFieldError::Tampered { subject: subject.clone() }),
                    Err(UnwrapError::WrongRootKey(named)) => Err(SealFieldError::WrongRootKey { subject: subject.clone(), named }),
                };
            }
            let key = DataKey::generate()?;
            let wrapped = self.keyring.wrap(&key, &slot, NO_TIMES)?;
            if self.store.swap_wrapped(&slot, None, Some(&wrapped))? == Swap::Swapped {
                return Ok(key);
            }
        }
        Err(SealFieldError::Contended { subject: subject.clone() })
    }
}

fn slot(subject: &Stream) -> Slot {
    Slot {
        tenant: subject.tenant().clone(),
        owner_kind: format!("{OWNER_KIND_PREFIX}{}", subject.kind().as_str()).into(),
        owner_id: *subject.id(),
        field: "key".into(),
        version: 1,
    }
}

/// The subject whose key lies in this slot; none for any other secret.
pub(crate) fn subject(slot: &Slot) -> Option<Stream> {
    let kind = slot.owner_kind.strip_prefix(OWNER_KIND_PREFIX)?;
    let kind = StreamKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    Stream::new(slot.tenant.clone(), kind, slot.owner_id).ok()
}

fn seal(key: &DataKey, subject: &Stream, text: &str) -> Result<Vec<u8>, NoRandomness> {
    let nonce = aead::random::<NONCE_LENGTH>()?;
    let mut out = Vec::with_capacity(OVERHEAD + text.len());
    out.push(FORMAT);
    out.extend_from_slice(&nonce[..]);
    let associated = associated_data(&out, subject);
    let commitment = key.commitment(&out);
    out.extend_from_slice(&commitment);
    aead::encrypt(key.as_bytes(), &nonce, &associated, text.as_bytes(), &mut out);
    Ok(out)
}

fn unseal(key: &DataKey, subject: &Stream, sealed: &[u8]) -> Result<Zeroizing<String>, Forged> {
    let (header, rest) = sealed.split_at_checked(HEADER_LENGTH).ok_or(Forged)?;
    let (commitment, ciphertext) = rest.split_at_checked(COMMITMENT_LENGTH).ok_or(Forged)?;
    if header[0] != FORMAT || !key.is_committed(header, commitment) {
        return Err(Forged);
    }
    let mut text = aead::decrypt(key.as_bytes(), &header[1..], &associated_data(header, subject), ciphertext)?;
    String::from_utf8(std::mem::take(&mut *text)).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        Forged
    })
}

fn associated_data(header: &[u8], subject: &Stream) -> Vec<u8> {
    aead::associated_data(&[DOMAIN, header, subject.to_string().as_bytes()])
}
