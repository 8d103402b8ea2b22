//! The policy snapshot: every policy, and every binding that is not removed, swapped whole when one of them changes.

use std::sync::Arc;

use schemas::binding::Binding;
use schemas::policy::Policy;
use schemas::{Aggregate, BindingId, Digest, Sequence, StreamKind, TenantId};

use super::Versioned;
use crate::fold::rows::{AGGREGATES, StreamRow};
use crate::store::{ReadError, Store, key};

/// Policies and bindings of all tenants.
#[derive(Debug, Default)]
pub struct Policies {
    /// The sequence up to which this was worked out. Nothing in it has changed since.
    pub as_of: Sequence,
    /// In the order of tenant and digest.
    policies: Vec<Arc<Versioned<Policy>>>,
    /// In the order of tenant and id.
    bindings: Vec<Arc<Versioned<Binding>>>,
}

impl Policies {
    /// Reads the few rows it needs, tenant by tenant, past the many that are keys.
    pub(crate) fn load(store: &Store, as_of: Sequence) -> Result<Self, ReadError> {
        let mut policies = Self { as_of, ..Self::default() };
        let mut next = store.seek(AGGREGATES, &[])?;
        while let Some(row) = next {
            let tenant = key::tenant_of(&row).ok_or(ReadError::Row { family: AGGREGATES })?;
            policies.load_tenant(store, &tenant)?;
            next = store.seek(AGGREGATES, &key::past_tenant(&tenant))?;
        }
        policies.policies.sort_unstable_by(|one, other| order(&one.value).cmp(&order(&other.value)));
        Ok(policies)
    }

    fn load_tenant(&mut self, store: &Store, tenant: &TenantId) -> Result<(), ReadError> {
        for kind in [StreamKind::Policy, StreamKind::Binding] {
            let prefix = key::of_kind(tenant, kind);
            for row in store.scan::<StreamRow>(AGGREGATES, &prefix.clone(), prefix) {
                let (_, StreamRow { head, aggregate }) = row?;
                match aggregate {
                    Some(Aggregate::Policy(policy)) => self.policies.push(Arc::new(Versioned { value: *policy, version: head.version })),
                    Some(Aggregate::Binding(binding)) if !binding.removed => {
                        self.bindings.push(Arc::new(Versioned { value: *binding, version: head.version }));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The bindings of all tenants, in the order of tenant and id.
    pub fn all_bindings(&self) -> &[Arc<Versioned<Binding>>] {
        &self.bindings
    }

    /// The policies of all tenants, in the order of tenant and digest.
    pub fn all_policies(&self) -> &[Arc<Versioned<Policy>>] {
        &self.policies
    }

    /// A tenant's policies in the order of their digests.
    pub fn policies(&self, tenant: &TenantId) -> &[Arc<Versioned<Policy>>] {
        of_tenant(&self.policies, |policy| policy.value.tenant.cmp(tenant))
    }

    /// A tenant's bindings in the order of their ids, without removed ones.
    pub fn bindings(&self, tenant: &TenantId) -> &[Arc<Versioned<Binding>>] {
        of_tenant(&self.bindings, |binding| binding.value.tenant.cmp(tenant))
    }

    pub fn policy(&self, tenant: &TenantId, digest: &Digest) -> Option<&Arc<Versioned<Policy>>> {
        let found = self.policies.binary_search_by(|policy| order(&policy.value).cmp(&(tenant, digest)));
        found.ok().map(|index| &self.policies[index])
    }

    pub fn binding(&self, tenant: &TenantId, id: BindingId) -> Option<&Arc<Versioned<Binding>>> {
        let found = self.bindings.binary_search_by(|binding| (&binding.value.tenant, binding.value.id).cmp(&(tenant, id)));
        found.ok().map(|index| &self.bindings[index])
    }
}

/// The run of a sorted list that is a tenant's.
fn of_tenant<T>(sorted: &[T], compare: impl Fn(&T) -> std::cmp::Ordering) -> &[T] {
    let begin = sorted.partition_point(|one| compare(one).is_lt());
    let length = sorted[begin..].partition_point(|one| compare(one).is_eq());
    &sorted[begin..begin + length]
}

fn order(policy: &Policy) -> (&TenantId, &Digest) {
    (&policy.tenant, &policy.uploaded.digest)
}
