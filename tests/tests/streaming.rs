//! The data path: bytes stay as they are, tokens are counted as the upstream counts them, and nothing goes on without a client.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::http::Answer;
use tests::relay::{CHAT, MESSAGES, chat};
use tests::world::CREDENTIAL;
use tests::{Behaviour, Relay, ScriptedUpstream, World, wait};

fn refused(answer: &Answer, status: u16, reason: &str) -> Result<()> {
    answer.expect(status)?;
    let given = answer.header("x-keyrelay-reason");
    ensure!(given == reason, "expected the reason {reason}, got {given}: {}", answer.text());
    Ok(())
}

/// The events of a stream. Who is asked for the usage says in every other chunk that it is not there yet, which means what its absence means.
fn events(stream: &Answer) -> Vec<String> {
    stream.text().split_inclusive("\n\n").map(|event| event.replace(",\"usage\":null", "")).collect()
}

#[tokio::test]
async fn a_plain_exchange_is_passed_on_byte_for_byte() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    world.upstream.always(Behaviour { unknown: true, ..Behaviour::default() });
    let direct = Relay::new(&world.upstream.origin());
    let odd = r#"{ "x_new": {"b":1.0e+2,"a":"\u0041\/", "big":12345678901234567890123},	"model" : "gpt-scripted" ,
        "messages":[{"role":"user","content":"hi","x_part":null}] }"#;

    let expected = direct.chat_body("direct", odd).await?;
    let answer = world.relay.chat_body(&key.secret, odd).await?;

    ensure!(answer.body == expected.body, "expected {}\ngot {}", expected.text(), answer.text());
    ensure!(answer.header("x-scripted") == "kept", "a header of the upstream is gone: {:?}", answer.headers);
    for name in ["x-request-id", "x-keyrelay-upstream", "x-keyrelay-attempts"] {
        ensure!(!answer.header(name).is_empty(), "no {name}: {:?}", answer.headers);
    }
    let seen = world.upstream.seen();
    let request = &seen[1];
    ensure!(request.body == odd.as_bytes(), "the upstream got {:?}", request.body);
    ensure!(request.header("authorization") == format!("Bearer {CREDENTIAL}"), "the upstream got another credential");
    let shows_key =
        request.headers.values().any(|value| value.as_bytes().windows(key.secret.len()).any(|part| part == key.secret.as_bytes()));
    ensure!(!shows_key, "the upstream saw the client's key");
    Ok(())
}

#[tokio::test]
async fn a_stream_is_passed_on_event_for_event() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let direct = Relay::new(&world.upstream.origin());
    world.upstream.always(Behaviour { unknown: true, words: 40, ..Behaviour::default() });

    let expected = direct.chat_stream("direct", "stream").await?.whole().await?;
    let through = world.relay.chat_stream(&key.secret, "stream").await?.whole().await?;
    ensure!(events(&through) == events(&expected), "expected {}\ngot {}", expected.text(), through.text());
    ensure!(through.header("content-type") == expected.header("content-type"), "{:?}", through.headers);
    let asked: Value = serde_json::from_slice(&world.upstream.seen()[1].body)?;
    ensure!(asked["stream_options"]["include_usage"] == true, "the usage was not asked for: {asked}");

    let expected = direct.message_stream("direct", "stream").await?.whole().await?;
    let through = world.relay.message_stream(&key.secret, "stream").await?.whole().await?;
    ensure!(events(&through) == events(&expected), "expected {}\ngot {}", expected.text(), through.text());
    Ok(())
}

#[tokio::test]
async fn a_client_that_asks_for_the_usage_chunk_gets_it() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let mut body = chat("stream");
    body["stream"] = true.into();
    body["stream_options"] = json!({ "include_usage": true });
    let body = body.to_string();
    let direct = Relay::new(&world.upstream.origin());
    let expected = direct.chat_body("direct", body.clone()).await?;
    let through = world.relay.chat_body(&key.secret, body).await?;
    ensure!(expected.text().contains("prompt_tokens") && through.body == expected.body, "{}", through.text());
    Ok(())
}

#[tokio::test]
async fn tokens_are_counted_as_the_upstream_counts_them() -> Result<()> {
    usage_equals_the_upstreams_count(None).await
}

