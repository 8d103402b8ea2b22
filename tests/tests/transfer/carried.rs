//! Everything arrives, and goes on working.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{World, wait};

use crate::node::{empty_node, export, furnish, holdings, import, keyrelay, path};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_and_a_clients_old_secret_streams() -> Result<()> {
    let world = World::start().await?;
    let furnished = furnish(&world).await?;
    let directory = world.directory.path();
    world.relay.chat(&furnished.plain.secret, "counted").await?.success()?;
    world.admin.usage_of(&furnished.plain.id, 1).await?;
    let file = export(&world.node, directory, "all.jsonl")?;
    let inspected = keyrelay(&world.node, &["export", "inspect", path(&file)?, "--json"])?.expect(0)?.json()?;
    ensure!(inspected["ok"] == true && inspected["head"]["sanitized"] == false, "{inspected}");
    let kinds: Vec<_> = inspected["head"]["kinds"].as_array().into_iter().flatten().map(|count| count["lines"].as_u64()).collect();
    ensure!(kinds == [2, 4, 1, 5, 7, 1, 2, 1].map(Some), "{inspected}");

    let other = empty_node(directory, "other").await?;
    let admin = other.admin()?;
    let dry = import(&other, directory, &file, &["--dry-run"])?.expect(0)?.json()?;
    let before = admin.head().await?;
    let done = import(&other, directory, &file, &[])?.expect(0)?.json()?;
    ensure!(done["result"]["failed"] == 0 && done["result"]["not_carried"] == 1, "{done}");
    ensure!(dry["result"]["created"] == done["result"]["created"], "{dry}\n{done}");
    let (ours, theirs) = (holdings(&world.admin).await?, holdings(&admin).await?);
    ensure!(ours == theirs, "exported:\n{ours:#}\nimported:\n{theirs:#}");

    let relay = other.relay();
    relay.chat_stream(&furnished.plain.secret, "streams on").await?.whole().await?.expect(200)?;
    relay.chat(&furnished.rotated.secret, "the older of two").await?.expect(200)?;
    relay.chat(&furnished.newer, "the newer of two").await?.expect(200)?;
    relay.chat(&furnished.disabled.secret, "disabled").await?.expect(403)?;
    let seen = world.upstream.seen();
    ensure!(seen.iter().rev().take(3).all(|seen| seen.header("authorization").ends_with(tests::world::CREDENTIAL)), "another credential");

    // One record for a key, whatever happened to it, by the import.
    let of_key = admin.events().await?;
    let of_key: Vec<_> = of_key.iter().filter(|event| event["stream"] == furnished.disabled.stream().as_str()).collect();
    ensure!(of_key.iter().all(|event| event["sequence"] == of_key[0]["sequence"]), "{of_key:?}");
    let types: Vec<_> = of_key.iter().map(|event| event["type"].as_str().unwrap_or_default()).collect();
    ensure!(types == ["KeyCreated", "KeyImported", "KeyDisabled"], "{types:?}");
    ensure!(of_key[0]["actor"].to_string().contains("import"), "{}", of_key[0]);

    let after = admin.head().await?;
    ensure!(after > before, "nothing was written");
    let again = import(&other, directory, &file, &[])?.expect(0)?.json()?;
    ensure!(again["result"]["unchanged"].as_u64() > Some(0) && again["result"]["created"] == 0, "{again}");
    ensure!(admin.head().await? == after, "a second import wrote something");

    // And from there on again, to the same.
    let file = export(&other, directory, "again.jsonl")?;
    let third = empty_node(directory, "third").await?;
    import(&third, directory, &file, &[])?.expect(0)?;
    ensure!(holdings(&third.admin()?).await? == ours, "the second journey lost something");
    third.relay().chat(&furnished.plain.secret, "two journeys").await?.expect(200)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_imported_survives_a_restart_and_a_rebuild_from_the_log() -> Result<()> {
    let world = World::start().await?;
    let furnished = furnish(&world).await?;
    let directory = world.directory.path();
    let file = export(&world.node, directory, "all.jsonl")?;
    let other = empty_node(directory, "other").await?;
    import(&other, directory, &file, &[])?.expect(0)?;
    let held = holdings(&other.admin()?).await?;
    let launch = other.stop().await?;
    std::fs::remove_dir_all(launch.data.join("read-models"))?;
    let other = launch.start().await?;
    let admin = other.admin()?;
    let rebuilt = wait::until("the rebuilt models", || async {
        let now = holdings(&admin).await;
        Ok(now.ok().filter(|now| *now == held))
    });
    rebuilt.await?;
    other.relay().chat(&furnished.plain.secret, "after the rebuild").await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn keys_are_a_table_without_secrets() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({ "name": "=cmd|' /C calc'!A0", "tags": ["a", "b"] })).await?;
    let table = keyrelay(&world.node, &["export", "--format", "csv"])?.expect(0)?.stdout;
    let rows: Vec<_> = table.lines().collect();
    ensure!(rows.len() == 2 && rows[0].starts_with("id,tenant,name,state"), "{table}");
    ensure!(rows[1].starts_with(&format!("{},default,\"'=cmd|", key.id)) && rows[1].contains(",active,"), "{table}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_an_empty_set_that_says_so() -> Result<()> {
    let world = World::start().await?;
    let (directory, node) = (world.directory.path(), &world.node);
    let file = directory.join("users.jsonl");
    let file = path(&file)?;
    keyrelay(node, &["export", "--types", "users", "--output", file])?.expect(0)?;
    let inspected = keyrelay(node, &["export", "inspect", file, "--json"])?.expect(0)?.json()?;
    ensure!(inspected["head"]["kinds"] == json!([{ "kind": "users", "lines": 0 }]), "{inspected}");
    let shown = keyrelay(node, &["export", "inspect", file])?.expect(0)?.stdout;
    ensure!(shown.contains("0 users") && shown.contains("users and sessions: there are none yet"), "{shown}");
    let head = world.admin.head().await?;
    keyrelay(node, &["import", file, "--yes"])?.expect(0)?;
    ensure!(world.admin.head().await? == head, "an empty set was imported as something");
    let unknown = keyrelay(node, &["export", "--types", "wishes"])?;
    ensure!(unknown.code == 1 && unknown.stderr.contains("wishes"), "{}", unknown.stderr);
    Ok(())
}
