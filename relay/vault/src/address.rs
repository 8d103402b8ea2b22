//! Where a secret belongs.
//!
//! A [`Slot`] is where its entries lie in the key store; a [`SecretAddress`] is a slot and the origin the secret may be shown to. Both are
//! bound into the sealed bytes, so that bytes moved to another slot, or opened for another origin, do not open.

use std::borrow::Cow;

use schemas::TenantId;

/// The address of one secret. An address is used once: a changed secret has the next version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretAddress {
    pub tenant: TenantId,
    /// The kind of what the secret belongs to: `credential`, `record`, `cluster`.
    pub owner_kind: &'static str,
    pub owner_id: [u8; 16],
    /// Which secret of the owner: `secret`, `client_key`.
    pub field: &'static str,
    pub version: u32,
    /// The origin of the upstream that may see this secret (`https://api.example.com`); empty where there is none.
    pub origin: String,
}

impl SecretAddress {
    /// Where the entries of this secret lie.
    pub fn slot(&self) -> Slot {
        Slot {
            tenant: self.tenant.clone(),
            owner_kind: self.owner_kind.into(),
            owner_id: self.owner_id,
            field: self.field.into(),
            version: self.version,
        }
    }
}

/// A place in the key store: it holds at most one wrapped data key and one run of sealed bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    pub tenant: TenantId,
    /// As in [`SecretAddress`]; `subject/<stream kind>` for the key of a stream's personal fields.
    pub owner_kind: Cow<'static, str>,
    pub owner_id: [u8; 16],
    pub field: Cow<'static, str>,
    pub version: u32,
}

impl Slot {
    /// What associated data says of a slot, in this order.
    pub(crate) fn parts<'a>(&'a self, version: &'a [u8; 4]) -> [&'a [u8]; 5] {
        [self.tenant.as_str().as_bytes(), self.owner_kind.as_bytes(), &self.owner_id, self.field.as_bytes(), version]
    }

    /// The slot as bytes, which begin with the tenant and sort as slots do: `tenant 0 kind 0 id field 0 version`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Self::owner_prefix(&self.tenant, &self.owner_kind, &self.owner_id);
        push_name(&mut out, &self.field);
        out.extend_from_slice(&self.version.to_be_bytes());
        out
    }

    /// What the bytes of every slot of one owner, and of no other, begin with.
    pub fn owner_prefix(tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        push_name(&mut out, tenant.as_str());
        push_name(&mut out, owner_kind);
        out.extend_from_slice(owner_id);
        out
    }

    /// The inverse of [`Slot::encode`]; none for bytes that no slot has.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (tenant, rest) = split_name(bytes)?;
        let (owner_kind, rest) = split_name(rest)?;
        let (owner_id, rest) = rest.split_first_chunk::<16>()?;
        let (field, version) = split_name(rest)?;
        Some(Self {
            tenant: tenant.parse().ok()?,
            owner_kind: owner_kind.to_owned().into(),
            owner_id: *owner_id,
            field: field.to_owned().into(),
            version: u32::from_be_bytes(version.try_into().ok()?),
        })
    }
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    // Names are constants of this program and never input; one with a zero byte would share its place with another.
    assert!(!name.is_empty() && !name.contains('\0'), "a name in a slot is not empty and holds no zero byte");
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

fn split_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&bytes[..end]).ok().filter(|name| !name.is_empty())?;
    Some((name, &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slots() -> impl Strategy<Value = Slot> {
        (("[a-z0-9-]{1,32}", "[a-z]{1,10}(/[a-z]{1,10})?"), any::<[u8; 16]>(), "[a-z_]{1,12}", any::<u32>()).prop_map(
            |((tenant, kind), owner_id, field, version)| Slot {
                tenant: tenant.parse().expect("the pattern is a tenant's"),
                owner_kind: kind.into(),
                owner_id,
                field: field.into(),
                version,
            },
        )
    }

    proptest! {
        #[test]
        fn a_slot_has_one_spelling_and_back(slot in slots()) {
            let bytes = slot.encode();
            prop_assert!(bytes.starts_with(slot.tenant.as_str().as_bytes()));
            prop_assert_eq!(Slot::decode(&bytes), Some(slot));
        }

        #[test]
        fn bytes_sort_as_slots_do(a in slots(), b in slots()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(slot) = Slot::decode(&bytes) {
                prop_assert_eq!(slot.encode(), bytes);
            }
        }
    }
}
