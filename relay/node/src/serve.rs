//! `keyrelay serve`: the composition root. It opens the stores, founds or joins, catches up with the log, and serves until it is told to stop.

mod data;
mod gate;
mod listener;
mod tasks;
mod upkeep;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use control::founding::{self, Foundation, Sources};
use control::{App, AppParts, Clock, Commands, CommandsParts, Metrics, NodeHealth, ProbeOutcome};
use coordination::{Coordination, LocalCoordination, NodeStatus};
use event_log::usage::{UsageLog, UsageStream};
use event_log::{EmbeddedLog, EventLog};
use gateway::{Gateway, GatewayParts};
use projector::usage::UsageProjector;
use projector::{FoldError, FollowError, Projector, ReadModels, State, UsageModels};
use prometheus_client::registry::Registry;
use schemas::cluster::FORMAT_LEVEL;
use schemas::{IncarnationId, Sequence, Timestamp, WriterId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vault::{RocksKeyStore, files};

use crate::config::Config;
use listener::Listener;
use tasks::Tasks;

/// The pause before the log is followed again after a failure.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);
/// How often a long catching-up is reported, and a stopped fold noticed.
const CATCH_UP_REPORT: Duration = Duration::from_millis(500);

/// Runs a node until SIGTERM or SIGINT, or until something that it cannot do without fails.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let data = config.data.clone();
    files::private_dir(&data)?;
    data::check_format(&data)?;
    let clock: Clock = Arc::new(now);

    // Before anything is founded: an address in use must leave no trace.
    let relay = Listener::bind(config.relay.listen).await.with_context(|| format!("cannot listen on {}", config.relay.listen))?;
    let admin = Listener::bind(config.admin.listen).await.with_context(|| format!("cannot listen on {}", config.admin.listen))?;
    let log_dir = data.join("log");
    let log = tokio::task::spawn_blocking(move || EmbeddedLog::open(&log_dir)).await?.context("the event log does not open")?;
    let log: Arc<dyn EventLog> = Arc::new(log);
    let store = Arc::new(RocksKeyStore::open(&data.join("keys")).context("the key store does not open")?);
    let sources = Sources { data: data.clone(), root_key: config.root_key()?, owner_token: config.owner_token()? };
    let foundation = founding::found_or_join(&sources, &*log, store, &clock).await?;
    data::write_format(&data)?;

    Node::assemble(config, log, foundation, clock).await?.run(relay, admin).await
}

/// Microseconds of the system's clock: the one place of the node that asks it.
#[expect(clippy::disallowed_methods, reason = "the composition root is where time comes in")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// A node with everything opened and nothing running.
struct Node {
    config: Config,
    log: Arc<dyn EventLog>,
    foundation: Foundation,
    clock: Clock,
    projector: Projector,
    models: ReadModels,
    usage_stream: Arc<dyn UsageStream>,
    usage_projector: UsageProjector,
    usage: UsageModels,
}

impl Node {
    async fn assemble(config: Config, log: Arc<dyn EventLog>, foundation: Foundation, clock: Clock) -> anyhow::Result<Self> {
        let memory = projector::Memory::new(config.projector.memory_bytes);
        let models_config = projector::Config { data: config.data.clone(), memory, clock: clock.clone() };
        let (projector, models) = Projector::open(models_config.clone(), log.clone()).await.context("the read models do not open")?;
        let usage_dir = config.data.join("usage-log");
        let usage_log = tokio::task::spawn_blocking(move || UsageLog::open(&usage_dir)).await?.context("the usage stream does not open")?;
        let usage_stream: Arc<dyn UsageStream> = Arc::new(usage_log);
        let (usage_projector, usage) =
            UsageProjector::open(models_config, usage_stream.clone()).await.context("the usage models do not open")?;
        Ok(Self { config, log, foundation, clock, projector, models, usage_stream, usage_projector, usage })
    }

