//! A node that a command runs for itself, on the data directory of one that stands still: on loopback addresses that nobody knows, for as long as
//! the command takes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

pub(super) struct OwnNode {
    child: Child,
}

impl OwnNode {
    /// Starts a node on this directory and waits until it answers. What it is given by its environment it is given here too.
    pub(super) fn start(data: &Path, config: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("this program cannot be found")?);
        command.arg("serve").arg("--data").arg(data).args(["--relay-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        // What it complains of is for whoever runs the command; what it does is not.
        let quiet = command.env("KEYRELAY_LOG_LEVEL", "error").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut node = Self { child: quiet.spawn().context("a node cannot be started")? };
        let mut ready = String::new();
        let stdout = node.child.stdout.take().context("the node has no output")?;
        BufReader::new(stdout).read_line(&mut ready).context("the node's output cannot be read")?;
        if ready.is_empty() {
            bail!("the node on {} does not start", data.display());
        }
        Ok(node)
    }

    /// Ends it as an operator would, and waits for it.
    pub(super) fn end(mut self) -> Result<()> {
        self.terminate();
        let status = self.child.wait().context("the node cannot be waited for")?;
        if status.success() { Ok(()) } else { bail!("the node ended with {status}") }
    }

    fn terminate(&self) {
        if let Ok(Some(pid)) = i32::try_from(self.child.id()).map(Pid::from_raw) {
            // It is a child that nobody has waited for: the number is still its own.
            kill_process(pid, Signal::TERM).ok();
        }
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.terminate();
            self.child.wait().ok();
        }
    }
}
