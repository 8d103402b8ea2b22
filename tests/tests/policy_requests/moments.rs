//! What time does: verdicts that are used again, and a breaker that lets a policy try again. The node's clock is moved.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use policy_host::Output;
use policy_host::contract::{Effect, Verdict, expiry};
use serde_json::{Value, json};
use tests::{clock, wait};

use crate::bench::{Bench, SPARE, evaluations, picks, refused};
use crate::guest::Guest;

/// A verdict is no older than that when it is used again.
const AGE_MAX: Duration = Duration::from_secs(1);

async fn bench() -> Result<Bench> {
    Bench::with(|launch| launch.with_bug(Some(clock::MOVED))).await
}

/// A key policy that says until when its permit holds.
fn until(valid_until_ms: i64) -> Guest {
    let verdict = Verdict::plain(Effect::Permit);
    Guest::saying(Output::Expiry(expiry::Output { verdict, valid_until_ms: Some(valid_until_ms) }))
}

#[tokio::test]
async fn a_verdict_is_used_again_until_it_is_a_second_old_and_never_beyond_its_time() -> Result<()> {
    let bench = bench().await?;
    bench.bind(&until(clock::now_ms()? + 600_000), json!({})).await?;
    let asked = async || bench.metric(&evaluations("expiry", "enforced", "permit")).await;
    let mut ahead = 0;
    wait::until("three requests within a second", || {
        ahead += 2;
        let (bench, asked) = (&bench, &asked);
        async move {
            // What was said before is older than a second now.
            bench.ahead(ahead)?;
            let (before, since) = (asked().await?, Instant::now());
            for _ in 0..3 {
                bench.chat().await?.expect(200)?;
            }
            let is_within = since.elapsed() < AGE_MAX;
            let more = asked().await? - before;
            ensure!(more >= 1.0, "a verdict of another moment was used");
            ensure!(!is_within || more == 1.0, "asked {more} times within a second");
            Ok(is_within.then_some(()))
        }
    })
    .await?;
    bench.ahead(700)?;
    refused(&bench.chat().await?, 401, "key_expired")?;
    Ok(())
}

#[tokio::test]
async fn a_verdict_ends_when_it_says_so_though_it_is_young() -> Result<()> {
    let bench = bench().await?;
    let end = clock::now_ms()? + 2_500;
    bench.bind(&until(end), json!({})).await?;
    bench.chat().await?.expect(200)?;
    wait::until("the end of the key's time", || async {
        let at = clock::now_ms()?;
        let answer = bench.chat().await?;
        if answer.status == 401 {
            ensure!(clock::now_ms()? >= end, "before its time");
            return refused(&answer, 401, "key_expired").map(Some);
        }
        ensure!(at < end, "{} ms after its end the verdict was used again", at - end);
        Ok(None)
    })
    .await
}

#[tokio::test]
async fn a_policy_that_rested_is_tried_by_one_request_and_stays_when_it_works_again() -> Result<()> {
    let bench = bench().await?;
    let third = json!({ "name": "third", "dialect": "openai", "base_url": bench.world.upstream.openai_url(), "credential": "sk-third", "priority": 95 });
    let third = bench.world.admin.add_upstream_with(&third).await?;
    let third = third["upstream"]["id"].as_str().context("an id")?.to_owned();
    let binding = bench.bind(&picks(&[&bench.spare]), json!({ "on_fault": "skip" })).await?;
    // It fails for the next minutes, and works after.
    let healed = clock::now_ms()? + 200_000;
    let mut ailing = picks(&[&third]);
    ailing.decide = format!("(if (i64.lt_s (i64.load (local.get $input)) (i64.const {healed})) (then unreachable)) {}", ailing.decide);
    let ailing = bench.upload(&ailing).await?;
    bench.change(&binding, &json!({ "policy": ailing })).await?;

    let faults = async || bench.metric("keyrelay_policy_faults_total{kind=\"route\",code=\"trap\"}").await;
    for _ in 0..5 {
        ensure!(bench.served_by().await? == "openai", "a fault counts as nothing said");
    }
    ensure!(bench.served_by().await? == SPARE && faults().await? == 5.0, "the last good version has the word");
    // A pause later one request tries it, in vain; those after it have the last good version, without a run of what fails.
    for (ahead, failed) in [(31, 6.0), (31 + 61, 7.0)] {
        bench.ahead(ahead)?;
        ensure!(bench.served_by().await? == "openai" && faults().await? == failed, "{ahead} s later");
        for _ in 0..3 {
            ensure!(bench.served_by().await? == SPARE && faults().await? == failed, "{ahead} s later, beside the trial");
        }
    }
    bench.ahead(31 + 61 + 121)?;
    for _ in 0..3 {
        ensure!(bench.served_by().await? == "third" && faults().await? == 7.0, "it works, and stays");
    }
    Ok(())
}

#[tokio::test]
async fn settings_that_a_policy_fails_with_give_way_to_those_before_and_do_not_outlast_a_rollback() -> Result<()> {
    let bench = Bench::start().await?;
    // It fails with any settings but `{}`.
    let mut picky = picks(&[&bench.spare]);
    picky.decide = format!("(if (i32.ne (i32.load offset=20 (local.get $input)) (i32.const 2)) (then unreachable)) {}", picky.decide);
    let binding = bench.bind(&picky, json!({ "on_fault": "skip", "settings": {} })).await?;
    ensure!(bench.served_by().await? == SPARE);
    bench.change(&binding, &json!({ "settings": { "other": 1 } })).await?;
    for fault in 0..5 {
        ensure!(bench.served_by().await? == "openai", "fault {fault} counts as nothing said");
    }
    ensure!(bench.served_by().await? == SPARE, "after five faults in a row the last good settings have the word");
    bench.world.admin.post(&format!("/bindings/{binding}/rollback"), &Value::Null).await?.success()?;
    ensure!(bench.served_by().await? == SPARE, "what failed with other settings rests");
    let faults = bench.metric("keyrelay_policy_faults_total{kind=\"route\",code=\"breaker_open\"}").await?;
    ensure!(faults == 0.0, "{faults} times nothing was run");
    Ok(())
}
