//! NATS is away: what goes on, what is refused and how soon, what is told, and how it ends.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::Admin;
use tests::cluster::{Cluster, Plan, SETTLE};
use tests::history::History;
use tests::wait;

/// The longest that a control write waits for a log that is away.
const REFUSED_WITHIN: Duration = Duration::from_secs(16);

fn plan() -> Plan {
    Plan { servers: 1, nodes: 2, ..Plan::default() }
}

fn nats_goes(cluster: &mut Cluster) -> Result<()> {
    tokio::task::block_in_place(|| cluster.nats.server(0).stop())
}

fn nats_is_back(cluster: &mut Cluster) -> Result<()> {
    cluster.nats.server(0).run()?;
    cluster.nats_ready()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_goes_on_writes_are_refused_and_all_of_it_is_told() -> Result<()> {
    let mut cluster = Cluster::start(plan()).await?;
    let (admin, relay) = (cluster.admin(1)?, cluster.relay(1)?);
    let key = admin.create_key(&json!({ "name": "degraded", "expires": "never" })).await?;
    relay.chat(&key.secret, "before").await?.success()?;
    ensure!(relay.chat(&key.secret, "before").await?.header("x-keyrelay-stale-seconds").is_empty(), "stale while NATS is there");

    nats_goes(&mut cluster)?;
    let begin = Instant::now();
    let refused = admin.post("/keys", &json!({ "name": "nobody", "expires": "never" })).await?;
    refused.expect(503)?;
    ensure!(begin.elapsed() < REFUSED_WITHIN, "refused after {:?}", begin.elapsed());
    ensure!(refused.json()?["code"] == "log_unavailable", "{}", refused.text());
    let retry_after: u64 = refused.header("retry-after").parse().context("no Retry-After")?;
    ensure!(retry_after > 0, "a Retry-After of 0");

    let stale = wait::until("an answer that tells its age", || async {
        let answer = relay.chat(&key.secret, "meanwhile").await?;
        answer.expect(200)?;
        Ok(answer.header("x-keyrelay-stale-seconds").parse::<u64>().ok())
    })
    .await?;
    ensure!((10..60).contains(&stale), "{stale} s");
    // It serves, so it is ready; that it is degraded is told.
    let readiness = wait::until("a degraded node", || async {
        let readiness = admin.readiness().await?;
        Ok((readiness["degraded"] == true).then_some(readiness))
    })
    .await?;
    let says_away = readiness["reasons"].as_array().is_some_and(|reasons| reasons.contains(&json!("log_away")));
    ensure!(readiness["ready"] == true && says_away, "{readiness}");

    nats_is_back(&mut cluster)?;
    wait::until_within(SETTLE, "a write that is taken again", || async {
        let answer = admin.post("/keys", &json!({ "name": "again", "expires": "never" })).await?;
        Ok(answer.status.is_success().then_some(()))
    })
    .await?;
    let settled = cluster.settled().await?;
    settled.expect_sound(&History::default())?;
    let answer = relay.chat(&key.secret, "after").await?;
    answer.success()?;
    ensure!(answer.header("x-keyrelay-stale-seconds").is_empty(), "still stale");
    wait::until("the end of the degradation", || async { Ok((admin.readiness().await?["degraded"] == false).then_some(())) }).await
}

/// The value of a gauge without labels, by the name that operators know it by.
fn gauge(metrics: &str, name: &str) -> Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.with_context(|| format!("no {name} in\n{metrics}"))?.trim().parse().with_context(|| format!("{name} is no number"))
}

/// Whether a metric's value tells of a degraded node.
type Tells = fn(f64) -> bool;

