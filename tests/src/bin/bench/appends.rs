//! Appends to the log on NATS, synced before each acknowledgement, against the bare client on a stream like it in the same rounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use event_log::yardstick::BareStream;
use event_log::{Appended, EventLog, Expect, JetStreamLog, Nats, NatsConfig};
use nats_server::{Cluster, Sync};
use schemas::key::{Expiry, KeyRenewed};
use schemas::{Event, Sequence};
use tokio::task::JoinSet;

use super::Options;
use super::founded::{Founded, Signed};
use super::process::cpu_us;
use super::report::{line, median, percentile, row};

/// How many appends are under way at once, and how many of each round follow one another.
const SHAPES: [(usize, u64); 3] = [(1, 2000), (64, 200), (256, 60)];

/// One round of one way.
#[derive(Debug, Clone, Copy)]
struct Round {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Of this process for each, which the noise of the machine changes less than the time ...
    cpu_us: f64,
    /// ... and of all servers.
    servers_us: f64,
}

/// How an append is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Bare,
    /// With the headers of an append.
    BareExpecting,
    PreSigned,
    Signed,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Bare, "bare client"),
    (Way::BareExpecting, "bare client, id and expectation"),
    (Way::PreSigned, "log, pre-signed"),
    (Way::Signed, "log, signed"),
];

struct Bench {
    log: JetStreamLog,
    bare: BareStream,
    founded: Founded,
    /// Of the servers.
    processes: Vec<u32>,
    /// How often the bare client sent again what came too soon after an acknowledgement.
    again: AtomicU64,
}

pub(crate) async fn measure(options: Options) -> Result<()> {
    line("")?;
    row("append on NATS, sync_interval: always", "per second; p50 / p99 ms", "of the bare client; CPU of client + servers for each")?;
    for servers in [3, 1] {
        let cluster = tokio::task::block_in_place(|| Cluster::start(servers, Sync::Always))?;
        let nats = connect(&cluster.url()).await?;
        let log = prepared(&nats).await?;
        let bare = BareStream::create(&nats, "BARE", servers).await.map_err(|error| anyhow!(error))?;
        let processes = cluster.servers().iter().map(nats_server::Server::process).collect::<Result<_>>()?;
        let bench = Arc::new(Bench { log, bare, founded: Founded::new(), processes, again: AtomicU64::new(0) });
        let mut first = 0;
        for (clients, each) in SHAPES {
            let mut rounds: [Vec<Round>; WAYS.len()] = Default::default();
            // The first round warms up and is not counted.
            for round in 0..=options.rounds {
                for (place, (way, _)) in WAYS.into_iter().enumerate() {
                    let measured = appends(&bench, way, first, clients, each).await?;
                    first += clients;
                    if round > 0 {
                        rounds[place].push(measured);
                    }
                }
            }
            print(servers, clients, &rounds)?;
            let (again, sent) = (bench.again.swap(0, Ordering::Relaxed), (options.rounds as u64 + 1) * clients as u64 * each);
            row("  of these the bare client had to send again", &format!("{again} of {sent}"), "")?;
        }
        nats.close().await;
    }
    Ok(())
}

pub(crate) async fn connect(url: &str) -> Result<Nats> {
    let url = url.split(',').map(str::to_owned).collect();
    Ok(Nats::connect(NatsConfig { url, ..NatsConfig::default() }).await?)
}

/// The log, once its servers answer.
pub(crate) async fn prepared(nats: &Nats) -> Result<JetStreamLog> {
    let log = JetStreamLog::new(nats);
    tests::wait::until("the log on NATS", || async { Ok(log.prepare().await.ok()) }).await?;
    Ok(log)
}

