//! Wrapped data keys: the one entry of a secret that the root key touches, and the one whose loss erases the secret.
//!
//! ```text
//! magic "krwk" | format 1 | algorithm 1 | root-key version 16 | touched at 8 | expires at 8, 0 = never | nonce 24 | key 32 | tag 16
//! ```
//! All numbers are big-endian. Associated data: the domain, everything before the key, then the slot.

use std::fmt;

use schemas::Timestamp;
use zeroize::Zeroizing;

use crate::address::Slot;
use crate::aead::{self, ALGORITHM, DataKey, Forged, NONCE_LENGTH, NoRandomness, TAG_LENGTH};
use crate::root_key::{RootKey, RootKeyVersion};

const MAGIC: &[u8; 4] = b"krwk";
const FORMAT: u8 = 1;
const DOMAIN: &[u8] = b"keyrelay 2026 vault wrapped key v1";
const TIMES_AT: usize = MAGIC.len() + 2 + RootKeyVersion::LENGTH;
const NONCE_AT: usize = TIMES_AT + 16;
const HEADER_LENGTH: usize = NONCE_AT + NONCE_LENGTH;

/// Bytes of a wrapped data key.
pub const LENGTH: usize = HEADER_LENGTH + DataKey::LENGTH + TAG_LENGTH;

/// Until when a secret is kept: told by its wrapped key, because its data key is what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// When the secret was last sealed, or found sealed by one who wanted to; orphans are swept by this age.
    pub(crate) touched_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
}

/// Why a wrapped key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnwrapError {
    Forged,
    /// It names another root key.
    WrongRootKey(RootKeyVersion),
}

/// What of the root key stays in memory: the key that wraps, and its name.
pub(crate) struct WrappingKey {
    key: Zeroizing<[u8; 32]>,
    version: RootKeyVersion,
}

impl WrappingKey {
    pub(crate) fn of(root: &RootKey) -> Self {
        Self { key: root.wrapping_key(), version: root.version() }
    }

    pub(crate) const fn version(&self) -> RootKeyVersion {
        self.version
    }

    pub(crate) fn wrap(&self, key: &DataKey, slot: &Slot, times: Times) -> Result<Vec<u8>, NoRandomness> {
        let nonce = aead::random::<NONCE_LENGTH>()?;
        let mut out = Vec::with_capacity(LENGTH);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[FORMAT, ALGORITHM]);
        out.extend_from_slice(self.version.as_bytes());
        out.extend_from_slice(&times.touched_at.as_micros().to_be_bytes());
        out.extend_from_slice(&times.expires_at.map_or(0, |time| time.as_micros()).to_be_bytes());
        out.extend_from_slice(&nonce[..]);
        let associated = associated_data(&out, slot);
        aead::encrypt(&self.key, &nonce, &associated, key.as_bytes(), &mut out);
        Ok(out)
    }

    pub(crate) fn unwrap(&self, wrapped: &[u8], slot: &Slot) -> Result<(DataKey, Times), UnwrapError> {
        let header = Header::parse(wrapped).map_err(|Forged| UnwrapError::Forged)?;
        if header.version != self.version {
            return Err(UnwrapError::WrongRootKey(header.version));
        }
        let (head, key) = wrapped.split_at(HEADER_LENGTH);
        let opened =
            aead::decrypt(&self.key, &head[NONCE_AT..], &associated_data(head, slot), key).map_err(|Forged| UnwrapError::Forged)?;
        let mut key = Zeroizing::new([0; DataKey::LENGTH]);
        key.copy_from_slice(&opened);
        Ok((DataKey::from_bytes(key), header.times))
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappingKey({})", self.version)
    }
}

/// What a wrapped key says in the clear. A sweep may act on it unproven: who can forge it could as well delete the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: RootKeyVersion,
    pub(crate) times: Times,
}

impl Header {
    pub(crate) fn parse(wrapped: &[u8]) -> Result<Self, Forged> {
        let rest = wrapped.strip_prefix(MAGIC.as_slice()).filter(|_| wrapped.len() == LENGTH).ok_or(Forged)?;
        let rest = rest.strip_prefix(&[FORMAT, ALGORITHM]).ok_or(Forged)?;
        let (version, rest) = rest.split_first_chunk().ok_or(Forged)?;
        let (touched_at, rest) = rest.split_first_chunk().ok_or(Forged)?;
        let (expires_at, _) = rest.split_first_chunk().ok_or(Forged)?;
        let expires_at = Some(u64::from_be_bytes(*expires_at)).filter(|micros| *micros != 0);
        Ok(Self {
            version: RootKeyVersion::from_bytes(*version),
            times: Times {
                touched_at: Timestamp::from_micros(u64::from_be_bytes(*touched_at)),
                expires_at: expires_at.map(Timestamp::from_micros),
            },
        })
    }
}

fn associated_data(header: &[u8], slot: &Slot) -> Vec<u8> {
    let version = slot.version.to_be_bytes();
    let [tenant, kind, id, field, version] = slot.parts(&version);
    aead::associated_data(&[DOMAIN, header, tenant, kind, id, field, version])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use super::*;
    use schemas::TenantId;

    fn slot() -> Slot {
        let tenant = TenantId::default_tenant();
        Slot { tenant, owner_kind: "credential".into(), owner_id: [7; 16], field: "secret".into(), version: 1 }
    }

    const TIMES: Times = Times { touched_at: Timestamp::from_micros(5), expires_at: Some(Timestamp::from_micros(9)) };

    #[test]
    fn a_wrapped_key_opens_and_tells_its_times() {
        let wrapping = WrappingKey::of(&RootKey::generate().unwrap());
        let key = DataKey::generate().unwrap();
        let wrapped = wrapping.wrap(&key, &slot(), TIMES).unwrap();
        assert_eq!(wrapped.len(), LENGTH);
        let (opened, times) = wrapping.unwrap(&wrapped, &slot()).unwrap();
        assert_eq!((opened.as_bytes(), times), (key.as_bytes(), TIMES));
        assert_eq!(Header::parse(&wrapped), Ok(Header { version: wrapping.version(), times: TIMES }));
        assert_ne!(wrapping.wrap(&key, &slot(), TIMES).unwrap(), wrapped);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let wrapping = WrappingKey::of(&RootKey::generate().unwrap());
        let wrapped = wrapping.wrap(&DataKey::generate().unwrap(), &slot(), TIMES).unwrap();
        for bit in 0..wrapped.len() * 8 {
            let mut wrong = wrapped.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(wrapping.unwrap(&wrong, &slot()).is_err(), "bit {bit}");
        }
        for length in 0..wrapped.len() {
            assert!(wrapping.unwrap(&wrapped[..length], &slot()).is_err(), "length {length}");
        }
        assert!(wrapping.unwrap(&[wrapped, vec![0]].concat(), &slot()).is_err());
    }

    #[test]
    fn another_root_key_is_told_from_forgery() {
        let (ours, other) = (WrappingKey::of(&RootKey::generate().unwrap()), WrappingKey::of(&RootKey::generate().unwrap()));
        let wrapped = other.wrap(&DataKey::generate().unwrap(), &slot(), TIMES).unwrap();
        assert_eq!(ours.unwrap(&wrapped, &slot()).err(), Some(UnwrapError::WrongRootKey(other.version())));
        // Claiming our version does not help it.
        let mut claimed = wrapped;
        claimed[6..22].copy_from_slice(ours.version().as_bytes());
        assert_eq!(ours.unwrap(&claimed, &slot()).err(), Some(UnwrapError::Forged));
    }
}
