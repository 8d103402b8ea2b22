//! From the log's bindings and this node's modules to what is in effect: a pure function, so that every case can be written down.

use std::collections::HashMap;
use std::sync::Arc;

use policy_host::Module;
use policy_host::active::{Active, ActiveBinding, ActivePolicy};
use projector::Policies;
use schemas::binding::{Binding, Bound, Mode};
use schemas::{BindingId, Digest, TenantId};

use super::modules::ModuleKey;

/// How a module stands.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    Loaded(Arc<Module>),
    /// It was not tried yet, or is being loaded for the first time.
    Loading,
    /// It was tried in vain.
    Missing,
}

/// What shall be in effect.
pub(super) struct Assembly<'a> {
    pub(super) policies: &'a Policies,
    pub(super) standing: &'a dyn Fn(&ModuleKey) -> Standing,
    /// What is in effect now.
    pub(super) before: &'a Active,
    /// Whether nothing of this node was in effect yet: then a binding whose module is still being loaded counts as one without.
    pub(super) is_first: bool,
}

/// The module that something bound needs; none where it is off, or its policy is unknown.
pub(super) fn module_of(policies: &Policies, tenant: &TenantId, bound: &Bound) -> Option<ModuleKey> {
    if bound.mode == Mode::Off {
        return None;
    }
    policies.policy(tenant, &bound.policy).map(|policy| ModuleKey::of(&policy.value.uploaded))
}

impl Assembly<'_> {
    pub(super) fn active(&self) -> Active {
        let before: HashMap<BindingId, &Arc<ActiveBinding>> = self.before.bindings.iter().map(|binding| (binding.id, binding)).collect();
        let mut is_whole = true;
        let bindings = self.policies.all_bindings().iter().filter_map(|binding| {
            let (binding, before) = (&binding.value, before.get(&binding.value.id).copied());
            if self.is_loading(binding) && !self.is_first {
                // What was in effect stays so until it can be replaced; what is new waits for its module.
                is_whole = false;
                return before.cloned();
            }
            let policy = |bound: &Bound| self.policy(&binding.tenant, bound, before.map(|before| &**before));
            Some(Arc::new(ActiveBinding {
                id: binding.id,
                tenant: binding.tenant.clone(),
                kind: binding.kind,
                scope: binding.scope,
                current: policy(&binding.bound),
                previous: binding.fallback().map(policy),
            }))
        });
        let bindings = bindings.collect();
        Active::new(if is_whole { self.policies.as_of } else { self.before.as_of }, bindings)
    }

    fn is_loading(&self, binding: &Binding) -> bool {
        let module = module_of(self.policies, &binding.tenant, &binding.bound);
        module.is_some_and(|module| matches!((self.standing)(&module), Standing::Loading))
    }

    fn policy(&self, tenant: &TenantId, bound: &Bound, before: Option<&ActiveBinding>) -> ActivePolicy {
        let module = module_of(self.policies, tenant, bound).and_then(|module| match (self.standing)(&module) {
            Standing::Loaded(module) => Some(module),
            Standing::Loading | Standing::Missing => None,
        });
        let (settings, settings_digest) = settings(&bound.settings, before);
        ActivePolicy { digest: bound.policy, settings, settings_digest, mode: bound.mode, on_fault: bound.on_fault, module }
    }
}

/// Settings with their digest, those of before where they are the same: most bindings do not change when one does.
fn settings(text: &str, before: Option<&ActiveBinding>) -> (Arc<str>, Digest) {
    let mut known = before.into_iter().flat_map(|before| std::iter::once(&before.current).chain(&before.previous));
    match known.find(|policy| *policy.settings == *text) {
        Some(policy) => (Arc::clone(&policy.settings), policy.settings_digest),
        None => (Arc::from(text), Digest::blake3(text.as_bytes())),
    }
}
