//! What a node stands on: its data directory alone, or a cluster's NATS with a local copy of everything.
//!
//! ```text
//!                 one machine              cluster
//! event log       DATA/log                 JetStream, watched by a witness (DATA/witness)
//! secrets         DATA/keys                KV bucket, mirrored in DATA/keys
//! usage           DATA/usage-log           stream, through the spool in DATA/usage-spool
//! decisions       DATA/decision-log        stream, through the spool in DATA/decision-spool
//! artefacts       DATA/artefacts           object store; what was used of it is in DATA/artefacts too
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use control::backup::BackupSources;
use control::{LogHealth, NodeHealth, SpoolHealth};
use event_log::artefacts::{Artefacts, FileArtefacts, NatsArtefacts};
use event_log::decisions::{DecisionLog, DecisionStream, JetStreamDecisions};
use event_log::usage::{JetStreamUsage, UsageLog, UsageStream};
use event_log::{EmbeddedLog, EventLog, Health, JetStreamLog, Nats, NatsConfig, PrepareError, StreamPrepareError, WitnessedLog};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vault::{KeyStore, NatsKeyStore, RocksKeyStore};

use super::tasks::Tasks;
use crate::layout::Layout;
use crate::migrate::{self, Moved};

/// How long a start waits for NATS before it goes on with what is on this machine.
const FIRST_CONTACT_WAIT: Duration = Duration::from_secs(10);
/// How long it waits where there is nothing on this machine to go on with.
const FIRST_START_WAIT: Duration = Duration::from_secs(60);
const PREPARE_PAUSE: Duration = Duration::from_millis(500);
/// How often it is said that the log still cannot be used.
const PREPARE_REPORT: Duration = Duration::from_secs(30);

/// The stores of a node, opened.
pub(super) struct Storage {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) keys: Arc<dyn KeyStore>,
    pub(super) usage: Arc<dyn UsageStream>,
    pub(super) decisions: Arc<dyn DecisionStream>,
    pub(super) artefacts: Arc<dyn Artefacts>,
    /// What only a cluster has.
    pub(super) cluster: Option<Cluster>,
}

#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) nats: Nats,
    /// How many servers keep what is made anew; none leaves that to the servers.
    pub(super) replicas: Option<usize>,
    /// Whether the servers answered at start.
    pub(super) is_reached: bool,
    witness: WitnessedLog,
    keys: Arc<NatsKeyStore>,
    usage: Arc<JetStreamUsage>,
    decisions: Arc<JetStreamDecisions>,
}

impl Storage {
    /// Opens everything in the data directory, for a node on its own.
    pub(super) async fn embedded(data: &Path) -> anyhow::Result<Self> {
        if let Some(Moved { to, size, .. }) = Moved::read(data)? {
            bail!(
                "the log of {} was moved to {to} with {size} records: start with --nats {to}, or bring it back with \
                 keyrelay log migrate --to-embedded --nats {to}",
                data.display()
            );
        }
        let is_clusters = data.join("witness").is_dir() && !Layout::new(data).log().is_dir();
        ensure!(!is_clusters, "{} is of a node in a cluster: start it with --nats, or give another --data", data.display());
        let (log_dir, usage_dir, keys_dir) = (Layout::new(data).log(), data.join("usage-log"), data.join("keys"));
        let decisions_dir = data.join("decision-log");
        let artefacts_dir = Layout::new(data).artefacts();
        let opened = tokio::task::spawn_blocking(move || {
            let log = EmbeddedLog::open(&log_dir).context("the event log does not open")?;
            let keys = RocksKeyStore::open(&keys_dir).context("the key store does not open")?;
            let usage = UsageLog::open(&usage_dir).context("the usage stream does not open")?;
            let decisions = DecisionLog::open(&decisions_dir).context("the decision stream does not open")?;
            let artefacts = FileArtefacts::open(&artefacts_dir).context("the artefacts do not open")?;
            let (log, keys, usage, artefacts) = (Arc::new(log), Arc::new(keys), Arc::new(usage), Arc::new(artefacts));
            anyhow::Ok(Self { log, keys, usage, decisions: Arc::new(decisions), artefacts, cluster: None })
        });
        opened.await?
    }

