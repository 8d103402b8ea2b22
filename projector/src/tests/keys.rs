//! Lists of keys: whatever is asked, as somebody would do it who looks at every key.

use std::collections::BTreeSet;
use std::sync::Arc;

use event_log::usage::StoredBatch;
use proptest::prelude::*;
use schemas::key::{
    Expiry, Key, KeyActivationAwaited, KeyChanged, KeyCreated, KeyDetails, KeyDisabled, KeyEnabled, KeyExpiryUnset, KeyRenewed, KeyState,
    Limits, Term,
};
use schemas::{Aggregate, Event, KeyId, PoolId, Sequence, Stream, StreamKind, TenantId, Timestamp};
use tempfile::TempDir;

use super::fold::{fold, open};
use super::usage::{batch, record};
use super::world::{World, hash, key_id, key_stream, tenant};
use crate::fold::Folder;
use crate::fold::rows::{AGGREGATES, StreamRow};
use crate::keys::{KEY_ORDERS, KeyFilter, KeyPage, KeyQuery, KeySearch, KeySort, Total, find};
use crate::store::key;
use crate::usage::UsageFolder;
use crate::{Memory, UsageModels};

/// A second past 2026-01-01 at which keys are looked at: about the middle of what expiries are drawn from.
const NOW: u64 = 20;
const SECONDS: u64 = 40;

fn second(n: u64) -> Timestamp {
    Timestamp::from_micros(1_767_225_600_000_000).plus_seconds(n)
}

#[derive(Debug, Clone)]
enum Touch {
    Details(u8, String, Option<u8>, Vec<u8>),
    Renew(u8, Option<u64>),
    Await(u8),
    Unset(u8),
    Disable(u8),
    Enable(u8),
    Revoke(u8),
    Use(u8, u64),
}

impl Touch {
    fn key(&self) -> u8 {
        match self {
            Self::Details(n, ..)
            | Self::Renew(n, _)
            | Self::Disable(n)
            | Self::Await(n)
            | Self::Unset(n)
            | Self::Enable(n)
            | Self::Revoke(n)
            | Self::Use(n, _) => *n,
        }
    }
}

fn touch() -> impl Strategy<Value = Touch> {
    let n = 0..24_u8;
    let name = prop_oneof![8 => "[abB]{1,3}", 1 => "key_[a-c]{1,2}", 1 => "[éÉ ñ]{1,2}x"];
    prop_oneof![
        6 => (n.clone(), name, proptest::option::of(0..3_u8), prop::collection::vec(0..3_u8, 0..3))
            .prop_map(|(n, name, owner, tags)| Touch::Details(n, format!("n{name}"), owner, tags)),
        3 => (n.clone(), proptest::option::of(0..SECONDS)).prop_map(|(n, at)| Touch::Renew(n, at)),
        1 => n.clone().prop_map(Touch::Await),
        1 => n.clone().prop_map(Touch::Unset),
        1 => n.clone().prop_map(Touch::Disable),
        1 => n.clone().prop_map(Touch::Enable),
        1 => n.clone().prop_map(Touch::Revoke),
        3 => (n, 1..SECONDS).prop_map(|(n, at)| Touch::Use(n, at)),
    ]
}

fn filter() -> impl Strategy<Value = KeyFilter> {
    let at = || proptest::option::weighted(0.2, (0..SECONDS).prop_map(second));
    let states = prop::sample::select(vec![KeyState::Active, KeyState::Disabled, KeyState::Expired, KeyState::Revoked]);
    let words =
        (proptest::option::weighted(0.25, 0..3_u8), proptest::option::weighted(0.25, 0..3_u8), proptest::option::weighted(0.1, 1..3_u8));
    let rest = (
        proptest::option::weighted(0.25, states),
        proptest::option::weighted(0.2, any::<bool>()),
        proptest::option::weighted(0.1, any::<bool>()),
        at(),
    );
    (words, (at(), at(), at(), at()), rest).prop_map(
        |((tag, owner, pool), (a, b, c, d), (state, never_expires, expiry_unset, unused_since))| KeyFilter {
            search: None,
            tag: tag.map(|tag| format!("t{tag}")),
            owner: owner.map(|owner| format!("o{owner}")),
            state,
            pool: pool.map(|n| PoolId::from_bytes([n; 16])),
            expires_before: a,
            expires_after: b,
            created_before: c,
            created_after: d,
            never_expires,
            expiry_unset,
            unused_since,
        },
    )
}

