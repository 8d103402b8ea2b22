//! A page of keys in an order.

use std::ops::ControlFlow;

use schemas::aggregate::Head;
use schemas::key::Key;
use schemas::{Aggregate, KeyId, Stream, TenantId, Timestamp};

use super::filter::KeyFilter;
use super::rows::{self, KEY_ORDERS, KeyRow, Order};
use crate::UsageModels;
use crate::fold::rows::{AGGREGATES, StreamRow};
use crate::models::{ReadModels, Versioned};
use crate::store::{ReadError, Store, Walk, key};

/// The most rows that one page looks at.
pub const ROWS_MAX: usize = 100_000;
/// How many rows the first page looks at to count what matches, beyond those that it needs.
const COUNTED_MAX: usize = 20_000;

/// What keys are listed by. Equal ones come by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySort {
    Id,
    /// Whatever the case.
    Name,
    CreatedAt,
    /// What never expires comes last.
    ExpiresAt,
    /// What was never used comes first.
    LastUsedAt,
}

/// A page that is asked for.
#[derive(Debug, Clone)]
pub struct KeyQuery {
    pub tenant: TenantId,
    pub filter: KeyFilter,
    /// None takes the order that finds the keys quickest. A search for an id, or a key, lists by id whatever is asked.
    pub sort: Option<KeySort>,
    pub descending: bool,
    /// The `next` of the page before, of the same query.
    pub after: Option<Vec<u8>>,
    pub limit: usize,
    /// The moment for which states are told.
    pub now: Timestamp,
}

/// How many keys match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    Exact(u64),
    /// So many were met, and there may be more.
    AtLeast(u64),
    /// It was told with the first page.
    Untold,
}

/// A page of keys; an empty one is not the end as long as there is a next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage<T> {
    pub keys: Vec<T>,
    pub next: Option<Vec<u8>>,
    pub total: Total,
}

/// A key as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    pub key: Versioned<Key>,
    pub last_used_at: Option<Timestamp>,
}

impl ReadModels {
    /// The keys of a page. Blocks on the disk, for a tenth of a second at most where nothing matches.
    pub fn find_keys(&self, usage: &UsageModels, query: &KeyQuery) -> Result<KeyPage<ListedKey>, ReadError> {
        let view = self.view();
        let KeyPage { keys: ids, next, total } = find(&view.store, usage, query)?;
        let streams: Vec<Vec<u8>> = ids.iter().map(|id| key::of_stream(&Stream::key(query.tenant.clone(), *id))).collect();
        let mut keys = Vec::with_capacity(ids.len());
        for row in view.store.get_all::<StreamRow>(AGGREGATES, &streams)? {
            // A key that went between the two reads is not shown.
            let Some(StreamRow { head: Head { version, .. }, aggregate: Some(Aggregate::Key(key)) }) = row else { continue };
            let last_used_at = last_used(usage, &query.tenant, key.id)?;
            keys.push(ListedKey { key: Versioned { value: *key, version }, last_used_at });
        }
        Ok(KeyPage { keys, next, total })
    }

    /// The ids of all keys that match, up to the query's limit, as of one moment. Looks at as many rows as it takes.
    pub fn find_key_ids(&self, usage: &UsageModels, query: &KeyQuery) -> Result<Vec<KeyId>, ReadError> {
        let view = self.view();
        let mut page = Page { rows_max: usize::MAX, ..Page::begin(&view.store, usage, query) };
        for run in runs(query) {
            if page.walk(&run)?.is_some() {
                break;
            }
        }
        Ok(page.keys)
    }
}

/// A run of rows that holds all keys that can match, and maybe others.
struct Run {
    walk: Walk,
    kind: RunKind,
}

/// The numbers stand in cursors.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum RunKind {
    /// Rows of the key index.
    Keys = 0,
    /// The same, without the keys that were used.
    Unused = 1,
    /// Rows of the usage models, which lead to those of the index.
    Used = 2,
}

/// The ids of a page.
pub(crate) fn find(store: &Store, usage: &UsageModels, query: &KeyQuery) -> Result<KeyPage<KeyId>, ReadError> {
    let mut runs = runs(query);
    if let Some((kind, place)) = query.after.as_ref().and_then(|after| after.split_first()) {
        let at = runs.iter().position(|run| run.kind as u8 == *kind).unwrap_or(0);
        runs.drain(..at);
        runs[0].walk.after = Some(place.to_vec());
    }
    let mut page = Page::begin(store, usage, query);
    let mut left_at = None;
    for run in &runs {
        left_at = page.walk(run)?;
        if left_at.is_some() {
            break;
        }
    }
    let Page { keys, matched, full_at, .. } = page;
    let is_whole = left_at.is_none();
    // A page that was filled goes on behind its last key, however much further was counted.
    let next = match full_at {
        Some(_) if is_whole && matched == keys.len() as u64 => None,
        Some(place) => Some(place),
        None => left_at,
    };
    let total = match query {
        KeyQuery { filter, .. } if filter.is_empty() => Total::Exact(rows::count(store, &query.tenant)?),
        KeyQuery { after: Some(_), .. } => Total::Untold,
        _ if is_whole => Total::Exact(matched),
        _ => Total::AtLeast(matched),
    };
    Ok(KeyPage { keys, next, total })
}

