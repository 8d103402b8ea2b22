//! `deploy/quickstart`: from nothing to a line that streams, and the same line again.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tests::cli::{self, Run};
use tests::{Admin, ScriptedUpstream, wait};

/// A quickstart in a directory of its own. Dropping it stops what it started.
struct Quickstart {
    directory: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Quickstart {
    fn new(environment: Vec<(&'static str, String)>) -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, environment })
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
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        wait::for_future("quickstart", tokio::task::spawn_blocking(move || cli::run(&mut command))).await??
    }

    fn admin(&self) -> Result<Admin> {
        let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(self.data().join("quickstart.ready"))?)?;
        let token = std::fs::read_to_string(self.data().join("owner.token"))?;
        Ok(Admin::new(ready["admin"].as_str().context("an address")?, token.trim()))
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

#[test]
fn an_unknown_flag_is_refused_with_the_usage() -> Result<()> {
    let run = cli::run(Quickstart::script().arg("--cluster"))?.expect(2)?;
    ensure!(run.stderr.contains("--relay-listen") && run.stderr.contains("what is --cluster?"), "{}", run.stderr);
    Ok(())
}
