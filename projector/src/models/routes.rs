//! The routing snapshot: every tenant, and every pool and upstream that is not removed, swapped whole when one of them or a credential changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use schemas::credential::Credential;
use schemas::pool::Pool;
use schemas::tenant::Tenant;
use schemas::upstream::Upstream;
use schemas::{Aggregate, CredentialId, Sequence, StreamKind, TenantId, Version};

use super::Versioned;
use crate::fold::rows::{AGGREGATES, StreamRow};
use crate::store::{ReadError, Store, key};

/// Tenants, and pools and upstreams of all of them, in the order of tenant and id.
#[derive(Debug, Default)]
pub struct Routes {
    /// The sequence up to which this was worked out. Nothing in it has changed since.
    pub as_of: Sequence,
    pub tenants: Vec<Versioned<Tenant>>,
    /// Those of the tenants that are suspended, for a look-up at each request.
    suspended: HashSet<TenantId>,
    pub pools: Vec<Versioned<Pool>>,
    pub upstreams: Vec<Arc<Route>>,
}

/// An upstream with what it takes to use it.
#[derive(Debug)]
pub struct Route {
    pub upstream: Upstream,
    pub version: Version,
    /// The upstream's credential if it is live: not revoked, and bound to this upstream and its origin.
    pub credential: Option<Credential>,
}

impl Routes {
    /// Reads the few rows it needs, tenant by tenant, past the many that are keys.
    pub(crate) fn load(store: &Store, as_of: Sequence) -> Result<Self, ReadError> {
        let mut routes = Self { as_of, ..Self::default() };
        let mut next = store.seek(AGGREGATES, &[])?;
        while let Some(row) = next {
            let tenant = key::tenant_of(&row).ok_or(ReadError::Row { family: AGGREGATES })?;
            routes.load_tenant(store, &tenant)?;
            next = store.seek(AGGREGATES, &key::past_tenant(&tenant))?;
        }
        Ok(routes)
    }

    pub fn tenant(&self, id: &TenantId) -> Option<&Versioned<Tenant>> {
        let found = self.tenants.binary_search_by(|tenant| tenant.value.id.cmp(id));
        found.ok().map(|index| &self.tenants[index])
    }

    /// Whether the tenant's keys are refused. Free of a look-up where no tenant is suspended.
    pub fn is_suspended(&self, tenant: &TenantId) -> bool {
        self.suspended.contains(tenant)
    }

    fn load_tenant(&mut self, store: &Store, tenant: &TenantId) -> Result<(), ReadError> {
        let rows = |kind| {
            let prefix = key::of_kind(tenant, kind);
            store.scan::<StreamRow>(AGGREGATES, &prefix.clone(), prefix)
        };
        for row in rows(StreamKind::Tenant) {
            if let (_, StreamRow { head, aggregate: Some(Aggregate::Tenant(tenant)) }) = row? {
                self.suspended.extend(tenant.suspended.is_some().then(|| tenant.id.clone()));
                self.tenants.push(Versioned { value: *tenant, version: head.version });
            }
        }
        let mut credentials: HashMap<CredentialId, Credential> = HashMap::new();
        for row in rows(StreamKind::Credential) {
            if let (_, StreamRow { aggregate: Some(Aggregate::Credential(credential)), .. }) = row? {
                credentials.insert(credential.id, credential);
            }
        }
        for row in rows(StreamKind::Upstream) {
            let (_, StreamRow { head, aggregate }) = row?;
            if let Some(Aggregate::Upstream(upstream)) = aggregate
                && !upstream.removed
            {
                let credential =
                    upstream.credential.and_then(|id| credentials.get(&id)).filter(|credential| is_live(credential, &upstream));
                self.upstreams.push(Arc::new(Route { credential: credential.cloned(), version: head.version, upstream: *upstream }));
            }
        }
        for row in rows(StreamKind::Pool) {
            let (_, StreamRow { head, aggregate }) = row?;
            if let Some(Aggregate::Pool(pool)) = aggregate
                && !pool.removed
            {
                self.pools.push(Versioned { value: pool, version: head.version });
            }
        }
        Ok(())
    }
}

/// A secret goes only where it was entered for.
fn is_live(credential: &Credential, upstream: &Upstream) -> bool {
    !credential.revoked && credential.upstream == upstream.id && credential.origin == upstream.origin()
}
