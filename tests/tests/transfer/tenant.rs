//! One tenant's data: exported alone, and taken into a tenant of the same or another name elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Node, World};

use crate::node::{BRAVO, empty_node, export, furnish, held, import, keyrelay, passphrase_file, path};

fn export_bravo(node: &Node, directory: &Path) -> Result<PathBuf> {
    let (file, passphrase) = (directory.join("bravo.jsonl"), passphrase_file(directory)?);
    keyrelay(node, &["export", "--tenant", BRAVO, "--output", path(&file)?, "--passphrase-file", path(&passphrase)?])?.expect(0)?;
    Ok(file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_file_holds_that_tenant_alone_and_arrives_as_it_was() -> Result<()> {
    let world = World::start().await?;
    furnish(&world).await?;
    let directory = world.directory.path();
    let file = export_bravo(&world.node, directory)?;
    let text = fs::read_to_string(&file)?;
    let lines = text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Value>>>()?;
    ensure!(lines[0]["tenant"] == BRAVO && lines[1..].iter().all(|line| line["tenant"] == BRAVO), "{text}");
    ensure!(lines[1..].iter().any(|line| line["name"] == "theirs"), "{text}");
    let table = keyrelay(&world.node, &["export", "--format", "csv", "--tenant", BRAVO])?.expect(0)?.stdout;
    ensure!(table.lines().count() == 2 && table.contains("theirs"), "{table}");
    let unknown = keyrelay(&world.node, &["export", "--sanitize", "--tenant", "nobody"])?.expect(1)?;
    ensure!(unknown.stderr.contains("tenant_not_found"), "{}", unknown.stderr);

    let other = empty_node(directory, "other").await?;
    let admin = other.admin()?;
    import(&other, directory, &file, &[])?.expect(0)?;
    let (was, is) = (held(&world.admin.of_tenant(BRAVO)).await?, held(&admin.of_tenant(BRAVO)).await?);
    ensure!(was == is, "exported:\n{was:#}\nimported:\n{is:#}");
    let tenant = admin.get(&format!("/tenants/{BRAVO}")).await?.success()?;
    ensure!(tenant["tenant"]["suspended"]["reason"] == "has not paid" && tenant["tenant"]["name"] == "Bravo", "{tenant}");
    ensure!(admin.keys().await? == json!([]), "something came into another tenant");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_data_goes_into_a_tenant_of_another_name_and_touches_no_other() -> Result<()> {
    let world = World::start().await?;
    furnish(&world).await?;
    let directory = world.directory.path();
    let moved = world.admin.of_tenant(BRAVO).create_key(&json!({ "name": "moved" })).await?;
    let file = export_bravo(&world.node, directory)?;

    let other = empty_node(directory, "other").await?;
    let admin = other.admin()?;
    // It has a pool of its own already, and a name that stays.
    admin.post("/tenants", &json!({ "id": "acme", "name": "Acme" })).await?.success()?;
    let bystander = admin.create_key(&json!({ "name": "bystander", "expires": "never" })).await?;
    let acme = admin.of_tenant("acme");
    import(&other, directory, &file, &["--tenant", "acme"])?.expect(0)?;
    let (was, is) = (held(&world.admin.of_tenant(BRAVO)).await?, held(&acme).await?);
    ensure!(was == is, "exported:\n{was:#}\nimported:\n{is:#}");
    let tenant = admin.get("/tenants/acme").await?.success()?;
    ensure!(tenant["tenant"]["name"] == "Acme" && tenant["tenant"]["suspended"].is_null(), "{tenant}");
    admin.get(&format!("/tenants/{BRAVO}")).await?.expect(404)?;
    other.relay().chat(&moved.secret, "under another name").await?.success()?;

    let head = admin.head().await?;
    import(&other, directory, &file, &["--tenant", "acme"])?.expect(0)?;
    ensure!(admin.head().await? == head, "a second import wrote something");
    let later = acme.create_key(&json!({ "name": "later", "expires": "never" })).await?;
    let pruned = import(&other, directory, &file, &["--tenant", "acme", "--force", "--prune"])?.expect(0)?.json()?;
    ensure!(pruned["result"]["pruned"] == 1 && acme.key(&later.id).await?["state"] == "archived", "{pruned}");
    ensure!(admin.key(&bystander.id).await?["state"] == "active", "another tenant's key was pruned");

    // What cannot be: many tenants into one, one into two, and a tenant beside itself.
    let head = admin.head().await?;
    let whole = export(&world.node, directory, "all.jsonl")?;
    let refused = import(&other, directory, &whole, &["--tenant", "acme"])?.expect(1)?;
    ensure!(refused.stderr.contains("other_tenant"), "{}", refused.stderr);
    admin.post("/tenants", &json!({ "id": "beta", "name": "Beta" })).await?.success()?;
    let refused = import(&other, directory, &file, &["--tenant", "beta"])?.expect(1)?;
    ensure!(refused.stderr.contains("id_taken") && refused.stderr.contains("secret_taken"), "{}", refused.stderr);
    ensure!(admin.of_tenant("beta").keys().await? == json!([]) && admin.head().await? == head + 2, "something was written");
    let refused = import(&world.node, directory, &file, &["--tenant", "charlie"])?.expect(1)?;
    ensure!(refused.stderr.contains("same_cluster"), "{}", refused.stderr);
    Ok(())
}