async fn usage_equals_the_upstreams_count(bug: Option<String>) -> Result<()> {
    let world = World::with_bug(bug.as_deref()).await?;
    let key = world.key(json!({})).await?;
    let behaviours = [
        Behaviour::default(),
        Behaviour { words: 200, cached_tokens: 700, ..Behaviour::default() },
        Behaviour { reasoning_tokens: 90, ..Behaviour::default() },
        Behaviour { tool_call: true, ..Behaviour::default() },
    ];
    let mut requests = 0;
    for behaviour in behaviours {
        for _ in 0..4 {
            world.upstream.next(behaviour.clone());
        }
        world.relay.chat(&key.secret, "plain").await?.success()?;
        world.relay.chat_stream(&key.secret, "streamed").await?.whole().await?;
        world.relay.message(&key.secret, "plain, anthropic").await?.success()?;
        world.relay.message_stream(&key.secret, "streamed, anthropic").await?.whole().await?;
        requests += 4;
    }
    let counted = world.upstream.counted();
    let used = world.admin.usage_of(&key.id, requests).await?;
    ensure!(counted.requests == requests, "the upstream counted {counted:?}");
    ensure!(
        (used.requests, used.input_tokens, used.output_tokens) == (counted.requests, counted.input_tokens, counted.output_tokens),
        "the usage is {used:?}, the upstream counted {counted:?}"
    );
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_meter_that_forgets_is_noticed() -> Result<()> {
    tests::planted::turns_red("forget-usage", "settled requests", usage_equals_the_upstreams_count).await
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_upstream_call_and_is_metered() -> Result<()> {
    leaving_ends_the_call(None).await
}

async fn leaving_ends_the_call(bug: Option<String>) -> Result<()> {
    let world = World::with_bug(bug.as_deref()).await?;
    let key = world.key(json!({})).await?;
    world.upstream.next(Behaviour { words: 1000, hold_after: Some(10), ..Behaviour::default() });
    let mut stream = world.relay.chat_stream(&key.secret, "and leave").await?;
    // The first event has no text, and what the relay was not sent before the client left it cannot count.
    for _ in 0..3 {
        ensure!(stream.next().await?.is_some(), "nothing came");
    }
    drop(stream);
    world.upstream.abandoned(1).await?;
    let used = world.admin.usage_of(&key.id, 1).await?;
    ensure!(used.output_tokens > 0 && used.output_tokens < 1000, "what was used is not metered: {used:?}");
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn an_upstream_call_that_outlives_its_client_is_noticed() -> Result<()> {
    tests::planted::turns_red("keep-upstream-call", "a cancelled upstream call", leaving_ends_the_call).await
}

#[tokio::test]
async fn an_upstream_that_fails_before_its_first_byte_is_replaced() -> Result<()> {
    failure_moves_on(None).await
}

async fn failure_moves_on(bug: Option<String>) -> Result<()> {
    let world = World::with_bug(bug.as_deref()).await?;
    let key = world.key(json!({})).await?;
    let first = ScriptedUpstream::start().await?;
    first.always(Behaviour::error(503));
    let body = json!({ "name": "first", "dialect": "openai", "base_url": first.openai_url(), "credential": "sk-first", "priority": 1 });
    world.admin.add_upstream_with(&body).await?;
    let answer = world.relay.chat(&key.secret, "fail over").await?;
    ensure!(answer.status == 200, "no failover: {} {}", answer.status, answer.text());
    ensure!(answer.header("x-keyrelay-upstream") == "openai" && answer.header("x-keyrelay-attempts") == "2", "{:?}", answer.headers);
    ensure!(first.seen().len() == 1 && world.upstream.seen().len() == 1, "an upstream was asked twice");
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_relay_without_failover_is_noticed() -> Result<()> {
    tests::planted::turns_red("no-failover", "no failover", failure_moves_on).await
}

#[tokio::test]
async fn a_clients_own_error_is_passed_on_and_not_tried_elsewhere() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let first = ScriptedUpstream::start().await?;
    let body = json!({ "name": "first", "dialect": "openai", "base_url": first.openai_url(), "credential": "sk-first", "priority": 1 });
    world.admin.add_upstream_with(&body).await?;
    first.always(Behaviour::error(400));
    for _ in 0..3 {
        let answer = world.relay.chat(&key.secret, "bad request").await?;
        ensure!(answer.expect(400)?.text().contains("scripted 400"), "{}", answer.text());
    }
    ensure!(first.seen().len() == 3 && world.upstream.seen().is_empty(), "a 400 counted against the upstream");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_not_started_again_elsewhere() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let first = ScriptedUpstream::start().await?;
    let body = json!({ "name": "first", "dialect": "openai", "base_url": first.openai_url(), "credential": "sk-first", "priority": 1 });
    world.admin.add_upstream_with(&body).await?;
    // At a pace, so that each chunk has left before the break.
    first.next(Behaviour { cut_after: Some(4), words: 50, drip_ms: 10, ..Behaviour::default() });
    let mut stream = world.relay.chat_stream(&key.secret, "break off").await?;
    let mut text = String::new();
    // Whether the break shows as an error event or as a broken body, what came before it is there and `[DONE]` is not.
    while let Ok(Some(piece)) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    ensure!(text.contains("w0") && !text.contains("[DONE]"), "{text}");
    ensure!(world.upstream.seen().is_empty(), "a stream that had begun was started again");
    let used = world.admin.usage_of(&key.id, 1).await?;
    ensure!(used.requests == 1, "{used:?}");
    Ok(())
}

#[tokio::test]
async fn a_slow_client_holds_the_upstream_back_and_not_in_memory() -> Result<()> {
    slow_client_holds_back(None).await
}

async fn slow_client_holds_back(bug: Option<String>) -> Result<()> {
    /// What the upstream would send if nobody held it back, beyond what socket buffers on the way can take.
    const WORDS: u64 = 60_000;
    const WORD_BYTES: usize = 2048;
    const FLOOD: u64 = WORDS * WORD_BYTES as u64;
    let world = World::with_bug(bug.as_deref()).await?;
    let key = world.key(json!({})).await?;
    world.relay.chat(&key.secret, "warm up").await?.success()?;
    let before = world.node.resident_bytes()?;
    world.upstream.next(Behaviour { words: WORDS, word_bytes: WORD_BYTES, ..Behaviour::default() });
    let mut stream = world.relay.chat_stream(&key.secret, "flood").await?;
    let spoken = wait::until_still(|| world.upstream.spoken_bytes()).await;
    let grown = world.node.resident_bytes()?.saturating_sub(before);
    ensure!(spoken < FLOOD / 2, "the upstream spoke {spoken} bytes without a reader, the relay grew by {grown}");
    ensure!(grown < 16 * 1024 * 1024, "the relay grew by {grown} bytes without a reader");
    let mut received = 0;
    while let Some(piece) = stream.next().await? {
        received += piece.len() as u64;
    }
    ensure!(received > FLOOD, "only {received} bytes came in the end");
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_relay_without_back_pressure_is_noticed() -> Result<()> {
    tests::planted::turns_red("unbounded-stream", "without a reader", slow_client_holds_back).await
}

#[tokio::test]
async fn limits_hold() -> Result<()> {
    let world = World::start().await?;

    let key = world.key(json!({ "limits": { "requests_per_minute": 2 } })).await?;
    world.relay.chat(&key.secret, "one").await?.success()?;
    world.relay.chat(&key.secret, "two").await?.success()?;
    refused(&world.relay.chat(&key.secret, "three").await?, 429, "rate_limited")?;

    let key = world.key(json!({ "limits": { "concurrency": 1 } })).await?;
    world.upstream.next(Behaviour { hold_after: Some(2), ..Behaviour::default() });
    let mut held = world.relay.chat_stream(&key.secret, "held").await?;
    held.next().await?;
    refused(&world.relay.chat(&key.secret, "beside it").await?, 429, "concurrency_limited")?;
    drop(held);
    wait::until("the permit of the client that left", || async {
        Ok(world.relay.chat(&key.secret, "after it").await?.status.is_success().then_some(()))
    })
    .await?;

    let key = world.key(json!({ "models": ["gpt-*"] })).await?;
    world.relay.chat(&key.secret, "allowed").await?.success()?;
    refused(&world.relay.message(&key.secret, "not allowed").await?, 403, "model_not_allowed")?;

    let key = world.key(json!({ "endpoints": ["chat_completions"] })).await?;
    world.relay.chat(&key.secret, "allowed").await?.success()?;
    refused(&world.relay.message(&key.secret, "not allowed").await?, 403, "endpoint_not_allowed")
}

#[tokio::test]
async fn a_key_is_taken_from_any_header_and_two_are_refused() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let other = world.key(json!({})).await?;
    let bearer = format!("Bearer {}", key.secret);
    for (name, value) in
        [("authorization", bearer.as_str()), ("x-api-key", &key.secret), ("x-goog-api-key", &key.secret), ("api-key", &key.secret)]
    {
        world.relay.open(CHAT, &[(name, value)], chat("hello").to_string()).await?.whole().await?.success()?;
    }
    let two = [("authorization", bearer.as_str()), ("x-api-key", &other.secret)];
    refused(&world.relay.open(CHAT, &two, chat("hello").to_string()).await?.whole().await?, 401, "keys_conflict")?;
    refused(&world.relay.open(CHAT, &[], chat("hello").to_string()).await?.whole().await?, 401, "key_missing")?;
    let asked = world.relay.open(MESSAGES, &[("anthropic-version", "2023-06-01")], "{}").await?.whole().await?;
    refused(&asked, 401, "key_missing")?;
    ensure!(asked.json()?["type"] == "error", "not in the caller's dialect: {}", asked.text());
    Ok(())
}

#[tokio::test]
async fn models_are_listed_in_both_dialects() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    for fields in [vec![], vec![("anthropic-version", "2023-06-01")]] {
        let fields = [vec![("x-api-key", key.secret.as_str())], fields].concat();
        let list = world.relay.get("/v1/models", &fields).await?.success()?;
        ensure!(list["data"].is_array(), "{list}");
    }
    Ok(())
}
