//! A policy's way from uploaded bytes to a module that runs.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use schemas::Digest;
use schemas::policy::{PolicyClass, PolicyKind};
use thiserror::Error;
use wasmtime::component::Component;

pub use crate::code_cache::CacheError;
pub use crate::compile::CompileError;
pub use crate::instance::WorldError;

use crate::code_cache::CodeCache;
use crate::compile::{self, Compiled};
use crate::engine::{self, Running, SLOW_RESIDENT_BYTES, Ticker};
use crate::instance::Template;
use crate::schema::{Schema, SchemaError};
use crate::slow::Pool;
use crate::{Manifest, ManifestError, Module, PolicyFault};

/// Instances of fast policies that may run at once on a node: those of all threads that serve requests, and warm ones of other policies.
pub const FAST_SLOTS_DEFAULT: usize = 256;
/// Bytes of a fast policy's memory that stay with the process between instances: about what a policy touches. More is taken away and given
/// again by the kernel, page by page.
pub const FAST_RESIDENT_BYTES_DEFAULT: usize = 256 * 1024;
/// Bytes of machine code that a node keeps: some forty modules of JavaScript or Python, which is more than it prepares for bindings that may come.
pub const CACHE_BYTES_DEFAULT: u64 = 2 << 30;
/// Threads for slow policies.
pub const SLOW_THREADS_DEFAULT: usize = 2;
/// Instances of slow policies besides those of its threads: for loading and admission.
const SLOW_SLOTS_SPARE: usize = 2;

/// Where a host keeps machine code and how it compiles.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// A directory of this process's user that nobody else has a part in; made if it is not there.
    pub cache: PathBuf,
    /// The most bytes in it: when more come, the oldest go, other than those of policies that are loaded. Usually [`CACHE_BYTES_DEFAULT`].
    pub cache_bytes_max: u64,
    pub compiler: Compiler,
    /// At least 1.
    pub fast_slots: usize,
    /// Usually [`FAST_RESIDENT_BYTES_DEFAULT`]. What it costs is memory: at most so much for each slot that was ever in use.
    pub fast_resident_bytes: usize,
    /// At least 1.
    pub slow_threads: usize,
}

/// What compiles.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// `program compile-policy --class CLASS`, with limits: for what comes from outside.
    Child { program: PathBuf },
    /// This process, without limits: for an author's own tools and for tests.
    InProcess,
}

/// Admits, loads and keeps what policies need. One per process, cheap to clone.
#[derive(Clone)]
pub struct Host(Arc<Parts>);

struct Parts {
    fast: Arc<Running>,
    slow: Arc<Running>,
    slow_pool: Arc<Pool>,
    cache: CodeCache,
    /// Guards which modules there are, so that what is in use stays in the cache.
    loaded: Mutex<Vec<Weak<Module>>>,
    compiler: Compiler,
    /// Held while compiling: one at a time, whatever it takes.
    compiling: Mutex<()>,
    profile: String,
    ticker: Arc<Ticker>,
}

/// A policy that may be stored and bound.
#[derive(Debug)]
pub struct Admitted {
    /// What is stored.
    pub component: Vec<u8>,
    /// BLAKE3 of the component.
    pub digest: Digest,
    /// BLAKE3 of what was uploaded.
    pub uploaded_digest: Digest,
    pub manifest: Manifest,
    pub module: Arc<Module>,
}

#[derive(Debug, Error)]
pub enum HostError {
    #[error("the engine does not take its settings")]
    Engine(#[source] EngineError),
    #[error("the cache of machine code at {} cannot be used", path.display())]
    Cache { path: PathBuf, source: CacheError },
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("a host has at least one slot and one thread")]
    Nothing,
}

/// The engine's own words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct EngineError(String);

