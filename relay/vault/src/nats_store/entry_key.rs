//! The place of one entry, and its spelling in the bucket: `tenant.kind.id.field.version.s`, or `.k` for a wrapped key.
//!
//! Every slot has one spelling. Names keep letters, digits, `-`, `_` and `/`; any other byte is `=` and two digits. So an operator reads
//! what an entry is, and a subject filter selects a tenant or an owner.

use std::fmt::Write as _;

use crate::address::Slot;
use crate::key_store::Entry;
use crate::rocks_store;

/// Below this lie the entries; the rest of a subject is the key.
const SUBJECT_PREFIX: &str = "$KV.KEYRELAY_KEYS.";

/// All entries of the bucket, as a subject.
pub(crate) const ALL_SUBJECTS: &str = "$KV.KEYRELAY_KEYS.>";

/// One entry of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryKey {
    pub(crate) slot: Slot,
    pub(crate) entry: Entry,
}

impl EntryKey {
    pub(crate) fn new(slot: &Slot, entry: Entry) -> Self {
        Self { slot: slot.clone(), entry }
    }

    /// The subject in the bucket's stream.
    pub(crate) fn subject(&self) -> String {
        let slot = &self.slot;
        let mut out = format!("{SUBJECT_PREFIX}{}.", slot.tenant);
        push_name(&mut out, &slot.owner_kind);
        push(&mut out, format_args!(".{:032x}.", u128::from_be_bytes(slot.owner_id)));
        push_name(&mut out, &slot.field);
        let kind = match self.entry {
            Entry::Wrapped => 'k',
            Entry::Sealed => 's',
        };
        push(&mut out, format_args!(".{}.{kind}", slot.version));
        out
    }

    /// The inverse of [`EntryKey::subject`]; none for what no entry has.
    pub(crate) fn of_subject(subject: &str) -> Option<Self> {
        let mut parts = subject.strip_prefix(SUBJECT_PREFIX)?.split('.');
        let mut next = || parts.next();
        let tenant = next()?.parse().ok()?;
        let owner_kind = name(next()?)?.into();
        let owner_id = u128::from_str_radix(next()?, 16).ok()?.to_be_bytes();
        let field = name(next()?)?.into();
        let version = next()?.parse().ok()?;
        let entry = match next()? {
            "k" => Entry::Wrapped,
            "s" => Entry::Sealed,
            _ => return None,
        };
        let key = Self { slot: Slot { tenant, owner_kind, owner_id, field, version }, entry };
        (key.subject() == subject).then_some(key)
    }

    /// Where the entry lies in the mirror.
    pub(crate) fn stored(&self) -> Vec<u8> {
        rocks_store::key(&self.slot, self.entry)
    }
}

fn push(out: &mut String, part: std::fmt::Arguments<'_>) {
    out.write_fmt(part).expect("a string takes what is written");
}

fn push_name(out: &mut String, name: &str) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_/".contains(&byte) {
            out.push(byte.into());
        } else {
            push(out, format_args!("={byte:02x}"));
        }
    }
}

fn name(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'=' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    // A slot has no empty name and none with a zero byte.
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty() && !name.contains('\0'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = EntryKey> {
        let name = "[^\\x00]{1,12}";
        ("[a-z0-9-]{1,32}|_", name, any::<[u8; 16]>(), name, any::<u32>(), any::<bool>()).prop_map(
            |(tenant, kind, owner_id, field, version, sealed)| EntryKey {
                slot: Slot { tenant: tenant.parse().unwrap(), owner_kind: kind.into(), owner_id, field: field.into(), version },
                entry: if sealed { Entry::Sealed } else { Entry::Wrapped },
            },
        )
    }

    proptest! {
        #[test]
        fn a_key_has_one_spelling_and_back(key in keys()) {
            let subject = key.subject();
            let spelt = subject.strip_prefix("$KV.KEYRELAY_KEYS.").unwrap();
            prop_assert!(spelt.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte)), "{}", subject);
            prop_assert!(!spelt.split('.').any(str::is_empty));
            prop_assert_eq!(EntryKey::of_subject(&subject), Some(key));
        }

        #[test]
        fn any_text_is_a_key_or_none(text in "([a-zA-Z0-9=/_.-]|=6a){0,40}") {
            let subject = format!("{SUBJECT_PREFIX}{text}");
            if let Some(key) = EntryKey::of_subject(&subject) {
                prop_assert_eq!(key.subject(), subject);
            }
        }
    }

    #[test]
    fn a_key_is_readable() {
        let slot = Slot {
            tenant: "default".parse().unwrap(),
            owner_kind: "subject/key".into(),
            owner_id: [10; 16],
            field: "key".into(),
            version: 1,
        };
        let subject = EntryKey::new(&slot, Entry::Wrapped).subject();
        assert_eq!(subject, "$KV.KEYRELAY_KEYS.default.subject/key.0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.key.1.k");
    }
}
