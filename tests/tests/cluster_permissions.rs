//! `deploy/nats/authorization.conf`: a cluster runs under it, and under the name of its nodes nobody can take anything away.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::cli;
use tests::cluster::{Cluster, Plan};
use tests::history::History;

const PASSWORD: &str = "of-the-nodes-4d1f";
const OPERATOR_PASSWORD: &str = "of-the-operator-77ab";
/// What a node may not ask for.
const FORBIDDEN: [&str; 10] = [
    "$JS.API.STREAM.DELETE.KEYRELAY_EVENTS",
    "$JS.API.STREAM.DELETE.KEYRELAY_USAGE",
    "$JS.API.STREAM.DELETE.KV_KEYRELAY_KEYS",
    "$JS.API.STREAM.PURGE.KEYRELAY_EVENTS",
    "$JS.API.STREAM.PURGE.KV_KEYRELAY_KEYS",
    "$JS.API.STREAM.UPDATE.KEYRELAY_EVENTS",
    "$JS.API.STREAM.UPDATE.KEYRELAY_USAGE",
    "$JS.API.STREAM.MSG.DELETE.KEYRELAY_EVENTS",
    "$JS.API.STREAM.RESTORE.KEYRELAY_EVENTS",
    "orders.new",
];

/// The file as it stands in `deploy/`, its two passwords set.
fn authorization() -> Result<String> {
    let file = std::fs::read_to_string(cli::workspace().join("deploy/nats/authorization.conf"))?;
    Ok(format!("KEYRELAY_NATS_PASSWORD: \"{PASSWORD}\"\nKEYRELAY_NATS_OPERATOR_PASSWORD: \"{OPERATOR_PASSWORD}\"\n{file}"))
}

/// Asks a server for something in its own words, and gives its answer: a message, or the refusal.
fn ask(url: &str, user: &str, password: &str, subject: &str) -> Result<String> {
    let stream = TcpStream::connect(url.trim_start_matches("nats://"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    lines.next().context("the server's greeting")??;
    let connect = json!({ "verbose": false, "pedantic": false, "user": user, "pass": password, "lang": "test", "version": "1" });
    write!(&stream, "CONNECT {connect}\r\nSUB _INBOX.test 1\r\nPUB {subject} _INBOX.test 0\r\n\r\n")?;
    for line in lines {
        let line = line.context("no answer")?;
        if line.starts_with("-ERR") || line.starts_with("MSG") {
            return Ok(line);
        }
    }
    anyhow::bail!("the server hung up")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_runs_and_its_login_takes_nothing_away() -> Result<()> {
    let plan = Plan { servers: 1, nodes: 2, further: authorization()?, login: Some(format!("keyrelay:{PASSWORD}")), ..Plan::default() };
    let mut cluster = Cluster::start(plan).await?;
    let admin = cluster.admin(0)?;
    let key = admin.create_key(&json!({ "name": "permitted", "expires": "never", "description": "sealed" })).await?;
    cluster.settle().await?;
    for index in 0..2 {
        cluster.relay(index)?.chat(&key.secret, "permitted").await?.success()?;
    }
    admin.post(&format!("/keys/{}/rotate", key.id), &json!({ "overlap": "1h" })).await?.success()?;
    cluster.settled().await?.expect_sound(&History::default())?;

    let url = cluster.nats.servers()[0].url();
    for subject in FORBIDDEN {
        let answer = ask(&url, "keyrelay", PASSWORD, subject)?;
        ensure!(answer.contains("Permissions Violation"), "{subject}: {answer}");
    }
    // What is asked is answered where it is permitted, so the refusals above are no accident.
    let answer = ask(&url, "keyrelay", PASSWORD, "$JS.API.STREAM.INFO.KEYRELAY_EVENTS")?;
    ensure!(answer.starts_with("MSG"), "{answer}");
    let answer = ask(&url, "keyrelay", "guessed", "$JS.API.STREAM.INFO.KEYRELAY_EVENTS")?;
    ensure!(answer.contains("Authorization Violation"), "{answer}");

    // A restart needs no more than a first start.
    cluster.stop_node(1).await?;
    cluster.start_node(1).await?;
    cluster.settled().await?.expect_sound(&History::default())
}
