//! The rows of the orders, and their keys: tenant, order, value, key id.

use std::collections::BTreeMap;

use schemas::key::{Expiry, Key, KeyState};
use schemas::{KeyId, PoolId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::store::{Batch, Family, ReadError, Store, key};

/// (Tenant, order, value, key id) -> [`KeyRow`]; (tenant, [`COUNT`]) -> how many keys the tenant has.
pub(crate) const KEY_ORDERS: Family = "key_orders";

/// Where the number of a tenant's keys stands; no [`Order`] has this number.
const COUNT: u8 = 0;

/// What a run of rows is ordered by. The numbers are bytes of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    Id = 1,
    Name = 2,
    CreatedAt = 3,
    ExpiresAt = 4,
    /// Only keys with this tag, by id.
    Tag = 5,
    /// Only keys of this owner, by id.
    Owner = 6,
}

/// What filters ask about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRow<'a> {
    /// As [`fold_case`] leaves it.
    pub(super) name: &'a str,
    pub(super) owner: Option<&'a str>,
    #[serde(borrow)]
    pub(super) tags: Vec<&'a str>,
    pub(super) pools: Vec<PoolId>,
    pub(super) created_at: Timestamp,
    /// `Never` while the first use is awaited.
    pub(super) expiry: Expiry,
    pub(super) awaits_use: bool,
    pub(super) is_expiry_unset: bool,
    /// What is recorded; an expiry that has passed since is not.
    pub(super) state: KeyState,
}

impl KeyRow<'_> {
    /// As [`Key::state`].
    pub(super) fn state(&self, now: Timestamp) -> KeyState {
        match (self.state, self.expiry) {
            (KeyState::Active | KeyState::Disabled, Expiry::At(at)) if at <= now => KeyState::Expired,
            (state, _) => state,
        }
    }
}

/// All rows of one key: they differ in their keys only.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeyRows {
    tenant: TenantId,
    keys: Vec<Vec<u8>>,
    value: Vec<u8>,
}

impl KeyRows {
    pub(crate) fn of(key: &Key) -> Self {
        let (details, name) = (&key.details, fold_case(&key.details.name));
        let row = KeyRow {
            name: &name,
            owner: details.owner.as_deref(),
            tags: details.tags.iter().map(String::as_str).collect(),
            pools: details.pools.clone(),
            created_at: key.created_at,
            expiry: key.expiry,
            awaits_use: key.activation.is_some(),
            is_expiry_unset: key.is_expiry_unset,
            state: key.state(Timestamp::from_micros(0)),
        };
        let id = key.id.as_bytes();
        let at = |order, value: &[u8]| of_value(&key.tenant, order, &[value, id].concat());
        let mut keys = vec![
            at(Order::Id, &[]),
            at(Order::Name, &text(&name)),
            at(Order::CreatedAt, &time(key.created_at)),
            at(Order::ExpiresAt, &expiry(key.expiry)),
        ];
        keys.extend(details.tags.iter().map(|tag| at(Order::Tag, &text(tag))));
        keys.extend(details.owner.iter().map(|owner| at(Order::Owner, &text(owner))));
        let value = postcard::to_allocvec(&row).expect("a row is plain data; encoding to memory cannot fail");
        Self { tenant: key.tenant.clone(), keys, value }
    }

    /// What makes the rows of one key those of its state now: keys of rows, with a value or to be deleted.
    fn writes<'r>(before: Option<&'r Self>, after: Option<&'r Self>) -> impl Iterator<Item = (&'r [u8], Option<&'r [u8]>)> {
        let has = |rows: Option<&Self>, key: &Vec<u8>| rows.is_some_and(|rows| rows.keys.contains(key));
        let is_same = before.zip(after).is_some_and(|(before, after)| before.value == after.value);
        let gone = before.into_iter().flat_map(|rows| &rows.keys).filter(move |key| !has(after, key)).map(|key| (&key[..], None));
        let put = after.into_iter().flat_map(move |rows| {
            rows.keys.iter().filter(move |key| !is_same || !has(before, key)).map(move |key| (&key[..], Some(&rows.value[..])))
        });
        gone.chain(put)
    }
}

/// Brings the rows of changed keys up to date, from what they were to what they are, and the numbers of keys. The writes are in the order of
/// their keys, see `Draft::batch`.
pub(crate) fn write(batch: &mut Batch<'_>, store: &Store, changes: &[(Option<&KeyRows>, Option<KeyRows>)]) -> Result<(), ReadError> {
    let (mut writes, mut counts) = (Vec::new(), BTreeMap::<&TenantId, i64>::new());
    for (before, after) in changes {
        let after = after.as_ref();
        writes.extend(KeyRows::writes(*before, after));
        match (before, after) {
            (None, Some(rows)) => *counts.entry(&rows.tenant).or_default() += 1,
            (Some(rows), None) => *counts.entry(&rows.tenant).or_default() -= 1,
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
    writes.sort_unstable();
    for (key, value) in writes {
        match value {
            Some(value) => batch.put_bytes(KEY_ORDERS, key, value),
            None => batch.delete(KEY_ORDERS, key),
        }
    }
    for (tenant, change) in counts.into_iter().filter(|(_, change)| *change != 0) {
        let count = self::count(store, tenant)?.saturating_add_signed(change);
        batch.put(KEY_ORDERS, &of_order(tenant, COUNT), &count);
    }
    Ok(())
}

/// How many keys a tenant has.
pub(super) fn count(store: &Store, tenant: &TenantId) -> Result<u64, ReadError> {
    Ok(store.get::<u64>(KEY_ORDERS, &of_order(tenant, COUNT))?.unwrap_or(0))
}

/// The key of the row by id, which every key has.
pub(super) fn by_id(tenant: &TenantId, id: KeyId) -> Vec<u8> {
    of_value(tenant, Order::Id, id.as_bytes())
}

/// A place in an order.
pub(super) fn of_value(tenant: &TenantId, order: Order, value: &[u8]) -> Vec<u8> {
    let mut key = of_order(tenant, order as u8);
    key.extend_from_slice(value);
    key
}

fn of_order(tenant: &TenantId, order: u8) -> Vec<u8> {
    let mut key = key::of_tenant(tenant);
    key.push(order);
    key
}

/// A text before an id. Names, tags and owners hold no control character, so the zero ends them, and sorts below all that could go on.
pub(super) fn text(text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    value
}

pub(super) fn time(at: Timestamp) -> [u8; 8] {
    at.as_micros().to_be_bytes()
}

/// What never expires comes last.
pub(super) fn expiry(expiry: Expiry) -> [u8; 8] {
    match expiry {
        Expiry::At(at) => time(at),
        Expiry::Never => [0xff; 8],
    }
}

/// What names are compared by: people do not remember their capitals.
pub(super) fn fold_case(name: &str) -> String {
    name.to_lowercase()
}
