//! The task that keeps what is in effect on this node level with the log.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use policy_host::Module;
use policy_host::active::Active;
use projector::{Policies, ReadModels};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::assembly::{Assembly, Standing, module_of};
use super::modules::{ModuleError, ModuleKey, PolicyModules};
use super::status::{MissingModule, PolicyHealth};
use crate::metrics::Metrics;

/// The first wait for a module that cannot be had; each further one is twice as long ...
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// ... up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// So many of the policies that were uploaded last are prepared for a binding that may come.
const PREPARED_MAX: usize = 32;

/// What the loader works with.
pub struct PolicyLoaderParts {
    pub modules: PolicyModules,
    pub models: ReadModels,
    /// What is in effect on this node; the loader is its one writer.
    pub active: Arc<ArcSwap<Active>>,
    pub metrics: Metrics,
}

/// Keeps what is in effect level with the log.
pub struct PolicyLoader {
    parts: PolicyLoaderParts,
    policies: Arc<Policies>,
    wanted: Wanted,
    /// Modules that no binding needs and that were prepared, or were not to be had: each is tried once.
    prepared: HashSet<ModuleKey>,
    /// Attempts that came to nothing, of modules that are wanted still.
    failures: HashMap<ModuleKey, Failure>,
    under_way: HashSet<ModuleKey>,
    is_first: bool,
}

/// The modules that bindings need.
#[derive(Default)]
struct Wanted {
    /// By what is bound now; without one the binding's `on_fault` applies. In the order of bindings.
    current: Vec<ModuleKey>,
    /// All, those included that a rollback would bring back.
    all: HashSet<ModuleKey>,
}

struct Failure {
    reason: String,
    attempts: u32,
    retry_at: Instant,
}

type Load = BoxFuture<'static, (ModuleKey, Result<Arc<Module>, ModuleError>)>;

impl PolicyLoader {
    pub fn new(parts: PolicyLoaderParts) -> Self {
        Self {
            policies: parts.models.policies(),
            parts,
            wanted: Wanted::default(),
            prepared: HashSet::new(),
            failures: HashMap::new(),
            under_way: HashSet::new(),
            is_first: true,
        }
    }

