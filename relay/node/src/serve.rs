//! `keyrelay serve`: the composition root. It opens the stores, founds or joins, catches up with the log, and serves until it is told to stop.

mod data;
mod gate;
mod listener;
mod membership;
mod outbox;
mod policies;
mod snapshots;
mod storage;
mod tasks;
mod upkeep;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use control::founding::{self, Foundation};
use control::notices::{Notifier, NotifierParts};
use control::oauth::{Logins, LoginsParts, TokenClient};
use control::refresh::{OauthProviders, RefreshTimes, Refresher, RefresherParts};
use control::{
    App, AppParts, Clock, Commands, CommandsParts, CredentialRotations, ExpirySweeper, LeakIntake, Metrics, ProbeOutcome, Rebuilds,
    RootKeyWatch, RootKeyWatchParts, RotationNotes, RotationScheduler, Rotations, UpstreamTests,
};
use event_log::artefacts::Snapshots;
use event_log::{EventLog, ReadError};
use gateway::{DecisionSink, Gateway, GatewayParts, GatewayTasks};
use projector::decisions::{DecisionModels, DecisionProjector};
use projector::usage::{UsageFollowError, UsageOpenError, UsageProjector};
use projector::{FoldError, FollowError, Projector, ReadModels, State, UsageModels};
use prometheus_client::registry::Registry;
use schemas::{IncarnationId, Sequence, Timestamp, WriterId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vault::files;

use crate::backup;
use crate::config::Config;
use crate::layout::Layout;
pub(crate) use data::{is_data, write_format};
use listener::Listener;
use membership::{Introduction, Standing};
use policies::Policies;
use storage::Storage;
use tasks::Tasks;

/// The pause before the log is followed again after a failure.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);
/// The pause after the log was found to be another one than the read models were folded from.
const REFUSED_PAUSE: Duration = Duration::from_secs(15);
/// How often a long catching-up is reported, and a stopped fold noticed.
const CATCH_UP_REPORT: Duration = Duration::from_millis(500);

/// Runs a node until SIGTERM or SIGINT, or until something that it cannot do without fails.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let data = config.data.clone();
    files::private_dir(&data)?;
    backup::refuse_unfinished(&data)?;
    data::check_format(&data)?;
    let clock = clock();
    #[cfg(feature = "faults")]
    let clock = moved(clock, data.clone());

    // Before anything is founded: an address in use, or a file that must not be read, must leave no trace.
    let leaks = config.leak_intake()?.map(Arc::new);
    let relay = Listener::bind(config.relay.listen).await.with_context(|| format!("cannot listen on {}", config.relay.listen))?;
    let admin = Listener::bind(config.admin.listen).await.with_context(|| format!("cannot listen on {}", config.admin.listen))?;
    let tasks = Tasks::new()?;
    let storage = match config.nats() {
        None => Storage::embedded(&data).await?,
        Some(nats) => Storage::cluster(&data, nats, &tasks).await?,
    };
    Node::assemble(config, leaks, storage, clock).await?.run(tasks, relay, admin).await
}

/// The system's clock, for whoever takes one.
pub(crate) fn clock() -> Clock {
    Arc::new(now)
}

/// The same clock as a test moves it.
#[cfg(feature = "faults")]
fn moved(clock: Clock, data: std::path::PathBuf) -> Clock {
    Arc::new(move || clock().plus_seconds(crate::faults::clock_ahead_seconds(&data)))
}

/// Microseconds of the system's clock: the one place of the node that asks it.
#[expect(clippy::disallowed_methods, reason = "the composition root is where time comes in")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// A node with everything opened, and nothing running but what its stores need.
struct Node {
    config: Config,
    leaks: Option<Arc<LeakIntake>>,
    storage: Storage,
    foundation: Foundation,
    clock: Clock,
    projector: Arc<Projector>,
    models: ReadModels,
    usage_projector: UsageProjector,
    usage: UsageModels,
    decision_projector: DecisionProjector,
    decisions: DecisionModels,
}

