//! The state of the data plane, and what the composition root gives and asks of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use event_log::usage::UsageStream;
use policy_host::active::Active;
use projector::{ReadModels, UsageModels};
use schemas::{IncarnationId, Timestamp, WriterId};
use thiserror::Error;
use tokio::sync::Semaphore;
use vault::Vault;

use crate::activation::Activations;
use crate::config::GatewayConfig;
use crate::cooling::Cooling;
use crate::decisions::DecisionSink;
use crate::limits::Allowances;
use crate::meters::Meters;
use crate::metrics::Metrics;
use crate::older_key::MissingSalts;
use crate::outbox::{Outbox, OutboxReader};
use crate::policies::{Policies, PoliciesParts, ShadowWorker};
use crate::random::Random;
use crate::targets::Targets;
use crate::transport::Transport;
use crate::usage::{UsageSink, UsageWriter};

/// The time, as the whole node sees it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the data plane is made of.
pub struct GatewayParts {
    pub config: GatewayConfig,
    pub models: ReadModels,
    pub vault: Arc<Vault>,
    pub usage_stream: Arc<dyn UsageStream>,
    /// What meters are read from.
    pub usage_models: UsageModels,
    /// Who numbers the usage batches: this node, and this run of its process.
    pub node: WriterId,
    pub incarnation: IncarnationId,
    /// The bindings that apply, swapped whole when the log changes them.
    pub policies: Arc<ArcSwap<Active>>,
    /// Version and settings of the engine that runs policies.
    pub engine_profile: String,
    /// Where decisions of policies are written down.
    pub decisions: DecisionSink,
    pub clock: Clock,
    pub metrics: Metrics,
}

/// Why the data plane cannot start.
#[derive(Debug, Error)]
pub enum GatewayError {
    #[error("the system's root certificates could not be loaded")]
    RootCertificates(#[source] std::io::Error),
    #[error("the system gives no random bytes")]
    Random(#[from] getrandom::Error),
}

/// The data plane. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<State>);

/// What runs beside the data plane.
pub struct GatewayTasks {
    /// [`UsageWriter::run`].
    pub usage_writer: UsageWriter,
    /// Runs policies on trial: [`ShadowWorker::run`].
    pub shadow_worker: ShadowWorker,
    /// Commands that requests gave rise to, for the control plane to execute.
    pub outbox: OutboxReader,
}

pub(crate) struct State {
    pub(crate) node: WriterId,
    pub(crate) config: GatewayConfig,
    pub(crate) models: ReadModels,
    pub(crate) vault: Arc<Vault>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) meters: Meters,
    pub(crate) usage: UsageSink,
    pub(crate) allowances: Arc<Allowances>,
    pub(crate) activations: Arc<Activations>,
    pub(crate) missing_salts: MissingSalts,
    pub(crate) outbox: Outbox,
    pub(crate) cooling: Cooling,
    pub(crate) targets: Targets,
    pub(crate) transport: Transport,
    pub(crate) policies: Policies,
    pub(crate) random: Random,
    /// The bytes that request bodies may still take.
    pub(crate) bodies: Arc<Semaphore>,
    is_draining: AtomicBool,
}

impl Gateway {
    /// The data plane and what the composition root runs as tasks beside it.
    pub fn new(parts: GatewayParts) -> Result<(Self, GatewayTasks), GatewayError> {
        let GatewayParts { config, models, vault, usage_stream, usage_models, node, incarnation, clock, metrics, .. } = parts;
        let transport = Transport::new(&config).map_err(GatewayError::RootCertificates)?;
        let meters = Meters::new(models.clone(), usage_models, (node, incarnation));
        let (usage, writer) = UsageSink::new(usage_stream, (node, incarnation), meters.clone(), &metrics);
        let (policies, shadow) = Policies::new(PoliciesParts {
            active: parts.policies,
            decisions: parts.decisions,
            engine: parts.engine_profile,
            sample_ppm: config.decision_sample_ppm,
            metrics: metrics.policies().clone(),
        });
        let activations = Arc::new(Activations::default());
        let (outbox, outbox_reader) = Outbox::new(Arc::clone(&activations), metrics.clone());
        let state = State {
            node,
            policies,
            activations,
            missing_salts: MissingSalts::default(),
            outbox,
            targets: Targets::new(models.clone(), Arc::clone(&vault), config.allow_private_upstreams),
            bodies: Arc::new(Semaphore::new(config.bodies_bytes_max)),
            allowances: Allowances::new(),
            cooling: Cooling::default(),
            random: Random::new()?,
            is_draining: AtomicBool::new(false),
            config,
            models,
            vault,
            clock,
            metrics,
            meters,
            usage,
            transport,
        };
        Ok((Self(Arc::new(state)), GatewayTasks { usage_writer: writer, shadow_worker: shadow, outbox: outbox_reader }))
    }

    pub(crate) fn state(&self) -> &State {
        &self.0
    }

    /// Refuses new requests from now on; those in flight go on.
    pub fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
    }

    /// Requests whose last byte is not sent yet.
    pub fn in_flight(&self) -> u64 {
        u64::try_from(self.0.metrics.in_flight().get()).unwrap_or(0)
    }
}

impl State {
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// How long ago the read models were last known to be level with the log.
    pub(crate) fn staleness(&self) -> Duration {
        self.models.staleness()
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// Counts a request as in flight until it is dropped.
pub(crate) struct InFlight(Metrics);

impl InFlight {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        metrics.in_flight().inc();
        Self(metrics.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight().dec();
    }
}
