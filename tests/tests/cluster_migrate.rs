//! `keyrelay log migrate`: from one machine to NATS and back, with the same root; ended at any moment either side is whole.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nats_server::Sync;
use policy_host::Output;
use policy_host::contract::{Effect, Verdict, route};
use serde_json::{Value, json};
use tests::cli::{self, Run};
use tests::node::Start;
use tests::world::CREDENTIAL;
use tests::{Admin, Launch, Node, ScriptedUpstream, wait};

#[path = "../../relay/policy-host/tests/policies/guest.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the host's tests do more with it")]
mod guest;

/// Enough that a copy takes a while, so that it can be killed in its middle.
const KEYS: usize = 300;

/// What must not change, whatever log is underneath.
async fn shown(admin: &Admin) -> Result<Value> {
    let log = admin.get("/log").await?.success()?;
    let upstreams = admin.get("/upstreams").await?.success()?;
    let bindings = admin.get("/bindings").await?.success()?;
    Ok(json!({
        "cluster": log["cluster"], "position": log["position"], "root": log["root"], "void": log["void"],
        "keys": admin.keys().await?, "upstreams": upstreams["upstreams"], "bindings": bindings["bindings"], "events": admin.events().await?,
    }))
}

/// A stopped node with keys, a revocation, a credential and used keys.
struct Stopped {
    launch: Launch,
    shown: Value,
    secret: String,
    /// The digest of a policy that is bound.
    policy: String,
    /// A request that it decided on, which was written down.
    decided: String,
    _upstream: ScriptedUpstream,
    _directory: tempfile::TempDir,
}

impl Stopped {
    async fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let launch = Launch::new(&directory.path().join("data")).with("KEYRELAY_POLICY_DECISION_SAMPLE_PPM", "1000000");
        let node = launch.start().await?;
        let upstream = ScriptedUpstream::start().await?;
        let admin = node.admin()?;
        admin.add_upstream("openai", "openai", &upstream.openai_url(), CREDENTIAL).await?;
        let mut keys = Vec::new();
        for number in 0..KEYS {
            keys.push(admin.create_key(&json!({ "name": format!("key-{number}"), "expires": "never", "description": "sealed" })).await?);
        }
        admin.post(&format!("/keys/{}/revoke", keys[0].id), &json!({ "reason": "moved house" })).await?.success()?;
        let secret = keys.pop().context("a key")?.secret;
        node.relay().chat(&secret, "before").await?.success()?;
        let silent = Output::Route(route::Output { verdict: Verdict::plain(Effect::NotApplicable), picks: vec![] });
        let module = guest::Guest::saying(silent).module();
        let policy = admin.upload_policy("route", "open", module).await?["policy"]["digest"].as_str().context("a digest")?.to_owned();
        admin.bind_policy(&policy).await?;
        let decided = node.relay().chat(&secret, "decided on").await?;
        decided.success()?;
        let decided = decided.header("x-request-id").to_owned();
        let shown = shown(&admin).await?;
        let launch = node.stop().await?;
        Ok(Self { launch, shown, secret, policy, decided, _upstream: upstream, _directory: directory })
    }

    fn data(&self) -> &Path {
        &self.launch.data
    }

    fn on_nats(&self, url: &str) -> Launch {
        self.launch.clone().with("KEYRELAY_NATS_URL", url)
    }

    /// Takes away what would hide that a module was not carried.
    fn forget_modules(&self) -> Result<()> {
        std::fs::remove_dir_all(self.data().join("policy-code"))?;
        Ok(std::fs::remove_dir_all(self.data().join("artefacts"))?)
    }

    /// Starts on a log and compares.
    async fn is_same_on(&self, launch: Launch) -> Result<()> {
        self.is_same(launch.start().await?).await
    }

    /// Whether the node still starts on its own log, with everything in it; if not, because the log was moved.
    async fn is_still_its_own(&self) -> Result<bool> {
        match self.launch.clone().attempt().await? {
            Start::Ready(node) => self.is_same(*node).await.map(|()| true),
            Start::Exited(run) if run.stderr.contains("was moved to") => Ok(false),
            Start::Exited(run) => anyhow::bail!("the source is not whole: exit code {}\n{}", run.code, run.stderr),
        }
    }

    async fn is_same(&self, node: Node) -> Result<()> {
        let now = shown(&node.admin()?).await?;
        for part in ["cluster", "position", "root", "void", "upstreams", "keys", "bindings", "events"] {
            ensure!(now[part] == self.shown[part], "{part} changed from {} to {}", self.shown[part], now[part]);
        }
        node.relay().chat(&self.secret, "after").await?.success()?;
        node.admin()?.get(&format!("/policies/{}/module", self.policy)).await?.expect(200)?;
        wait::until("the decision of before, once", || async {
            let listed = node.admin()?.get(&format!("/decisions?request={}", self.decided)).await?.success()?;
            let count = listed["decisions"].as_array().map_or(0, Vec::len);
            ensure!(count <= 1, "a decision was copied twice: {listed}");
            Ok((count == 1).then_some(()))
        })
        .await?;
        node.stop().await?;
        Ok(())
    }
}