impl Node {
    /// Opens the models, which know whether the log is theirs, and only then founds or joins.
    async fn assemble(config: Config, leaks: Option<Arc<LeakIntake>>, storage: Storage, clock: Clock) -> anyhow::Result<Self> {
        let (data, log) = (config.data.clone(), storage.log.clone());
        let memory = projector::Memory::new(config.projector.memory_bytes);
        let models_config = projector::Config { data: data.clone(), memory, clock: clock.clone() };
        snapshots::sweep(&data)?;
        let is_first_start = !Layout::new(&data).read_models().is_dir();
        if let Some(cluster) = storage.cluster.as_ref().filter(|cluster| cluster.is_reached && is_first_start) {
            let store = Snapshots::new(cluster.nats.client(), cluster.replicas);
            if let Err(error) = snapshots::install(&store, &models_config, &*log).await {
                tracing::warn!(error = format!("{error:#}"), "no snapshot to begin with; the log is folded from its beginning");
            }
        }
        let (projector, models) = Projector::open(models_config.clone(), log.clone()).await.context("the read models do not open")?;
        let sources = config.founding_sources()?;
        let foundation = match founding::found_or_join(&sources, &*log, storage.keys.clone(), &clock).await {
            Err(error) if error.is_unavailable() => {
                tracing::warn!(error = &error as &dyn std::error::Error, "starting from what is on this machine");
                founding::from_local(&sources, &models, storage.keys.clone()).await?
            }
            founded => founded?,
        };
        data::write_format(&data)?;
        let (usage_projector, usage) = open_usage(&models_config, &storage).await.context("the usage models do not open")?;
        let (decision_projector, decisions) =
            DecisionProjector::open(models_config, storage.decisions.clone()).await.context("the decision models do not open")?;
        let projector = Arc::new(projector);
        Ok(Self { config, leaks, storage, foundation, clock, projector, models, usage_projector, usage, decision_projector, decisions })
    }