    /// Reaches for NATS and opens the local copies. Where NATS is away and this node was in the cluster before, it goes on without.
    pub(super) async fn cluster(data: &Path, config: NatsConfig, tasks: &Tasks) -> anyhow::Result<Self> {
        let layout = Layout::new(data);
        let is_own = layout.log().is_dir() && Moved::read(data)?.is_none();
        let url = migrate::spell(&config);
        ensure!(
            !is_own,
            "{} holds a log of its own: move it with keyrelay log migrate --to-nats {url}, or give another --data",
            data.display()
        );
        let nats = Nats::connect(config).await.context("the settings for NATS")?;
        let was_there = [layout.read_models(), data.join("witness"), data.join("usage-spool")].iter().any(|path| path.is_dir());
        let jetstream = if was_there { JetStreamLog::known(&nats) } else { JetStreamLog::new(&nats) };
        let is_reached = prepare(&jetstream, if was_there { FIRST_CONTACT_WAIT } else { FIRST_START_WAIT }).await?;
        ensure!(is_reached || was_there, "NATS at {url} cannot be reached, and this node has nothing of a cluster to start from");
        if !is_reached {
            tasks.logged("log.prepare", keep_preparing(jetstream.clone(), tasks.close.clone()));
        }

        let replicas = nats.replicas();
        let (witness_dir, keys_dir, spool_dir) = (data.join("witness"), data.join("keys"), data.join("usage-spool"));
        let decisions_dir = data.join("decision-spool");
        let artefacts_dir = layout.artefacts();
        let (log, client): (Arc<dyn EventLog>, _) = (Arc::new(jetstream), nats.client());
        let (witness, mirror, usage, decisions, files) = tokio::task::spawn_blocking(move || {
            let witness = WitnessedLog::open(log, &witness_dir).context("the log's witness does not open")?;
            let mirror = RocksKeyStore::open(&keys_dir).context("the mirror of the key store does not open")?;
            let usage = JetStreamUsage::open(client.clone(), &spool_dir, replicas).context("the usage spool does not open")?;
            let decisions = JetStreamDecisions::open(client, &decisions_dir, replicas).context("the decision spool does not open")?;
            let files = FileArtefacts::open(&artefacts_dir).context("the copies of artefacts do not open")?;
            anyhow::Ok((witness, mirror, Arc::new(usage), Arc::new(decisions), files))
        })
        .await??;
        let keys = NatsKeyStore::open(nats.client(), mirror, replicas).await.context("the key store does not open")?;
        let (witnessed, mirrored) = (witness.clone(), keys.clone());
        let (usage_shipped, decisions_shipped) = (usage.clone(), decisions.clone());
        let cluster =
            Cluster { nats, replicas, is_reached, witness: witnessed, keys: mirrored, usage: usage_shipped, decisions: decisions_shipped };
        cluster.follow(tasks);
        if is_reached {
            for prepared in [usage.prepare().await, decisions.prepare().await] {
                match prepared {
                    Err(error @ (StreamPrepareError::Differs { .. } | StreamPrepareError::Refused { .. })) => {
                        return Err(error).context("a stream on NATS cannot be used");
                    }
                    // It is tried again whenever there is something to ship.
                    Ok(()) | Err(StreamPrepareError::Unavailable { .. }) => {}
                }
            }
            let found = witness.compare().await;
            if let Health::Refused { reason, evidence } = found {
                bail!(
                    "the log on NATS is not the one that this node knows: {reason}; the evidence is in {}. Bring back the servers or the data \
                     that this node knows; or, having checked both sides, move witness, read-models and usage-models out of {} to take the \
                     log as it is",
                    evidence.display(),
                    data.display()
                );
            }
        }
        let artefacts = Arc::new(NatsArtefacts::new(cluster.nats.client(), files, replicas));
        Ok(Self { log: Arc::new(witness), keys, usage, decisions, artefacts, cluster: Some(cluster) })
    }

