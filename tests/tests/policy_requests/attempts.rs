//! What holds for one attempt and what for the whole request: the caps of pools, and the second question, about the chosen upstream's price.

use anyhow::{Context as _, Result, ensure};
use policy_host::canonical_json;
use policy_host::contract::Obligation;
use schemas::policy::PolicyKind;
use serde_json::{Value, json};
use tests::Behaviour;
use tests::relay::chat;

use crate::bench::{Bench, FAR, OTHER_POOL, evaluations, obliging, picks, refused};
use crate::guest::{self, Guest};

const CHEAP: u64 = 1_000_000;
const LIMIT: u64 = 5_000_000;
const DEAR: u64 = 9_000_000;

/// A quota policy that denies a chosen upstream whose answers cost more, and has nothing against anything else.
fn thrifty() -> Guest {
    let decide = format!(
        "(if (i32.load8_u offset=168 (local.get $input)) (then
            (if (i64.gt_u (i64.load offset=184 (local.get $input)) (i64.const {LIMIT})) (then (i32.store8 (i32.const 72) (i32.const 1))))))
        (i32.const {})",
        guest::ANSWER
    );
    let mut guest = Guest::deciding(PolicyKind::Quota, &decide);
    let mut manifest = guest::manifest(PolicyKind::Quota);
    manifest["asks_for_price"] = true.into();
    guest.manifest = canonical_json(&manifest);
    guest
}

/// The bounds on the answer that the upstreams were asked for, in the order of the attempts.
fn bounds(bench: &Bench) -> Result<Vec<Value>> {
    let bound = |body: &[u8]| Ok(serde_json::from_slice::<Value>(body)?["max_tokens"].clone());
    bench.world.upstream.seen().iter().map(|seen| bound(&seen.body)).collect()
}

#[tokio::test]
async fn the_second_question_is_about_the_price_of_the_chosen_upstream() -> Result<()> {
    let mut bench = Bench::start().await?;
    let far = bench.second_pool().await?;
    bench.price("default", Some(CHEAP)).await?;
    bench.price(OTHER_POOL, Some(DEAR)).await?;
    bench.bind(&thrifty(), json!({})).await?;
    let permits = evaluations("quota", "enforced", "permit");
    ensure!(bench.served_by().await? == "openai" && bench.metric(&permits).await? == 2.0, "it is asked twice");

    // The same policy and the same first question; only the choice is another.
    let route = bench.bind(&picks(&[&far, &bench.first]), json!({})).await?;
    let answer = bench.chat().await?;
    refused(&answer, 429, "quota_denied")?;
    ensure!(bench.world.upstream.seen().len() == 1, "a refused request reached an upstream");
    ensure!(bench.metric(&permits).await? == 3.0 && bench.metric(&evaluations("quota", "enforced", "deny")).await? == 1.0);

    // Without a price there is nothing to ask about, and without the second question nothing was reserved for good.
    bench.price(OTHER_POOL, None).await?;
    ensure!(bench.served_by().await? == FAR && bench.metric(&permits).await? == 4.0);
    bench.change(&route, &json!({ "mode": "off" })).await?;
    ensure!(bench.served_by().await? == "openai");
    Ok(())
}

#[tokio::test]
async fn a_pools_second_question_costs_that_pool_alone() -> Result<()> {
    let mut bench = Bench::start().await?;
    let far = bench.second_pool().await?;
    bench.price("default", Some(CHEAP)).await?;
    bench.price(OTHER_POOL, Some(DEAR)).await?;
    bench.bind(&picks(&[&far, &bench.first]), json!({})).await?;
    let of_other = bench.bind(&thrifty(), json!({ "scope": { "pool": OTHER_POOL } })).await?;
    let answer = bench.chat().await?;
    answer.expect(200)?;
    ensure!(answer.header("x-keyrelay-upstream") == "openai" && answer.header("x-keyrelay-attempts") == "1", "{:?}", answer.headers);
    bench.change(&of_other, &json!({ "mode": "off" })).await?;

    // A policy of the cheap pool has nothing to say of what the dear one costs: its upstream is there when the dear one fails.
    bench.bind(&thrifty(), json!({ "scope": { "pool": "default" } })).await?;
    bench.world.upstream.next(Behaviour::error(500));
    let answer = bench.chat().await?;
    answer.expect(200)?;
    ensure!(answer.header("x-keyrelay-upstream") == "openai" && answer.header("x-keyrelay-attempts") == "2", "{:?}", answer.headers);
    Ok(())
}

#[tokio::test]
async fn a_cap_of_one_pool_does_not_leak_into_an_attempt_at_another() -> Result<()> {
    let mut bench = Bench::start().await?;
    let far = bench.second_pool().await?;
    bench.bind(&picks(&[&bench.first, &far]), json!({})).await?;
    bench.bind(&obliging(vec![Obligation::CapOutput(50)]), json!({ "scope": { "pool": "default" } })).await?;
    let ask = async || {
        let mut body = chat("hello");
        body["max_tokens"] = 1_000.into();
        bench.relay().chat_body(&bench.key.secret, body.to_string()).await?.expect(200).map(drop)
    };
    bench.world.upstream.next(Behaviour::error(500));
    ask().await?;
    ensure!(bounds(&bench)? == [50, 1_000], "{:?}", bounds(&bench)?);

    // What holds for the whole request holds for each attempt; of two caps each attempt has the lower.
    bench.bind(&obliging(vec![Obligation::CapOutput(200)]), json!({})).await?;
    bench.bind(&obliging(vec![Obligation::CapOutput(300)]), json!({ "scope": { "pool": OTHER_POOL } })).await?;
    ask().await?;
    let last = bounds(&bench)?.pop().context("an attempt")?;
    ensure!(last == 200, "the first upstream rests; the other pool's attempt was asked for {last}");
    Ok(())
}
