//! The load bench: one run that measures an upstream directly, through a bare forwarder and through the relay, in interleaved rounds, and then
//! the engines and the policies by themselves, and the log on NATS with a cluster around it. It prints its conditions, medians over the rounds,
//! and ratios against what the design wants to reach.
//!
//! `bench [--rounds N] [--seconds N] [--keys N] [--servers N] [--only PARTS]`, the parts with commas between them: `proxy`, `enforced` (the
//! relay with policies on), `hostile` (beside policies that misbehave), `engines`, `policies`, `keys` (many over the API, and moved), `backup`, `expiry`,
//! `rootkey`, and of the log on NATS `appends`, `replay`,
//! `revocation`, `migration`, or all four as `cluster`. `--servers` are those that a log is migrated to.
//! `bench mock` and `bench forward ORIGIN` are its own children.

#![allow(clippy::disallowed_methods, reason = "the bench stands outside the node: it owns its tasks, its arguments and its clock")]

#[path = "bench/appends.rs"]
mod appends;
#[path = "bench/backup.rs"]
mod backup;
#[path = "bench/enforced.rs"]
mod enforced;
#[path = "bench/engines.rs"]
mod engines;
#[path = "bench/expiry.rs"]
mod expiry;
#[path = "bench/founded.rs"]
mod founded;
#[path = "bench/hostile.rs"]
mod hostile;
#[path = "bench/keys.rs"]
mod keys;
#[path = "bench/load.rs"]
mod load;
#[path = "bench/migration.rs"]
mod migration;
#[path = "bench/moved.rs"]
mod moved;
#[path = "bench/policies.rs"]
mod policies;
#[path = "bench/process.rs"]
mod process;
#[path = "bench/proxy.rs"]
mod proxy;
#[path = "bench/questions.rs"]
mod questions;
#[path = "bench/replay.rs"]
mod replay;
#[path = "bench/report.rs"]
mod report;
#[path = "bench/revocation.rs"]
mod revocation;
#[path = "bench/root_key.rs"]
mod root_key;
#[path = "bench/servers.rs"]
mod servers;
#[path = "bench/stage.rs"]
mod stage;

use anyhow::{Context as _, Result, bail};

/// What to measure, and for how long.
#[derive(Debug, Clone, Copy)]
struct Options {
    rounds: usize,
    /// Of each measurement in a round.
    seconds: u64,
    /// Of the engine rows, the keys, the backup, the replay and the migration.
    keys: usize,
    /// Of the log that is migrated to.
    servers: usize,
    parts: [bool; PARTS.len()],
}

/// What can be measured by itself, in this order.
const PARTS: [&str; 13] = [
    "proxy",
    "enforced",
    "hostile",
    "engines",
    "policies",
    "keys",
    "backup",
    "expiry",
    "rootkey",
    "appends",
    "replay",
    "revocation",
    "migration",
];
/// Where the parts of `cluster` begin.
const CLUSTER: usize = 9;

impl Options {
    fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self { rounds: 5, seconds: 3, keys: 1_000_000, servers: 3, parts: [true; PARTS.len()] };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} takes a value"));
            match word.as_str() {
                "--rounds" => options.rounds = value?.parse()?,
                "--seconds" => options.seconds = value?.parse()?,
                "--keys" => options.keys = value?.parse()?,
                "--servers" => options.servers = value?.parse()?,
                "--only" => options.parts = parts(value?)?,
                _ => bail!("{}", usage()),
            }
        }
        Ok(options)
    }
}

fn usage() -> String {
    format!("usage: bench [--rounds N] [--seconds N] [--keys N] [--servers N] [--only {},cluster]", PARTS.join(","))
}

fn parts(names: &str) -> Result<[bool; PARTS.len()]> {
    let mut parts = [false; PARTS.len()];
    for name in names.split(',') {
        match PARTS.iter().position(|part| *part == name) {
            Some(part) => parts[part] = true,
            None if name == "cluster" => parts[CLUSTER..].fill(true),
            None => bail!("--only {name}: not one of {}, cluster", PARTS.join(", ")),
        }
    }
    Ok(parts)
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // As many workers everywhere as the machine has cores, which is what the node takes too.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--help" | "-h"] => report::line(&usage()),
        ["mock"] => runtime.block_on(servers::mock()),
        ["forward", origin] => runtime.block_on(servers::forward((*origin).to_owned())),
        _ => runtime.block_on(measure(Options::parse(&words)?)),
    }
}

async fn measure(options: Options) -> Result<()> {
    report::conditions(options)?;
    let [proxy, enforced, hostile, engines, policies, keys, backup, expiry, rootkey, appends, replay, revocation, migration] =
        options.parts;
    if proxy {
        proxy::measure(options).await?;
    }
    if enforced {
        enforced::measure(options).await?;
    }
    if hostile {
        hostile::measure(options).await?;
    }
    if engines {
        engines::measure(options).await?;
    }
    if policies {
        policies::measure(options)?;
    }
    if keys {
        keys::measure(options).await?;
    }
    if backup {
        backup::measure(options).await?;
    }
    if expiry {
        expiry::measure(options).await?;
    }
    if rootkey {
        root_key::measure(options).await?;
    }
    if appends {
        appends::measure(options).await?;
    }
    if replay {
        replay::measure(options).await?;
    }
    if revocation {
        revocation::measure().await?;
    }
    if migration {
        migration::measure(options).await?;
    }
    Ok(())
}
