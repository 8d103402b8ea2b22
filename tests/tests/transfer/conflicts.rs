//! What is here already and differs: asked about, left, filled, or set; and taken away where that was asked for.

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::World;

use crate::node::{export, furnish, holdings, import};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_export_asks_skips_merges_and_rolls_back() -> Result<()> {
    let world = World::start().await?;
    let furnished = furnish(&world).await?;
    let (directory, admin) = (world.directory.path(), &world.admin);
    let before = holdings(admin).await?;
    let file = export(&world.node, directory, "before.jsonl")?;

    let change =
        |path: String, body: Value| async move { admin.call(Method::PATCH, &format!("/api/v1{path}"), &[], &body).await?.success() };
    change(format!("/keys/{}", furnished.plain.id), json!({ "name": "renamed", "description": null, "owner": null, "tags": [] })).await?;
    change("/upstreams/openai".to_owned(), json!({ "credential": "sk-another", "priority": 3 })).await?;
    admin.call(Method::DELETE, "/api/v1/upstreams/spare", &[], &json!({})).await?.success()?;
    admin.call(Method::DELETE, &format!("/api/v1/bindings/{}", furnished.binding), &[], &json!({})).await?.success()?;
    admin.post(&format!("/keys/{}/enable", furnished.disabled.id), &json!({})).await?.success()?;
    let later = world.key(json!({ "name": "later" })).await?;

    let head = admin.head().await?;
    let asked = import(&world.node, directory, &file, &[])?.expect(1)?;
    ensure!(asked.stderr.contains("import_conflicts") && asked.stderr.contains(&furnished.plain.id), "{}", asked.stderr);
    ensure!(asked.stderr.contains("it differs in description, name, owner, tags"), "the fields are not named: {}", asked.stderr);
    let dry = import(&world.node, directory, &file, &["--force", "--dry-run"])?.expect(0)?.json()?;
    ensure!(dry["result"]["changed"] == 3 && dry["result"]["created"] == 2, "{dry}");
    ensure!(admin.head().await? == head, "asking or a dry run wrote something");

    let merged = import(&world.node, directory, &file, &["--merge"])?.expect(0)?.json()?;
    let key = admin.key(&furnished.plain.id).await?;
    ensure!(key["name"] == "renamed" && key["description"] == "for the build" && key["owner"] == "ada", "{merged}\n{key}");
    ensure!(admin.key(&furnished.disabled.id).await?["state"] == "active", "a merge disabled a key");

    let skipped = import(&world.node, directory, &file, &["--skip-conflicts"])?.expect(0)?.json()?;
    ensure!(skipped["result"]["skipped"].as_u64() > Some(0) && skipped["result"]["changed"] == 0, "{skipped}");
    ensure!(admin.key(&furnished.plain.id).await?["name"] == "renamed", "a skipped key was changed");

    let forced = import(&world.node, directory, &file, &["--force"])?.expect(0)?.json()?;
    ensure!(forced["result"]["failed"] == 0 && forced["result"]["changed"].as_u64() >= Some(3), "{forced}");
    ensure!(admin.key(&later.id).await?["state"] == "active", "a later key was touched");
    world.relay.chat(&furnished.plain.secret, "rolled back").await?.expect(200)?;
    let seen = world.upstream.seen();
    ensure!(
        seen.last().is_some_and(|seen| seen.header("authorization").ends_with(tests::world::CREDENTIAL)),
        "the later credential is in use"
    );

    let pruned = import(&world.node, directory, &file, &["--force", "--prune"])?.expect(0)?.json()?;
    ensure!(pruned["result"]["pruned"] == 1 && pruned["result"]["changed"] == 0, "{pruned}");
    let refused = world.relay.chat(&later.secret, "pruned").await?;
    ensure!(!refused.status.is_success(), "a pruned key is accepted");
    // All is as it was, but for the key that is archived.
    let mut after = holdings(admin).await?;
    if let Some(keys) = after["default"]["keys"].as_array_mut() {
        keys.retain(|key| key["id"] != later.id.as_str());
    }
    ensure!(after == before, "before:\n{before:#}\nafter:\n{after:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_is_not_rolled_back() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let file = export(&world.node, world.directory.path(), "before.jsonl")?;
    world.admin.post(&format!("/keys/{}/revoke", key.id), &json!({})).await?.success()?;
    let forced = import(&world.node, world.directory.path(), &file, &["--force"])?.expect(1)?.json()?;
    ensure!(forced["result"]["refused"] == 1 && forced["items"][0]["id"] == key.id.as_str(), "{forced}");
    world.relay.chat(&key.secret, "revoked").await?.expect(401)?;
    Ok(())
}
