//! A log and a key store, and the nodes that share them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::response::Parts;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use control::backup::BackupSources;
use control::founding::{self, Foundation, FoundingError, Sources};
use control::health::{LogHealth, NodeHealth, Trust};
use control::notices::{Notifier, NotifierParts};
use control::oauth::{Logins, LoginsParts, Providers, TokenClient};
use control::policies::{PolicyLoader, PolicyLoaderParts, PolicyModules};
use control::{
    App, AppParts, Clock, Commands, CommandsParts, CredentialRotations, LeakIntake, Metrics, ProbeOutcome, Rebuilds, RootKeyWatch,
    RootKeyWatchParts, RotationNotes, UpstreamTests,
};
use event_log::decisions::{DecisionLog, DecisionStream};
use event_log::usage::{UsageLog, UsageStream};
use http_body_util::BodyExt as _;
use policy_host::active::Active;
use policy_host::host::{CACHE_BYTES_DEFAULT, FAST_RESIDENT_BYTES_DEFAULT};
use policy_host::{Compiler, Host, HostConfig};
use projector::decisions::DecisionProjector;
use projector::usage::UsageProjector;
use projector::{Memory, Projector, ReadModels};
use prometheus_client::registry;
use schemas::{Timestamp, WriterId};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use vault::{MemoryKeyStore, RootKey, Vault};
use zeroize::Zeroizing;

use crate::registry::Registry;
use crate::shaky::ShakyLog;
use crate::shelf::{Reach, Shelf};

pub(crate) const TOKEN: &str = "kr-owner-q8Zt3LxV0mWn7RyC5bKd2HsJ9fGpA1uE";

/// What a call says of an upstream that is not there.
fn unreached() -> ProbeOutcome {
    ProbeOutcome { status: None, elapsed_ms: 0, error: None, account: None }
}

/// What the nodes of a cluster share.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) log: ShakyLog,
    pub(crate) store: Arc<MemoryKeyStore>,
    pub(crate) registry: Registry,
    pub(crate) shelf: Shelf,
    /// Who may report leaks to nodes that start from now on.
    pub(crate) leaks: Option<Arc<LeakIntake>>,
    /// The time of nodes that start from now on, where it is not the system's.
    pub(crate) clock: Option<Clock>,
    /// The providers of nodes that start from now on.
    pub(crate) providers: Providers,
    /// How many seconds the nodes' clocks are ahead of the system's.
    pub(crate) ahead: Arc<AtomicU64>,
}

/// A node that serves its API to the test.
pub(crate) struct Node {
    pub(crate) id: WriterId,
    pub(crate) models: ReadModels,
    pub(crate) commands: Commands,
    pub(crate) vault: Arc<Vault>,
    pub(crate) logins: Logins,
    pub(crate) is_stopped: Arc<AtomicBool>,
    /// Its way to the artefacts.
    pub(crate) reach: Reach,
    pub(crate) modules: PolicyModules,
    /// The bindings in effect.
    pub(crate) active: Arc<ArcSwap<Active>>,
    router: Router,
    tasks: TaskTracker,
    stop: DropGuard,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

pub(crate) fn clock() -> Clock {
    Arc::new(|| Timestamp::from_micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64))
}

/// A data directory, a root key given from outside, and the owner token that all tests use.
pub(crate) fn sources(data: &Path, root_key: Option<&RootKey>) -> Sources {
    Sources {
        data: data.to_owned(),
        root_key: root_key.cloned(),
        root_key_files: Vec::new(),
        owner_token: Some(Zeroizing::new(TOKEN.to_owned())),
    }
}

impl World {
    /// The nodes' clock.
    fn clock(&self) -> Clock {
        let (ahead, system) = (self.ahead.clone(), self.clock.clone().unwrap_or_else(clock));
        Arc::new(move || system().plus_seconds(ahead.load(Ordering::Relaxed)))
    }

