//! The read side of usage: cheap to clone, synchronous.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use event_log::usage::UsageVoid;
use schemas::usage::{AddressClass, UsageRecord};
use schemas::{KeyId, RequestId, Sequence, TenantId, UpstreamId};
use tokio::sync::watch;

use super::rows::{
    Dimension, EVER, GAPS, GapFinding, KEY_CLIENTS, KEY_DAYS, KEY_MODELS, KEY_SECRETS, KEYS_BY_USE, REQUESTS, TOTALS, Totals,
    UsagePosition, VOIDS, of_client, of_key, of_request, of_sequence, totals_day, totals_key, totals_prefix,
};
use crate::store::{Frozen, ReadError, Row, Store, Walk, key};

/// What the groups of an answer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    Key,
    /// As the client asked for it.
    Model,
    Upstream,
    Day,
}

/// Which usage is asked for.
#[derive(Debug, Clone)]
pub struct UsageQuery {
    pub tenant: TenantId,
    pub group_by: GroupBy,
    /// Days since the Unix epoch in UTC on which requests were settled, both ends included. None is all days.
    pub days: Option<RangeInclusive<u32>>,
}

/// A member of what usage was grouped by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageGroup {
    Key(KeyId),
    Model(String),
    Upstream(UpstreamId),
    Day(u32),
}

/// All about one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyUsage {
    pub total: Totals,
    /// By day, earliest first.
    pub days: Vec<(u32, Totals)>,
    pub models: Vec<(String, Totals)>,
}

/// Plain numbers about the usage models at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageStatus {
    pub sequence: Sequence,
    pub requests: u64,
    pub repeats: u64,
    /// Batches that never came; an alarm.
    pub gaps: u64,
    /// Places of the stream that hold no batch; an alarm.
    pub voids: u64,
    /// False from a failure of the fold until it goes on; sums then grow no more.
    pub following: bool,
}

/// The usage models. Lists touch the disk: they belong in `spawn_blocking`.
#[derive(Clone)]
pub struct UsageModels {
    pub(super) store: Arc<Store>,
    pub(crate) announced: watch::Receiver<Announced>,
}

/// Written by the fold after each commit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Announced {
    pub position: UsagePosition,
    pub following: bool,
}

impl UsageModels {
    /// Those of a store that nobody follows into.
    #[cfg(test)]
    pub(crate) fn of_store(store: Arc<Store>) -> Self {
        Self { store, announced: watch::channel(Announced::default()).1 }
    }

    /// The place in the usage stream up to which sums were announced: the `as_of` of an answer.
    pub fn position(&self) -> Sequence {
        self.announced.borrow().position.sequence
    }

    pub fn status(&self) -> UsageStatus {
        let Announced { position, following } = *self.announced.borrow();
        let UsagePosition { sequence, requests, repeats, gaps, voids } = position;
        UsageStatus { sequence, requests, repeats, gaps, voids, following }
    }