fn migrate(data: &Path, direction: &[&str]) -> Result<Run> {
    cli::run(cli::command("keyrelay")?.args(["log", "migrate", "--data"]).arg(data).args(direction))
}

fn begin(data: &Path, direction: &[&str]) -> Result<Child> {
    let mut command = cli::command("keyrelay")?;
    command.args(["log", "migrate", "--data"]).arg(data).args(direction);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_again_with_the_same_root() -> Result<()> {
    let stopped = Stopped::new().await?;
    let nats = tokio::task::block_in_place(|| nats_server::Cluster::start(3, Sync::Always))?;
    let url = nats.url();
    migrate(stopped.data(), &["--to-nats", &url])?.expect(0)?;
    stopped.forget_modules()?;
    stopped.is_same_on(stopped.on_nats(&url)).await.context("on NATS")?;
    // Once more is nothing to do, though the log has gone on, and it says so.
    let node = stopped.on_nats(&url).start().await?;
    node.admin()?.create_key(&json!({ "name": "since", "expires": "never" })).await?;
    let again = migrate(stopped.data(), &["--to-nats", &url, "--json"])?.expect(0)?.json()?;
    ensure!(again["repeat"] == true && again["copied"] == 0, "{again}");
    ensure!(again["size"] == stopped.shown["position"] && again["root"] == stopped.shown["root"], "{again}");
    let gone_on = shown(&node.admin()?).await?;
    node.stop().await?;

    migrate(stopped.data(), &["--to-embedded", "--nats", &url])?.expect(0)?;
    let again = migrate(stopped.data(), &["--to-embedded", "--nats", &url, "--json"])?.expect(0)?.json()?;
    ensure!(again["repeat"] == true && again["root"] == gone_on["root"], "{again}");
    let node = stopped.launch.clone().start().await?;
    let back = shown(&node.admin()?).await?;
    ensure!(back["root"] == gone_on["root"] && back["events"] == gone_on["events"], "{} became {}", gone_on["root"], back["root"]);
    node.admin()?.create_key(&json!({ "name": "at home", "expires": "never" })).await?;
    node.stop().await?;
    migrate(stopped.data(), &["--to-embedded", "--nats", &url])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_migration_is_refused_where_the_log_that_was_left_has_gone_on_or_the_other_is_gone() -> Result<()> {
    let stopped = Stopped::new().await?;
    let nats = tokio::task::block_in_place(|| nats_server::Cluster::start(1, Sync::Always))?;
    let (url, mark, aside) = (nats.url(), stopped.data().join("log.moved"), stopped.data().join("mark-aside"));
    migrate(stopped.data(), &["--to-nats", &url])?.expect(0)?;

    // Somebody takes the mark away, writes to the old log, and puts it back.
    std::fs::rename(&mark, &aside)?;
    let node = stopped.launch.clone().start().await?;
    node.admin()?.create_key(&json!({ "name": "astray", "expires": "never" })).await?;
    node.stop().await?;
    std::fs::rename(&aside, &mark)?;
    let run = migrate(stopped.data(), &["--to-nats", &url])?;
    ensure!(run.code != 0 && run.stderr.contains("gone on"), "{}: {}", run.code, run.stderr);

    let other = tokio::task::block_in_place(|| nats_server::Cluster::start(1, Sync::Always))?;
    let run = migrate(stopped.data(), &["--to-nats", &other.url()])?;
    ensure!(run.code != 0, "there is no log on those servers: {}", run.stdout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_the_source_is_whole_and_a_second_run_ends_it() -> Result<()> {
    let stopped = Stopped::new().await?;
    let nats = tokio::task::block_in_place(|| nats_server::Cluster::start(1, Sync::Always))?;
    let url = nats.url();
    // From before its first connection to after its end, later each time; the moments differ from run to run by themselves.
    for millis in [20, 60, 120, 200, 300, 450, 700] {
        let mut child = begin(stopped.data(), &["--to-nats", &url])?;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        // It may have ended by itself.
        let _ = child.kill();
        let is_done = child.wait()?.success();
        // Killed after its last step it is as good as done: the source then says that it is no longer the log.
        if !stopped.is_still_its_own().await.with_context(|| format!("after a kill at {millis} ms"))? {
            break;
        }
        ensure!(!is_done, "a migration ended and left the source as it was");
    }
    migrate(stopped.data(), &["--to-nats", &url])?.expect(0)?;
    stopped.is_same_on(stopped.on_nats(&url)).await.context("on NATS")?;

    for millis in [20, 80, 200, 400] {
        let mut child = begin(stopped.data(), &["--to-embedded", "--nats", &url])?;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        let _ = child.kill();
        if child.wait()?.success() {
            break;
        }
    }
    stopped.forget_modules()?;
    migrate(stopped.data(), &["--to-embedded", "--nats", &url])?.expect(0)?;
    stopped.is_same_on(stopped.launch.clone()).await.context("embedded again")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_another_clusters_is_not_written_to() -> Result<()> {
    let (one, two) = (Stopped::new().await?, Stopped::new().await?);
    let nats = tokio::task::block_in_place(|| nats_server::Cluster::start(1, Sync::Always))?;
    let url = nats.url();
    migrate(one.data(), &["--to-nats", &url])?.expect(0)?;
    let run = migrate(two.data(), &["--to-nats", &url])?;
    ensure!(run.code == 1 || run.code == 2, "exit code {}", run.code);
    ensure!(run.stderr.contains(one.shown["cluster"].as_str().context("a cluster")?), "the other cluster is not named: {}", run.stderr);
    two.is_same_on(two.launch.clone()).await?;
    one.is_same_on(one.on_nats(&url)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_not_taken_away_from_under_nodes_that_are_live() -> Result<()> {
    let stopped = Stopped::new().await?;
    let nats = tokio::task::block_in_place(|| nats_server::Cluster::start(1, Sync::Always))?;
    let url = nats.url();
    migrate(stopped.data(), &["--to-nats", &url])?.expect(0)?;
    let node = stopped.on_nats(&url).start().await?;
    // Also from a directory that knows nothing of that node.
    let elsewhere = tempfile::tempdir()?;
    let apart = elsewhere.path().join("data");
    std::fs::create_dir(&apart)?;
    for data in [stopped.data(), &apart] {
        let run = migrate(data, &["--to-embedded", "--nats", &url])?;
        ensure!(run.code != 0 && run.stderr.contains("nodes are running on that log"), "{}: {}", run.code, run.stderr);
        ensure!(run.stderr.contains(node.ready["node"].as_str().context("a node")?), "the node is not named: {}", run.stderr);
    }
    ensure!(!apart.join("log").exists(), "something was written");
    // It goes on as if nothing had been tried.
    node.admin()?.create_key(&json!({ "name": "after", "expires": "never" })).await?;
    node.stop().await?;
    migrate(stopped.data(), &["--to-embedded", "--nats", &url])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_node_that_runs_the_copy_is_made_ahead() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let node = Node::start(&directory.path().join("data")).await?;
    let admin = node.admin()?;
    for number in 0..20 {
        admin.create_key(&json!({ "name": format!("before-{number}"), "expires": "never" })).await?;
    }
    let nats = tokio::task::block_in_place(|| nats_server::Cluster::start(1, Sync::Always))?;
    let url = nats.url();
    let run = migrate(node.data(), &["--to-nats", &url, "--json"])?.expect(0)?;
    ensure!(run.json()?["done"] == false, "a running node's log was migrated to its end: {}", run.stdout);
    // A second time goes on behind the first.
    for number in 0..5 {
        admin.create_key(&json!({ "name": format!("between-{number}"), "expires": "never" })).await?;
    }
    let first = run.json()?["ahead"].as_u64();
    let run = migrate(node.data(), &["--to-nats", &url, "--json"])?.expect(0)?;
    ensure!(run.json()?["ahead"].as_u64() >= first.map(|first| first + 5), "{first:?} became {}", run.stdout);
    // It is still the log that the node writes to, and the rest is little.
    for number in 0..5 {
        admin.create_key(&json!({ "name": format!("after-{number}"), "expires": "never" })).await?;
    }
    let before = shown(&admin).await?;
    let launch = node.stop().await?;
    let ahead = run.json()?["ahead"].as_u64().context("how far ahead")?;
    let done = migrate(&launch.data, &["--to-nats", &url, "--json"])?.expect(0)?.json()?;
    let size = done["size"].as_u64().context("a size")?;
    ensure!(done["copied"] == size - ahead && done["compared"] == size - ahead, "of {ahead} copied ahead some were compared again: {done}");
    let node = launch.with("KEYRELAY_NATS_URL", &url).start().await?;
    let after = shown(&node.admin()?).await?;
    ensure!(after["root"] == before["root"] && after["keys"] == before["keys"], "{} became {}", before["root"], after["root"]);
    Ok(())
}

/// What was compared ahead says nothing of servers that have lost it since, nor of a log that somebody else has written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_not_what_was_copied_ahead_is_compared_from_its_beginning() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let node = Node::start(&directory.path().join("data")).await?;
    let admin = node.admin()?;
    for number in 0..20 {
        admin.create_key(&json!({ "name": format!("before-{number}"), "expires": "never" })).await?;
    }
    let mut nats = tokio::task::block_in_place(|| nats_server::Cluster::start(1, Sync::Always))?;
    let url = nats.url();
    let half = directory.path().join("half");
    let copy_store = |nats: &mut nats_server::Cluster, roll_back: bool| {
        tokio::task::block_in_place(|| {
            nats.server(0).stop()?;
            if roll_back {
                nats.server(0).roll_back_to(&half)?
            } else {
                nats.server(0).copy_store(&half)?
            }
            nats.server(0).run()?;
            nats.wait_ready()
        })
    };
    migrate(node.data(), &["--to-nats", &url])?.expect(0)?;
    copy_store(&mut nats, false)?;
    for number in 0..20 {
        admin.create_key(&json!({ "name": format!("meanwhile-{number}"), "expires": "never" })).await?;
    }
    let ahead = migrate(node.data(), &["--to-nats", &url, "--json"])?.expect(0)?.json()?["ahead"].clone();
    copy_store(&mut nats, true)?;
    let before = shown(&admin).await?;
    let launch = node.stop().await?;
    let done = migrate(&launch.data, &["--to-nats", &url, "--json"])?.expect(0)?.json()?;
    ensure!(done["compared"] == done["size"] && done["size"].as_u64() >= ahead.as_u64(), "{done} after {ahead}");
    ensure!(done["copied"].as_u64() > Some(0) && done["root"] == before["root"], "{} became {done}", before["root"]);
    let node = launch.with("KEYRELAY_NATS_URL", &url).start().await?;
    let after = shown(&node.admin()?).await?;
    ensure!(after["root"] == before["root"] && after["keys"] == before["keys"], "{} became {}", before["root"], after["root"]);
    node.stop().await?;
    Ok(())
}
