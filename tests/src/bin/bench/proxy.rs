//! What stands between a client and its upstream: nothing, a bare forwarder, the relay.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tests::Launch;

use super::Options;
use super::load::{self, Target};
use super::process::{Server, cpu_us, resident_bytes};
use super::report::{line, median, percentile, row};

const CONNECTIONS: u64 = 16;
/// Well below what two cores can do, so that latency is not waiting.
const RATE_PER_SECOND: u64 = 2000;
const PACED_STREAMS: u64 = 64;
const FLAT_STREAMS: u64 = 16;
const FLAT_CHUNKS: u64 = 5000;
const PACE_US: u64 = 5000;
const OPEN_STREAMS: u64 = 500;

/// How two figures of one round are compared.
type Compare = fn(f64, f64) -> f64;

/// What one round measures of one target.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    p50_us: f64,
    p99_us: f64,
    per_second: f64,
    request_cpu_us: f64,
    paced_cpu_us: f64,
    flat_cpu_us: f64,
    first_chunk_us: f64,
}

pub(crate) async fn measure(options: Options) -> Result<()> {
    let mock = Server::start(&["mock"])?;
    let forwarder = Server::start(&["forward", &mock.origin])?;
    let directory = tempfile::tempdir()?;
    let node = Launch::new(&directory.path().join("data")).with("KEYRELAY_LOG_LEVEL", "warn").start().await?;
    let admin = node.admin()?;
    let idle = resident_bytes(node.pid())?;
    admin.add_upstream("mock", "openai", &format!("{}/v1", mock.origin), "sk-mock").await?;
    // Everything on: a limit that is counted and never reached, metering, the key check.
    let limits = json!({ "requests_per_minute": 100_000_000, "concurrency": 100_000 });
    let key = admin.create_key(&json!({ "name": "bench", "expires": "never", "models": ["gpt-*"], "limits": limits })).await?;
    let target = |name, origin: &str, secret: &str| Target { name, origin: origin.to_owned(), secret: secret.to_owned() };
    let targets = [
        (target("direct", &mock.origin, "none"), mock.pid()),
        (target("forwarder", &forwarder.origin, "none"), forwarder.pid()),
        (target("relay", &node.relay_origin, &key.secret), node.pid()),
    ];

    let mut rounds: [Vec<Round>; 3] = Default::default();
    // The first round warms up and is not counted.
    for round in 0..=options.rounds {
        for (place, (target, pid)) in targets.iter().enumerate() {
            let measured = measure_round(target, *pid, options).await?;
            if round > 0 {
                rounds[place].push(measured);
            }
        }
    }
    let relay = &targets[2].0;
    let before = resident_bytes(node.pid())?;
    let open = load::while_open(relay, OPEN_STREAMS, async || resident_bytes(node.pid())).await?;
    print(&rounds, idle, before, open)?;
    node.stop().await?;
    Ok(())
}

async fn measure_round(target: &Target, pid: u32, options: Options) -> Result<Round> {
    let duration = Duration::from_secs(options.seconds);
    let mut steady = load::requests(target, CONNECTIONS, Some(RATE_PER_SECOND), duration).await?;
    let before = cpu_us(pid)?;
    let full = load::requests(target, CONNECTIONS, None, duration).await?.len() as f64;
    let request_cpu_us = (cpu_us(pid)? - before) / full;

    let chunks = options.seconds * 1_000_000 / PACE_US;
    let before = cpu_us(pid)?;
    let mut first = load::streams(target, PACED_STREAMS, chunks, PACE_US).await?;
    let paced_cpu_us = (cpu_us(pid)? - before) / (PACED_STREAMS * chunks) as f64;
    let before = cpu_us(pid)?;
    load::streams(target, FLAT_STREAMS, FLAT_CHUNKS, 0).await?;
    let flat_cpu_us = (cpu_us(pid)? - before) / (FLAT_STREAMS * FLAT_CHUNKS) as f64;
    Ok(Round {
        p50_us: percentile(&mut steady, 0.5),
        p99_us: percentile(&mut steady, 0.99),
        per_second: full / duration.as_secs_f64(),
        request_cpu_us,
        paced_cpu_us,
        flat_cpu_us,
        first_chunk_us: percentile(&mut first, 0.5),
    })
}

fn print(rounds: &[Vec<Round>; 3], idle: u64, before: u64, open: u64) -> Result<()> {
    let of = |place: usize, figure: fn(&Round) -> f64| median(&rounds[place].iter().map(figure).collect::<Vec<_>>());
    // What is added and what is a ratio is taken round by round, where the same noise is in both.
    let against = |place: usize, other: usize, figure: fn(&Round) -> f64, how: Compare| {
        let pairs = rounds[place].iter().zip(&rounds[other]);
        median(&pairs.map(|(one, other)| how(figure(one), figure(other))).collect::<Vec<_>>())
    };
    let (added, ratio): (Compare, Compare) = (|one, other| one - other, |one, other| one / other);
    let all = |figure: fn(&Round) -> f64| format!("{:.0} / {:.0} / {:.0}", of(0, figure), of(1, figure), of(2, figure));

    line("")?;
    row("plain requests of 1 KiB, 16 connections", "direct / forwarder / relay", "")?;
    row(&format!("latency p50 at {RATE_PER_SECOND}/s, us"), &all(|round| round.p50_us), "")?;
    row(&format!("latency p99 at {RATE_PER_SECOND}/s, us"), &all(|round| round.p99_us), "")?;
    row("requests per second, closed loop", &all(|round| round.per_second), "")?;
    row("CPU of the process per request, us", &all(|round| round.request_cpu_us), "")?;
    row("CPU per chunk, one each 5 ms, us", &all(|round| round.paced_cpu_us), "")?;
    row("CPU per chunk, flat out, us", &all(|round| round.flat_cpu_us), "")?;
    row("first chunk after it was made, us", &all(|round| round.first_chunk_us), "")?;
    line("")?;
    row("added by the relay", "measured", "reach")?;
    row("latency p50 over direct, ms", &format!("{:.3}", against(2, 0, |round| round.p50_us, added) / 1e3), "<= 0.3")?;
    row("latency p99 over direct, ms", &format!("{:.3}", against(2, 0, |round| round.p99_us, added) / 1e3), "<= 1")?;
    row("CPU per request, times the forwarder's", &format!("{:.2}", against(2, 1, |round| round.request_cpu_us, ratio)), "<= 2")?;
    row("CPU per paced chunk, times the forwarder's", &format!("{:.2}", against(2, 1, |round| round.paced_cpu_us, ratio)), "<= 1.5")?;
    row("CPU per flat-out chunk, times the forwarder's", &format!("{:.2}", against(2, 1, |round| round.flat_cpu_us, ratio)), "<= 1.5")?;
    row("first chunk over direct, ms", &format!("{:.3}", against(2, 0, |round| round.first_chunk_us, added) / 1e3), "<= 0.2")?;
    row("memory, idle after the start, MiB", &format!("{:.1}", idle as f64 / 1048576.0), "<= 64")?;
    let per_stream = open.saturating_sub(before) as f64 / OPEN_STREAMS as f64 / 1024.0;
    row(&format!("memory per open stream, {OPEN_STREAMS} open, KiB"), &format!("{per_stream:.1}"), "<= 64")?;
    row("memory after the load, MiB", &format!("{:.1}", before as f64 / 1048576.0), "")
}
