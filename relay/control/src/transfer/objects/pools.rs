//! Lines of a pool and of its prices.

use schemas::pool::{Pool, PoolCommand};
use schemas::{Aggregate, Command, Stream};

use super::{Import, OnConflict, PrepareError, Prepared};
use crate::transfer::line::{PoolLine, PriceLine};

impl Import {
    pub(super) fn pool_line(&self, line: &PoolLine, prepared: &mut Prepared) -> Result<(), PrepareError> {
        if line.removed {
            return Ok(());
        }
        let id = self.pool(line.id);
        let stream = Stream::pool(line.tenant.clone(), id);
        let here = self.here(&stream)?;
        if id != line.id {
            prepared.detail = Some(format!("it is {id} here"));
        }
        let is_default = id == self.app.cluster_id.default_pool_id();
        // The pool that both clusters were founded with keeps its name here unless that is forced.
        if here.is_there && id != line.id && !(is_default && (here.is_pristine || self.on_conflict == OnConflict::Force)) {
            return Ok(());
        }
        let detail = prepared.detail.take();
        self.settle(stream, &here, Command::Pool(PoolCommand::Import { name: line.name.clone() }), None, prepared)?;
        prepared.detail = prepared.detail.take().or(detail);
        Ok(())
    }

    pub(super) fn prices(&self, line: &PriceLine, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let id = self.pool(line.pool);
        let stream = Stream::pool(line.tenant.clone(), id);
        let mut here = self.here(&stream)?;
        let command = Command::Pool(PoolCommand::Price { prices: line.prices.clone() });
        match &here.state {
            Some(Aggregate::Pool(pool)) if here.is_there => here.is_there = !pool.prices.is_empty(),
            // It comes with this file.
            _ => {
                let name = "new".to_owned();
                let (tenant, created_at, prices) = (line.tenant.clone(), self.app.now(), Vec::new());
                here.state = Some(Aggregate::Pool(Pool { id, tenant, name, prices, created_at, removed: false }));
            }
        }
        self.settle(stream, &here, command, None, prepared)
    }
}
