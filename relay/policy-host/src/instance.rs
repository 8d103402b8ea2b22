//! Fresh instances of one component, one for each call, under the class's limits.

use std::sync::Arc;

use schemas::policy::PolicyKind;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower};
use wasmtime::{Engine, ResourceLimiter, Store, Trap};

use crate::clock::Clock;
use crate::contract::{Fault, PACKAGE, VERSION, expiry, quota, route};
use crate::engine::Running;
use crate::limits::{LIFTED_BYTES_MAX, Limits};
use crate::{Input, InvalidOutput, Output, PolicyFault, Trapped};

/// A component whose imports (none) are resolved, and where its functions are.
pub(crate) struct Template {
    running: Arc<Running>,
    pre: InstancePre<Bounds>,
    describe: ComponentExportIndex,
    configure: ComponentExportIndex,
    decide: ComponentExportIndex,
}

/// What one call took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) fuel: u64,
    pub(crate) memory_bytes: u64,
}

/// Why a component is no policy of a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    #[error("the component imports {0}; a policy imports nothing")]
    Imports(String),
    #[error("the component does not export {0}")]
    Missing(String),
    #[error("the component decides on {}, not on {}", found.as_str(), asked.as_str())]
    OtherKind { asked: PolicyKind, found: PolicyKind },
    #[error("{function} of the component has another type than the contract's: {detail}")]
    Type { function: &'static str, detail: String },
    #[error("the component needs more than a pool's instance has: {0}")]
    TooLarge(String),
    #[error("the component cannot be instantiated: {0}")]
    Instance(PolicyFault),
}

impl Template {
    /// Checks imports and exports. The types are checked on an instance, which runs the start functions of the component, under the limits.
    pub(crate) fn new(running: Arc<Running>, component: &Component, kind: PolicyKind) -> Result<Self, WorldError> {
        let engine = &running.engine;
        let component_type = component.component_type();
        if let Some((import, _)) = component_type.imports(engine).find(|(name, import)| !is_types(name, &import.ty, engine)) {
            return Err(WorldError::Imports(crate::manifest::shown(import)));
        }
        let function = |interface: &str, function: &str| {
            let interface = format!("{PACKAGE}/{interface}@{VERSION}");
            let instance = component.get_export_index(None, interface.as_str()).ok_or_else(|| WorldError::Missing(interface.clone()))?;
            let missing = || WorldError::Missing(format!("{interface}#{function}"));
            component.get_export_index(Some(&instance), function).ok_or_else(missing)
        };
        let describe = function("setup", "describe")?;
        let configure = function("setup", "configure")?;
        let decide = function(&format!("{}-policy", kind.as_str()), "decide").map_err(|missing| {
            let has = |other: &PolicyKind| function(&format!("{}-policy", other.as_str()), "decide").is_ok();
            PolicyKind::ALL.into_iter().find(has).map_or(missing, |found| WorldError::OtherKind { asked: kind, found })
        })?;
        let pre = Linker::new(engine).instantiate_pre(component);
        let pre = pre.map_err(|error| WorldError::TooLarge(crate::manifest::shown(&format!("{error:#}"))))?;
        let template = Self { running, pre, describe, configure, decide };
        template.check_types(kind)?;
        Ok(template)
    }