    /// Serves until a signal, a task that may not end ends, or the start fails.
    async fn run(self, tasks: Tasks, relay: Listener, admin: Listener) -> anyhow::Result<()> {
        let Foundation { cluster, vault, writer, is_new } = self.foundation;
        let (writer_id, log) = (writer.id(), self.storage.log.clone());
        let mut registry = Registry::default();
        let control_metrics = Metrics::register(&mut registry);
        let gateway_metrics = gateway::Metrics::default();
        let policies =
            Policies::open(&self.config.data, &self.config.policy, self.storage.artefacts.clone(), tasks.tracker.clone()).await?;
        gateway_metrics.register(&mut registry);

        let head_at_start = match log.head().await {
            // What this node has is all there is to serve, for as long as it is not too old.
            Err(ReadError::Unavailable { .. }) => Sequence::ZERO,
            head => head?,
        };
        let usage_at_start = match self.storage.usage.head().await {
            Err(ReadError::Unavailable { .. }) => Sequence::ZERO,
            head => head?,
        };
        // A fold that stops leaves what it has folded to be served; `/readyz` says that it stopped.
        tasks.logged("projector.follow", follow(self.projector.clone(), tasks.close.clone()));
        let (usage_projector, stop) = (self.usage_projector, tasks.close.clone());
        tasks.logged("usage.follow", follow_usage(usage_projector, stop));
        let (decision_projector, stop) = (self.decision_projector, tasks.close.clone());
        tasks.logged("decisions.follow", follow_decisions(decision_projector, stop));

        let commands = Commands::new(CommandsParts {
            log: log.clone(),
            models: self.models.clone(),
            writer,
            cluster: cluster.id,
            clock: self.clock.clone(),
            tasks: tasks.tracker.clone(),
            metrics: control_metrics.clone(),
        });
        let incarnation = new_incarnation()?;
        let (decisions, decision_writer) = DecisionSink::new(self.storage.decisions.clone(), writer_id, incarnation, &gateway_metrics);
        let (gateway, GatewayTasks { usage_writer, shadow_worker, outbox: outbox_reader }) = Gateway::new(GatewayParts {
            config: self.config.gateway(),
            models: self.models.clone(),
            vault: vault.clone(),
            usage_stream: self.storage.usage.clone(),
            usage_models: self.usage.clone(),
            node: writer_id,
            incarnation,
            policies: policies.active.clone(),
            engine_profile: policies.modules.host().engine_profile().to_owned(),
            decisions,
            clock: self.clock.clone(),
            metrics: gateway_metrics,
        })?;
        let finish_usage = CancellationToken::new();
        let usage_written = tasks.essential("usage.write", {
            let finish = finish_usage.clone();
            async move { Ok(usage_writer.run(finish).await?) }
        });
        // Without it the node decides all the same, and counts what it could not write down.
        tasks.logged("decisions.write", {
            let finish = finish_usage.clone();
            async move {
                decision_writer.run(finish).await;
                Ok(())
            }
        });
        // Policies on trial change nothing, so nothing waits for them either.
        let close = tasks.close.clone();
        tasks.logged("policies.shadow", async move {
            shadow_worker.run(close).await;
            Ok(())
        });
        tasks.tracker.spawn(outbox::run(outbox_reader, commands.clone(), tasks.tracker.clone(), tasks.close.clone()));
        let coordination = membership::coordination(self.storage.cluster.as_ref(), cluster.id, writer_id, self.clock.clone());
        let rotations = Arc::new(CredentialRotations {
            commands: commands.clone(),
            models: self.models.clone(),
            vault: vault.clone(),
            coordination: coordination.clone(),
            clock: self.clock.clone(),
            probe: probe_secret(&gateway),
            providers: self.config.rotation.providers.clone(),
            client: TokenClient::new(self.config.relay.allow_private_upstreams).context("the client for providers of keys")?,
            notes: RotationNotes::default(),
        });
        let root_keys = RootKeyWatch::new(RootKeyWatchParts {
            sources: self.config.founding_sources()?,
            vault: vault.clone(),
            models: self.models.clone(),
            coordination: coordination.clone(),
        });
        let logins = Logins::new(LoginsParts {
            commands: commands.clone(),
            models: self.models.clone(),
            vault: vault.clone(),
            log: log.clone(),
            clock: self.clock.clone(),
            providers: self.config.oauth.providers.clone(),
            tokens: TokenClient::new(self.config.relay.allow_private_upstreams).context("the client for providers of accounts")?,
        });
        let tests = Arc::new(UpstreamTests {
            probe: probe(&gateway),
            models: self.models.clone(),
            coordination: coordination.clone(),
            clock: self.clock.clone(),
            interval: self.config.accounts.test_interval,
        });
        let notifier = Notifier::new(NotifierParts {
            channels: self.config.notice_channels()?,
            models: self.models.clone(),
            coordination: coordination.clone(),
            clock: self.clock.clone(),
            allow_private: self.config.relay.allow_private_upstreams,
            data: self.config.data.clone(),
        })
        .context("the client for notices")?;
        let (ready, is_ready) = watch::channel(false);
        let (caught_up, has_caught_up) = watch::channel(false);
        let admin_router = control::router(App::new(AppParts {
            commands: commands.clone(),
            models: self.models.clone(),
            usage: self.usage.clone(),
            decisions: self.decisions.clone(),
            vault: vault.clone(),
            log: log.clone(),
            backup: self.storage.backup_sources(),
            modules: policies.modules.clone(),
            logins: logins.clone(),
            clock: self.clock.clone(),
            metrics: control_metrics.clone(),
            registry: Arc::new(registry),
            rotations: rotations.clone(),
            cluster_id: cluster.id,
            owner_token_hash: cluster.owner_token_hash,
            coordination: coordination.clone(),
            health: self.storage.health(),
            rebuilds: Rebuilds::new(self.projector.clone(), self.clock.clone(), tasks.tracker.clone(), tasks.close.clone()),
            root_keys: root_keys.clone(),
            staleness_max: self.config.relay.staleness_max,
            leaks: self.leaks,
            tests: tests.clone(),
            notifier: notifier.clone(),
            stop: tasks.stopper(),
            ready: is_ready.clone(),
            openapi_json: openapi::document_text()?.into(),
        }));
        let (relay_origin, admin_origin) = (relay.origin(), admin.origin());
        let relay_router = gate::until(has_caught_up.clone(), gate::Face::Relay, gateway::router(gateway.clone()));
        let admin_router = gate::until(has_caught_up, gate::Face::Admin, admin_router);
        tasks.connections.spawn(relay.run(relay_router, tasks.drain.clone(), tasks.cut.clone(), tasks.connections.clone()));
        // The admin side answers until the last stream has ended, so that a drain can be watched.
        tasks.tracker.spawn(admin.run(admin_router, tasks.close.clone(), CancellationToken::new(), tasks.tracker.clone()));
        let introduction = Introduction { node: writer_id, relay: relay_origin.clone(), admin: admin_origin.clone() };
        let (models, policy_health, health) = (self.models.clone(), policies.modules.health(), self.storage.health());
        let standing = Standing { models, ready: is_ready, policies: policy_health, root_keys: root_keys.held(), health };
        let (clock, close) = (self.clock.clone(), tasks.close.clone());
        tasks.logged("nodes.announce", membership::announce(introduction, coordination.clone(), standing, clock, close));
        // What a retired node signs is void, so that it could only mislead.
        let (models, close) = (self.models.clone(), tasks.close.clone());
        tasks.essential("node.retired", async move {
            match close.run_until_cancelled(founding::until_retired(&models, writer_id)).await {
                None => Ok(()),
                Some(retired) => Err(retired?.into()),
            }
        });
        if let Some(cluster) = &self.storage.cluster {
            let taker = snapshots::Taker {
                store: Snapshots::new(cluster.nats.client(), cluster.replicas),
                projector: self.projector.clone(),
                models: self.models.clone(),
                coordination: coordination.clone(),
                commands: commands.clone(),
                clock: self.clock.clone(),
                data: self.config.data.clone(),
            };
            tasks.logged("snapshots.take", taker.run(tasks.close.clone()));
        }
        let sweeper = ExpirySweeper {
            commands: commands.clone(),
            models: self.models.clone(),
            coordination: coordination.clone(),
            clock: self.clock.clone(),
            interval: self.config.control.expiry_interval,
            rotations: Arc::new(Rotations { commands: commands.clone(), models: self.models.clone(), vault: vault.clone() }),
        };
        let allow_private = self.config.relay.allow_private_upstreams;
        let client = TokenClient::new(allow_private).context("the system's root certificates could not be loaded")?;
        let refresher = Refresher::open(
            RefresherParts {
                commands: commands.clone(),
                models: self.models.clone(),
                vault: vault.clone(),
                coordination: coordination.clone(),
                provider: Arc::new(OauthProviders { providers: self.config.oauth.providers.clone(), client }),
                clock: self.clock.clone(),
                metrics: control_metrics.clone(),
                data: self.config.data.clone(),
                times: RefreshTimes::default(),
            },
            tasks.close.clone(),
        )?;
        let start = async {
            catch_up(&self.models, head_at_start).await?;
            catch_up_with_usage(&self.usage, usage_at_start).await;
            founding::furnish(&commands, &self.models, &cluster, &vault).await?;
            policies.start(&self.models, &control_metrics, &tasks).await;
            caught_up.send_replace(true);
            ready.send_replace(true);
            tasks.tracker.spawn(root_keys.run(tasks.close.clone()));
            tasks.tracker.spawn(sweeper.run(tasks.close.clone()));
            tasks.tracker.spawn(RotationScheduler(rotations).run(tasks.close.clone()));
            tasks.tracker.spawn(refresher.run());
            tasks.tracker.spawn(tests.run(tasks.close.clone()));
            tasks.tracker.spawn(notifier.run(tasks.close.clone()));
            tasks.tracker.spawn(logins.sweep_until(tasks.close.clone()));
            tasks.tracker.spawn(upkeep::sweep_vault(vault.clone(), self.models.clone(), self.clock.clone(), tasks.close.clone()));
            let sequence = self.models.position().sequence;
            announce(&self.config.data, &relay_origin, &admin_origin, writer_id, sequence, &*log)?;
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
        coordination.close().await;
        if let Some(cluster) = &self.storage.cluster {
            cluster.close().await;
        }
        tracing::info!("stopped");
        ended.and(closed)
    }
}

/// Opens the usage models. They are derived: where the stream has lost what they were folded from, they are folded again from what is left.
async fn open_usage(config: &projector::Config, storage: &Storage) -> Result<(UsageProjector, UsageModels), UsageOpenError> {
    match UsageProjector::open(config.clone(), storage.usage.clone()).await {
        Err(error @ UsageOpenError::LogShorter { .. }) => {
            tracing::error!(error = &error as &dyn std::error::Error, "usage was lost on the servers; the rest is folded again");
            let path = config.data.join("usage-models");
            std::fs::remove_dir_all(&path).map_err(|source| UsageOpenError::Io { path, source })?;
            UsageProjector::open(config.clone(), storage.usage.clone()).await
        }
        opened => opened,
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

/// Waits until what was used before this start is summed: a meter that reads low lets a policy permit what is used up, and a key whose uses
/// are not known looks unused. Sums that have stopped are told by `/readyz`, and stop nobody.
async fn catch_up_with_usage(usage: &UsageModels, head: Sequence) {
    while !usage.wait_for(head, CATCH_UP_REPORT).await {
        let status = usage.status();
        if !status.following {
            return;
        }
        tracing::info!(position = status.sequence.0, head = head.0, "catching up with the usage stream");
    }
}

/// Follows the log, again after a failure that may pass; a record that this release cannot fold does not.
async fn follow(projector: Arc<Projector>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match projector.run(stop.clone()).await {
            Err(error @ FollowError::Fold(FoldError::Stop(_))) => return Err(error.into()),
            Err(error) => {
                // A log that is another one does not change from one second to the next; meanwhile the state stays what it is.
                let pause = if matches!(error, FollowError::Refused(_)) { REFUSED_PAUSE } else { FOLLOW_PAUSE };
                tracing::error!(error = &error as &dyn std::error::Error, "the read models do not follow; trying again");
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return Ok(());
                }
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Follows the usage stream, again after a failure that may pass.
async fn follow_usage(projector: UsageProjector, stop: CancellationToken) -> anyhow::Result<()> {
    #[cfg(feature = "faults")]
    if crate::faults::is_planted("late-usage") {
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
    while let Err(error) = projector.run(stop.clone()).await {
        let is_lost = matches!(error, UsageFollowError::LogShorter { .. });
        let (pause, cure) = if is_lost { (REFUSED_PAUSE, "a restart folds what is left") } else { (FOLLOW_PAUSE, "trying again") };
        tracing::error!(error = &error as &dyn std::error::Error, "the usage models do not follow; {cure}");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// Follows the decision stream, again after a failure that may pass.
async fn follow_decisions(projector: DecisionProjector, stop: CancellationToken) -> anyhow::Result<()> {
    while let Err(error) = projector.run(stop.clone()).await {
        tracing::error!(error = &error as &dyn std::error::Error, "the decision models do not follow; trying again");
        if stop.run_until_cancelled(tokio::time::sleep(FOLLOW_PAUSE)).await.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// A number for this run of the process: batches of usage and of decisions are numbered under it.
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
        Box::pin(async move { outcome(gateway.probe(upstream).await) })
    })
}

/// Connects the tests of new secrets to it.
fn probe_secret(gateway: &Gateway) -> control::ProbeSecret {
    let gateway = gateway.clone();
    Arc::new(move |upstream, version| {
        let gateway = gateway.clone();
        Box::pin(async move { outcome(gateway.probe_secret(upstream, Some(version)).await) })
    })
}

fn outcome(probed: gateway::Probed) -> ProbeOutcome {
    let elapsed_ms = u64::try_from(probed.elapsed.as_millis()).unwrap_or(u64::MAX);
    ProbeOutcome { status: probed.status.map(|status| status.as_u16()), elapsed_ms, error: probed.error, account: probed.account }
}
