//! `deploy/quickstart`: from nothing to a line that streams, and the same line again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::cli::{self, Run};
use tests::{Admin, ScriptedUpstream, wait};

/// For all that a quickstart starts, an election among servers included.
const START_WAIT: Duration = Duration::from_secs(60);

/// A quickstart in a directory of its own. Dropping it stops what it started.
struct Quickstart {
    directory: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
    /// Whether it starts nats-servers and two nodes.
    cluster: bool,
}

impl Quickstart {
    fn new(environment: Vec<(&'static str, String)>) -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, environment, cluster: false })
    }

    fn data(&self) -> &Path {
        self.directory.path()
    }

    fn script() -> Command {
        let mut command = Command::new(cli::workspace().join("deploy/quickstart"));
        cli::clean(&mut command);
        command
    }

    /// Runs the script with the programs of this build.
    async fn run(&self) -> Result<Run> {
        let binary = cli::binary("keyrelay")?;
        let mut command = Self::script();
        command.arg("--bin").arg(binary.parent().context("a folder")?).arg("--data").arg(self.data());
        command.args(["--relay-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        if self.cluster {
            command.args(["--cluster", "--nats-port", "0"]);
            // The program that this run's other tests use: HOME is hidden from the script.
            command.env("KEYRELAY_NATS_SERVER", nats_server::program());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        tokio::time::timeout(START_WAIT, tokio::task::spawn_blocking(move || cli::run(&mut command))).await??
    }

    fn ready(&self, node: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.data().join(node).join("quickstart.ready"))?)?)
    }

    fn admin(&self) -> Result<Admin> {
        let token = std::fs::read_to_string(self.data().join("owner.token"))?;
        Ok(Admin::new(self.ready("")?["admin"].as_str().context("an address")?, token.trim()))
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // A process that is left over would be seen by whoever looks; nothing better can be done here.
        let _ = Self::script().arg("--stop").arg("--data").arg(self.data()).status();
    }
}

fn curl_line(run: &Run) -> Result<String> {
    let line = run.stdout.lines().rfind(|line| line.starts_with("curl "));
    line.map(str::to_owned).with_context(|| format!("no curl line in {}", run.stdout))
}

/// Runs the printed line the way a person pastes it.
async fn paste(line: String) -> Result<Run> {
    let mut shell = Command::new("bash");
    cli::clean(&mut shell);
    shell.args(["-c", &line]);
    wait::for_future("the printed line", tokio::task::spawn_blocking(move || cli::run(&mut shell))).await??
}

#[tokio::test]
async fn without_any_key_the_printed_line_streams_from_the_demo() -> Result<()> {
    let quickstart = Quickstart::new(Vec::new())?;
    let first = curl_line(&quickstart.run().await?.expect(0)?)?;
    let streamed = paste(first.clone()).await?.expect(0)?;
    let chunks = streamed.stdout.lines().filter(|line| line.starts_with("data: {")).count();
    ensure!(chunks > 5 && streamed.stdout.contains("data: [DONE]"), "not a stream: {}", streamed.stdout);

    let second = curl_line(&quickstart.run().await?.expect(0)?)?;
    ensure!(first == second, "a second run printed another line:\n{first}\n{second}");
    let admin = quickstart.admin()?;
    let upstreams = admin.get("/upstreams").await?.success()?;
    ensure!(upstreams["upstreams"].as_array().is_some_and(|list| list.len() == 1), "{upstreams}");
    Ok(())
}

#[tokio::test]
async fn a_list_of_keys_makes_several_upstreams() -> Result<()> {
    let upstream = ScriptedUpstream::start().await?;
    let environment = vec![
        ("OPENAI_API_KEY", "sk-one, sk-two".to_owned()),
        ("OPENAI_BASE_URL", upstream.openai_url()),
        ("ANTHROPIC_API_KEY", "sk-ant".to_owned()),
        ("ANTHROPIC_BASE_URL", upstream.origin()),
        ("GEMINI_API_KEY", "unused".to_owned()),
    ];
    let quickstart = Quickstart::new(environment)?;
    let run = quickstart.run().await?.expect(0)?;
    ensure!(run.stdout.contains("does not speak the Gemini API yet"), "{}", run.stdout);
    let upstreams = quickstart.admin()?.get("/upstreams").await?.success()?;
    let mut names: Vec<&str> = upstreams["upstreams"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    names.sort_unstable();
    ensure!(names == ["anthropic-1", "openai-1", "openai-2"], "{names:?}");
    let streamed = paste(curl_line(&run)?).await?.expect(0)?;
    ensure!(streamed.stdout.contains("data: [DONE]"), "not a stream: {}", streamed.stdout);
    Ok(())
}

#[tokio::test]
async fn a_cluster_streams_from_both_nodes_and_without_one_server() -> Result<()> {
    let mut quickstart = Quickstart::new(Vec::new())?;
    quickstart.cluster = true;
    let run = quickstart.run().await?.expect(0)?;
    let line = curl_line(&run)?;
    let (one, two) = (quickstart.ready("node1")?, quickstart.ready("node2")?);
    ensure!(one["sync"] == "verified" && two["sync"] == "verified", "{one} {two}");
    let [one, two] = [&one["relay"], &two["relay"]].map(|origin| origin.as_str().unwrap_or_default().to_owned());
    let streamed = paste(line.clone()).await?.expect(0)?;
    ensure!(streamed.stdout.contains("data: [DONE]"), "not a stream: {}", streamed.stdout);
    let elsewhere = paste(line.replace(&one, &two)).await?.expect(0)?;
    ensure!(elsewhere.stdout.contains("data: [DONE]"), "not a stream on the second node: {}", elsewhere.stdout);

    // As the text under the line suggests.
    let pid = std::fs::read_to_string(quickstart.data().join("nats/n1.pid"))?;
    cli::run(Command::new("kill").arg(pid.trim()))?.expect(0)?;
    let streamed = paste(line.clone()).await?.expect(0)?;
    ensure!(streamed.stdout.contains("data: [DONE]"), "not a stream without a server: {}", streamed.stdout);

    // A second run starts what is missing and prints the same line.
    let again = quickstart.run().await?.expect(0)?;
    ensure!(again.stdout.contains("starting nats-server n1") && again.stdout.contains("n2 runs already"), "{}", again.stdout);
    ensure!(curl_line(&again)? == line, "a second run printed another line");
    Ok(())
}

#[test]
fn an_unknown_flag_is_refused_with_the_usage() -> Result<()> {
    let run = cli::run(Quickstart::script().arg("--moon"))?.expect(2)?;
    ensure!(run.stderr.contains("--relay-listen") && run.stderr.contains("what is --moon?"), "{}", run.stderr);
    Ok(())
}