fn sort() -> impl Strategy<Value = KeySort> {
    prop::sample::select(vec![KeySort::Id, KeySort::Name, KeySort::CreatedAt, KeySort::ExpiresAt, KeySort::LastUsedAt])
}

/// Models under keys that tests touch.
struct Models {
    world: World,
    folder: Folder,
    usage_folder: UsageFolder,
    usage: UsageModels,
    batches: u64,
    _directories: [TempDir; 2],
}

impl Models {
    fn new() -> Self {
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let usage_folder = UsageFolder::open(directories[1].path(), &Memory::new(0)).unwrap();
        let usage = UsageModels::of_store(Arc::clone(usage_folder.store()));
        let folder = open(directories[0].path());
        Self { world: World::founded(), folder, usage_folder, usage, batches: 0, _directories: directories }
    }

    fn key(&self, n: u8) -> Option<Key> {
        self.keys().into_iter().find(|key| key.id == key_id(n))
    }

    /// Every key, from the rows that orders have nothing to do with.
    fn keys(&self) -> Vec<Key> {
        let prefix = key::of_kind(&tenant(), StreamKind::Key);
        let rows = self.folder.store().scan::<StreamRow>(AGGREGATES, &prefix, prefix.clone());
        rows.map(|row| match row.unwrap().1.aggregate {
            Some(Aggregate::Key(key)) => *key,
            other => panic!("{other:?}"),
        })
        .collect()
    }

    fn touch(&mut self, touch: &Touch) {
        let (exists, stream) = (self.key(touch.key()), key_stream(touch.key()));
        let mut events = Vec::new();
        let event = match (touch, exists) {
            (Touch::Details(n, name, owner, tags), exists) => {
                let tags: BTreeSet<_> = tags.iter().map(|tag| format!("t{tag}")).collect();
                let details = KeyDetails {
                    name: name.clone(),
                    description: None,
                    owner: owner.map(|owner| format!("o{owner}")),
                    tags: tags.into_iter().collect(),
                    pools: vec![PoolId::from_bytes([1 + n % 2; 16])],
                    models: vec![],
                    endpoints: vec![],
                    limits: Limits::default(),
                };
                match exists {
                    Some(_) => Event::KeyChanged(KeyChanged { details }),
                    None => Event::KeyCreated(KeyCreated { details, hash: hash(*n, 1), expiry: Expiry::Never }),
                }
            }
            (_, None) => return,
            (Touch::Renew(_, at), _) => Event::KeyRenewed(KeyRenewed { expiry: at.map_or(Expiry::Never, |at| Expiry::At(second(at))) }),
            (Touch::Await(_), _) => {
                events.push(Event::KeyRenewed(KeyRenewed { expiry: Expiry::Never }));
                Event::KeyActivationAwaited(KeyActivationAwaited { seconds: 60 })
            }
            (Touch::Unset(_), _) => {
                events.push(Event::KeyRenewed(KeyRenewed { expiry: Expiry::Never }));
                Event::KeyExpiryUnset(KeyExpiryUnset {})
            }
            (Touch::Disable(_), _) => Event::KeyDisabled(KeyDisabled { reason: None }),
            (Touch::Enable(_), _) => Event::KeyEnabled(KeyEnabled {}),
            (Touch::Revoke(_), _) => Event::KeyRevoked(schemas::key::KeyRevoked { reason: None }),
            (Touch::Use(n, at), _) => {
                self.batches += 1;
                let mut used = record(self.batches, *n, 1, None);
                used.settled_at = second(*at);
                let batch = Ok(batch(1, self.batches, vec![used]));
                return self.usage_folder.fold(&[StoredBatch { sequence: Sequence(self.batches), batch }]).unwrap();
            }
        };
        events.push(event);
        self.world.append(&stream, &events);
        fold(&mut self.folder, &self.world.records);
    }