    fn check_types(&self, kind: PolicyKind) -> Result<(), WorldError> {
        let Some(_slot) = self.running.slot() else { return Err(WorldError::Instance(PolicyFault::Busy)) };
        let mut store = self.store().map_err(WorldError::Instance)?;
        let instance = self.pre.instantiate(&mut store).map_err(|error| WorldError::Instance(fault(&error)))?;
        let is = |function: &'static str, checked: wasmtime::Result<()>| {
            checked.map_err(|error| WorldError::Type { function, detail: crate::manifest::shown(&format!("{error:#}")) })
        };
        is("describe", instance.get_typed_func::<(), (String,)>(&mut store, self.describe).map(drop))?;
        is("configure", instance.get_typed_func::<(&str,), (Result<(), Vec<Fault>>,)>(&mut store, self.configure).map(drop))?;
        let decide = match kind {
            PolicyKind::Expiry => {
                instance.get_typed_func::<(&expiry::Input,), (Result<expiry::Output, Fault>,)>(&mut store, self.decide).map(drop)
            }
            PolicyKind::Quota => {
                instance.get_typed_func::<(&quota::Input,), (Result<quota::Output, Fault>,)>(&mut store, self.decide).map(drop)
            }
            PolicyKind::Route => {
                instance.get_typed_func::<(&route::Input,), (Result<route::Output, Fault>,)>(&mut store, self.decide).map(drop)
            }
        };
        is("decide", decide)
    }

    pub(crate) fn describe(&self) -> Result<String, PolicyFault> {
        self.call::<(), (String,)>(&self.describe, ()).0.map(|(text,)| text)
    }

    pub(crate) fn configure(&self, settings: &str) -> Result<Result<(), Vec<Fault>>, PolicyFault> {
        self.call::<(&str,), (Result<(), Vec<Fault>>,)>(&self.configure, (settings,)).0.map(|(answer,)| answer)
    }

    /// The guest's answer, unchecked, and what it took. The input's kind must be the component's.
    pub(crate) fn decide(&self, input: &Input) -> (Result<Result<Output, Fault>, PolicyFault>, Spent) {
        match input {
            Input::Expiry(input) => {
                let (answer, spent) = self.call::<(&expiry::Input,), (Result<expiry::Output, Fault>,)>(&self.decide, (input,));
                (answer.map(|(answer,)| answer.map(Output::Expiry)), spent)
            }
            Input::Quota(input) => {
                let (answer, spent) = self.call::<(&quota::Input,), (Result<quota::Output, Fault>,)>(&self.decide, (input,));
                (answer.map(|(answer,)| answer.map(Output::Quota)), spent)
            }
            Input::Route(input) => {
                let (answer, spent) = self.call::<(&route::Input,), (Result<route::Output, Fault>,)>(&self.decide, (input,));
                (answer.map(|(answer,)| answer.map(Output::Route)), spent)
            }
        }
    }

    fn call<P, R>(&self, function: &ComponentExportIndex, params: P) -> (Result<R, PolicyFault>, Spent)
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let Some(_slot) = self.running.slot() else { return (Err(PolicyFault::Busy), Spent::default()) };
        let mut store = match self.store() {
            Ok(store) => store,
            Err(fault) => return (Err(fault), Spent::default()),
        };
        let answer = self
            .pre
            .instantiate(&mut store)
            .and_then(|instance| instance.get_typed_func::<P, R>(&mut store, function))
            .and_then(|function| function.call(&mut store, params))
            .map_err(|error| fault(&error));
        // What is left after a trap is as exact as after an answer: fuel is settled at the end of each block.
        let left = store.get_fuel().unwrap_or(0);
        // Nor does a memory ever shrink.
        let memory_bytes = store.data().memory_bytes as u64;
        (answer, Spent { fuel: self.running.limits.fuel - left, memory_bytes })
    }

    fn store(&self) -> Result<Store<Bounds>, PolicyFault> {
        let limits = self.running.limits;
        let mut store = Store::new(&self.running.engine, Bounds { limits, memory_bytes: 0, table_entries: 0, clock: Clock::default() });
        store.limiter(|bounds| bounds);
        store.set_hostcall_fuel(LIFTED_BYTES_MAX);
        // The running tick is partly over, hence one more.
        store.set_epoch_deadline(limits.ticks() + 1);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().clock.deadline(limits)));
        // Fails only for an engine without fuel.
        store.set_fuel(limits.fuel).map_err(|_| PolicyFault::OutOfFuel)?;
        Ok(store)
    }
}

/// Whether an import is nothing but the names of the contract's types, which every component of its worlds imports: no function and no resource.
fn is_types(name: &str, import: &ComponentItem, engine: &Engine) -> bool {
    let ComponentItem::ComponentInstance(instance) = import else { return false };
    let is_contract = name == format!("{PACKAGE}/types@{VERSION}");
    is_contract && instance.exports(engine).all(|(_, export)| matches!(export.ty, ComponentItem::Type(_)))
}

/// What is left of an instance's memory and tables; sums over all of them.
struct Bounds {
    limits: &'static Limits,
    memory_bytes: usize,
    table_entries: usize,
    clock: Clock,
}

/// The guest asked for more than it has. A trap at once, rather than a failure that the guest may see: what is left is no business of a policy.
#[derive(Debug, thiserror::Error)]
#[error("out of memory")]
struct OutOfMemory;

impl Bounds {
    fn grow(total: &mut usize, current: usize, desired: usize, max: usize) -> wasmtime::Result<bool> {
        let after = total.saturating_add(desired.saturating_sub(current));
        if after > max {
            return Err(OutOfMemory.into());
        }
        *total = after;
        Ok(true)
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Self::grow(&mut self.memory_bytes, current, desired, self.limits.memory_bytes_max)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Self::grow(&mut self.table_entries, current, desired, self.limits.table_entries_max)
    }

    fn instances(&self) -> usize {
        self.limits.instances_max
    }

    fn tables(&self) -> usize {
        self.limits.tables_max
    }

    fn memories(&self) -> usize {
        1
    }
}

/// What an error of the engine says about the guest.
fn fault(error: &wasmtime::Error) -> PolicyFault {
    if error.is::<OutOfMemory>() {
        return PolicyFault::OutOfMemory;
    }
    let trapped = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => return PolicyFault::OutOfFuel,
        Some(Trap::Interrupt) => return PolicyFault::Timeout,
        Some(Trap::AllocationTooLarge) => return PolicyFault::OutOfMemory,
        Some(Trap::UnreachableCodeReached) => Trapped::Unreachable,
        Some(Trap::StackOverflow) => Trapped::StackOverflow,
        Some(Trap::MemoryOutOfBounds) => Trapped::MemoryOutOfBounds,
        Some(Trap::TableOutOfBounds) => Trapped::TableOutOfBounds,
        Some(Trap::IndirectCallToNull | Trap::BadSignature) => Trapped::IndirectCall,
        Some(Trap::IntegerOverflow) => Trapped::IntegerOverflow,
        Some(Trap::IntegerDivisionByZero) => Trapped::DivisionByZero,
        Some(Trap::BadConversionToInteger) => Trapped::BadConversion,
        Some(_) => Trapped::Other,
        // Not the guest's code but what it handed over: pointers, lengths, texts, discriminants.
        // The engine has no type for this one.
        None if error.to_string().contains("fuel allocated for hostcalls") => return PolicyFault::InvalidOutput(InvalidOutput::TooLarge),
        None => return PolicyFault::InvalidOutput(InvalidOutput::Abi),
    };
    PolicyFault::Trap(trapped)
}
