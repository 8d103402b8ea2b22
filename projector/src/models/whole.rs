//! All aggregates of one moment, for whoever carries them elsewhere.

use std::sync::Arc;

use schemas::{Aggregate, Digest, Sequence, StreamKind, TenantId};

use super::{Position, ReadModels, Versioned};
use crate::fold::rows::{AGGREGATES, META, PositionRow, StreamRow, position_key};
use crate::store::{Frozen, ReadError, key};

/// The rows as they were at one position, whatever is folded while they are read.
pub struct Whole<'a> {
    rows: Frozen<'a>,
    position: Position,
    tenants: Vec<TenantId>,
}

impl ReadModels {
    /// Gives what `read` makes of all rows of one moment. Blocks for as long as that takes, and holds the space of rows replaced meanwhile.
    pub fn at_one_moment<T>(&self, read: impl FnOnce(&Whole<'_>) -> T) -> Result<T, ReadError> {
        self.of_one_moment(None, read)
    }

    /// The same with the aggregates of one tenant, where one is named.
    pub fn of_one_moment<T>(&self, tenant: Option<&TenantId>, read: impl FnOnce(&Whole<'_>) -> T) -> Result<T, ReadError> {
        let view = Arc::clone(&self.shared.view());
        let rows = view.store.frozen();
        let position = rows
            .get::<PositionRow>(META, &position_key())?
            .map_or(Position { sequence: Sequence::ZERO, root: Digest::from_bytes([0; 32]) }, |row| row.position());
        let (mut tenants, mut next) = (Vec::new(), rows.seek(AGGREGATES, &[])?);
        while let Some(row) = next {
            let tenant = key::tenant_of(&row).ok_or(ReadError::Row { family: AGGREGATES })?;
            next = rows.seek(AGGREGATES, &key::past_tenant(&tenant))?;
            tenants.push(tenant);
        }
        tenants.retain(|one| tenant.is_none_or(|tenant| one == tenant));
        Ok(read(&Whole { rows, position, tenants }))
    }
}

impl Whole<'_> {
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Every aggregate of a kind, removed ones included, in the order of tenant and id.
    pub fn aggregates(&self, kind: StreamKind) -> impl Iterator<Item = Result<Versioned<Aggregate>, ReadError>> {
        self.tenants.iter().flat_map(move |tenant| {
            let prefix = key::of_kind(tenant, kind);
            let rows = self.rows.scan::<StreamRow>(AGGREGATES, &prefix.clone(), prefix);
            rows.filter_map(|row| match row {
                Ok((_, StreamRow { head, aggregate })) => aggregate.map(|value| Ok(Versioned { value, version: head.version })),
                Err(error) => Some(Err(error)),
            })
        })
    }
}
