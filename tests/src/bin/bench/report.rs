//! What the bench prints.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;

use super::Options;

/// Prints a line.
pub(crate) fn line(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Says what the figures depend on.
pub(crate) fn conditions(options: Options) -> Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|name| name.trim_matches([' ', '\t', ':']).to_owned());
    let memory = read("/proc/meminfo").lines().next().unwrap_or_default().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    line(&format!("cores: {cores}, {}; {memory}", cpu.unwrap_or_default()))?;
    line(&format!("kernel: {}; load before: {}", read("/proc/sys/kernel/osrelease").trim(), read("/proc/loadavg").trim()))?;
    let build = if cfg!(debug_assertions) { "DEBUG: the figures mean nothing" } else { "release" };
    line(&format!("build: {}; {options:?}", std::env::var("BENCH_BUILD").unwrap_or_else(|_| build.to_owned())))?;
    line("client, upstream and proxy share these cores; a figure is the median of the rounds")
}

/// A figure with what it should reach.
pub(crate) fn row(what: &str, figure: &str, reach: &str) -> Result<()> {
    line(&format!("{what:<58} {figure:>24}   {reach}"))
}

/// The middle of some figures; the smaller one of two.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The time below which this part of all times is, in microseconds.
pub(crate) fn percentile(times: &mut [Duration], part: f64) -> f64 {
    times.sort_unstable();
    let place = (times.len() as f64 * part) as usize;
    times.get(place.min(times.len().saturating_sub(1))).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}
