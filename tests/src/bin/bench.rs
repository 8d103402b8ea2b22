//! The load bench: one run that measures an upstream directly, through a bare forwarder and through the relay, in interleaved rounds, and then
//! the engines by themselves, and the log on NATS with a cluster around it. It prints its conditions, medians over the rounds, and ratios against
//! what the design wants to reach.
//!
//! `bench [--rounds N] [--seconds N] [--keys N] [--only proxy|engines|cluster]`; `bench mock` and `bench forward ORIGIN` are its own children.

#![allow(clippy::disallowed_methods, reason = "the bench stands outside the node: it owns its tasks, its arguments and its clock")]

#[path = "bench/appends.rs"]
mod appends;
#[path = "bench/engines.rs"]
mod engines;
#[path = "bench/founded.rs"]
mod founded;
#[path = "bench/load.rs"]
mod load;
#[path = "bench/process.rs"]
mod process;
#[path = "bench/proxy.rs"]
mod proxy;
#[path = "bench/replay.rs"]
mod replay;
#[path = "bench/report.rs"]
mod report;
#[path = "bench/revocation.rs"]
mod revocation;
#[path = "bench/servers.rs"]
mod servers;

use anyhow::{Context as _, Result, bail, ensure};

/// What to measure, and for how long.
#[derive(Debug, Clone, Copy)]
struct Options {
    rounds: usize,
    /// Of each measurement in a round.
    seconds: u64,
    /// Of the engine rows.
    keys: usize,
    proxy: bool,
    engines: bool,
    cluster: bool,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self { rounds: 5, seconds: 3, keys: 1_000_000, proxy: true, engines: true, cluster: true };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} takes a value"));
            match word.as_str() {
                "--rounds" => options.rounds = value?.parse()?,
                "--seconds" => options.seconds = value?.parse()?,
                "--keys" => options.keys = value?.parse()?,
                "--only" => {
                    let only = value?.as_str();
                    (options.proxy, options.engines, options.cluster) = (only == "proxy", only == "engines", only == "cluster");
                    ensure!(options.proxy || options.engines || options.cluster, "--only {only}: proxy, engines or cluster");
                }
                _ => bail!("usage: bench [--rounds N] [--seconds N] [--keys N] [--only proxy|engines|cluster]"),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // As many workers everywhere as the machine has cores, which is what the node takes too.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["mock"] => runtime.block_on(servers::mock()),
        ["forward", origin] => runtime.block_on(servers::forward((*origin).to_owned())),
        _ => runtime.block_on(measure(Options::parse(&words)?)),
    }
}

async fn measure(options: Options) -> Result<()> {
    report::conditions(options)?;
    if options.proxy {
        proxy::measure(options).await?;
    }
    if options.engines {
        engines::measure(options).await?;
    }
    if options.cluster {
        appends::measure(options).await?;
        replay::measure(options).await?;
        revocation::measure().await?;
    }
    Ok(())
}
