//! A cluster: nats-servers, nodes that share a root key, and one scripted upstream.
//!
//! Each part is started, stopped and killed by itself. With [`Plan::apart`] each stands in a network namespace of its own, so that any of them can
//! be cut off from the others and still be watched.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use event_log::{JetStreamLog, Nats, NatsConfig};
use http::StatusCode;
use nats_server::{Place, Sync};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::history::{Settled, View};
use crate::net::Net;
use crate::world::CREDENTIAL;
use crate::{Admin, Launch, Node, Relay, ScriptedUpstream, wait};

/// The log's stream.
pub const EVENTS: &str = "KEYRELAY_EVENTS";
/// For a cluster to come to rest: elections, reconnects with back-off, and what was spooled meanwhile.
pub const SETTLE: Duration = Duration::from_secs(90);

/// Lines of a node's log that are told with a failure.
const WORDS: usize = 30;
/// How often the views of a cluster at rest are read before that counts as a failure.
const READS_MAX: usize = 5;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub servers: usize,
    pub sync: Sync,
    /// Lines for the configuration of each server.
    pub further: String,
    /// User and password of the nodes, with a colon between, where the servers ask for them.
    pub login: Option<String>,
    pub nodes: usize,
    /// Whether each part has a namespace of its own.
    pub apart: bool,
    /// Of every node.
    pub environment: Vec<(String, String)>,
}

/// A running cluster. Dropping it ends all of it.
pub struct Cluster {
    // In the order in which they are dropped: who uses something goes before it.
    nodes: Vec<Option<Node>>,
    pub nats: nats_server::Cluster,
    pub upstream: ScriptedUpstream,
    pub net: Option<Net>,
    owner_token: String,
    plan: Plan,
    directory: TempDir,
}

impl Default for Plan {
    fn default() -> Self {
        let (environment, further) = (Vec::new(), String::new());
        Self { servers: 3, sync: Sync::Always, further, login: None, nodes: 3, apart: false, environment }
    }
}

impl Plan {
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a planted bug in every node, if there is one.
    #[must_use]
    pub fn with_bug(mut self, bug: Option<&str>) -> Self {
        self.environment.extend(crate::planted::environment(bug));
        self
    }
}

impl Cluster {
    /// Starts the servers, then all nodes one after the other, and tells them of the upstream.
    pub async fn start(plan: Plan) -> Result<Self> {
        let mut cluster = Self::without_nodes(plan).await?;
        for index in 0..cluster.nodes.len() {
            cluster.start_node(index).await.with_context(|| format!("node {index}"))?;
        }
        let admin = cluster.admin(0)?;
        let body = json!({ "name": "openai", "dialect": "openai", "base_url": cluster.upstream.openai_url(), "credential": CREDENTIAL });
        // Servers that were just started may elect once more, and say so; the same write sent again is the same one.
        wait::until_within(SETTLE, "the upstream", || async {
            let added = admin.post_once("/upstreams", &body, "the upstream of all").await?;
            Ok((added.status != StatusCode::SERVICE_UNAVAILABLE).then_some(added))
        })
        .await?
        .success()?;
        cluster.settle().await?;
        Ok(cluster)
    }

