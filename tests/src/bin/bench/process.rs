//! The processes that are measured.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// Linux counts the CPU time of a process in hundredths of a second, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A child of the bench that serves HTTP. Dropping it ends it.
pub(crate) struct Server {
    child: Child,
    pub(crate) origin: String,
}

impl Server {
    /// Starts this very program in another role; its first line is its origin.
    pub(crate) fn start(role: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?).args(role).stdout(Stdio::piped()).spawn()?;
        let mut origin = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut origin)?;
        Ok(Self { child, origin: origin.trim().to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CPU time that a process has used, in microseconds.
pub(crate) fn cpu_us(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a name in /proc/PID/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).context("a time in /proc/PID/stat");
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND * 1e6)
}

/// The resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most memory that was resident since the start of a process, or since [`forget_peak`], in bytes.
pub(crate) fn peak_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// Has the peak of this process begin anew at what is resident now. The kernel may not allow it; the peak then is that of the whole run.
pub(crate) fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix(name)).context("a figure in /proc/PID/status")?;
    Ok(kib.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
