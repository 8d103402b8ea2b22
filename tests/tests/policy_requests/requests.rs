//! What policies change about the next request: where it goes, what it may cost, whether it is answered at all.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use policy_host::contract::route::Pick;
use policy_host::contract::{Effect, Obligation, Reason, Verdict, expiry, route};
use policy_host::{Output, canonical_json};
use schemas::policy::PolicyKind;
use serde_json::{Value, json};
use tests::relay::chat;
use tests::{Behaviour, wait};

use crate::bench::{Bench, SPARE, denying, faulty, obliging, picks, refused};
use crate::guest::{self, Guest};

#[tokio::test]
async fn a_route_policy_changes_where_the_next_request_goes_and_a_rollback_brings_it_back() -> Result<()> {
    let bench = Bench::start().await?;
    ensure!(bench.served_by().await? == "openai");
    let binding = bench.bind(&picks(&[&bench.first]), json!({})).await?;
    let spare = bench.upload(&picks(&[&bench.spare])).await?;
    bench.change(&binding, &json!({ "policy": spare })).await?;
    ensure!(bench.served_by().await? == SPARE);
    bench.world.admin.post(&format!("/bindings/{binding}/rollback"), &Value::Null).await?.success()?;
    ensure!(bench.served_by().await? == "openai");
    Ok(())
}

#[tokio::test]
async fn failover_keeps_what_policies_decided() -> Result<()> {
    let bench = Bench::start().await?;
    bench.bind(&picks(&[&bench.spare, &bench.first]), json!({})).await?;
    let evaluations = "keyrelay_policy_evaluations_total{kind=\"route\",mode=\"enforced\",effect=\"permit\"}";
    bench.world.upstream.next(Behaviour::error(500));
    let answer = bench.chat().await?;
    answer.expect(200)?;
    ensure!(answer.header("x-keyrelay-attempts") == "2" && answer.header("x-keyrelay-upstream") == "openai", "{:?}", answer.headers);
    ensure!(bench.metric(evaluations).await? == 1.0, "a policy was asked again for the second attempt");
    // The spare one rests now: it comes last whatever the policy says.
    ensure!(bench.served_by().await? == "openai");
    Ok(())
}

#[tokio::test]
async fn policies_that_permit_but_have_no_upstream_in_common_are_told_of_and_written_down() -> Result<()> {
    let bench = Bench::start().await?;
    let only = |id: &str| {
        let reason = Reason { code: "test.reason".into(), text: Some("it is near".into()), is_public: true };
        let verdict = Verdict { reasons: vec![reason], ..Verdict::plain(Effect::Permit) };
        Guest::saying(Output::Route(route::Output { verdict, picks: vec![Pick { id: id.to_owned(), rank: 0, weight: 1 }] }))
    };
    bench.bind(&only(&bench.first), json!({})).await?;
    bench.bind(&only(&bench.spare), json!({})).await?;
    let answer = bench.chat().await?;
    refused(&answer, 403, "policy_denied")?;
    ensure!(!answer.headers.contains_key("x-keyrelay-policy-reason"), "a permit's reason is told as the refusal's: {:?}", answer.headers);
    ensure!(answer.text().contains("no upstream is left that the policies allow"), "{}", answer.text());
    let query = format!("/decisions?request={}", answer.header("x-request-id"));
    let decisions = wait::until("both decisions", || async {
        let page = bench.world.admin.get(&query).await?.success()?;
        Ok(page["decisions"].as_array().filter(|decisions| decisions.len() == 2).cloned())
    });
    for decision in decisions.await? {
        ensure!((&decision["effect"], &decision["combined"]) == (&json!("permit"), &json!("deny")), "{decision}");
    }
    Ok(())
}