    fn last_used(&self, id: KeyId) -> Option<Timestamp> {
        self.usage.key_total(&tenant(), id).unwrap().map(|totals| totals.last_used)
    }

    fn find(&self, query: &KeyQuery) -> KeyPage<KeyId> {
        find(self.folder.store(), &self.usage, query).unwrap()
    }

    /// All that a query finds, by looking at every key.
    fn expected(&self, query: &KeyQuery, search: Option<&str>) -> Vec<KeyId> {
        let KeyQuery { filter, now, .. } = query;
        let expires = |key: &Key| match key.expiry {
            Expiry::At(at) => Some(at),
            Expiry::Never => None,
        };
        let mut keys = self.keys();
        keys.retain(|key| {
            let last_used = self.last_used(key.id);
            search.is_none_or(|text| {
                key.details.name.to_lowercase().contains(&text.to_lowercase())
                    || text.starts_with("key_") && key.id.to_string().starts_with(text)
            }) && filter.tag.as_ref().is_none_or(|tag| key.details.tags.contains(tag))
                && filter.owner.as_ref().is_none_or(|owner| key.details.owner.as_ref() == Some(owner))
                && filter.pool.as_ref().is_none_or(|pool| key.details.pools.contains(pool))
                && filter.state.is_none_or(|state| key.state(*now) == state)
                && filter.expires_before.is_none_or(|before| expires(key).is_some_and(|at| at < before))
                && filter.expires_after.is_none_or(|after| expires(key).is_some_and(|at| at >= after))
                && filter.created_before.is_none_or(|before| key.created_at < before)
                && filter.created_after.is_none_or(|after| key.created_at >= after)
                && filter.never_expires.is_none_or(|never| (key.term() == Term::Never) == never)
                && filter.expiry_unset.is_none_or(|unset| (key.term() == Term::Unset) == unset)
                && filter.unused_since.is_none_or(|since| key.created_at < since && last_used.is_none_or(|at| at < since))
        });
        let late = Timestamp::MAX;
        match query.sort {
            None | Some(KeySort::Id) => keys.sort_by_key(|key| key.id),
            Some(KeySort::Name) => keys.sort_by_key(|key| (key.details.name.to_lowercase(), key.id)),
            Some(KeySort::CreatedAt) => keys.sort_by_key(|key| (key.created_at, key.id)),
            Some(KeySort::ExpiresAt) => keys.sort_by_key(|key| (expires(key).unwrap_or(late), key.id)),
            Some(KeySort::LastUsedAt) => keys.sort_by_key(|key| (self.last_used(key.id), key.id)),
        }
        if query.descending {
            keys.reverse();
        }
        keys.into_iter().map(|key| key.id).collect()
    }
}

