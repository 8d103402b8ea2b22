//! Policies that take their time: slow ones hold nobody else up, and those on trial have a budget of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use schemas::policy::PolicyKind;
use serde_json::json;
#[cfg(feature = "faults")]
use tests::planted;
use tests::wait;
use tokio::task::JoinSet;

use crate::bench::{Bench, denying, evaluations, refused};
use crate::guest::{self, Guest};

/// Requests of a key with a slow policy: more than may wait for one thread.
const SLOW_REQUESTS: usize = 40;
/// Requests of another key meanwhile.
const OTHER_REQUESTS: usize = 4;
/// More than the trials that may wait, and those that are run meanwhile.
const TRIALS: usize = 1_200;
/// At once.
const CLIENTS: usize = 16;
/// Trials that are measured, when nothing else is asked any more.
const MEASURED: f64 = 5.0;
/// Trials may take a tenth of one core. Without a rest between them they would take all of it; what lies between is how unequal they are.
const SHARE_MAX: f64 = 0.5;
const PATIENCE: Duration = Duration::from_secs(90);

/// A quota policy that divides for most of its fuel, then permits: some fifty to a hundred milliseconds.
fn slow() -> Guest {
    let decide = format!(
        "(local $left i32) (local $x i64)
        (local.set $left (i32.const 3000000)) (local.set $x (i64.const 88172645463325252))
        (loop $again
            (local.set $x (i64.add (local.get $x) (i64.rem_u (i64.const 0x7fffffffffffffff) (i64.or (local.get $x) (i64.const 1)))))
            (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (i64.store (i32.const 0x8000) (local.get $x))
        (i32.const {})",
        guest::ANSWER
    );
    Guest::deciding(PolicyKind::Quota, &decide)
}

async fn others_go_past_a_slow_policy(bug: Option<String>) -> Result<()> {
    let bench = Bench::with(|launch| launch.with_bug(bug.as_deref()).with("KEYRELAY_POLICY_SLOW_THREADS", "1")).await?;
    let digest = bench.upload_as("slow", &slow()).await?;
    bench.bind_digest(&digest, json!({ "scope": { "key": bench.key.id }, "on_fault": "deny" })).await?;
    let other = bench.world.key(json!({})).await?;
    bench.chat().await?.expect(200)?;
    bench.relay().chat(&other.secret, "hello").await?.expect(200)?;

    let left = Arc::new(AtomicUsize::new(SLOW_REQUESTS));
    let mut requests = JoinSet::new();
    for _ in 0..SLOW_REQUESTS {
        let (relay, secret, left) = (bench.relay().clone(), bench.key.secret.clone(), Arc::clone(&left));
        requests.spawn(async move {
            let answer = relay.chat(&secret, "slowly").await;
            left.fetch_sub(1, Ordering::SeqCst);
            answer
        });
    }
    for _ in 0..OTHER_REQUESTS {
        bench.relay().chat(&other.secret, "hello").await?.expect(200)?;
    }
    let left = left.load(Ordering::SeqCst);
    let mut served = 0;
    while let Some(answer) = requests.join_next().await {
        match answer?? {
            answer if answer.status == 200 => served += 1,
            // One thread has so many waiting for it, and no more.
            answer => refused(&answer, 503, "policy_fault")?,
        }
    }
    ensure!(served > 0 && served < SLOW_REQUESTS, "{served} of {SLOW_REQUESTS} were decided on");
    ensure!(left > 0, "another key's requests were served after all those that wait for the slow policy");
    Ok(())
}

#[tokio::test]
async fn a_slow_policy_holds_up_no_requests_but_its_own() -> Result<()> {
    others_go_past_a_slow_policy(None).await
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_slow_policy_that_runs_where_requests_do_is_noticed() -> Result<()> {
    planted::turns_red("slow-inline", "40 of 40 were decided on", others_go_past_a_slow_policy).await
}

async fn trials_keep_to_their_budget(bug: Option<String>) -> Result<()> {
    let bench = Arc::new(Bench::with(|launch| launch.with_bug(bug.as_deref())).await?);
    let digest = bench.upload_as("slow", &slow()).await?;
    bench.bind_digest(&digest, json!({ "mode": "shadow" })).await?;
    // Refused by another, so that more of them come than can be tried.
    bench.bind(&denying(PolicyKind::Quota, None), json!({})).await?;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let bench = Arc::clone(&bench);
        clients.spawn(async move {
            for _ in 0..TRIALS / CLIENTS {
                refused(&bench.chat().await?, 429, "quota_denied")?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    let shed = bench.metric("keyrelay_policy_shadow_shed_total").await?;
    ensure!(shed > 0.0, "of {TRIALS} trials none was shed");

    let tried = async || bench.metric(&evaluations("quota", "shadow", "permit")).await;
    let spent = async || bench.metric("keyrelay_policy_evaluation_seconds_sum{kind=\"quota\"}").await;
    let (first, before, since) = (tried().await?, spent().await?, Instant::now());
    wait::until_within(PATIENCE, "trials", || async { Ok((tried().await? >= first + MEASURED).then_some(())) }).await?;
    let (spent, elapsed) = (spent().await? - before, since.elapsed().as_secs_f64());
    ensure!(spent <= elapsed * SHARE_MAX, "trials took {spent:.2} s of {elapsed:.2} s, more than their share");
    Ok(())
}

#[tokio::test]
async fn trials_take_their_share_and_are_shed_beyond_it() -> Result<()> {
    trials_keep_to_their_budget(None).await
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn trials_without_a_rest_are_noticed() -> Result<()> {
    planted::turns_red("restless-shadow", "more than their share", trials_keep_to_their_budget).await
}