    /// Runs until the node stops.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut announced = self.parts.models.subscribe();
        let mut loads: FuturesUnordered<Load> = FuturesUnordered::new();
        // At most one, so that what is bound never waits for what is not.
        let mut preparing: FuturesUnordered<Load> = FuturesUnordered::new();
        self.take_in(self.parts.models.policies());
        loop {
            // First what needs no module: a removal does not wait for another binding's compiler.
            self.publish();
            loads.extend(self.due());
            if loads.is_empty() && preparing.is_empty() {
                preparing.extend(self.unbound());
            }
            let retry_at = self.retry_at();
            tokio::select! {
                () = stop.cancelled() => return,
                // The sender goes with the read models, at the end of the node.
                changed = self.changed(&mut announced) => match changed {
                    Some(policies) => self.take_in(policies),
                    None => return,
                },
                Some((module, outcome)) = loads.next() => self.note(module, outcome),
                Some((module, outcome)) = preparing.next() => self.note_prepared(module, outcome),
                () = self.parts.modules.mended() => self.failures.values_mut().for_each(|failure| failure.retry_at = Instant::now()),
                () = async { sleep_until(retry_at.unwrap_or_else(Instant::now)).await }, if retry_at.is_some() => {}
            }
        }
    }

    /// Waits until the snapshot is another one; none at the end.
    async fn changed(&self, announced: &mut tokio::sync::watch::Receiver<schemas::Sequence>) -> Option<Arc<Policies>> {
        loop {
            announced.changed().await.ok()?;
            let policies = self.parts.models.policies();
            if !Arc::ptr_eq(&policies, &self.policies) {
                return Some(policies);
            }
        }
    }

    fn take_in(&mut self, policies: Arc<Policies>) {
        self.wanted = Wanted::by(&policies);
        self.policies = policies;
        self.failures.retain(|module, _| self.wanted.all.contains(module));
        self.parts.modules.retain(&self.wanted.all);
    }

    /// Begins to load what is due: what is wanted, not there, and not waiting for its next attempt.
    fn due(&mut self) -> Vec<Load> {
        let now = Instant::now();
        let is_waiting = |module: &ModuleKey| self.failures.get(module).is_some_and(|failure| failure.retry_at > now);
        let is_due =
            |module: &ModuleKey| !self.under_way.contains(module) && !is_waiting(module) && self.parts.modules.loaded(module).is_none();
        // What is bound now goes before what a rollback would bring back.
        let previous = self.wanted.all.iter().filter(|module| !self.wanted.current.contains(module));
        let due: Vec<ModuleKey> = self.wanted.current.iter().chain(previous).copied().filter(is_due).collect();
        self.under_way.extend(&due);
        let load = |module| {
            let modules = self.parts.modules.clone();
            Box::pin(async move { (module, modules.get(module).await) }) as Load
        };
        due.into_iter().map(load).collect()
    }

    /// A policy that was uploaded lately and that nothing is bound to yet. Where its machine code is kept, it is in effect at once when it is.
    fn unbound(&mut self) -> Option<Load> {
        let mut unbound: Vec<_> =
            self.policies.all_policies().iter().map(|policy| (policy.value.uploaded_at, ModuleKey::of(&policy.value.uploaded))).collect();
        unbound.sort_by_key(|(at, _)| Reverse(*at));
        let mut latest = unbound.into_iter().map(|(_, module)| module).take(PREPARED_MAX);
        let module = latest.find(|module| !self.wanted.all.contains(module) && !self.prepared.contains(module))?;
        self.prepared.insert(module);
        let modules = self.parts.modules.clone();
        Some(Box::pin(async move { (module, modules.get(module).await) }))
    }

    fn note_prepared(&self, module: ModuleKey, outcome: Result<Arc<Module>, ModuleError>) {
        // Kept on disk; in memory only what is bound.
        if let Some(error) = outcome.err() {
            tracing::warn!(policy.digest = %module.digest, error = &error as &dyn std::error::Error, "a policy that nothing is bound to cannot be prepared");
        }
        self.parts.modules.retain(&self.wanted.all);
    }

    fn retry_at(&self) -> Option<Instant> {
        self.failures.iter().filter(|(module, _)| !self.under_way.contains(module)).map(|(_, failure)| failure.retry_at).min()
    }

    fn note(&mut self, module: ModuleKey, outcome: Result<Arc<Module>, ModuleError>) {
        self.under_way.remove(&module);
        self.parts.metrics.count_policy_load(outcome.is_ok());
        match outcome {
            Ok(_) => {
                self.failures.remove(&module);
                tracing::info!(policy.digest = %module.digest, policy.kind = module.kind.as_str(), "a policy is loaded");
            }
            Err(error) if self.wanted.all.contains(&module) => {
                let attempts = self.failures.get(&module).map_or(0, |failure| failure.attempts) + 1;
                let back_off = BACK_OFF_MIN.saturating_mul(1 << (attempts - 1).min(16)).min(BACK_OFF_MAX);
                tracing::error!(policy.digest = %module.digest, attempts, error = &error as &dyn std::error::Error, "a policy cannot be loaded");
                let failure = Failure { reason: chain(&error), attempts, retry_at: Instant::now() + back_off };
                self.failures.insert(module, failure);
            }
            Err(_) => {}
        }
    }

    /// Puts in effect what can be, then tells that it is.
    fn publish(&mut self) {
        let standing = |module: &ModuleKey| match self.parts.modules.loaded(module) {
            Some(loaded) => Standing::Loaded(loaded),
            None if self.failures.contains_key(module) => Standing::Missing,
            None => Standing::Loading,
        };
        let before = self.parts.active.load();
        let active = Assembly { policies: &self.policies, standing: &standing, before: &before, is_first: self.is_first }.active();
        let in_effect = active.as_of;
        self.parts.active.store(Arc::new(active));

        let (mut loaded, mut loading) = (0, 0);
        for module in &self.wanted.all {
            match standing(module) {
                Standing::Loaded(_) => loaded += 1,
                Standing::Loading => loading += 1,
                Standing::Missing => {}
            }
        }
        let missing = self.wanted.current.iter().filter_map(|module| Some(self.missing(module, self.failures.get(module)?)));
        let (as_of, bindings) = (self.policies.as_of, self.policies.all_bindings().len());
        self.parts.modules.set_health(PolicyHealth { as_of, in_effect, bindings, loaded, loading, missing: missing.collect() });
        self.is_first &= loading > 0;
    }

    fn missing(&self, module: &ModuleKey, failure: &Failure) -> MissingModule {
        let bindings = self.policies.all_bindings().iter();
        let mut policies = bindings.filter_map(|binding| self.policies.policy(&binding.value.tenant, &module.digest));
        let name = policies.next().map_or_else(String::new, |policy| policy.value.uploaded.name.clone());
        MissingModule { policy: module.digest, name, reason: failure.reason.clone(), attempts: failure.attempts }
    }
}

impl Wanted {
    fn by(policies: &Policies) -> Self {
        let mut wanted = Self::default();
        for binding in policies.all_bindings() {
            let binding = &binding.value;
            if let Some(module) = module_of(policies, &binding.tenant, &binding.bound)
                && !wanted.current.contains(&module)
            {
                wanted.current.push(module);
            }
        }
        wanted.all.extend(&wanted.current);
        let previous = policies.all_bindings().iter().filter_map(|binding| {
            let binding = &binding.value;
            module_of(policies, &binding.tenant, binding.previous.as_ref()?)
        });
        wanted.all.extend(previous);
        wanted
    }
}

/// An error and its sources in one line, for `/readyz`.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
