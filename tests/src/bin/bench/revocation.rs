//! How long a revocation takes to the last of three nodes, under load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use serde_json::json;
use tests::admin::IssuedKey;
use tests::cluster::{Cluster, Plan};
use tests::traffic::{Rates, Traffic};
use tests::{Admin, Relay};
use tokio::task::JoinSet;

use super::report::{line, percentile, row};

const SAMPLES: usize = 1000;
const KEYS_AT_ONCE: usize = 32;
const LOAD: Rates = Rates { writes_per_second: 0, requests_per_second: 200, fences: false };

pub(crate) async fn measure() -> Result<()> {
    let cluster = Cluster::start(Plan::default().with("KEYRELAY_LOG_LEVEL", "warn")).await?;
    let (admin, relays) = (cluster.admin(0)?, (0..3).map(|index| cluster.relay(index)).collect::<Result<Vec<_>>>()?);
    let keys = keys(&admin).await?;
    cluster.settle().await?;
    let traffic = Traffic::start(&cluster, LOAD).await?;
    let (mut everywhere, mut answered, mut fenced) = (Vec::new(), Vec::new(), Vec::new());
    for (number, key) in keys.iter().enumerate() {
        // Half are watched from outside, half are told by the fence.
        let begin = Instant::now();
        if number % 2 == 0 {
            let revoke = async {
                admin.post(&format!("/keys/{}/revoke", key.id), &json!({})).await?.success()?;
                anyhow::Ok(begin.elapsed())
            };
            let refusals = relays.iter().map(|relay| refused(relay, key, begin));
            let (answer, refusals) = tokio::try_join!(revoke, try_join_all(refusals))?;
            answered.push(answer);
            everywhere.push(refusals.into_iter().max().context("three nodes")?);
        } else {
            admin.post(&format!("/keys/{}/revoke?wait=true", key.id), &json!({})).await?.success()?;
            fenced.push(begin.elapsed());
        }
    }
    traffic.stop().await?;
    line("")?;
    row("revocation on three nodes, R3, 200 req/s, ms", "p50 / p99 / max", "reach")?;
    row(&format!("until the last node refuses, {} samples", everywhere.len()), &figure(&mut everywhere), "p99 <= 100")?;
    row("until it is answered", &figure(&mut answered), "")?;
    row(&format!("until it is answered with wait=true, {} samples", fenced.len()), &figure(&mut fenced), "")
}

fn figure(times: &mut [Duration]) -> String {
    let mut at = |part: f64| percentile(times, part) / 1e3;
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    format!("{p50:.1} / {p99:.1} / {max:.1}")
}

/// Asks a node for something that takes a key and no upstream, until the key is refused. Gives when that was.
async fn refused(relay: &Relay, key: &IssuedKey, begin: Instant) -> Result<Duration> {
    let authorization = format!("Bearer {}", key.secret);
    loop {
        let answer = relay.get("/v1/models", &[("authorization", &authorization)]).await?;
        if answer.status.as_u16() == 401 {
            return Ok(begin.elapsed());
        }
        answer.expect(200)?;
    }
}

async fn keys(admin: &Admin) -> Result<Vec<IssuedKey>> {
    let mut keys = Vec::new();
    while keys.len() < 2 * SAMPLES {
        let mut running = JoinSet::new();
        for _ in 0..KEYS_AT_ONCE.min(2 * SAMPLES - keys.len()) {
            let admin = admin.clone();
            running.spawn(async move { admin.create_key(&json!({ "name": "sample", "expires": "never" })).await });
        }
        while let Some(key) = running.join_next().await {
            keys.push(key??);
        }
    }
    Ok(keys)
}
