//! What policies add to a request: the same relay, asked with a key that none, one or three policies are enforced for.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::admin::Admin;
use tests::{Launch, policies};

use super::Options;
use super::load::{self, Target};
use super::process::{Server, cpu_us};
use super::report::{line, median, row};

const CONNECTIONS: u64 = 16;
/// Kind, stock policy and settings with which it is asked each time and lets everything pass. The first is what one policy is.
const CHAIN: [(&str, &str, &str); 3] = [
    ("quota", "money-quota", r#"{"day_microusd":1000000000000000}"#),
    ("route", "cheapest-healthy", "{}"),
    ("expiry", "expire-unused", r#"{"unused_days":30}"#),
];
/// How many of them each key has, and what is to be reached in times the forwarder's CPU time.
const KEYS: [(&str, usize, &str); 3] = [("none", 0, "<= 2"), ("one", 1, "<= 2.75"), ("three", 3, "<= 3.5")];

pub(crate) async fn measure(options: Options) -> Result<()> {
    let mock = Server::start(&["mock"])?;
    let forwarder = Server::start(&["forward", &mock.origin])?;
    let directory = tempfile::tempdir()?;
    let node = Launch::new(&directory.path().join("data")).with("KEYRELAY_LOG_LEVEL", "warn").start().await?;
    let admin = node.admin()?;
    admin.add_upstream("mock", "openai", &format!("{}/v1", mock.origin), "sk-mock").await?;
    let mut digests = Vec::new();
    for (kind, name, _) in CHAIN {
        let module = std::fs::read(policies::stock()?.join(format!("{name}.wasm")))?;
        let uploaded = admin.upload_policy(kind, name, module).await?;
        digests.push(uploaded["policy"]["digest"].clone());
    }
    let mut targets = vec![(Target { name: "forwarder", origin: forwarder.origin.clone(), secret: "none".to_owned() }, forwarder.pid())];
    for (name, count, _) in KEYS {
        let limits = json!({ "requests_per_minute": 100_000_000, "concurrency": 100_000 });
        let key = admin.create_key(&json!({ "name": name, "expires": "never", "models": ["gpt-*"], "limits": limits })).await?;
        for (digest, (_, _, settings)) in digests.iter().zip(CHAIN).take(count) {
            bind(&admin, digest, &key.id, settings).await?;
        }
        targets.push((Target { name, origin: node.relay_origin.clone(), secret: key.secret }, node.pid()));
    }

    let mut rounds = vec![Vec::new(); targets.len()];
    // The first round warms up and is not counted.
    for round in 0..=options.rounds {
        for (place, (target, pid)) in targets.iter().enumerate() {
            let before = cpu_us(*pid)?;
            let count = load::requests(target, CONNECTIONS, None, Duration::from_secs(options.seconds)).await?.len();
            if round > 0 {
                rounds[place].push((cpu_us(*pid)? - before) / count as f64);
            }
        }
    }
    line("")?;
    row("CPU per request of 1 KiB, 16 connections", "us, times the forwarder's", "reach")?;
    row("bare forwarder", &format!("{:.1}", median(&rounds[0])), "")?;
    for (place, (name, _, reach)) in (1..).zip(KEYS) {
        let ratios: Vec<f64> = rounds[place].iter().zip(&rounds[0]).map(|(relay, forwarder)| relay / forwarder).collect();
        row(&format!("relay, policies enforced: {name}"), &format!("{:.1}, {:.2}", median(&rounds[place]), median(&ratios)), reach)?;
    }
    node.stop().await?;
    Ok(())
}

/// Binds a policy to one key.
async fn bind(admin: &Admin, digest: &Value, key: &str, settings: &str) -> Result<()> {
    let settings: Value = serde_json::from_str(settings)?;
    let body = json!({ "policy": digest, "scope": { "key": key }, "settings": settings, "mode": "enforce" });
    let bound = admin.post("/bindings", &body).await?.success().context("binding a policy")?;
    ensure!(bound["binding"]["loaded"] == true, "{bound}");
    Ok(())
}