/// Which of the metrics that tell of a degraded node do so now.
async fn telling(admin: &Admin) -> Result<BTreeSet<&'static str>> {
    let metrics = admin.metrics().await?;
    let tells: [(&str, Tells); 6] = [
        ("keyrelay_log_connected", |value| value == 0.0),
        ("keyrelay_log_trusted", |value| value == 0.0),
        ("keyrelay_log_stale_seconds", |value| value >= 10.0),
        ("keyrelay_key_store_level", |value| value == 0.0),
        ("keyrelay_nodes_live", |value| value < 2.0),
        ("keyrelay_usage_spool_bytes", |value| value > 0.0),
    ];
    let mut telling = BTreeSet::new();
    for (name, tells) in tells {
        if tells(gauge(&metrics, name)?) {
            telling.insert(name);
        }
    }
    Ok(telling)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_change_when_nats_goes_and_change_back() -> Result<()> {
    let mut cluster = Cluster::start(plan()).await?;
    let key = cluster.admin(0)?.create_key(&json!({ "name": "metrics", "expires": "never" })).await?;
    cluster.settle().await?;
    let (admin, relay) = (cluster.admin(1)?, cluster.relay(1)?);
    let is_well = || async { Ok(telling(&admin).await?.is_empty().then_some(())) };
    wait::until_within(SETTLE, "a node whose metrics say that all is well", is_well).await?;

    nats_goes(&mut cluster)?;
    relay.chat(&key.secret, "into the spool").await?.success()?;
    // A log that cannot be asked is not known to have what it acknowledged.
    let expected: BTreeSet<_> = [
        "keyrelay_log_connected",
        "keyrelay_log_trusted",
        "keyrelay_log_stale_seconds",
        "keyrelay_key_store_level",
        "keyrelay_nodes_live",
        "keyrelay_usage_spool_bytes",
    ]
    .into();
    let seen = RefCell::new(BTreeSet::new());
    let told = wait::until_within(SETTLE, "metrics that tell of it", || async {
        seen.replace(telling(&admin).await?);
        Ok((*seen.borrow() == expected).then_some(()))
    });
    told.await.with_context(|| format!("they tell by {:?}", seen.borrow()))?;

    nats_is_back(&mut cluster)?;
    wait::until_within(SETTLE, "metrics that say that all is well again", is_well).await?;
    cluster.settled().await?.expect_sound(&History::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_from_its_mirror_without_nats_and_its_usage_appears_once() -> Result<()> {
    let mut cluster = Cluster::start(plan()).await?;
    let key = cluster.admin(0)?.create_key(&json!({ "name": "mirror", "expires": "never" })).await?;
    cluster.settle().await?;
    for index in 0..2 {
        cluster.relay(index)?.chat(&key.secret, "with NATS").await?.success()?;
    }
    cluster.usage_settled(2).await?;

    nats_goes(&mut cluster)?;
    cluster.relay(1)?.chat(&key.secret, "spooled before the restart").await?.success()?;
    cluster.stop_node(1).await?;
    cluster.start_node(1).await.context("a start without NATS")?;
    for _ in 0..3 {
        // The upstream's credential is unsealed from the mirror.
        cluster.relay(1)?.chat(&key.secret, "from the mirror").await?.success()?;
    }
    let refused = cluster.admin(1)?.post(&format!("/keys/{}/revoke", key.id), &json!({})).await?;
    refused.expect(503)?;
    // Killed with usage in its spool.
    cluster.kill_node(1)?;
    cluster.start_node(1).await.context("a second start without NATS")?;
    cluster.relay(1)?.chat(&key.secret, "after the kill").await?.success()?;

    nats_is_back(&mut cluster)?;
    let settled = cluster.settled().await?;
    let counted = settled.counted.context("the upstream counts")?;
    ensure!(counted.requests == 7, "the upstream answered {}", counted.requests);
    settled.expect_sound(&History::default())?;
    // Nothing comes twice either, once everything has been shipped.
    let admin = cluster.admin(0)?;
    admin.create_key(&json!({ "name": "after", "expires": "never" })).await?;
    cluster.settled().await?.expect_sound(&History::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_bound_the_relay_refuses_until_it_has_heard_of_the_log_again() -> Result<()> {
    let mut cluster = Cluster::start(plan().with("KEYRELAY_RELAY_STALENESS_MAX", "3s")).await?;
    let key = cluster.admin(0)?.create_key(&json!({ "name": "bound", "expires": "never" })).await?;
    cluster.settle().await?;
    let relay = cluster.relay(1)?;
    relay.chat(&key.secret, "fresh").await?.success()?;
    // A quiet log is not a stale one.
    tokio::time::sleep(Duration::from_secs(5)).await;
    relay.chat(&key.secret, "quiet, and fresh").await?.success()?;

    nats_goes(&mut cluster)?;
    let refused = wait::until("a refusal", || async {
        let answer = relay.chat(&key.secret, "until it is stale").await?;
        Ok((!answer.status.is_success()).then_some(answer))
    })
    .await?;
    refused.expect(503)?;
    ensure!(refused.header("x-keyrelay-reason") == "stale", "{}", refused.text());
    let asked = cluster.upstream.seen().len();
    relay.chat(&key.secret, "still stale").await?.expect(503)?;
    ensure!(cluster.upstream.seen().len() == asked, "a refused request reached the upstream");

    // A restart does not make it younger.
    cluster.stop_node(1).await?;
    cluster.start_node(1).await?;
    let relay = cluster.relay(1)?;
    let refused = relay.chat(&key.secret, "after a restart").await?;
    ensure!(refused.status.as_u16() == 503 && refused.header("x-keyrelay-reason") == "stale", "{}: {}", refused.status, refused.text());

    nats_is_back(&mut cluster)?;
    wait::until_within(SETTLE, "the end of the refusals", || async {
        Ok(relay.chat(&key.secret, "fresh again").await?.status.is_success().then_some(()))
    })
    .await?;
    cluster.settled().await?.expect_sound(&History::default())
}

/// A revocation that was made while a node was cut off holds there from the moment it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_learns_of_revocations_when_it_is_back() -> Result<()> {
    let cluster = Cluster::start(Plan { apart: true, ..plan() }).await?;
    let key = cluster.admin(0)?.create_key(&json!({ "name": "cut", "expires": "never" })).await?;
    cluster.settle().await?;
    cluster.part(&["node1"])?;
    cluster.admin(0)?.post(&format!("/keys/{}/revoke", key.id), &json!({})).await?.success()?;
    cluster.relay(0)?.chat(&key.secret, "revoked").await?.expect(401)?;
    // It cannot know, and is inside its bound.
    let relay = cluster.relay(1)?;
    relay.chat(&key.secret, "cut off").await?.success()?;
    cluster.heal()?;
    wait::until_within(SETTLE, "the revocation on the node that was cut off", || async {
        Ok((relay.chat(&key.secret, "back").await?.status.as_u16() == 401).then_some(()))
    })
    .await?;
    cluster.settled().await?.expect_sound(&History::default())
}