fn print(servers: usize, clients: usize, rounds: &[Vec<Round>; WAYS.len()]) -> Result<()> {
    let of = |place: usize, figure: fn(&Round) -> f64| median(&rounds[place].iter().map(figure).collect::<Vec<_>>());
    for (place, (way, name)) in WAYS.into_iter().enumerate() {
        let rate = of(place, |round| round.per_second);
        let (p50, p99) = (of(place, |round| round.p50_us) / 1e3, of(place, |round| round.p99_us) / 1e3);
        let cpu = format!("{:.1} + {:.1} us", of(place, |round| round.cpu_us), of(place, |round| round.servers_us));
        // Round by round, where the same noise is in both.
        let ratios: Vec<f64> = rounds[place].iter().zip(&rounds[0]).map(|(one, bare)| one.per_second / bare.per_second).collect();
        let shape = if clients == 1 { "sequential".to_owned() } else { format!("{clients} in flight") };
        let reach = match way {
            Way::Bare => format!("      {cpu}"),
            Way::PreSigned => format!("{:.2}, {cpu}; reach >= 0.8", median(&ratios)),
            Way::BareExpecting | Way::Signed => format!("{:.2}, {cpu}", median(&ratios)),
        };
        row(&format!("R{servers}, {shape}, {name}"), &format!("{rate:.0}/s; {p50:.2} / {p99:.2}"), &reach)?;
    }
    Ok(())
}

/// Lets so many clients append, each to a stream of its own that nobody used before, each waiting for its own answer.
async fn appends(bench: &Arc<Bench>, way: Way, first: usize, clients: usize, each: u64) -> Result<Round> {
    let mut ready: Vec<Vec<Signed>> = Vec::new();
    for client in first..first + clients {
        // The bare client sends the same bytes.
        let signed = if way == Way::Signed { 0 } else { each };
        ready.push((1..=signed).map(|version| renewed(&bench.founded, client, version)).collect::<Result<_>>()?);
    }
    let servers_us = || bench.processes.iter().map(|process| cpu_us(*process)).sum::<Result<f64>>();
    let (begin, cpu, servers) = (Instant::now(), cpu_us(std::process::id())?, servers_us()?);
    let mut running = JoinSet::new();
    for (client, ready) in (first..).zip(ready) {
        let bench = Arc::clone(bench);
        running.spawn(async move {
            match way {
                Way::Bare => bench.publish(client, ready).await,
                Way::BareExpecting => bench.publish_expecting(client, ready).await,
                Way::PreSigned | Way::Signed => bench.append(client, each, ready).await,
            }
        });
    }
    let mut times = Vec::new();
    while let Some(of_one) = running.join_next().await {
        times.extend(of_one??);
    }
    let per_second = times.len() as f64 / begin.elapsed().as_secs_f64();
    let of_each = |cpu: f64| cpu / times.len() as f64;
    let (cpu_us, servers_us) = (of_each(cpu_us(std::process::id())? - cpu), of_each(servers_us()? - servers));
    Ok(Round { per_second, cpu_us, servers_us, p50_us: percentile(&mut times, 0.5), p99_us: percentile(&mut times, 0.99) })
}

fn renewed(founded: &Founded, client: usize, version: u64) -> Result<Signed> {
    founded.event(client, version, Event::KeyRenewed(KeyRenewed { expiry: Expiry::Never }))
}

impl Bench {
    async fn publish(&self, client: usize, records: Vec<Signed>) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        let token = client.to_string();
        for (_, bytes) in records {
            times.push(self.bare.publish(&token, bytes).await.map_err(|error| anyhow!(error))?);
        }
        Ok(times)
    }

    async fn publish_expecting(&self, client: usize, records: Vec<Signed>) -> Result<Vec<Duration>> {
        let (mut times, mut last) = (Vec::new(), 0);
        let token = client.to_string();
        for (number, (_, bytes)) in records.into_iter().enumerate() {
            let id = format!("{:032x}", (client << 32) | number);
            let sent = self.bare.publish_expecting(&token, &id, last, bytes).await.map_err(|error| anyhow!(error))?;
            let (sequence, time, again) = sent;
            self.again.fetch_add(u64::from(again), Ordering::Relaxed);
            last = sequence;
            times.push(time);
        }
        Ok(times)
    }

    async fn append(&self, client: usize, each: u64, ready: Vec<Signed>) -> Result<Vec<Duration>> {
        let (mut ready, mut times, mut last) = (ready.into_iter(), Vec::new(), Sequence(0));
        for version in 1..=each {
            let begin = Instant::now();
            let (subject, bytes) = ready.next().map_or_else(|| renewed(&self.founded, client, version), Ok)?;
            match self.log.append(&subject, Expect { subject: last, log: None }, bytes).await? {
                Appended::Appended(sequence) => last = sequence,
                other => bail!("not appended: {other:?}"),
            }
            times.push(begin.elapsed());
        }
        Ok(times)
    }
}
