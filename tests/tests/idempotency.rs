//! `Idempotency-Key`: a request may be sent again, at once or after a restart, and happens once.

use anyhow::{Result, ensure};
use http::Method;
use serde_json::json;
use tests::World;
use tests::admin::IssuedKey;

#[tokio::test]
async fn a_repeated_request_happens_once_and_answers_the_same() -> Result<()> {
    repeated_request_happens_once(None).await
}

async fn repeated_request_happens_once(bug: Option<String>) -> Result<()> {
    let world = World::with_bug(bug.as_deref()).await?;
    let body = json!({ "name": "once", "expires_in": "30d" });

    let (one, two) =
        tokio::join!(world.admin.post_once("/keys", &body, "create-once"), world.admin.post_once("/keys", &body, "create-once"));
    let (one, two) = (one?.expect(201)?.json()?, two?.expect(201)?.json()?);
    let key = IssuedKey::parse(&one)?;
    ensure!(key == IssuedKey::parse(&two)?, "two answers to one request: {one} and {two}");
    world.relay.chat(&key.secret, "it works").await?.success()?;

    let path = format!("/keys/{}/rotate", key.id);
    let rotated = IssuedKey::parse(&world.admin.post_once(&path, &json!({ "overlap": "1h" }), "rotate-once").await?.success()?)?;

    let world = world.restarted(|_| Ok(())).await?;
    let again = IssuedKey::parse(&world.admin.post_once("/keys", &body, "create-once").await?.expect(201)?.json()?)?;
    ensure!((&again.id, &again.secret, again.sequence) == (&key.id, &key.secret, key.sequence), "after a restart: {again:?}");
    let rotated_again = IssuedKey::parse(&world.admin.post_once(&path, &json!({ "overlap": "1h" }), "rotate-once").await?.success()?)?;
    ensure!(rotated_again == rotated, "after a restart: {rotated_again:?}");
    world.relay.chat(&rotated.secret, "it works").await?.success()?;

    let other = json!({ "name": "another", "expires_in": "30d" });
    world.admin.post_once("/keys", &other, "create-once").await?.expect(422)?;

    let life = world.admin.event_types(&key.stream()).await?;
    ensure!(life == ["KeyCreated", "KeyRotated"], "the log says {life:?}");
    let created = world.admin.events().await?.iter().filter(|event| event["type"] == "KeyCreated").count();
    ensure!(created == 1, "one request made {created} keys");
    Ok(())
}

#[tokio::test]
async fn a_repeated_answer_is_that_of_its_record_whatever_came_after() -> Result<()> {
    let world = World::start().await?;
    let body = json!({ "name": "first", "expires_in": "30d" });
    let created = world.admin.post_once("/keys", &body, "create").await?.expect(201)?.json()?;
    let path = format!("/api/v1/keys/{}", IssuedKey::parse(&created)?.id);
    world.admin.call(Method::PATCH, &path, &[], &json!({ "name": "second" })).await?.success()?;
    let again = world.admin.post_once("/keys", &body, "create").await?.expect(201)?.json()?;
    ensure!(again == created, "first {created}, then {again}");
    Ok(())
}

#[tokio::test]
async fn a_retry_of_a_change_is_neither_refused_nor_made_twice() -> Result<()> {
    let world = World::start().await?;
    let (path, once) = ("/api/v1/upstreams/openai", [("if-match", "1"), ("idempotency-key", "change")]);
    let change = json!({ "credential": "sk-provider-another", "priority": 10 });
    let changed = world.admin.call(Method::PATCH, path, &once, &change).await?.success()?;
    ensure!(changed["upstream"]["version"] == 2, "a new credential is a new version: {changed}");
    let again = world.admin.call(Method::PATCH, path, &once, &change).await?.success()?;
    ensure!(again["sequence"] == changed["sequence"], "first {changed}, then {again}");
    let other = json!({ "credential": "sk-provider-a-third", "priority": 10 });
    world.admin.call(Method::PATCH, path, &once, &other).await?.expect(422)?;

    for (path, once) in [("/api/v1/upstreams/openai", "remove"), ("/api/v1/upstreams/openai", "remove")] {
        world.admin.call(Method::DELETE, path, &[("idempotency-key", once)], &json!(null)).await?.success()?;
    }
    let removed = world.admin.events().await?.iter().filter(|event| event["type"] == "UpstreamRemoved").count();
    ensure!(removed == 1, "one removal is {removed} events");
    Ok(())
}

#[tokio::test]
async fn a_malformed_query_is_a_problem_like_any_other() -> Result<()> {
    let world = World::start().await?;
    for query in ["/keys?limit=abc", "/keys?limit=0", "/keys?cursor=x", "/usage?group_by=colour", "/events?from=-1", "/events?what=1"] {
        let answer = world.admin.get(query).await?;
        answer.expect(400)?;
        ensure!(answer.header("content-type") == "application/problem+json", "{query}: {}", answer.text());
        ensure!(answer.json()?["code"] == "bad_request", "{query}: {}", answer.text());
    }
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn commands_that_forget_their_ids_are_noticed() -> Result<()> {
    tests::planted::turns_red("ignore-idempotency", "two answers to one request", repeated_request_happens_once).await
}