    /// Waits until a place in the usage stream was announced; false if that takes longer than `patience`.
    pub async fn wait_for(&self, sequence: Sequence, patience: Duration) -> bool {
        let mut announced = self.announced.clone();
        let reached = announced.wait_for(|at| at.position.sequence >= sequence);
        tokio::time::timeout(patience, reached).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Sums by group, in the order of the groups.
    pub fn usage(&self, query: &UsageQuery) -> Result<Vec<(UsageGroup, Totals)>, ReadError> {
        sums(&self.store.frozen(), query)
    }

    /// The sums of one key over all time; none if it was never used.
    pub fn key_total(&self, tenant: &TenantId, id: KeyId) -> Result<Option<Totals>, ReadError> {
        self.store.get(TOTALS, &totals_key(tenant, Dimension::Key, EVER, id.as_bytes()))
    }

    /// Shows keys in the order of their last use; places are (last use, key).
    pub(crate) fn walk_keys(
        &self,
        walk: &Walk,
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        self.store.walk(KEYS_BY_USE, walk, visit)
    }

    /// The sums of one secret of a key over all time; none if it was never used.
    pub fn key_secret(&self, tenant: &TenantId, id: KeyId, number: u32) -> Result<Option<Totals>, ReadError> {
        self.store.get(KEY_SECRETS, &of_key(tenant, id, &number.to_be_bytes()))
    }

    /// The same for the clients of each class of address that showed it; of requests from before that was noted nothing is known.
    pub fn key_secret_clients(&self, tenant: &TenantId, id: KeyId, number: u32) -> Result<Vec<(AddressClass, Totals)>, ReadError> {
        let of_class = |class| Ok(self.store.get(KEY_CLIENTS, &of_client(tenant, id, number, class))?.map(|totals| (class, totals)));
        AddressClass::ALL.into_iter().filter_map(|class| of_class(class).transpose()).collect()
    }

    /// The use of one key by day and by model.
    pub fn key_usage(&self, tenant: &TenantId, id: KeyId) -> Result<KeyUsage, ReadError> {
        let prefix = of_key(tenant, id, &[]);
        let rows = |family| self.store.scan::<Totals>(family, &prefix, prefix.clone());
        let rest = |key: &[u8]| key[prefix.len()..].to_vec();
        let mut usage = KeyUsage { total: self.key_total(tenant, id)?.unwrap_or_default(), ..KeyUsage::default() };
        for row in rows(KEY_DAYS) {
            let (key, totals) = row?;
            let day = rest(&key).try_into().map_err(|_| ReadError::Row { family: KEY_DAYS })?;
            usage.days.push((u32::from_be_bytes(day), totals));
        }
        for row in rows(KEY_MODELS) {
            let (key, totals) = row?;
            let model = String::from_utf8(rest(&key)).map_err(|_| ReadError::Row { family: KEY_MODELS })?;
            usage.models.push((model, totals));
        }
        Ok(usage)
    }

    /// The usage record of one of the last [`super::REQUESTS_KEPT`] requests.
    pub fn request(&self, id: &RequestId) -> Result<Option<UsageRecord>, ReadError> {
        self.store.get(REQUESTS, &of_request(id))
    }

    /// Batches that are missing from the stream, from a place in it on.
    pub fn gaps(&self, from: Sequence, limit: usize) -> Result<Vec<GapFinding>, ReadError> {
        let rows = self.store.scan::<GapFinding>(GAPS, &of_sequence(from), key::cluster_wide(&[]));
        rows.take(limit).map(|row| row.map(|(_, gap)| gap)).collect()
    }

    /// Places of the stream that hold no batch, from one on, and why.
    pub fn voids(&self, from: Sequence, limit: usize) -> Result<Vec<(Sequence, UsageVoid)>, ReadError> {
        let prefix = key::cluster_wide(&[]);
        let rows = self.store.scan::<UsageVoid>(VOIDS, &of_sequence(from), prefix.clone());
        rows.take(limit)
            .map(|row| {
                let (key, void) = row?;
                let sequence = key[prefix.len()..].try_into().map_err(|_| ReadError::Row { family: VOIDS })?;
                Ok((Sequence(u64::from_be_bytes(sequence)), void))
            })
            .collect()
    }

    /// Every row, position included: equal dumps are equal models.
    pub fn dump(&self) -> Result<Vec<Row>, ReadError> {
        self.store.dump()
    }

    /// The hooks of these models.
    #[cfg(feature = "faults")]
    pub fn faults(&self) -> Arc<crate::faults::Faults> {
        Arc::clone(&self.store.faults)
    }
}

impl UsageQuery {
    /// Days begin at 1: the row of day 0 is the sum of all.
    pub(super) fn stored_days(&self) -> RangeInclusive<u32> {
        match (&self.days, self.group_by) {
            (Some(days), _) => (*days.start()).max(1)..=*days.end(),
            (None, GroupBy::Day) => 1..=u32::MAX,
            (None, _) => EVER..=EVER,
        }
    }
}

/// Sums by group, in the order of the groups.
pub(super) fn sums(rows: &Frozen<'_>, query: &UsageQuery) -> Result<Vec<(UsageGroup, Totals)>, ReadError> {
    let UsageQuery { tenant, group_by, .. } = query;
    let (dimension, days) = (dimension(*group_by), query.stored_days());
    let prefix = totals_prefix(tenant, dimension);
    let mut groups: BTreeMap<UsageGroup, Totals> = BTreeMap::new();
    for row in rows.scan::<Totals>(TOTALS, &totals_day(tenant, dimension, *days.start()), prefix.clone()) {
        let (key, totals) = row?;
        let (day, member) = key[prefix.len()..].split_first_chunk::<4>().ok_or(ReadError::Row { family: TOTALS })?;
        let day = u32::from_be_bytes(*day);
        if day > *days.end() {
            break;
        }
        let group = group(*group_by, day, member).ok_or(ReadError::Row { family: TOTALS })?;
        groups.entry(group).or_default().add(&totals);
    }
    Ok(groups.into_iter().collect())
}

const fn dimension(group_by: GroupBy) -> Dimension {
    match group_by {
        GroupBy::Key => Dimension::Key,
        GroupBy::Model => Dimension::Model,
        GroupBy::Upstream => Dimension::Upstream,
        GroupBy::Day => Dimension::Day,
    }
}

fn group(group_by: GroupBy, day: u32, member: &[u8]) -> Option<UsageGroup> {
    Some(match group_by {
        GroupBy::Key => UsageGroup::Key(KeyId::from_bytes(member.try_into().ok()?)),
        GroupBy::Model => UsageGroup::Model(String::from_utf8(member.to_vec()).ok()?),
        GroupBy::Upstream => UsageGroup::Upstream(UpstreamId::from_bytes(member.try_into().ok()?)),
        GroupBy::Day => UsageGroup::Day(day),
    })
}