/// Why an upload is no policy.
#[derive(Debug, Error)]
pub enum AdmissionError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    World(#[from] WorldError),
    #[error("the policy does not describe itself")]
    Describe(#[source] PolicyFault),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the schema of the settings is not understood, {0}")]
    Schema(#[from] SchemaError),
    #[error("machine code is not taken back by the engine")]
    Engine(#[source] EngineError),
    #[error("the cache of machine code cannot be used")]
    Cache(#[source] std::io::Error),
}

impl AdmissionError {
    /// Whether the same upload may be admitted later: it was this machine, not the policy.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Compile(error) => matches!(error, CompileError::Child(_)),
            Self::World(WorldError::Instance(fault)) | Self::Describe(fault) => !fault.is_replayable(),
            Self::Cache(_) => true,
            Self::World(_) | Self::Manifest(_) | Self::Schema(_) | Self::Engine(_) => false,
        }
    }
}

/// Why an admitted policy is not loaded on this node.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("the component's bytes are not those of digest {expected}")]
    Digest { expected: Digest },
    #[error(transparent)]
    Refused(#[from] AdmissionError),
}

impl Host {
    pub fn new(config: HostConfig) -> Result<Self, HostError> {
        if config.fast_slots == 0 || config.slow_threads == 0 {
            return Err(HostError::Nothing);
        }
        let engine = |error: wasmtime::Error| HostError::Engine(EngineError(format!("{error:#}")));
        let fast = Running::new(PolicyClass::Fast, config.fast_slots, config.fast_resident_bytes).map_err(engine)?;
        let slow = Running::new(PolicyClass::Slow, config.slow_threads + SLOW_SLOTS_SPARE, SLOW_RESIDENT_BYTES).map_err(engine)?;
        let ticker = Ticker::start(vec![fast.engine.clone(), slow.engine.clone()]).map_err(HostError::Thread)?;
        let cache = CodeCache::open(&config.cache, config.cache_bytes_max, engine::code_profile().map_err(engine)?);
        let cache = cache.map_err(|source| HostError::Cache { path: config.cache.clone(), source })?;
        let slow_pool = Arc::new(Pool::start(config.slow_threads).map_err(HostError::Thread)?);
        let compiler = config.compiler;
        let profile = engine::profile().map_err(engine)?;
        let (loaded, compiling, ticker) = (Mutex::default(), Mutex::new(()), Arc::new(ticker));
        Ok(Self(Arc::new(Parts { fast, slow, slow_pool, cache, loaded, compiler, compiling, profile, ticker })))
    }

    /// Judges what a user uploads: a component, or a core module that describes its world. Blocks, for as long as compiling takes.
    pub fn admit(&self, uploaded: &[u8], kind: PolicyKind, class: PolicyClass) -> Result<Admitted, AdmissionError> {
        let uploaded_digest = Digest::blake3(uploaded);
        // Machine code under the digest of these very bytes was made of them as a component, within the limits of the class.
        let kept = self.0.cache.get(&uploaded_digest, class).unwrap_or_else(|error| {
            not_kept(&uploaded_digest, &error, "kept machine code cannot be read; the policy is compiled anew");
            None
        });
        let (digest, component, machine_code, is_new) = match kept {
            Some(machine_code) => (uploaded_digest, uploaded.to_vec(), machine_code, false),
            None => {
                let Compiled { component, machine_code } = self.compile(uploaded, class)?;
                (Digest::blake3(&component), component, machine_code, true)
            }
        };
        let module = self.module(&digest, kind, class, &machine_code)?;
        Schema::parse(&module.manifest().settings)?;
        if is_new {
            self.keep(&digest, class, &machine_code);
        }
        let manifest = module.manifest().clone();
        Ok(Admitted { component, digest, uploaded_digest, manifest, module })
    }

    /// Loads an admitted component, from the cache of machine code or by compiling it: a cache that cannot be used costs time and nothing else.
    /// Blocks.
    pub fn load(&self, digest: &Digest, kind: PolicyKind, class: PolicyClass, component: &[u8]) -> Result<Arc<Module>, LoadError> {
        match self.load_cached(digest, kind, class) {
            Ok(Some(module)) => return Ok(module),
            Ok(None) => {}
            Err(LoadError::Refused(error @ (AdmissionError::Cache(_) | AdmissionError::Engine(_)))) => {
                not_kept(digest, &error, "kept machine code is not used; the policy is compiled anew");
            }
            Err(error) => return Err(error),
        }
        if Digest::blake3(component) != *digest {
            return Err(LoadError::Digest { expected: *digest });
        }
        let compiled = self.compile(component, class)?;
        let module = self.module(digest, kind, class, &compiled.machine_code)?;
        self.keep(digest, class, &compiled.machine_code);
        Ok(module)
    }

    /// Loads a component whose machine code this node has; none if it has not.
    pub fn load_cached(&self, digest: &Digest, kind: PolicyKind, class: PolicyClass) -> Result<Option<Arc<Module>>, LoadError> {
        let Some(machine_code) = self.0.cache.get(digest, class).map_err(AdmissionError::Cache)? else { return Ok(None) };
        Ok(Some(self.module(digest, kind, class, &machine_code)?))
    }

    /// Version and settings of the engine: equal profiles, modules and inputs give equal outputs and fuel.
    pub fn engine_profile(&self) -> &str {
        &self.0.profile
    }

    fn keep(&self, digest: &Digest, class: PolicyClass, machine_code: &[u8]) {
        if let Err(error) = self.0.cache.put(digest, class, machine_code).and_then(|()| self.0.cache.prune(&self.in_use())) {
            not_kept(
                digest,
                &error,
                "the cache of machine code cannot be written; what it does not have is compiled again at its next load",
            );
        }
    }

    fn in_use(&self) -> HashSet<(Digest, PolicyClass)> {
        let modules: Vec<_> = self.0.loaded.lock().iter().filter_map(Weak::upgrade).collect();
        modules.iter().map(|module| (module.digest, module.class)).collect()
    }

    fn compile(&self, uploaded: &[u8], class: PolicyClass) -> Result<Compiled, AdmissionError> {
        let _one = self.0.compiling.lock();
        let compiled = match &self.0.compiler {
            Compiler::Child { program } => compile::compile_in_child(program, uploaded, class),
            Compiler::InProcess => compile::compile(uploaded, class),
        };
        Ok(compiled?)
    }

    fn module(&self, digest: &Digest, kind: PolicyKind, class: PolicyClass, machine_code: &[u8]) -> Result<Arc<Module>, AdmissionError> {
        let running = match class {
            PolicyClass::Fast => &self.0.fast,
            PolicyClass::Slow => &self.0.slow,
        };
        #[expect(unsafe_code, reason = "machine code comes from this host's compiler, or from the cache that only it can have written")]
        // SAFETY: these bytes are what `Engine::precompile_component` made, unchanged: they come straight from the compiling child, which
        // this process started, or from the cache, whose tag under this node's key was checked.
        let component = unsafe { Component::deserialize(&running.engine, machine_code) };
        let component = component.map_err(|error| AdmissionError::Engine(EngineError(crate::manifest::shown(&format!("{error:#}")))))?;
        let template = Template::new(running.clone(), &component, kind)?;
        let description = template.describe().map_err(AdmissionError::Describe)?;
        let manifest = Manifest::parse(&description, kind)?;
        let (slow, ticker) = (self.0.slow_pool.clone(), self.0.ticker.clone());
        let module = Arc::new(Module { digest: *digest, class, manifest, template, slow, _ticker: ticker });
        let mut loaded = self.0.loaded.lock();
        loaded.retain(|module| module.strong_count() > 0);
        loaded.push(Arc::downgrade(&module));
        drop(loaded);
        Ok(module)
    }
}

fn not_kept(digest: &Digest, error: &(dyn std::error::Error + 'static), message: &'static str) {
    tracing::warn!(policy.digest = %digest, error, "{message}");
}
