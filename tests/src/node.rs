//! A node: the built binary serving from a data directory.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::cli::{self, Run};
use crate::{Admin, Relay, planted, wait};

/// How to start a node.
#[derive(Debug, Clone)]
pub struct Launch {
    pub data: PathBuf,
    pub environment: Vec<(String, String)>,
    /// Where both listeners are.
    pub listen: Ipv4Addr,
    /// A program and its arguments in front of the binary, such as a tracer.
    pub under: Vec<OsString>,
    /// How long the node may take to be ready.
    pub patience: Duration,
    /// The text of a configuration file, which is written beside the data at each start.
    pub config: Option<String>,
}

/// A serving node. Dropping it kills it.
pub struct Node {
    child: Child,
    launch: Launch,
    /// The ready line.
    pub ready: Value,
    pub relay_origin: String,
    pub admin_origin: String,
    stderr: Arc<Mutex<Vec<u8>>>,
}

/// What became of a start.
pub enum Start {
    Ready(Box<Node>),
    /// The process ended before it was ready.
    Exited(Run),
}

impl Launch {
    /// A node on this data directory, with the defaults of the tests.
    pub fn new(data: &Path) -> Self {
        let private = ("KEYRELAY_RELAY_ALLOW_PRIVATE_UPSTREAMS".to_owned(), "true".to_owned());
        Self {
            data: data.to_owned(),
            environment: vec![private],
            listen: Ipv4Addr::LOCALHOST,
            under: Vec::new(),
            patience: wait::PATIENCE,
            config: None,
        }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a configuration file of this text.
    #[must_use]
    pub fn with_config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// With a planted bug, if there is one.
    #[must_use]
    pub fn with_bug(mut self, bug: Option<&str>) -> Self {
        self.environment.extend(planted::environment(bug));
        self
    }

    /// Starts a node that must become ready.
    pub async fn start(self) -> Result<Node> {
        match self.attempt().await? {
            Start::Ready(node) => Ok(*node),
            Start::Exited(run) => anyhow::bail!("the node did not start: exit code {}\n{}", run.code, run.stderr),
        }
    }

    /// Starts a node that must refuse to, and gives its exit code and words.
    pub async fn refused(self) -> Result<Run> {
        match self.attempt().await? {
            Start::Ready(_) => anyhow::bail!("the node started, it should have refused"),
            Start::Exited(run) => Ok(run),
        }
    }

    /// Starts a node and waits until it is ready or gone.
    pub async fn attempt(self) -> Result<Start> {
        let mut child = self.command()?.spawn().context("starting the node")?;
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let errors = child.stderr.take().context("stderr is piped")?;
        let reader = std::thread::spawn({
            let stderr = Arc::clone(&stderr);
            move || collect(errors, &stderr)
        });
        let (line, first_line) = oneshot::channel();
        let output = BufReader::new(child.stdout.take().context("stdout is piped")?);
        std::thread::spawn(move || first_line_of(output, line));
        let ready = tokio::time::timeout(self.patience, first_line).await;
        if let Ok(Ok(ready)) = ready {
            let ready: Value = serde_json::from_str(&ready).with_context(|| format!("the ready line is not JSON: {ready}"))?;
            let origin = |name: &str| ready[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {ready}"));
            let (relay_origin, admin_origin) = (origin("relay")?, origin("admin")?);
            return Ok(Start::Ready(Box::new(Node { child, launch: self, ready, relay_origin, admin_origin, stderr })));
        }
        if ready.is_err() {
            child.kill()?;
        }
        let status = child.wait()?;
        reader.join().map_err(|_| anyhow::anyhow!("the reader of stderr panicked"))?;
        let stderr = String::from_utf8_lossy(&stderr.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        anyhow::ensure!(ready.is_ok(), "the node was neither ready nor gone in time:\n{stderr}");
        Ok(Start::Exited(Run { code: status.code().unwrap_or(-1), stdout: String::new(), stderr }))
    }

    fn command(&self) -> Result<Command> {
        let binary = cli::binary("keyrelay")?;
        let mut words = self.under.iter().cloned().chain([binary.into_os_string()]);
        let mut command = Command::new(words.next().context("a program")?);
        cli::clean(&mut command);
        command.args(words).arg("serve").arg("--data").arg(&self.data);
        let listen = format!("{}:0", self.listen);
        command.args(["--relay-listen", &listen, "--admin-listen", &listen]);
        if let Some(config) = &self.config {
            let path = self.data.with_extension("toml");
            std::fs::write(&path, config)?;
            command.arg("--config").arg(path);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }
}

impl Node {
    /// A node with the defaults of the tests.
    pub async fn start(data: &Path) -> Result<Self> {
        Launch::new(data).start().await
    }

    pub fn data(&self) -> &Path {
        &self.launch.data
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn owner_token(&self) -> Result<String> {
        let path = self.launch.data.join("owner.token");
        Ok(std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?.trim().to_owned())
    }

    /// The admin side, with the owner's token.
    pub fn admin(&self) -> Result<Admin> {
        Ok(Admin::new(&self.admin_origin, &self.owner_token()?))
    }

    pub fn relay(&self) -> Relay {
        Relay::new(&self.relay_origin)
    }

    /// What the node logged so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Asks the node to stop, and waits until it has drained and gone.
    pub async fn stop(self) -> Result<Launch> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
        self.end().await
    }

    /// Waits for an end that was asked for in another way.
    pub async fn end(mut self) -> Result<Launch> {
        let status = wait::until("the end of the node", || {
            let status = self.child.try_wait();
            async { Ok(status?) }
        })
        .await?;
        anyhow::ensure!(status.success(), "the node ended with {status}:\n{}", self.stderr());
        Ok(self.launch.clone())
    }

    /// Ends the node without giving it a chance to do anything.
    pub fn kill(mut self) -> Result<Launch> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.launch.clone())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Losing these errors is right: the process may be gone already, and nobody waits for it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read, into: &Mutex<Vec<u8>>) {
    let mut piece = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..length]);
    }
}

fn first_line_of(mut from: impl BufRead, line: oneshot::Sender<String>) {
    let mut text = String::new();
    if matches!(from.read_line(&mut text), Ok(1..)) {
        // The receiver is gone only where the test has given up.
        let _ = line.send(text);
    }
    // Whatever else comes is read, so that the node never meets a closed pipe.
    let _ = std::io::copy(&mut from, &mut std::io::sink());
}
