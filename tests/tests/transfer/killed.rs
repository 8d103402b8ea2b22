//! A node that is killed in the middle of an import: imported again, the file comes to what one clean run makes of it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::http::Http;
use tests::node::Launch;
use tests::{World, wait};

use crate::node::{PASSPHRASE, empty_node, export, furnish, holdings, import};

/// Keys of the file beside those of every kind: enough that a kill falls between them.
const KEYS: usize = 150;

/// Sends the file until so many items were told, and kills the node then.
async fn import_until_killed(launch: Launch, file: &Path, items: u64) -> Result<Launch> {
    let node = launch.start().await?;
    let authorization = format!("Bearer {}", node.owner_token()?);
    let fields = [("authorization", authorization.as_str()), ("keyrelay-passphrase", PASSPHRASE)];
    let url = format!("{}/api/v1/import", node.admin_origin);
    let mut answer = Http::default().open(http::Method::POST, &url, &fields, std::fs::read(file)?).await?;
    if !answer.status.is_success() {
        anyhow::bail!("{}", answer.whole().await?.text());
    }
    let mut told = 0;
    while told < items {
        let Some(piece) = answer.next().await? else { break };
        told += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    node.kill()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_goes_on_to_the_same_end() -> Result<()> {
    let rounds = if std::env::var_os("KEYRELAY_TESTS_FULL").is_some() { 100 } else { 20 };
    let world = World::start().await?;
    let furnished = furnish(&world).await?;
    for number in 0..KEYS {
        world.key(json!({ "name": format!("key {number}"), "description": "many" })).await?;
    }
    let directory = world.directory.path();
    let file = export(&world.node, directory, "all.jsonl")?;
    let expected = {
        let clean = empty_node(directory, "clean").await?;
        import(&clean, directory, &file, &[])?.expect(0)?;
        holdings(&clean.admin()?).await?
    };
    ensure!(expected == holdings(&world.admin).await?, "a clean run");
    let mut random: u64 = 0x6b65_7972_656c_6179;
    for round in 0..rounds {
        let data = directory.join(format!("round-{round}"));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = (random >> 33) % (KEYS as u64 + 20);
        let told = || format!("round {round}, killed after {moment} lines of the answer");
        let launch = import_until_killed(Launch::new(&data), &file, moment).await.with_context(told)?;
        let node = launch.start().await.with_context(told)?;
        let run = import(&node, directory, &file, &[])?.expect(0).with_context(told)?.json()?;
        ensure!(run["result"]["event"] == "done", "{}: {run}", told());
        let admin = node.admin()?;
        let held = holdings(&admin).await?;
        ensure!(held == expected, "{}: {held:#}", told());
        // Nothing was made twice: every key has one record.
        let events = admin.events().await?;
        let created = events.iter().filter(|event| event["type"] == "KeyCreated").count();
        ensure!(created == KEYS + 7, "{}: {created} keys were made", told());
        let credentials = |types: &[Value]| types.iter().filter(|event| event["type"] == "CredentialAdded").count();
        ensure!(credentials(&events) == 4, "{}: {} credentials", told(), credentials(&events));
        wait::for_future("a chat", node.relay().chat(&furnished.plain.secret, "hello")).await??.expect(200)?;
        node.kill()?;
        std::fs::remove_dir_all(&data)?;
    }
    Ok(())
}
