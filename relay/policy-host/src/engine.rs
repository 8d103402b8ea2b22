//! The engines: what they allow, what they cost, and how they are told apart.
//!
//! All of them generate and run the same code. Those that run policies have no compiler, and one pool of instances per class.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use schemas::policy::PolicyClass;
use wasmtime::{Config, Engine, ModuleVersionStrategy, OperatorCost, PoolingAllocationConfig};

use crate::limits::{Limits, TICK};

const CLASSES: [PolicyClass; 2] = [PolicyClass::Fast, PolicyClass::Slow];

/// The engine's exact release. Fuel is stable within one only.
const RELEASE: &str = "wasmtime 48.0.8";

/// Bytes of a slow policy's memory that are zeroed by hand between instances rather than by the kernel.
pub(crate) const SLOW_RESIDENT_BYTES: usize = 256 * 1024;
const TABLE_KEEP_RESIDENT_BYTES: usize = 16 * 1024;
/// What an instance's own bookkeeping may have.
const INSTANCE_BYTES_MAX: usize = 1024 * 1024;
/// The guest's stack on the host's; deep recursion ends here if the fuel does not end it before.
const STACK_BYTES: usize = 512 * 1024;

/// What both sides, compiling and running, must have alike.
fn config(class: PolicyClass) -> Config {
    let mut config = Config::new();
    // The data of a fast policy is small, and copied into memory that is there; so any policy takes the memory that the last one left, which
    // is still in the processor's cache. That of a slow one is megabytes, mapped where its last instance was.
    config.memory_init_cow(class == PolicyClass::Slow);
    // Determinism: nothing that the machine decides may be seen by a guest.
    config.consume_fuel(true).epoch_interruption(true).cranelift_nan_canonicalization(true);
    config.wasm_relaxed_simd(false).wasm_memory64(false).wasm_multi_memory(false).shared_memory(false);
    // No concurrency: a policy is one call. Off, calls are also several times cheaper.
    config.concurrency_support(false);
    config.max_wasm_stack(STACK_BYTES);
    // Back-traces would cost on every trap, and a guest's names reach nobody.
    config.wasm_backtrace_max_frames(None).generate_address_map(false);
    config
}

/// The engine that compiles for a class; it runs nothing.
pub(crate) fn compiling(class: PolicyClass) -> wasmtime::Result<Engine> {
    Engine::new(&config(class))
}

/// Version and settings of the engines, which fuel and outputs depend on, and nothing of the machine.
pub(crate) fn profile() -> wasmtime::Result<String> {
    let mut settings = String::new();
    for class in CLASSES {
        let (engine, limits) = (compiling(class)?, Limits::of(class));
        settings += &format!(
            "{:?} fuel={} epoch={} nan={:?} stack={} cow={} cost={:?} limits={:?};",
            engine.get_wasm_features(),
            engine.get_consume_fuel(),
            engine.get_epoch_interruption(),
            engine.get_cranelift_nan_canonicalization(),
            engine.get_max_wasm_stack(),
            // Data that are copied in cost fuel, data that are mapped cost none.
            engine.get_memory_init_cow(),
            OperatorCost::default(),
            (limits.fuel, limits.memory_bytes_max),
        );
    }
    Ok(format!("{RELEASE}, settings {}", &blake3::hash(settings.as_bytes()).to_hex()[..16]))
}

/// What machine code depends on: the exact release, the settings and this machine's processor.
pub(crate) fn code_profile() -> wasmtime::Result<blake3::Hash> {
    struct Digesting(blake3::Hasher);
    impl Hasher for Digesting {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(&(bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            0 // The digest is taken from the hasher itself.
        }
    }
    let mut hasher = Digesting(blake3::Hasher::new_derive_key("keyrelay 2026 machine code profile v1"));
    // By default the engine takes code of any release of its major version; a patch may mend the compiler.
    ModuleVersionStrategy::WasmtimeVersion.hash(&mut hasher);
    RELEASE.hash(&mut hasher);
    for class in CLASSES {
        compiling(class)?.precompile_compatibility_hash().hash(&mut hasher);
    }
    Ok(hasher.0.finalize())
}

/// An engine that runs policies of one class, with its pool.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    pub(crate) limits: &'static Limits,
    slots: usize,
    taken: AtomicUsize,
}

