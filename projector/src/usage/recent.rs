//! What meters are read from: the latest windows of a key or a tenant, as of one moment.

use schemas::{IncarnationId, Sequence, TenantId, WriterId};

use super::query::UsageModels;
use super::rows::{INCARNATIONS, META, RECENT, UsagePosition, of_incarnation, position_key};
use super::tally::{Recent, Served, UsageScope, recent_prefix};
use crate::store::ReadError;

/// The latest windows, and what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecentUse {
    /// The place in the usage stream up to which it is counted.
    pub as_of: Sequence,
    /// The last batch of the asking incarnation that is counted; with it all before.
    pub last_batch: u64,
    pub served: Vec<(Served, Recent)>,
}

impl UsageModels {
    /// The latest windows of a scope, as one moment has them, by what served. `origin` is who asks. Reads a row for each model that was
    /// used; tens of microseconds.
    pub fn recent(&self, tenant: &TenantId, scope: UsageScope, origin: (WriterId, IncarnationId)) -> Result<RecentUse, ReadError> {
        let (rows, prefix) = (self.store.frozen(), recent_prefix(tenant, scope));
        let position: UsagePosition = rows.get(META, &position_key())?.unwrap_or_default();
        let last_batch = rows.get(INCARNATIONS, &of_incarnation(origin.0, origin.1))?.unwrap_or(0);
        let served = rows.scan::<Recent>(RECENT, &prefix, prefix.clone()).map(|row| {
            let (key, recent) = row?;
            let served = Served::parse(&key[prefix.len()..]).ok_or(ReadError::Row { family: RECENT })?;
            Ok((served, recent))
        });
        Ok(RecentUse { as_of: position.sequence, last_batch, served: served.collect::<Result<_, ReadError>>()? })
    }

    /// The last batch of an incarnation that is counted.
    pub fn last_batch(&self, origin: (WriterId, IncarnationId)) -> Result<u64, ReadError> {
        Ok(self.store.get(INCARNATIONS, &of_incarnation(origin.0, origin.1))?.unwrap_or(0))
    }
}
