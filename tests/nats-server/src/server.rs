//! One nats-server process.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use crate::config::ServerConfig;
use crate::monitor;

/// A server that can be ended and started again on the same ports and data. Dropping it kills it.
pub struct Server {
    config: ServerConfig,
    process: Option<Child>,
    /// Ends the process where the test itself is killed, and nothing else would.
    guard: Option<Child>,
}

impl Server {
    pub(crate) fn start(config: ServerConfig) -> Result<Self> {
        let mut server = Self { config, process: None, guard: None };
        server.run()?;
        Ok(server)
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn url(&self) -> String {
        format!("nats://{}:{}", self.config.place.address, self.config.client_port)
    }

    /// Where a test reaches it, whoever it is cut off from.
    pub fn watch_url(&self) -> String {
        format!("nats://{}:{}", self.config.place.watch_address, self.config.client_port)
    }

    pub fn monitor_url(&self) -> String {
        format!("http://{}", self.monitor())
    }

    pub(crate) fn monitor(&self) -> SocketAddr {
        (self.config.place.watch_address, self.config.monitor_port).into()
    }

    /// The JSON at a path of the monitor; none if the server does not answer, as one that is paused or ended.
    pub fn ask(&self, path: &str) -> Option<Value> {
        monitor::get(self, path)
    }

    /// Where JetStream keeps its files.
    pub fn store(&self) -> &Path {
        &self.config.store
    }

    /// What the server has written so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.config.output).unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Starts the process again. It is ready some time later, see [`Cluster::wait_ready`](crate::Cluster::wait_ready).
    pub fn run(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.config.name);
        let output = File::options().create(true).append(true).open(&self.config.output)?;
        let program = program().into_os_string();
        let mut words = self.config.place.under.iter().chain([&program]);
        let mut command = Command::new(words.next().context("a program")?);
        command.args(words).arg("-c").arg(&self.config.file).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = command.spawn().context("starting nats-server; tests/run installs it")?;
        let script = format!("read nothing; kill -9 {}", process.id());
        self.process = Some(process);
        // Its standard input ends when this process does.
        let guard = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
        self.guard = Some(guard.context("starting a shell")?);
        Ok(())
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            process.kill()?;
        }
        self.reap()
    }

    /// Waits for a process that is told to end. The guard stands until it has ended, for this process may itself end at any moment; and the
    /// number is given back only then, so that it never means another one to the guard.
    fn reap(&mut self) -> Result<()> {
        if self.process.is_some() {
            waitid(WaitId::Pid(self.pid()?), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        }
        self.dismiss_guard()?;
        if let Some(mut process) = self.process.take() {
            process.wait()?;
        }
        Ok(())
    }

    fn dismiss_guard(&mut self) -> Result<()> {
        if let Some(mut guard) = self.guard.take() {
            guard.kill()?;
            guard.wait()?;
        }
        Ok(())
    }

    /// Asks the process to end, and waits for that.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.reap()
    }

    /// The number of the running process.
    pub fn process(&self) -> Result<u32> {
        let process = self.process.as_ref().with_context(|| format!("{} does not run", self.config.name))?;
        Ok(process.id())
    }

    /// Stops the process where it is; its connections stay open. It has stopped when this returns, and has answered what it could before.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        waitid(WaitId::Pid(self.pid()?), WaitIdOptions::STOPPED)?;
        Ok(())
    }

    /// Lets a paused process go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Copies the data as it lies on disk. What a running server has not written is not in it.
    pub fn copy_store(&self, to: &Path) -> Result<()> {
        Ok(copy(self.store(), to)?)
    }

    /// Puts a copy in the place of the data, as a disk does that lost what was not synced.
    pub fn roll_back_to(&self, copied: &Path) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs", self.config.name);
        fs::remove_dir_all(self.store())?;
        Ok(copy(copied, self.store())?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.process()?).ok().and_then(Pid::from_raw).context("a process id")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Losing the error is right: the process may be gone already.
        let _ = self.kill();
    }
}

/// The program to run.
pub fn program() -> PathBuf {
    if let Some(given) = env::var_os("KEYRELAY_NATS_SERVER") {
        return given.into();
    }
    let installed = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/keyrelay/venv/bin/nats-server"));
    installed.filter(|path| path.exists()).unwrap_or_else(|| "nats-server".into())
}

/// Copies a directory that may change meanwhile: what vanishes is left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let copied = if entry.file_type()?.is_dir() { copy(&entry.path(), &target) } else { fs::copy(entry.path(), &target).map(|_| ()) };
        match copied {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => copied?,
        }
    }
    Ok(())
}
