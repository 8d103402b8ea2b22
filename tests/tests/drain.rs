//! A stop: streams may finish for a while, are then cut off, and nothing of what they used is lost.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::World;
use tests::upstream::Behaviour;

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_is_cut_off_and_metered() -> Result<()> {
    let world = World::with(|launch| launch.with("KEYRELAY_RELAY_DRAIN_TIMEOUT", "1s")).await?;
    let key = world.key(json!({})).await?;
    world.upstream.next(Behaviour { words: 1000, hold_after: Some(10), ..Behaviour::default() });
    let mut stream = world.relay.chat_stream(&key.secret, "go on and on").await?;
    ensure!(stream.next().await?.is_some(), "nothing came");

    // The node ends well although the client never leaves.
    let world = world.restarted(|_| Ok(())).await?;
    let used = world.admin.usage_of(&key.id, 1).await?;
    ensure!(used.output_tokens > 0 && used.output_tokens < 1000, "what was used before the stop is not metered: {used:?}");
    drop(stream);
    Ok(())
}

#[tokio::test]
async fn a_follower_of_the_log_does_not_hold_the_drain() -> Result<()> {
    let world = World::with(|launch| launch.with("KEYRELAY_RELAY_DRAIN_TIMEOUT", "1h")).await?;
    let token = format!("Bearer {}", world.node.owner_token()?);
    let url = format!("{}/api/v1/events?follow=true", world.node.admin()?.origin());
    let http = tests::http::Http::default();
    let mut events = http.open(http::Method::GET, &url, &[("authorization", &token)], "").await?;
    ensure!(events.next().await?.is_some(), "nothing came");
    world.node.stop().await?;
    Ok(())
}
