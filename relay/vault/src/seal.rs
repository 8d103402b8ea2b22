//! Sealed bytes of one secret.
//!
//! ```text
//! magic "krsb" | format 1 | algorithm 1 | nonce 24 | key commitment 16 | ciphertext | tag 16
//! ```
//! The commitment is over the header (everything before it) and is checked before anything is decrypted. Associated data: the domain,
//! the header, the slot, the origin.

use zeroize::Zeroizing;

use crate::address::{SecretAddress, Slot};
use crate::aead::{self, ALGORITHM, COMMITMENT_LENGTH, DataKey, Forged, NONCE_LENGTH, NoRandomness, TAG_LENGTH};

const MAGIC: &[u8; 4] = b"krsb";
const FORMAT: u8 = 1;
const DOMAIN: &[u8] = b"keyrelay 2026 vault sealed secret v1";
const NONCE_AT: usize = MAGIC.len() + 2;
const HEADER_LENGTH: usize = NONCE_AT + NONCE_LENGTH;

/// Bytes that sealing adds to a secret.
pub const OVERHEAD: usize = HEADER_LENGTH + COMMITMENT_LENGTH + TAG_LENGTH;

pub(crate) fn seal(key: &DataKey, address: &SecretAddress, plaintext: &[u8]) -> Result<Vec<u8>, NoRandomness> {
    let nonce = aead::random::<NONCE_LENGTH>()?;
    let mut out = Vec::with_capacity(OVERHEAD + plaintext.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[FORMAT, ALGORITHM]);
    out.extend_from_slice(&nonce[..]);
    let associated = associated_data(&out, &address.slot(), &address.origin);
    let commitment = key.commitment(&out);
    out.extend_from_slice(&commitment);
    aead::encrypt(key.as_bytes(), &nonce, &associated, plaintext, &mut out);
    Ok(out)
}

pub(crate) fn unseal(key: &DataKey, address: &SecretAddress, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Forged> {
    let (header, rest) = sealed.split_at_checked(HEADER_LENGTH).ok_or(Forged)?;
    let (commitment, ciphertext) = rest.split_at_checked(COMMITMENT_LENGTH).ok_or(Forged)?;
    let known = header.starts_with(MAGIC) && header[MAGIC.len()..NONCE_AT] == [FORMAT, ALGORITHM];
    if !known || !key.is_committed(header, commitment) {
        return Err(Forged);
    }
    let associated = associated_data(header, &address.slot(), &address.origin);
    aead::decrypt(key.as_bytes(), &header[NONCE_AT..], &associated, ciphertext)
}

/// Whether these bytes were sealed under this key, as far as the commitment in them tells.
pub(crate) fn is_key_of(key: &DataKey, sealed: &[u8]) -> bool {
    let parts = sealed.split_at_checked(HEADER_LENGTH).and_then(|(header, rest)| Some((header, rest.get(..COMMITMENT_LENGTH)?)));
    parts.is_some_and(|(header, commitment)| key.is_committed(header, commitment))
}

fn associated_data(header: &[u8], slot: &Slot, origin: &str) -> Vec<u8> {
    let version = slot.version.to_be_bytes();
    let [tenant, kind, id, field, version] = slot.parts(&version);
    aead::associated_data(&[DOMAIN, header, tenant, kind, id, field, version, origin.as_bytes()])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use super::*;
    use proptest::prelude::*;
    use schemas::TenantId;

    fn addresses() -> impl Strategy<Value = SecretAddress> {
        let kinds = prop::sample::select(vec!["credential", "record"]);
        let fields = prop::sample::select(vec!["secret", "client_key"]);
        let origins = prop::sample::select(vec!["", "https://a.example", "https://b.example"]);
        (prop::sample::select(vec!["a", "b"]), kinds, 0..2_u8, fields, 1..3_u32, origins).prop_map(
            |(tenant, owner_kind, id, field, version, origin)| SecretAddress {
                tenant: tenant.parse::<TenantId>().unwrap(),
                owner_kind,
                owner_id: [id; 16],
                field,
                version,
                origin: origin.to_owned(),
            },
        )
    }

    proptest! {
        #[test]
        fn a_secret_opens_at_its_address_and_at_no_other(
            address in addresses(),
            other in addresses(),
            plaintext in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let key = DataKey::generate().unwrap();
            let sealed = seal(&key, &address, &plaintext).unwrap();
            prop_assert_eq!(sealed.len(), plaintext.len() + OVERHEAD);
            prop_assert_eq!(&*unseal(&key, &address, &sealed).unwrap(), &plaintext);
            if other != address {
                prop_assert_eq!(unseal(&key, &other, &sealed).err(), Some(Forged));
            }
            prop_assert_eq!(unseal(&DataKey::generate().unwrap(), &address, &sealed).err(), Some(Forged));
        }

        #[test]
        fn every_flipped_bit_and_every_cut_is_refused(address in addresses(), plaintext in prop::collection::vec(any::<u8>(), 0..24)) {
            let key = DataKey::generate().unwrap();
            let sealed = seal(&key, &address, &plaintext).unwrap();
            for bit in 0..sealed.len() * 8 {
                let mut wrong = sealed.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(unseal(&key, &address, &wrong).err(), Some(Forged), "bit {}", bit);
            }
            for length in 0..sealed.len() {
                prop_assert_eq!(unseal(&key, &address, &sealed[..length]).err(), Some(Forged), "length {}", length);
            }
        }
    }
}