    pub(crate) async fn found_or_join(&self, sources: &Sources) -> Result<Foundation, FoundingError> {
        founding::found_or_join(sources, &self.log, self.store.clone(), &clock()).await
    }

    pub(crate) async fn open_models(&self, data: &Path) -> (Projector, ReadModels) {
        let config = projector::Config { data: data.to_owned(), memory: Memory::new(Memory::BYTES_MIN), clock: clock() };
        Projector::open(config, Arc::new(self.log.clone())).await.unwrap()
    }

    /// Starts a node that has founded or joined, and waits until it is level with the log and enrolled.
    pub(crate) async fn start(&self, data: &TempDir, foundation: Foundation) -> Node {
        self.start_reaching(data, foundation, self.shelf.reach()).await
    }

    /// As [`World::start`], with a way to the artefacts that a test has in its hands.
    pub(crate) async fn start_reaching(&self, data: &TempDir, foundation: Foundation, reach: Reach) -> Node {
        let (projector, models) = self.open_models(data.path()).await;
        let (projector, tasks, stop) = (Arc::new(projector), TaskTracker::new(), CancellationToken::new());
        tasks.spawn({
            let (projector, stop) = (projector.clone(), stop.clone());
            async move {
                while projector.run(stop.clone()).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        let usage_log: Arc<dyn UsageStream> = Arc::new(UsageLog::open(&data.path().join("usage-log")).unwrap());
        let usage_config = projector::Config { data: data.path().to_owned(), memory: Memory::new(Memory::BYTES_MIN), clock: clock() };
        let (_, usage) = UsageProjector::open(usage_config.clone(), usage_log.clone()).await.unwrap();
        let decision_log: Arc<dyn DecisionStream> = Arc::new(DecisionLog::open(&data.path().join("decision-log")).unwrap());
        let (_, decisions) = DecisionProjector::open(usage_config, decision_log.clone()).await.unwrap();
        let Foundation { cluster, vault, writer, .. } = foundation;
        let (id, mut names) = (writer.id(), registry::Registry::default());
        let metrics = Metrics::register(&mut names);
        let commands = Commands::new(CommandsParts {
            log: Arc::new(self.log.clone()),
            models: models.clone(),
            writer,
            cluster: cluster.id,
            clock: self.clock(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        });
        assert!(models.wait_for(self.log.true_head().await, Duration::from_secs(10)).await);
        founding::furnish(&commands, &models, &cluster, &vault).await.unwrap();
        let cache = data.path().join("policy-code");
        let host = HostConfig {
            cache,
            cache_bytes_max: CACHE_BYTES_DEFAULT,
            compiler: Compiler::InProcess,
            fast_slots: 4,
            fast_resident_bytes: FAST_RESIDENT_BYTES_DEFAULT,
            slow_threads: 1,
        };
        let modules = PolicyModules::new(Host::new(host).unwrap(), Arc::new(reach.clone()), tasks.clone());
        let active: Arc<ArcSwap<Active>> = Arc::default();
        let parts =
            PolicyLoaderParts { modules: modules.clone(), models: models.clone(), active: active.clone(), metrics: metrics.clone() };
        tasks.spawn(PolicyLoader::new(parts).run(stop.clone()));
        let logins = Logins::new(LoginsParts {
            commands: commands.clone(),
            models: models.clone(),
            vault: vault.clone(),
            log: Arc::new(self.log.clone()),
            clock: self.clock(),
            providers: self.providers.clone(),
            tokens: TokenClient::new(true).unwrap(),
        });
        let (log, is_stopped) = (self.log.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = is_stopped.clone();
        let root_keys = RootKeyWatch::new(RootKeyWatchParts {
            sources: sources(data.path(), None),
            vault: vault.clone(),
            models: models.clone(),
            coordination: Arc::new(self.registry.clone()),
        });
        let router = control::router(App::new(AppParts {
            commands: commands.clone(),
            models: models.clone(),
            usage,
            decisions,
            vault: vault.clone(),
            log: Arc::new(self.log.clone()),
            backup: BackupSources {
                keys: self.store.clone(),
                artefacts: Arc::new(reach.clone()),
                usage: usage_log,
                decisions: decision_log,
            },
            modules: modules.clone(),
            logins: logins.clone(),
            clock: self.clock(),
            metrics,
            registry: Arc::new(names),
            rotations: Arc::new(CredentialRotations {
                commands: commands.clone(),
                models: models.clone(),
                vault: vault.clone(),
                coordination: Arc::new(self.registry.clone()),
                clock: clock(),
                probe: Arc::new(|_, _| Box::pin(async { unreached() })),
                providers: control::key_providers::KeyProviders::default(),
                client: control::oauth::TokenClient::new(true).unwrap(),
                notes: RotationNotes::default(),
            }),
            cluster_id: cluster.id,
            owner_token_hash: cluster.owner_token_hash,
            coordination: Arc::new(self.registry.clone()),
            health: Arc::new(move || {
                let log = LogHealth { connected: !log.is_away(), epoch: 1, trust: Trust::Trusted, trust_reason: None };
                NodeHealth { log, spool: None, key_store: None }
            }),
            rebuilds: Rebuilds::new(projector, clock(), tasks.clone(), stop.clone()),
            root_keys,
            staleness_max: Duration::from_secs(900),
            leaks: self.leaks.clone(),
            tests: Arc::new(UpstreamTests {
                probe: Arc::new(|_| Box::pin(async { unreached() })),
                models: models.clone(),
                coordination: Arc::new(self.registry.clone()),
                clock: self.clock(),
                interval: None,
            }),
            notifier: Notifier::new(NotifierParts {
                channels: vec![],
                models: models.clone(),
                coordination: Arc::new(self.registry.clone()),
                clock: self.clock(),
                allow_private: true,
                data: data.path().to_owned(),
            })
            .unwrap(),
            stop: Arc::new(move || stopped.store(true, Ordering::SeqCst)),
            ready: watch::channel(true).1,
            openapi_json: "{}".into(),
        }));
        self.registry.hear(id, models.position().sequence, true);
        Node { id, models, commands, vault, logins, is_stopped, reach, modules, active, router, tasks, stop: stop.drop_guard() }
    }

    /// A node that founds or joins under this root key, in a directory of its own.
    pub(crate) async fn node(&self, root_key: &RootKey) -> (Node, TempDir) {
        let data = tempfile::tempdir().unwrap();
        let foundation = self.found_or_join(&sources(data.path(), Some(root_key))).await.unwrap();
        (self.start(&data, foundation).await, data)
    }
}

impl Node {
    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call_with(method, path, &[], if body.is_null() { Vec::new() } else { body.to_string().into_bytes() }).await
    }

    /// Any bytes under any further fields.
    pub(crate) async fn call_with(&self, method: &str, path: &str, fields: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let (head, bytes) = self.exchange(method, path, fields, body).await;
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: head.status, headers: head.headers, body }
    }

    pub(crate) async fn exchange(&self, method: &str, path: &str, fields: &[(&str, &str)], body: Vec<u8>) -> (Parts, Bytes) {
        let (head, body) = self.open(method, path, fields, body).await.into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    }

    /// The routes, for requests that are not the owner's.
    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// The answer as it comes.
    pub(crate) async fn open(&self, method: &str, path: &str, fields: &[(&str, &str)], body: Vec<u8>) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {TOKEN}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    pub(crate) async fn create_key(&self) -> String {
        let answer = self.call("POST", "/api/v1/keys", serde_json::json!({ "name": "ci", "expires": "never" })).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body["key"]["id"].as_str().unwrap().to_owned()
    }

    /// Stops the node's tasks and lets go of its files.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Answer {
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.parse().ok()
    }
}
