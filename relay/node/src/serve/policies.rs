//! The pieces behind policies: the engine with its compiler, the modules, and what is in effect.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use control::Metrics;
use control::policies::{PolicyLoader, PolicyLoaderParts, PolicyModules};
use event_log::artefacts::Artefacts;
use policy_host::active::Active;
use policy_host::host::{CACHE_BYTES_DEFAULT, FAST_RESIDENT_BYTES_DEFAULT, FAST_SLOTS_DEFAULT};
use policy_host::{Compiler, Host, HostConfig};
use projector::ReadModels;
use tokio_util::task::TaskTracker;

use super::tasks::Tasks;
use crate::config;

/// How long a start waits for the modules of bound policies. Nobody is served meanwhile; of what is not there then, `on_fault` applies.
const FIRST_LOAD_WAIT: Duration = Duration::from_secs(60);
/// This process's own program, also after its file was replaced by an upgrade.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The policies of a node.
pub(super) struct Policies {
    pub(super) modules: PolicyModules,
    /// Written by the loader, read by the data plane.
    pub(super) active: Arc<ArcSwap<Active>>,
}

impl Policies {
    /// Starts the engine. Machine code is kept in `DATA/policy-code`; it can be removed, and is compiled anew then.
    pub(super) async fn open(
        data: &Path,
        config: &config::Policy,
        artefacts: Arc<dyn Artefacts>,
        tasks: TaskTracker,
    ) -> anyhow::Result<Self> {
        let host = HostConfig {
            cache: data.join("policy-code"),
            cache_bytes_max: CACHE_BYTES_DEFAULT,
            compiler: Compiler::Child { program: own_program()? },
            fast_slots: FAST_SLOTS_DEFAULT,
            fast_resident_bytes: FAST_RESIDENT_BYTES_DEFAULT,
            slow_threads: config.slow_threads.get(),
        };
        let host = tokio::task::spawn_blocking(move || Host::new(host)).await?.context("the engine for policies does not start")?;
        let modules = PolicyModules::new(host, artefacts, tasks);
        Ok(Self { modules, active: Arc::default() })
    }

    /// Puts the bindings in effect that the read models have, and follows them from then on. Comes back when all of their modules were tried.
    pub(super) async fn start(&self, models: &ReadModels, metrics: &Metrics, tasks: &Tasks) {
        let (modules, models, active) = (self.modules.clone(), models.clone(), self.active.clone());
        let as_of = models.policies().as_of;
        let loader = PolicyLoader::new(PolicyLoaderParts { modules, models, active, metrics: metrics.clone() });
        let close = tasks.close.clone();
        tasks.essential("policies.load", async move {
            loader.run(close).await;
            Ok(())
        });
        if !self.modules.wait_settled(as_of, FIRST_LOAD_WAIT).await {
            tracing::warn!("bound policies are still being loaded; what their bindings say of faults applies until then");
        }
    }
}

fn own_program() -> anyhow::Result<PathBuf> {
    let own = PathBuf::from(OWN_PROGRAM);
    if own.exists() { Ok(own) } else { std::env::current_exe().context("this process's own program cannot be found") }
}
