//! `Idempotency-Key`: a request may be sent again, at once or after a restart, and happens once.

use anyhow::{Result, ensure};
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

#[cfg(feature = "faults")]
#[tokio::test]
async fn commands_that_forget_their_ids_are_noticed() -> Result<()> {
    tests::planted::turns_red("ignore-idempotency", "two answers to one request", repeated_request_happens_once).await
}
