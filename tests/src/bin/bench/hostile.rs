//! What honest requests notice of requests that hostile policies decide on: the same steady load, alone and beside keys whose policies never
//! end, grow without bound, fill memory or trap.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use schemas::policy::PolicyKind;
use serde_json::json;
use tests::Launch;

use super::Options;
use super::load::{self, Target};
use super::process::{Server, cpu_us};
use super::report::{line, median, percentile, row};

#[path = "../../../../relay/policy-host/tests/policies/guest.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the host's tests do more with it")]
mod guest;
use guest::Guest;

const CONNECTIONS: u64 = 8;
/// Requests a second of the honest key, and of all hostile ones together.
const HONEST: u64 = 400;
const HOSTILE: u64 = 80;
/// Different modules of each kind of hostility, each under a key of its own: a breaker that opens for one does not spare the others.
const EACH: usize = 10;
const HOSTILITIES: [&str; 4] = [
    "(loop $l (br $l)) (unreachable)",
    "(loop $l (drop (memory.grow (i32.const 1))) (br $l)) (unreachable)",
    "(loop $l (memory.fill (i32.const 0xe000) (i32.const 1) (i32.const 0x10000)) (br $l)) (unreachable)",
    "(unreachable)",
];

pub(crate) async fn measure(options: Options) -> Result<()> {
    let mock = Server::start(&["mock"])?;
    let directory = tempfile::tempdir()?;
    let node = Launch::new(&directory.path().join("data")).with("KEYRELAY_LOG_LEVEL", "error").start().await?;
    let admin = node.admin()?;
    admin.add_upstream("mock", "openai", &format!("{}/v1", mock.origin), "sk-mock").await?;
    let honest = admin.create_key(&json!({ "name": "honest", "expires": "never" })).await?;
    let honest = Target { name: "honest", origin: node.relay_origin.clone(), secret: honest.secret };
    let mut hostile = Vec::new();
    for (number, body) in (0..EACH).flat_map(|_| HOSTILITIES).enumerate() {
        let module = Guest::deciding(PolicyKind::Route, body).with_fields(&format!("(func (export \"n{number}\"))")).module();
        let uploaded = admin.upload_policy("route", &format!("hostile-{number}"), module).await?;
        let key = admin.create_key(&json!({ "name": format!("hostile-{number}"), "expires": "never" })).await?;
        let body = json!({ "policy": uploaded["policy"]["digest"], "scope": { "key": key.id }, "on_fault": "skip", "mode": "enforce" });
        let bound = admin.post("/bindings", &body).await?.success().context("binding a policy")?;
        ensure!(bound["binding"]["loaded"] == true, "{bound}");
        hostile.push(Target { name: "hostile", origin: node.relay_origin.clone(), secret: key.secret });
    }

    let duration = Duration::from_secs(options.seconds);
    let (mut alone, mut beside, mut cost) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up and is not counted.
    for round in 0..=options.rounds {
        let mut times = load::requests(&honest, CONNECTIONS, Some(HONEST), duration).await?;
        let idle = cpu_us(node.pid())?;
        let attacks = hostile.iter().map(|target| load::requests(target, 1, Some(HOSTILE.div_ceil(hostile.len() as u64)), duration));
        let (honest, attacks) =
            tokio::join!(load::requests(&honest, CONNECTIONS, Some(HONEST), duration), futures_util::future::try_join_all(attacks));
        let (mut with, attacks) = (honest?, attacks?.iter().map(Vec::len).sum::<usize>());
        if round > 0 {
            alone.push((percentile(&mut times, 0.5), percentile(&mut times, 0.99)));
            beside.push((percentile(&mut with, 0.5), percentile(&mut with, 0.99)));
            cost.push((cpu_us(node.pid())? - idle) / (attacks + with.len()) as f64);
        }
    }
    line("")?;
    let modules = hostile.len();
    row(&format!("honest requests, {HONEST}/s, beside {modules} hostile policies asked {HOSTILE}/s"), "p50 / p99, us", "reach")?;
    let figure = |rounds: &[(f64, f64)]| {
        let part = |pick: fn(&(f64, f64)) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
        format!("{:.0} / {:.0}", part(|round| round.0), part(|round| round.1))
    };
    row("alone", &figure(&alone), "")?;
    row("beside them", &figure(&beside), "within the noise")?;
    row("CPU of the node per request, hostile ones too, us", &format!("{:.1}", median(&cost)), "")?;
    let metrics = admin.metrics().await?;
    let faults: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("keyrelay_policy_faults_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    row("faults counted by the node", &format!("{faults:.0}"), "> 0")?;
    ensure!(faults >= modules as f64, "{faults} faults of {modules} modules");
    node.stop().await?;
    Ok(())
}
