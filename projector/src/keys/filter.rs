//! Which keys a list is about.

use schemas::key::{Expiry, KeyState};
use schemas::{KeyId, PoolId, Timestamp, client_key};

use super::rows::{KeyRow, fold_case};

/// What a key must be to be listed; what is absent is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFilter {
    pub search: Option<KeySearch>,
    pub tag: Option<String>,
    pub owner: Option<String>,
    /// As it is at the query's `now`.
    pub state: Option<KeyState>,
    pub pool: Option<PoolId>,
    /// Only keys that expire at all.
    pub expires_before: Option<Timestamp>,
    /// From this moment on; only keys that expire at all.
    pub expires_after: Option<Timestamp>,
    pub created_before: Option<Timestamp>,
    /// From this moment on.
    pub created_after: Option<Timestamp>,
    /// Whether somebody decided that it never expires. A key that awaits its first use will expire.
    pub never_expires: Option<bool>,
    /// Whether nobody has decided on an expiry yet.
    pub expiry_unset: Option<bool>,
    /// Neither used nor created since: what is new had no time to be used.
    pub unused_since: Option<Timestamp>,
}

/// What somebody typed to find a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySearch {
    /// Part of the name; none where the text can only be an id.
    name: Option<String>,
    /// First and last of the ids that begin as the text does.
    ids: Option<(KeyId, KeyId)>,
}

impl KeySearch {
    /// Part of a name in any case, an id or its beginning, or a client key or its visible beginning: of that nothing is kept but the id.
    /// None for an empty text.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        if let Some(rest) = text.strip_prefix(client_key::PREFIX) {
            let head = rest.split_once('-').map_or(rest, |(head, _)| head);
            // What cannot be of an id finds nothing; it may be a secret, so it is not looked for in names.
            return Some(Self { name: None, ids: Some(id_range(head).unwrap_or(NO_IDS)) });
        }
        let ids = text.strip_prefix(KeyId::PREFIX).and_then(id_range);
        let is_whole = ids.is_some_and(|(first, last)| first == last);
        Some(Self { name: (!is_whole).then(|| fold_case(text)), ids })
    }

    /// The ids, where nothing else can be meant.
    pub(super) fn only_ids(&self) -> Option<(KeyId, KeyId)> {
        self.ids.filter(|_| self.name.is_none())
    }

    fn matches(&self, id: KeyId, name: &str) -> bool {
        self.ids.is_some_and(|(first, last)| (first..=last).contains(&id)) || self.name.as_ref().is_some_and(|part| name.contains(part))
    }
}

/// A range without an id in it.
const NO_IDS: (KeyId, KeyId) = (KeyId::from_bytes([1; 16]), KeyId::from_bytes([0; 16]));

/// The first and the last id whose text begins so, behind its prefix. None for what no id's text begins with.
fn id_range(head: &str) -> Option<(KeyId, KeyId)> {
    const BITS: u32 = u128::BITS;
    const BITS_OF_CHARACTER: u32 = 5;
    let (mut first, mut bits) = (0_u128, 0);
    for character in head.bytes() {
        let value = match character {
            b'a'..=b'z' => character - b'a',
            b'2'..=b'7' => character - b'2' + 26,
            _ => return None,
        };
        let taken = BITS_OF_CHARACTER.min(BITS - bits);
        let spare = BITS_OF_CHARACTER - taken;
        if taken == 0 || value & ((1 << spare) - 1) != 0 {
            return None;
        }
        first = (first << taken) | u128::from(value >> spare);
        bits += taken;
    }
    let open = BITS - bits;
    let last = if open == BITS { u128::MAX } else { (first << open) | ((1 << open) - 1) };
    let first = if open == BITS { 0 } else { first << open };
    Some((KeyId::from_bytes(first.to_be_bytes()), KeyId::from_bytes(last.to_be_bytes())))
}

impl KeyFilter {
    /// Whether all is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a key is meant, as far as its row says; of its use the row says nothing.
    pub(super) fn matches(&self, id: KeyId, row: &KeyRow<'_>, now: Timestamp) -> bool {
        let (expires_at, is_never) = match row.expiry {
            Expiry::At(at) => (Some(at), false),
            Expiry::Never => (None, !row.awaits_use && !row.is_expiry_unset),
        };
        self.search.as_ref().is_none_or(|search| search.matches(id, row.name))
            && self.tag.as_ref().is_none_or(|tag| row.tags.contains(&tag.as_str()))
            && self.owner.as_ref().is_none_or(|owner| row.owner == Some(owner))
            && self.state.is_none_or(|state| row.state(now) == state)
            && self.pool.is_none_or(|pool| row.pools.contains(&pool))
            && self.expires_before.is_none_or(|before| expires_at.is_some_and(|at| at < before))
            && self.expires_after.is_none_or(|after| expires_at.is_some_and(|at| at >= after))
            && self.created_before.is_none_or(|before| row.created_at < before)
            && self.created_after.is_none_or(|after| row.created_at >= after)
            && self.never_expires.is_none_or(|never| is_never == never)
            && self.expiry_unset.is_none_or(|unset| row.is_expiry_unset == unset)
            && self.unused_since.is_none_or(|since| row.created_at < since)
    }

    /// Whether the last use of a key allows it. Asked only where [`KeyFilter::asks_use`].
    pub(super) fn matches_use(&self, last_used: Option<Timestamp>) -> bool {
        self.unused_since.is_none_or(|since| last_used.is_none_or(|at| at < since))
    }

    pub(super) const fn asks_use(&self) -> bool {
        self.unused_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_a_range_of_ids() {
        let id = KeyId::from_bytes([0x5a; 16]);
        let text = id.to_string();
        let text = &text[KeyId::PREFIX.len()..];
        for length in 0..=text.len() {
            let (first, last) = id_range(&text[..length]).expect("part of an id");
            assert!((first..=last).contains(&id), "{length}");
            assert!(first.to_string()[KeyId::PREFIX.len()..].starts_with(&text[..length]), "{length}");
            assert!(last.to_string()[KeyId::PREFIX.len()..].starts_with(&text[..length]), "{length}");
        }
        assert_eq!(id_range(text), Some((id, id)));
        for wrong in ["A", "1", "a-", &format!("{text}a"), &format!("{}b", "a".repeat(25))] {
            assert_eq!(id_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn of_a_client_key_only_the_id_is_kept() {
        let id = KeyId::from_bytes([7; 16]);
        let secret = client_key::format(id, &[9; 32]);
        let search = KeySearch::parse(&secret);
        assert_eq!(search, Some(KeySearch { name: None, ids: Some((id, id)) }));
        assert_eq!(KeySearch::parse(&secret[..40]), search);
        assert_eq!(KeySearch::parse(&id.to_string()), search);
        assert_eq!(KeySearch::parse("sk-kr-NOT-AN-ID").and_then(|search| search.only_ids()), Some(NO_IDS));
        assert_eq!(KeySearch::parse("  "), None);
    }
}
