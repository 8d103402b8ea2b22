//! What the handlers share.

use std::sync::Arc;
use std::time::Duration;

use coordination::Coordination;
use event_log::EventLog;
use projector::decisions::DecisionModels;
use projector::{ReadModels, UsageModels};
use prometheus_client::registry::Registry;
use schemas::{ClusterId, Digest, Sequence, Timestamp, UpstreamId, WriterId};
use tokio::sync::watch;
use tokio::task::JoinError;
use vault::Vault;

use crate::backup::BackupSources;
use crate::notices::Notifier;
use crate::oauth::Logins;
use crate::policies::PolicyModules;
use crate::{Clock, Commands, CredentialRotations, Health, LeakIntake, Metrics, Rebuilds, RootKeyWatch, UpstreamTests};

/// Asks an upstream for its models with its credential; the composition root connects it to the data plane's client.
pub type Probe = Arc<dyn Fn(UpstreamId) -> futures_util::future::BoxFuture<'static, ProbeOutcome> + Send + Sync>;

/// The same with the secret of a number of its credential, in use or not.
pub type ProbeSecret = Arc<dyn Fn(UpstreamId, u32) -> futures_util::future::BoxFuture<'static, ProbeOutcome> + Send + Sync>;

/// Begins the end of the node, as a signal does; the composition root goes on from there.
pub type Stop = Arc<dyn Fn() + Send + Sync>;

/// What a test of an upstream found.
#[derive(Debug, Clone)]
pub struct ProbeOutcome {
    /// The upstream's HTTP status; none where it could not be reached.
    pub status: Option<u16>,
    pub elapsed_ms: u64,
    /// What went wrong, without any secret.
    pub error: Option<String>,
    /// The account that the provider says the credential belongs to; many say nothing.
    pub account: Option<String>,
}

/// Everything a handler may use; fields are shared handles.
pub struct AppParts {
    pub commands: Commands,
    pub models: ReadModels,
    pub usage: UsageModels,
    pub decisions: DecisionModels,
    pub vault: Arc<Vault>,
    pub log: Arc<dyn EventLog>,
    /// What a backup is taken from, beside the log.
    pub backup: BackupSources,
    /// The policy modules of this node.
    pub modules: PolicyModules,
    /// Logins at upstreams' providers.
    pub logins: Logins,
    pub clock: Clock,
    pub metrics: Metrics,
    pub registry: Arc<Registry>,
    /// Takes rotations of credentials forward.
    pub rotations: Arc<CredentialRotations>,
    pub cluster_id: ClusterId,
    pub owner_token_hash: Digest,
    /// Who else is there.
    pub coordination: Arc<dyn Coordination>,
    /// How the node stands with what it depends on.
    pub health: Health,
    /// Rebuilds of the read models that are asked for.
    pub rebuilds: Rebuilds,
    /// The root keys of this node, and how far data keys are wrapped under the newest.
    pub root_keys: RootKeyWatch,
    /// The bound of the data plane, beyond which the node is not ready.
    pub staleness_max: Duration,
    /// Who may report that a client key was found in the open; none where nobody may.
    pub leaks: Option<Arc<LeakIntake>>,
    /// Tests upstreams, and remembers.
    pub tests: Arc<UpstreamTests>,
    /// Tells operators what they should hear of.
    pub notifier: Arc<Notifier>,
    /// For a node that leaves the cluster.
    pub stop: Stop,
    /// Whether the node serves: false while it catches up at start and while it drains.
    pub ready: watch::Receiver<bool>,
    /// The whole document, of both listeners.
    pub openapi_json: Arc<str>,
}

/// The state of the router. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<AppParts>);

impl App {
    pub fn new(parts: AppParts) -> Self {
        Self(Arc::new(parts))
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    pub(crate) fn position(&self) -> Sequence {
        self.0.models.position().sequence
    }

    /// How long ago the read models were last known to be level with the log.
    pub(crate) fn staleness(&self) -> Duration {
        self.models.staleness()
    }

    /// Runs work on the vault off the executor: it blocks on the key store.
    pub(crate) async fn vault<T: Send + 'static>(&self, work: impl FnOnce(&Vault) -> T + Send + 'static) -> Result<T, JoinError> {
        let vault = self.0.vault.clone();
        tokio::task::spawn_blocking(move || work(&vault)).await
    }

    /// Runs work off the executor that may ask the key store: unsealing what an answer shows.
    pub(crate) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> T + Send + 'static) -> Result<T, JoinError> {
        let app = self.clone();
        tokio::task::spawn_blocking(move || work(&app)).await
    }

    pub(crate) fn node(&self) -> WriterId {
        self.0.commands.writer().id()
    }
}

impl std::ops::Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}