    /// Starts the servers only.
    pub async fn without_nodes(plan: Plan) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let servers: Vec<String> = (0..plan.servers).map(server_name).collect();
        let nodes: Vec<String> = (0..plan.nodes).map(node_name).collect();
        let members: Vec<&str> = servers.iter().chain(&nodes).map(String::as_str).collect();
        let net = plan.apart.then(|| Net::start(&members)).transpose()?;
        let places = servers.iter().map(|name| place(net.as_ref(), name)).collect::<Result<Vec<_>>>()?;
        let nats = tokio::task::block_in_place(|| nats_server::Cluster::start_at(&places, plan.sync, &plan.further))?;
        let listen = net.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |net| net.test_address().to_string());
        let upstream = ScriptedUpstream::listen(&format!("{listen}:0")).await?;
        let nodes = nodes.iter().map(|_| None).collect();
        Ok(Self { nodes, nats, upstream, net, owner_token: String::new(), plan, directory })
    }

    /// How a node is started: the first one founds, the others come with its root key.
    pub fn launch(&self, index: usize) -> Result<Launch> {
        let mut launch = Launch::new(&self.data(index))
            .with("KEYRELAY_NATS_URL", &self.with_login(&self.nats.url()))
            .with("KEYRELAY_NATS_MONITOR_URL", &self.nats.monitor_url());
        if index > 0 {
            launch = launch.with("KEYRELAY_VAULT_ROOT_KEY_FILE", &self.root_key_file().to_string_lossy());
        }
        launch.environment.extend(self.plan.environment.iter().cloned());
        if let Some(net) = &self.net {
            let member = net.member(&node_name(index))?;
            launch.listen = member.watch_address;
            launch.under = member.under();
        }
        Ok(launch)
    }

    pub fn data(&self, index: usize) -> PathBuf {
        self.directory.path().join(node_name(index))
    }

    pub fn root_key_file(&self) -> PathBuf {
        self.data(0).join("root.key")
    }

    /// A place for whatever a test keeps beside the data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub async fn start_node(&mut self, index: usize) -> Result<()> {
        ensure!(self.nodes[index].is_none(), "node {index} runs already");
        let launch = self.launch(index)?;
        self.adopt(index, launch).await
    }

    /// Starts a node that is launched in another way than the plan says.
    pub async fn adopt(&mut self, index: usize, launch: Launch) -> Result<()> {
        let node = launch.start().await?;
        if self.owner_token.is_empty() {
            self.owner_token = node.owner_token()?;
        }
        self.nodes[index] = Some(node);
        Ok(())
    }

    /// Takes over a node that a test started by itself.
    pub fn node_is(&mut self, index: usize, node: Node, owner_token: &str) -> Result<()> {
        ensure!(self.nodes[index].is_none(), "node {index} runs already");
        owner_token.clone_into(&mut self.owner_token);
        self.nodes[index] = Some(node);
        Ok(())
    }

    pub async fn stop_node(&mut self, index: usize) -> Result<()> {
        self.nodes[index].take().context("the node does not run")?.stop().await.map(drop)
    }

    /// Waits for the end of a node that was asked to leave.
    pub async fn node_ends(&mut self, index: usize) -> Result<()> {
        self.nodes[index].take().context("the node does not run")?.end().await.map(drop)
    }

    pub fn kill_node(&mut self, index: usize) -> Result<()> {
        self.nodes[index].take().context("the node does not run")?.kill().map(drop)
    }

    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes[index].as_ref().with_context(|| format!("node {index} does not run"))
    }

    /// The indices of the nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].is_some()).collect()
    }

    /// The admin side of a node, with the token of the one owner.
    pub fn admin(&self, index: usize) -> Result<Admin> {
        Ok(Admin::new(&self.node(index)?.admin_origin, &self.owner_token))
    }

    pub fn relay(&self, index: usize) -> Result<Relay> {
        Ok(self.node(index)?.relay())
    }

    /// Waits until all servers that should run are healthy.
    pub fn nats_ready(&self) -> Result<()> {
        tokio::task::block_in_place(|| self.nats.wait_ready())
    }

    /// Kills the server that leads the log, and says which one it was.
    pub fn kill_leader(&mut self) -> Result<usize> {
        tokio::task::block_in_place(|| {
            let leader = self.nats.wait_leader_of(EVENTS)?;
            self.nats.server(leader).kill()?;
            Ok(leader)
        })
    }

    /// Cuts these members off from all others: `n0` for a server, `node0` for a node.
    pub fn part(&self, apart: &[&str]) -> Result<()> {
        self.net.as_ref().context("the plan has no namespaces")?.part(apart)
    }

    pub fn heal(&self) -> Result<()> {
        self.net.as_ref().context("the plan has no namespaces")?.heal()
    }

    /// Waits until every node that runs has applied the whole log, and says how long that is.
    pub async fn settle(&self) -> Result<u64> {
        let admins = self.running().into_iter().map(|index| self.admin(index)).collect::<Result<Vec<_>>>()?;
        wait::until_within(SETTLE, "nodes that all have the whole log", || async {
            let mut places = Vec::new();
            for admin in &admins {
                let answer = admin.get("/log").await?;
                let Ok(log) = answer.success() else { return Ok(None) };
                places.extend([log["head"].as_u64(), log["position"].as_u64()]);
                // A node knows a head also while the servers elect who may be read from; at rest the log itself can be read.
                if admin.get("/events?from=1&limit=1").await?.success().is_err() {
                    return Ok(None);
                }
            }
            Ok(places.first().copied().flatten().filter(|head| places.iter().all(|place| *place == Some(*head))))
        })
        .await
    }

    /// Waits until every node that runs has counted so many requests; more are not waited for.
    pub async fn usage_settled(&self, requests: u64) -> Result<()> {
        for index in self.running() {
            let admin = self.admin(index)?;
            let last = Cell::new(0);
            let what = format!("{requests} counted requests on node {index}");
            let counted = wait::until_within(SETTLE, &what, || async {
                let usage = admin.get("/usage?group_by=key").await?.success()?;
                let rows = usage["usage"].as_array().into_iter().flatten();
                last.set(rows.filter_map(|row| row["requests"].as_u64()).sum());
                Ok((last.get() >= requests).then_some(()))
            });
            counted.await.with_context(|| format!("{} are counted", last.get()))?;
        }
        Ok(())
    }

    /// Waits until the cluster is at rest, and gives what every node shows and what the servers keep.
    pub async fn settled(&self) -> Result<Settled> {
        match self.at_rest().await {
            Ok(settled) => Ok(settled),
            // What the nodes say of themselves is most of what there is to know then.
            Err(error) => Err(error.context(self.told().await)),
        }
    }

    /// What each node says of itself, and its last words.
    async fn told(&self) -> String {
        let mut told = String::new();
        for index in self.running() {
            let readiness = match self.admin(index) {
                Ok(admin) => admin.readiness().await.unwrap_or_default(),
                Err(_) => Value::Null,
            };
            let words = self.node(index).map(Node::stderr).unwrap_or_default();
            let last: Vec<&str> = words.lines().rev().take(WORDS).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            told += &format!("node {index}: {readiness}\n{}\n", last.join("\n"));
        }
        told
    }

    /// Servers that were just started may elect once more while the views are read, and a write whose caller has given up may still arrive:
    /// then all is waited for and read anew. What the views show is the checker's business, and is never asked twice.
    async fn at_rest(&self) -> Result<Settled> {
        let mut why = anyhow::anyhow!("the views were not read");
        for _ in 0..READS_MAX {
            let head = self.settle().await?;
            let counted = self.upstream.counted();
            self.usage_settled(counted.requests).await?;
            match self.views(head).await {
                Ok(views) => return Ok(Settled { views, counted: Some(counted) }),
                Err(error) => why = error,
            }
        }
        Err(why.context(format!("the views cannot be read at one place, in {READS_MAX} attempts")))
    }

    /// What every node shows and what the servers keep, all of a log that is this long.
    async fn views(&self, head: u64) -> Result<Vec<View>> {
        let mut views = Vec::new();
        for index in self.running() {
            views.push(View::of_node(&node_name(index), &self.admin(index)?).await?);
        }
        let judged = views.first().context("no node runs")?;
        ensure!(judged.position == head, "the log went on from {head} to {}", judged.position);
        views.push(self.kept(judged).await?);
        Ok(views)
    }

    /// The log as the servers keep it, read past the nodes.
    async fn kept(&self, judged: &View) -> Result<View> {
        let url = self.nats.watch_url().split(',').map(|url| self.with_login(url)).collect();
        let nats = Nats::connect(NatsConfig { url, ..NatsConfig::default() }).await?;
        let log = JetStreamLog::new(&nats);
        let prepare = || async { Ok(log.prepare().await.ok()) };
        wait::until_within(SETTLE, "the servers' own view of the log", prepare).await?;
        let view = View::of_log("the servers", &log, judged).await;
        nats.close().await;
        view
    }

    fn with_login(&self, url: &str) -> String {
        self.plan.login.as_ref().map_or_else(|| url.to_owned(), |login| url.replace("nats://", &format!("nats://{login}@")))
    }
}

pub fn node_name(index: usize) -> String {
    format!("node{index}")
}

fn server_name(index: usize) -> String {
    format!("n{index}")
}

fn place(net: Option<&Net>, name: &str) -> Result<Place> {
    let Some(net) = net else { return Ok(Place::default()) };
    let member = net.member(name)?;
    Ok(Place { address: member.address, watch_address: member.watch_address, under: member.under() })
}