    /// Serves until a signal, a task that may not end ends, or the start fails.
    async fn run(self, relay: Listener, admin: Listener) -> anyhow::Result<()> {
        let Foundation { cluster, vault, writer, is_new } = self.foundation;
        let writer_id = writer.id();
        let (tasks, started_at) = (Tasks::new()?, (self.clock)());
        let mut registry = Registry::default();
        let control_metrics = Metrics::register(&mut registry);
        let gateway_metrics = gateway::Metrics::default();
        gateway_metrics.register(&mut registry);

        let head_at_start = self.log.head().await?;
        // A fold that stops leaves what it has folded to be served; `/readyz` says that it stopped.
        let (projector, stop) = (self.projector, tasks.close.clone());
        tasks.logged("projector.follow", follow(projector, stop));
        let (usage_projector, stop) = (self.usage_projector, tasks.close.clone());
        tasks.logged("usage.follow", follow_usage(usage_projector, stop));

        let commands = Commands::new(CommandsParts {
            log: self.log.clone(),
            models: self.models.clone(),
            writer,
            cluster: cluster.id,
            clock: self.clock.clone(),
            tasks: tasks.tracker.clone(),
            metrics: control_metrics.clone(),
        });
        let (gateway, usage_writer) = Gateway::new(GatewayParts {
            config: self.config.gateway(),
            models: self.models.clone(),
            vault: vault.clone(),
            usage_stream: self.usage_stream.clone(),
            node: writer_id,
            incarnation: new_incarnation()?,
            clock: self.clock.clone(),
            metrics: gateway_metrics,
        })?;
        let finish_usage = CancellationToken::new();
        let usage_written = tasks.essential("usage.write", {
            let finish = finish_usage.clone();
            async move { Ok(usage_writer.run(finish).await?) }
        });
        let coordination: Arc<dyn Coordination> = Arc::new(LocalCoordination::new(writer_id, self.clock.clone()));
        let (ready, is_ready) = watch::channel(false);
        let (caught_up, has_caught_up) = watch::channel(false);
        let admin_router = control::router(App::new(AppParts {
            commands: commands.clone(),
            models: self.models.clone(),
            usage: self.usage.clone(),
            vault: vault.clone(),
            log: self.log.clone(),
            clock: self.clock.clone(),
            metrics: control_metrics,
            registry: Arc::new(registry),
            probe: probe(&gateway),
            cluster_id: cluster.id,
            owner_token_hash: cluster.owner_token_hash,
            coordination: coordination.clone(),
            health: Arc::new(NodeHealth::embedded),
            staleness_max: self.config.relay.staleness_max,
            stop: tasks.stopper(),
            ready: is_ready,
            openapi_json: openapi::document_text()?.into(),
        }));
        let (relay_origin, admin_origin) = (relay.origin(), admin.origin());
        let relay_router = gate::until(has_caught_up.clone(), gate::Face::Relay, gateway::router(gateway.clone()));
        let admin_router = gate::until(has_caught_up, gate::Face::Admin, admin_router);
        tasks.connections.spawn(relay.run(relay_router, tasks.drain.clone(), tasks.cut.clone(), tasks.connections.clone()));
        // The admin side answers until the last stream has ended, so that a drain can be watched.
        tasks.tracker.spawn(admin.run(admin_router, tasks.close.clone(), CancellationToken::new(), tasks.tracker.clone()));
        let start = async {
            catch_up(&self.models, head_at_start).await?;
            founding::furnish(&commands, &self.models, &cluster, &vault).await?;
            caught_up.send_replace(true);
            ready.send_replace(true);
            tasks.tracker.spawn(upkeep::sweep_vault(vault.clone(), self.models.clone(), self.clock.clone(), tasks.close.clone()));
            let sequence = self.models.position().sequence;
            coordination.announce(NodeStatus {
                node: writer_id,
                release: env!("CARGO_PKG_VERSION").to_owned(),
                format_level: u32::from(FORMAT_LEVEL),
                started_at,
                relay: relay_origin.clone(),
                admin: admin_origin.clone(),
                applied: sequence,
                ready: true,
            });
            announce(&self.config.data, &relay_origin, &admin_origin, writer_id, sequence, &*self.log)?;
            tracing::info!(relay = relay_origin, admin = admin_origin, sequence = sequence.0, founded = is_new, "ready");
            anyhow::Ok(())
        };
        let ended = tokio::select! {
            started = start => match started {
                Ok(()) => tasks.stopped().await,
                Err(error) => Err(error),
            },
            ended = tasks.stopped() => ended,
        };
        ready.send_replace(false);
        gateway.drain();
        tasks.drain(self.config.relay.drain_timeout).await;
        finish_usage.cancel();
        let closed = tasks.close(usage_written).await;
        tracing::info!("stopped");
        ended.and(closed)
    }
}

/// Waits until everything is folded that the log held at start; a log that this release cannot fold ends the start.
async fn catch_up(models: &ReadModels, head: Sequence) -> anyhow::Result<()> {
    while !models.wait_for(head, CATCH_UP_REPORT).await {
        let status = models.status();
        if let State::Stopped { sequence, reason } = status.state {
            anyhow::bail!("the log cannot be folded at sequence {sequence}: {reason}");
        }
        tracing::info!(position = status.position.sequence.0, head = head.0, "catching up with the log");
    }
    Ok(())
}

/// Follows the log, again after a failure that may pass; a record that this release cannot fold does not.
async fn follow(projector: Projector, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match projector.run(stop.clone()).await {
            Err(error @ FollowError::Fold(FoldError::Stop(_))) => return Err(error.into()),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the read models do not follow; trying again"),
            Ok(()) => return Ok(()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(FOLLOW_PAUSE) => {}
        }
    }
}

/// Follows the usage stream, again after a failure that may pass.
async fn follow_usage(projector: UsageProjector, stop: CancellationToken) -> anyhow::Result<()> {
    while let Err(error) = projector.run(stop.clone()).await {
        tracing::error!(error = &error as &dyn std::error::Error, "the usage models do not follow; trying again");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(FOLLOW_PAUSE) => {}
        }
    }
    Ok(())
}

/// A number for this run of the process: usage batches are numbered under it.
fn new_incarnation() -> anyhow::Result<IncarnationId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    Ok(IncarnationId::from_bytes(bytes))
}

/// The one line on standard output that tells scripts where the node listens, and the file that tells the CLI.
fn announce(data: &Path, relay: &str, admin: &str, node: WriterId, sequence: Sequence, log: &dyn EventLog) -> anyhow::Result<()> {
    files::write_secret(&data.join("admin.address"), format!("{admin}\n").as_bytes())?;
    let line = serde_json::json!({
        "event": "ready", "relay": relay, "admin": admin, "node": node, "sequence": sequence, "sync": log.sync().as_str(),
    });
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// Connects `POST /upstreams/{id}/test` to the data plane's client.
fn probe(gateway: &Gateway) -> control::Probe {
    let gateway = gateway.clone();
    Arc::new(move |upstream| {
        let gateway = gateway.clone();
        Box::pin(async move {
            let probed = gateway.probe(upstream).await;
            let elapsed_ms = u64::try_from(probed.elapsed.as_millis()).unwrap_or(u64::MAX);
            ProbeOutcome { status: probed.status.map(|status| status.as_u16()), elapsed_ms, error: probed.error }
        })
    })
}