/// The right to one instance.
pub(crate) struct Slot<'a>(&'a AtomicUsize);

impl Running {
    /// `resident_bytes` of each memory are zeroed by hand between instances, the rest by the kernel, which takes the pages away.
    pub(crate) fn new(class: PolicyClass, slots: usize, resident_bytes: usize) -> wasmtime::Result<Arc<Self>> {
        let limits = Limits::of(class);
        let count = |per_component: usize| u32::try_from(slots.saturating_mul(per_component)).unwrap_or(u32::MAX);
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(count(1))
            .total_core_instances(count(limits.instances_max))
            .total_memories(count(1))
            .total_tables(count(limits.tables_max))
            .max_core_instances_per_component(u32::try_from(limits.instances_max).unwrap_or(u32::MAX))
            .max_memories_per_component(1)
            .max_tables_per_component(u32::try_from(limits.tables_max).unwrap_or(u32::MAX))
            .max_memories_per_module(1)
            .max_tables_per_module(u32::try_from(limits.tables_max).unwrap_or(u32::MAX))
            .table_elements(limits.table_entries_max)
            .max_memory_size(limits.memory_bytes_max)
            .max_component_instance_size(INSTANCE_BYTES_MAX)
            .max_core_instance_size(INSTANCE_BYTES_MAX)
            .max_unused_warm_slots(match class {
                // A memory of another policy is as good as the own one, and a used one better than a new one.
                PolicyClass::Fast => 0,
                // Each policy finds its own mapping.
                PolicyClass::Slow => count(1),
            })
            .linear_memory_keep_resident(resident_bytes)
            .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES);
        let mut config = config(class);
        config.enable_compiler(false).allocation_strategy(pool);
        Ok(Arc::new(Self { engine: Engine::new(&config)?, limits, slots, taken: AtomicUsize::new(0) }))
    }

    /// None if all instances are taken: the pool itself is never asked for one too many.
    pub(crate) fn slot(&self) -> Option<Slot<'_>> {
        let slot = Slot(&self.taken);
        if self.taken.fetch_add(1, Ordering::AcqRel) < self.slots { Some(slot) } else { None }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The thread that advances the epochs. It ends when this is dropped.
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(engines: Vec<Engine>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let tick = move || {
            while matches!(stopped.recv_timeout(TICK), Err(RecvTimeoutError::Timeout)) {
                engines.iter().for_each(Engine::increment_epoch);
            }
        };
        let thread = std::thread::Builder::new().name("policy-epoch".into()).spawn(tick)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It waits for nothing but the channel that has just closed.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_the_one_that_is_built() {
        let lock = include_str!("../../../Cargo.lock");
        let (name, version) = RELEASE.split_once(' ').unwrap();
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "the engine changed: replay recorded decisions");
    }

    #[test]
    fn nothing_that_the_machine_decides_is_on() {
        for engine in CLASSES.map(|class| compiling(class).unwrap()) {
            assert!(!engine.get_concurrency_support());
            assert_eq!(engine.get_cranelift_nan_canonicalization(), Some(true));
            let features = format!("{:?}", engine.get_wasm_features());
            for off in ["RELAXED_SIMD", "THREADS", "MEMORY64", "MULTI_MEMORY", "CM_ASYNC", "CM_THREADING", "SHARED_EVERYTHING_THREADS"] {
                assert!(!features.contains(off), "{off} in {features}");
            }
        }
    }

    #[test]
    fn slots_are_counted() {
        let running = Running::new(PolicyClass::Fast, 2, 0).unwrap();
        let (one, two) = (running.slot(), running.slot());
        assert!(one.is_some() && two.is_some() && running.slot().is_none());
        drop(one);
        assert!(running.slot().is_some());
    }
}
