//! One step of a longer run: its time, and what this process spends on it.

use std::time::Instant;

use anyhow::Result;
use schemas::Sequence;

use super::process::{cpu_us, forget_peak, peak_bytes, resident_bytes};
use super::report::row;

pub(crate) struct Stage {
    begin: Instant,
    cpu_us: f64,
    resident: u64,
}

impl Stage {
    pub(crate) fn begin() -> Result<Self> {
        forget_peak();
        let pid = std::process::id();
        Ok(Self { begin: Instant::now(), cpu_us: cpu_us(pid)?, resident: resident_bytes(pid)? })
    }

    /// Prints the row of a step that went over so many records.
    pub(crate) fn end(self, what: &str, records: Sequence, reach: &str) -> Result<()> {
        let (seconds, records, pid) = (self.begin.elapsed().as_secs_f64(), records.0 as f64, std::process::id());
        let cpu = (cpu_us(pid)? - self.cpu_us) / records;
        let memory = format!("peak {:.0} MiB, {:.0} before", mib(peak_bytes(pid)?), mib(self.resident));
        let figure = format!("{seconds:.2} s, {:.1} k/s", records / seconds / 1e3);
        row(what, &figure, &format!("{cpu:.1} us; {memory}; {reach}"))
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1048576.0
}