fn query(filter: KeyFilter, sort: Option<KeySort>, descending: bool, limit: usize) -> KeyQuery {
    KeyQuery { tenant: tenant(), filter, sort, descending, after: None, limit, now: second(NOW) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_list_is_what_filtering_and_sorting_every_key_gives(
        touches in prop::collection::vec(touch(), 1..80),
        filters in prop::collection::vec((filter(), proptest::option::weighted(0.3, "(?:[abB]{1,2}|key_[a-z]{0,2})"), sort(), any::<bool>(), 1..9_usize), 8),
    ) {
        let mut models = Models::new();
        touches.iter().for_each(|touch| models.touch(touch));
        let all = models.find(&query(KeyFilter::default(), None, false, 1));
        prop_assert_eq!(all.total, Total::Exact(models.keys().len() as u64));
        for (mut filter, search, sort, descending, limit) in filters {
            filter.search = search.as_deref().and_then(KeySearch::parse);
            let mut query = query(filter, Some(sort), descending, limit);
            let expected = models.expected(&query, search.as_deref());
            let mut found = Vec::new();
            loop {
                let page = models.find(&query);
                prop_assert!(page.keys.len() <= limit);
                if query.after.is_none() {
                    let is_exact = query.filter.is_empty() || page.total == Total::Exact(expected.len() as u64);
                    prop_assert!(is_exact, "{:?} of {}", page.total, expected.len());
                }
                found.extend(page.keys);
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(&found, &expected, "{:?}", &query);
            // Whatever order finds them quickest, they are the same keys.
            let any_order = models.find(&KeyQuery { sort: None, after: None, limit: 1000, ..query });
            let (any_order, expected): (BTreeSet<_>, BTreeSet<_>) = (any_order.keys.into_iter().collect(), expected.into_iter().collect());
            prop_assert_eq!(any_order, expected);
        }
    }

    #[test]
    fn paging_meets_each_untouched_key_once_whatever_is_written_meanwhile(
        before in prop::collection::vec(touch(), 20..80),
        meanwhile in prop::collection::vec(touch(), 1..30),
        filter in filter(),
        sort in sort(),
        descending in any::<bool>(),
        limit in 1..5_usize,
    ) {
        let mut models = Models::new();
        before.iter().for_each(|touch| models.touch(touch));
        let mut query = query(filter, Some(sort), descending, limit);
        let touched: BTreeSet<KeyId> = meanwhile.iter().map(|touch| key_id(touch.key())).collect();
        let mut expected = models.expected(&query, None);
        expected.retain(|id| !touched.contains(id));
        let mut found = Vec::new();
        let mut meanwhile = meanwhile.iter();
        loop {
            let page = models.find(&query);
            found.extend(page.keys);
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
            meanwhile.by_ref().take(3).for_each(|touch| models.touch(touch));
        }
        found.retain(|id| !touched.contains(id));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn the_rows_of_orders_are_a_function_of_the_log(touches in prop::collection::vec(touch(), 1..60), every in 1..7_usize) {
        let mut models = Models::new();
        touches.iter().for_each(|touch| models.touch(touch));
        let of_orders = |folder: &Folder| -> Vec<_> { folder.store().dump().unwrap().into_iter().filter(|row| row.family == KEY_ORDERS).collect() };
        let directory = tempfile::tempdir().unwrap();
        let mut other = open(directory.path());
        for records in models.world.records.chunks(every) {
            fold(&mut other, records);
        }
        prop_assert_eq!(of_orders(&other), of_orders(&models.folder));
    }
}

#[test]
fn a_list_shows_no_other_tenants_keys() {
    let mut models = Models::new();
    models.touch(&Touch::Details(1, "mine".to_owned(), Some(1), vec![1]));
    let other: TenantId = "default-2".parse().unwrap();
    let theirs = Stream::key(other.clone(), key_id(2));
    models.world.append(&theirs, &[super::world::key_created(2, hash(2, 1))]);
    fold(&mut models.folder, &models.world.records);
    for sort in [KeySort::Id, KeySort::Name, KeySort::CreatedAt, KeySort::ExpiresAt, KeySort::LastUsedAt] {
        for descending in [false, true] {
            let page = models.find(&query(KeyFilter::default(), Some(sort), descending, 10));
            assert_eq!((page.keys, page.total), (vec![key_id(1)], Total::Exact(1)), "{sort:?}");
            let query = KeyQuery { tenant: other.clone(), ..query(KeyFilter::default(), Some(sort), descending, 10) };
            assert_eq!(models.find(&query).keys, [key_id(2)], "{sort:?}");
        }
    }
}