#[tokio::test]
async fn a_quota_refuses_with_the_time_to_come_again_and_models_are_listed_all_the_same() -> Result<()> {
    let bench = Bench::start().await?;
    bench.bind(&denying(PolicyKind::Quota, Some(7_000)), json!({})).await?;
    let answer = bench.chat().await?;
    refused(&answer, 429, "quota_denied")?;
    ensure!(answer.header("retry-after") == "7" && answer.header("x-keyrelay-policy-reason") == "test.reason", "{:?}", answer.headers);
    ensure!(answer.text().contains("not today"), "{}", answer.text());
    ensure!(bench.world.upstream.seen().is_empty(), "a refused request reached the upstream");
    let authorization = format!("Bearer {}", bench.key.secret);
    bench.relay().get("/v1/models", &[("authorization", &authorization)]).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_soft_cap_lowers_what_the_upstream_is_asked_for() -> Result<()> {
    let bench = Bench::start().await?;
    bench.bind(&obliging(vec![Obligation::CapOutput(50)]), json!({})).await?;
    let asked = async |bound: Option<u64>| -> Result<Value> {
        let mut body = chat("hello");
        body["max_tokens"] = bound.map_or(Value::Null, Value::from);
        if bound.is_none() {
            body.as_object_mut().context("an object")?.remove("max_tokens");
        }
        bench.relay().chat_body(&bench.key.secret, body.to_string()).await?.expect(200)?;
        let seen = bench.world.upstream.seen();
        Ok(serde_json::from_slice(&seen.last().context("a request")?.body)?)
    };
    ensure!(asked(Some(1_000)).await?["max_tokens"] == 50);
    ensure!(asked(Some(20)).await?["max_tokens"] == 20);
    ensure!(asked(None).await?["max_completion_tokens"] == 50);
    bench.relay().message(&bench.key.secret, "hello").await?.expect(200)?;
    let message: Value = serde_json::from_slice(&bench.world.upstream.seen().last().context("a request")?.body)?;
    ensure!(message["max_tokens"] == 50, "{message}");
    Ok(())
}

#[tokio::test]
async fn a_cap_on_requests_at_once_counts_those_under_way_and_is_written_down_where_it_refuses() -> Result<()> {
    // No request is recorded by chance.
    let bench = Bench::with(|launch| launch.with("KEYRELAY_POLICY_DECISION_SAMPLE_PPM", "0")).await?;
    bench.bind(&obliging(vec![Obligation::CapParallel(1)]), json!({})).await?;
    bench.world.upstream.next(Behaviour { words: 1000, hold_after: Some(10), ..Behaviour::default() });
    let mut first = bench.relay().chat_stream(&bench.key.secret, "go on and on").await?;
    ensure!(first.next().await?.is_some(), "nothing came");
    let answer = bench.chat().await?;
    refused(&answer, 429, "concurrency_limited")?;
    let query = format!("/decisions?request={}", answer.header("x-request-id"));
    let decision = wait::until("the decision that refused it", || async {
        let page = bench.world.admin.get(&query).await?.success()?;
        Ok(page["decisions"].as_array().and_then(|decisions| decisions.first()).cloned())
    });
    let decision = decision.await?;
    ensure!((&decision["effect"], &decision["combined"]) == (&json!("permit"), &json!("deny")), "{decision}");
    drop(first);
    wait::until("the place of the client that left", || async { Ok((bench.chat().await?.status == 200).then_some(())) }).await
}

#[tokio::test]
async fn an_expiry_policy_ends_a_key_before_its_time() -> Result<()> {
    let bench = Bench::start().await?;
    let until = |valid_until_ms| {
        Guest::saying(Output::Expiry(expiry::Output { verdict: Verdict::plain(Effect::Permit), valid_until_ms: Some(valid_until_ms) }))
    };
    let binding = bench.bind(&until(1_900_000_000_000), json!({})).await?;
    bench.chat().await?.expect(200)?;
    let past = bench.upload(&until(1_700_000_000_000)).await?;
    bench.change(&binding, &json!({ "policy": past })).await?;
    refused(&bench.chat().await?, 401, "key_expired")?;
    let denying = bench.upload(&denying(PolicyKind::Expiry, None)).await?;
    bench.change(&binding, &json!({ "policy": denying })).await?;
    refused(&bench.chat().await?, 403, "policy_denied")?;
    bench.change(&binding, &json!({ "mode": "off" })).await?;
    bench.chat().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_canary_splits_keys_and_never_one_key() -> Result<()> {
    let bench = Bench::start().await?;
    bench.bind(&picks(&[&bench.spare]), json!({ "mode": "canary", "canary_percent": 50 })).await?;
    let mut served = Vec::new();
    for _ in 0..16 {
        let key = bench.world.key(json!({})).await?;
        let mut by = Vec::new();
        for _ in 0..3 {
            let answer = bench.relay().chat(&key.secret, "hello").await?;
            answer.expect(200)?;
            by.push(answer.header("x-keyrelay-upstream").to_owned());
        }
        by.dedup();
        ensure!(by.len() == 1, "a key flips between versions: {by:?}");
        served.extend(by);
    }
    // All sixteen on one side has a chance of one in 32,768.
    ensure!(served.iter().any(|name| name == SPARE) && served.iter().any(|name| name == "openai"), "{served:?}");
    Ok(())
}

#[tokio::test]
async fn a_policy_on_trial_changes_nothing_and_is_evaluated() -> Result<()> {
    let bench = Bench::start().await?;
    bench.bind(&denying(PolicyKind::Route, None), json!({ "mode": "shadow" })).await?;
    ensure!(bench.served_by().await? == "openai");
    wait::until("the trial", || async {
        let evaluated = bench.metric("keyrelay_policy_evaluations_total{kind=\"route\",mode=\"shadow\",effect=\"deny\"}").await?;
        let disagreed = bench.metric("keyrelay_policy_shadow_disagreements_total{kind=\"route\"}").await?;
        Ok((evaluated == 1.0 && disagreed == 1.0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_fault_counts_as_its_binding_says() -> Result<()> {
    let bench = Bench::start().await?;
    for (kind, on_fault) in [("route", "skip"), ("route", "baseline"), ("quota", "baseline"), ("expiry", "skip")] {
        let kind = PolicyKind::ALL.into_iter().find(|one| one.as_str() == kind).context("a kind")?;
        let binding = bench.bind(&faulty(kind), json!({ "on_fault": on_fault })).await?;
        ensure!(bench.served_by().await? == "openai", "{kind:?} {on_fault}");
        bench.change(&binding, &json!({ "on_fault": "deny" })).await?;
        refused(&bench.chat().await?, 503, "policy_fault")?;
        bench.world.admin.call(Method::DELETE, &format!("/api/v1/bindings/{binding}"), &[], &Value::Null).await?.success()?;
    }
    ensure!(bench.served_by().await? == "openai");
    Ok(())
}

#[tokio::test]
async fn a_policy_that_fails_again_and_again_gives_way_to_the_last_good_one() -> Result<()> {
    let bench = Bench::start().await?;
    let binding = bench.bind(&picks(&[&bench.spare]), json!({ "on_fault": "skip" })).await?;
    ensure!(bench.served_by().await? == SPARE);
    let broken = bench.upload(&faulty(PolicyKind::Route)).await?;
    bench.change(&binding, &json!({ "policy": broken })).await?;
    for fault in 0..5 {
        ensure!(bench.served_by().await? == "openai", "fault {fault} counts as nothing said");
    }
    ensure!(bench.served_by().await? == SPARE, "after five faults in a row the last good policy has the word");
    ensure!(bench.metric("keyrelay_policy_breaker_openings_total{kind=\"route\"}").await? == 1.0);
    Ok(())
}

#[tokio::test]
async fn policies_of_all_scopes_narrow_together() -> Result<()> {
    let bench = Bench::start().await?;
    bench.bind(&picks(&[&bench.first, &bench.spare]), json!({})).await?;
    bench.bind(&picks(&[&bench.spare]), json!({ "scope": { "key": bench.key.id } })).await?;
    ensure!(bench.served_by().await? == SPARE);
    let other = bench.world.key(json!({})).await?;
    let answer = bench.relay().chat(&other.secret, "hello").await?;
    ensure!(answer.header("x-keyrelay-upstream") == "openai", "{:?}", answer.headers);
    bench.bind(&denying(PolicyKind::Route, None), json!({ "scope": { "pool": "default" } })).await?;
    refused(&bench.chat().await?, 403, "policy_denied")?;
    Ok(())
}

/// The manifest is what it is, whatever the answer.
#[test]
fn the_guests_of_these_tests_differ_by_their_answer_alone() {
    assert_eq!(picks(&["a"]).manifest, canonical_json(&guest::manifest(PolicyKind::Route)));
    assert_ne!(picks(&["a"]).module(), picks(&["b"]).module());
}
