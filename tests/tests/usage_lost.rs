//! Usage that the stream has lost: what is left is summed anew, and the node goes on.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{World, wait};

const FOUND: &str = "usage was lost";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_models_are_folded_again_after_a_loss() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    for _ in 0..3 {
        world.relay.chat(&key.secret, "hello").await?.success()?;
    }
    world.admin.usage_of(&key.id, 3).await?;

    let world = world.restarted(|data| Ok(std::fs::remove_dir_all(data.join("usage-log"))?)).await?;
    // What a node writes on one stream may be read later than what it wrote after that on the other.
    wait::until("word of the loss", || async { Ok(world.node.stderr().contains(FOUND).then_some(())) }).await?;
    world.relay.chat(&key.secret, "hello again").await?.success()?;
    // One, and not four, nor none because it stands at a place where another stood before.
    let used = world.admin.usage_of(&key.id, 1).await?;
    ensure!(used.requests == 1, "{used:?}");

    let world = world.restarted(|_| Ok(())).await?;
    ensure!(!world.node.stderr().contains(FOUND), "the loss is found twice");
    let used = world.admin.usage_of(&key.id, 1).await?;
    ensure!(used.requests == 1, "{used:?}");
    Ok(())
}