    /// What a backup is taken from, beside the log.
    pub(super) fn backup_sources(&self) -> BackupSources {
        let (keys, artefacts, usage, decisions) = (self.keys.clone(), self.artefacts.clone(), self.usage.clone(), self.decisions.clone());
        BackupSources { keys, artefacts, usage, decisions }
    }

    /// What `/readyz` and the metrics tell of the stores.
    pub(super) fn health(&self) -> control::Health {
        let Some(cluster) = self.cluster.clone() else { return Arc::new(NodeHealth::embedded) };
        Arc::new(move || cluster.health())
    }
}

impl Cluster {
    /// The tasks behind the stores.
    fn follow(&self, tasks: &Tasks) {
        let (keys, close) = (self.keys.clone(), tasks.close.clone());
        tasks.essential("keys.follow", async move {
            keys.run(close).await;
            Ok(())
        });
        let (usage, close) = (self.usage.clone(), tasks.close.clone());
        tasks.essential("usage.ship", async move {
            usage.run(close).await;
            Ok(())
        });
        let (decisions, close) = (self.decisions.clone(), tasks.close.clone());
        tasks.logged("decisions.ship", async move {
            decisions.run(close).await;
            Ok(())
        });
        let (witness, close) = (self.witness.clone(), tasks.close.clone());
        let (epoch, reconnects) = watch::channel(0);
        let mut connected = self.nats.connected();
        tasks.logged("nats.reconnects", {
            let close = close.clone();
            async move {
                // The sender goes only when the connection was closed for good.
                while let Some(Ok(())) = close.run_until_cancelled(connected.changed()).await {
                    epoch.send_replace(connected.borrow_and_update().epoch);
                }
                Ok(())
            }
        });
        tasks.essential("log.witness", async move {
            witness.run(close, reconnects).await;
            Ok(())
        });
    }

    fn health(&self) -> NodeHealth {
        let log = LogHealth::witnessed(*self.nats.connected().borrow(), &self.witness.health().borrow());
        let spool = *self.usage.spool().borrow();
        NodeHealth {
            log,
            spool: Some(SpoolHealth {
                batches: spool.batches,
                bytes: spool.bytes,
                oldest_at: spool.oldest,
                refused: spool.refused,
                losses: spool.losses,
            }),
            key_store: Some(self.keys.mirrored().into()),
        }
    }

    /// Ends the connection, when nothing uses it any more.
    pub(super) async fn close(&self) {
        self.witness.close().await;
        self.nats.close().await;
    }
}

/// Waits until the log may be used; false if NATS does not answer for so long. A refusal is an error.
async fn prepare(log: &JetStreamLog, patience: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match log.prepare().await {
            Ok(prepared) => {
                let (sync, servers) = (prepared.sync.as_str(), prepared.servers.len());
                tracing::info!(head = prepared.head.0, replicas = prepared.replicas, sync, servers, "the log on NATS is ready");
                return Ok(true);
            }
            Err(PrepareError::Unavailable { reason }) if Instant::now() + PREPARE_PAUSE > deadline => {
                tracing::warn!(reason, "NATS cannot be reached");
                return Ok(false);
            }
            Err(PrepareError::Unavailable { .. }) => tokio::time::sleep(PREPARE_PAUSE).await,
            Err(refusal) => return Err(refusal).context("the log on NATS cannot be used"),
        }
    }
}

/// Prepares the log of a node that serves without it already. A refusal may be lifted by an operator, so it is asked for again.
async fn keep_preparing(log: JetStreamLog, close: CancellationToken) -> anyhow::Result<()> {
    loop {
        match close.run_until_cancelled(prepare(&log, PREPARE_REPORT)).await {
            None | Some(Ok(true)) => return Ok(()),
            Some(Ok(false)) => {}
            Some(Err(refusal)) => {
                tracing::error!(error = format!("{refusal:#}"), "the log that came back cannot be used");
                close.run_until_cancelled(tokio::time::sleep(PREPARE_REPORT)).await;
            }
        }
    }
}