/// The runs that are walked one after the other.
fn runs(query: &KeyQuery) -> Vec<Run> {
    let KeyQuery { tenant, filter, descending, .. } = query;
    let walk = |order, value: &[u8], (from, until): (Vec<u8>, Vec<u8>)| Walk {
        prefix: rows::of_value(tenant, order, value),
        from,
        until,
        after: None,
        descending: *descending,
    };
    let all = || (Vec::new(), Vec::new());
    let keys = |walk| vec![Run { walk, kind: RunKind::Keys }];
    if let Some((first, last)) = filter.search.as_ref().and_then(|search| search.only_ids()) {
        return keys(walk(Order::Id, &[], (first.as_bytes().to_vec(), key::after(last.as_bytes().to_vec()))));
    }
    let created = || {
        let before = [filter.created_before, filter.unused_since].into_iter().flatten().min();
        (bound(filter.created_after), bound(before))
    };
    let expires = || (bound(filter.expires_after), bound(filter.expires_before));
    let by_id = || match (&filter.tag, &filter.owner) {
        (Some(tag), _) => keys(walk(Order::Tag, &rows::text(tag), all())),
        (None, Some(owner)) => keys(walk(Order::Owner, &rows::text(owner), all())),
        (None, None) => keys(walk(Order::Id, &[], all())),
    };
    match query.sort {
        Some(KeySort::Id) => by_id(),
        None if filter.tag.is_some() || filter.owner.is_some() => by_id(),
        None if filter.expires_before.is_some() || filter.expires_after.is_some() => keys(walk(Order::ExpiresAt, &[], expires())),
        None if filter.created_before.is_some() || filter.created_after.is_some() => keys(walk(Order::CreatedAt, &[], created())),
        None => by_id(),
        Some(KeySort::Name) => keys(walk(Order::Name, &[], all())),
        Some(KeySort::CreatedAt) => keys(walk(Order::CreatedAt, &[], created())),
        Some(KeySort::ExpiresAt) => keys(walk(Order::ExpiresAt, &[], expires())),
        Some(KeySort::LastUsedAt) => {
            let unused = Run { walk: walk(Order::Id, &[], all()), kind: RunKind::Unused };
            let until = bound(filter.unused_since);
            let used = Walk { prefix: key::of_tenant(tenant), from: Vec::new(), until, after: None, descending: *descending };
            let used = Run { walk: used, kind: RunKind::Used };
            if *descending { vec![used, unused] } else { vec![unused, used] }
        }
    }
}

/// A bound in an order by time; an empty one is none.
fn bound(at: Option<Timestamp>) -> Vec<u8> {
    at.map_or_else(Vec::new, |at| rows::time(at).to_vec())
}

/// A page while it is filled.
struct Page<'a> {
    store: &'a Store,
    usage: &'a UsageModels,
    query: &'a KeyQuery,
    keys: Vec<KeyId>,
    matched: u64,
    looked_at: usize,
    rows_max: usize,
    /// The place of the key that filled the page.
    full_at: Option<Vec<u8>>,
}

impl<'a> Page<'a> {
    const fn begin(store: &'a Store, usage: &'a UsageModels, query: &'a KeyQuery) -> Self {
        Self { store, usage, query, keys: Vec::new(), matched: 0, looked_at: 0, rows_max: ROWS_MAX, full_at: None }
    }

    /// Walks a run; gives the place where it was left, if not at its end.
    fn walk(&mut self, run: &Run) -> Result<Option<Vec<u8>>, ReadError> {
        let (store, usage, kind) = (self.store, self.usage, run.kind);
        let mut left_at = None;
        let visit = |place: &[u8], value: &[u8]| {
            let id = place.last_chunk::<16>().ok_or(ReadError::Row { family: KEY_ORDERS })?;
            let id = KeyId::from_bytes(*id);
            let cursor = || [&[kind as u8], place].concat();
            if self.is_match(kind, id, value)? {
                self.matched += 1;
                if self.keys.len() < self.query.limit {
                    self.keys.push(id);
                    if self.keys.len() == self.query.limit {
                        self.full_at = Some(cursor());
                    }
                }
            }
            self.looked_at += 1;
            if self.is_enough() {
                left_at = Some(cursor());
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        };
        match kind {
            RunKind::Keys | RunKind::Unused => store.walk(KEY_ORDERS, &run.walk, visit)?,
            RunKind::Used => usage.walk_keys(&run.walk, visit)?,
        }
        Ok(left_at)
    }

    fn is_enough(&self) -> bool {
        if self.full_at.is_none() {
            return self.looked_at >= self.rows_max;
        }
        // Only the first page of a filtered list counts on; without a filter the number is known.
        self.query.after.is_some() || self.query.filter.is_empty() || self.looked_at >= COUNTED_MAX.min(self.rows_max)
    }

    fn is_match(&self, kind: RunKind, id: KeyId, value: &[u8]) -> Result<bool, ReadError> {
        let (tenant, filter) = (&self.query.tenant, &self.query.filter);
        let own;
        let value = if kind == RunKind::Used {
            let Some(row) = self.store.get_bytes(KEY_ORDERS, &rows::by_id(tenant, id))? else { return Ok(false) };
            own = row;
            &own
        } else {
            value
        };
        let row: KeyRow<'_> = postcard::from_bytes(value).map_err(|_| ReadError::Row { family: KEY_ORDERS })?;
        if !filter.matches(id, &row, self.query.now) {
            return Ok(false);
        }
        if kind != RunKind::Unused && !filter.asks_use() {
            return Ok(true);
        }
        let last_used = last_used(self.usage, tenant, id)?;
        Ok(filter.matches_use(last_used) && (kind != RunKind::Unused || last_used.is_none()))
    }
}

fn last_used(usage: &UsageModels, tenant: &TenantId, id: KeyId) -> Result<Option<Timestamp>, ReadError> {
    Ok(usage.key_total(tenant, id)?.map(|totals| totals.last_used))
}
