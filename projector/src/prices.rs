//! The prices in force: what an upstream's pool says a model costs.
//!
//! A removed upstream, and a removed pool, keep their last prices, so that what was served there does not become free.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use schemas::pool::{ModelPrice, Pool};
use schemas::usage::TokenParts;
use schemas::{Aggregate, Stream, TenantId, UpstreamId};

use crate::models::{ReadModels, Routes};
use crate::store::ReadError;

/// The prices of one moment, looked up as they are asked for.
pub struct Prices {
    models: ReadModels,
    routes: Arc<Routes>,
    /// Filled by whoever asks first for an upstream; none for one that never was.
    pools: Mutex<HashMap<UpstreamId, Option<Arc<Pool>>>>,
}

impl Prices {
    pub fn new(models: &ReadModels) -> Self {
        Self { models: models.clone(), routes: models.routes(), pools: Mutex::default() }
    }

    /// Whether no pool and no upstream has changed since.
    pub fn is_current(&self) -> bool {
        Arc::ptr_eq(&self.routes, &self.models.routes())
    }

    /// What tokens cost, in millionths of a micro-dollar. None without a price, and where no token is known.
    pub fn exact_cost(
        &self,
        tenant: &TenantId,
        upstream: UpstreamId,
        model_billed: Option<&str>,
        model_requested: &str,
        tokens: &TokenParts,
    ) -> Result<Option<u128>, ReadError> {
        if tokens.input().or(tokens.output()).is_none() {
            return Ok(None);
        }
        let pool = self.pool(tenant, upstream)?;
        let price = pool.as_deref().and_then(|pool| pool.price_of(model_billed, model_requested));
        Ok(price.map(|price: &ModelPrice| price.exact_cost(tokens)))
    }

    fn pool(&self, tenant: &TenantId, upstream: UpstreamId) -> Result<Option<Arc<Pool>>, ReadError> {
        if let Some(pool) = self.pools.lock().get(&upstream) {
            return Ok(pool.clone());
        }
        let pool = self.load(tenant, upstream)?.map(Arc::new);
        self.pools.lock().insert(upstream, pool.clone());
        Ok(pool)
    }

    fn load(&self, tenant: &TenantId, upstream: UpstreamId) -> Result<Option<Pool>, ReadError> {
        let (Some(Aggregate::Upstream(upstream)), _) = self.models.load(&Stream::upstream(tenant.clone(), upstream))? else {
            return Ok(None);
        };
        let (pool, _) = self.models.load(&Stream::pool(tenant.clone(), upstream.details.pool))?;
        Ok(if let Some(Aggregate::Pool(pool)) = pool { Some(pool) } else { None })
    }
}
