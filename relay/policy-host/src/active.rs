//! The bindings that a node applies, as one immutable value that is swapped whole when the log changes them.

use std::sync::Arc;

use schemas::binding::{Mode, OnFault, Scope};
use schemas::policy::PolicyKind;
use schemas::{BindingId, Digest, Sequence, TenantId};

use crate::Module;

/// All bindings of all tenants.
#[derive(Debug, Clone, Default)]
pub struct Active {
    /// The log up to here is applied.
    pub as_of: Sequence,
    /// Sorted by [`ActiveBinding::order`].
    pub bindings: Vec<Arc<ActiveBinding>>,
}

/// One binding.
#[derive(Debug, Clone)]
pub struct ActiveBinding {
    pub id: BindingId,
    pub tenant: TenantId,
    pub kind: PolicyKind,
    pub scope: Scope,
    pub current: ActivePolicy,
    /// What was enforced before; what a canary's other keys have, and the last good version.
    pub previous: Option<ActivePolicy>,
}

/// A policy with its settings.
#[derive(Debug, Clone)]
pub struct ActivePolicy {
    pub digest: Digest,
    /// Canonical JSON.
    pub settings: Arc<str>,
    /// BLAKE3 of the settings.
    pub settings_digest: Digest,
    pub mode: Mode,
    pub on_fault: OnFault,
    /// None while the module is not loaded on this node: `on_fault` applies.
    pub module: Option<Arc<Module>>,
}

impl Active {
    /// Of bindings in any order.
    pub fn new(as_of: Sequence, mut bindings: Vec<Arc<ActiveBinding>>) -> Self {
        bindings.sort_by(|a, b| a.order().cmp(&b.order()));
        Self { as_of, bindings }
    }

    /// A tenant's bindings of one kind, from broad to narrow scope.
    pub fn of(&self, tenant: &TenantId, kind: PolicyKind) -> &[Arc<ActiveBinding>] {
        let start = self.bindings.partition_point(|binding| (&binding.tenant, binding.kind) < (tenant, kind));
        let length = self.bindings[start..].partition_point(|binding| (&binding.tenant, binding.kind) == (tenant, kind));
        &self.bindings[start..start + length]
    }
}

impl ActiveBinding {
    /// Tenant, kind, scope from broad to narrow (tenant, pool, key), id.
    pub fn order(&self) -> (&TenantId, PolicyKind, Scope, BindingId) {
        (&self.tenant, self.kind, self.scope, self.id)
    }
}

#[cfg(test)]
mod tests {
    use schemas::{KeyId, PoolId};

    use super::*;

    fn binding(tenant: &str, kind: PolicyKind, scope: Scope, id: u8) -> Arc<ActiveBinding> {
        let settings: Arc<str> = "{}".into();
        let current = ActivePolicy {
            digest: Digest::from_bytes([1; 32]),
            settings_digest: Digest::blake3(settings.as_bytes()),
            settings,
            mode: Mode::Enforce,
            on_fault: OnFault::Skip,
            module: None,
        };
        Arc::new(ActiveBinding {
            id: BindingId::from_bytes([id; 16]),
            tenant: tenant.parse().unwrap(),
            kind,
            scope,
            current,
            previous: None,
        })
    }

    #[test]
    fn bindings_are_found_by_tenant_and_kind_from_broad_to_narrow() {
        let (pool, key) = (Scope::Pool(PoolId::from_bytes([9; 16])), Scope::Key(KeyId::from_bytes([1; 16])));
        let active = Active::new(
            Sequence(3),
            vec![
                binding("b", PolicyKind::Route, key, 1),
                binding("b", PolicyKind::Route, pool, 3),
                binding("b", PolicyKind::Route, pool, 2),
                binding("b", PolicyKind::Route, Scope::Tenant, 4),
                binding("a", PolicyKind::Route, Scope::Tenant, 5),
                binding("b", PolicyKind::Expiry, key, 6),
            ],
        );
        let ids = |tenant: &str, kind| {
            let found = active.of(&tenant.parse().unwrap(), kind);
            found.iter().map(|binding| binding.id.as_bytes()[0]).collect::<Vec<_>>()
        };
        assert_eq!(ids("b", PolicyKind::Route), [4, 2, 3, 1]);
        assert_eq!(ids("b", PolicyKind::Expiry), [6]);
        assert_eq!(ids("b", PolicyKind::Quota), [0; 0]);
        assert_eq!(ids("c", PolicyKind::Route), [0; 0]);
    }
}
