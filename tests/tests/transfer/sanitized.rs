//! A sanitised file tells no secret and nothing personal, and makes nothing that works by itself.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::World;
use tests::canary::Canary;

use crate::node::{empty_node, keyrelay, path};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_canaries_are_in_no_spelling_of_a_sanitised_file() -> Result<()> {
    let world = World::start().await?;
    let (admin, directory) = (&world.admin, world.directory.path());
    let mut canaries = vec![Canary::new("provider credential", tests::world::CREDENTIAL.as_bytes())];
    for number in 0..12 {
        let text = |what: &str| format!("canary-{what}-{number}-Zq7vX2mL9tRw4KdB8sYh");
        let (credential, description, reason, disabled) = (text("credential"), text("description"), text("reason"), text("disabled"));
        let owner = text("owner");
        let upstream = json!({
            "name": format!("u{number}"), "dialect": "openai", "base_url": world.upstream.openai_url(), "credential": credential,
        });
        admin.add_upstream_with(&upstream).await?;
        admin.post(&format!("/upstreams/u{number}/disable"), &json!({ "reason": disabled })).await?.success()?;
        let key = world.key(json!({ "name": format!("k{number}"), "description": description, "owner": owner })).await?;
        admin.post(&format!("/keys/{}/disable", key.id), &json!({ "reason": reason })).await?.success()?;
        let secret = key.secret.rsplit('-').next().context("a secret")?.to_owned();
        let hash = schemas::client_key::hash(&key.secret);
        canaries.extend(
            [
                ("credential", &credential),
                ("description", &description),
                ("reason", &reason),
                ("disabled", &disabled),
                ("owner", &owner),
                ("secret", &secret),
            ]
            .map(|(name, text)| Canary::new(name, text.as_bytes())),
        );
        canaries.push(Canary::new("hash", hash.as_bytes()));
    }
    ensure!(canaries.len() >= 50, "{}", canaries.len());
    let file = directory.join("clean.jsonl");
    keyrelay(&world.node, &["export", "--sanitize", "--output", path(&file)?])?.expect(0)?;
    let bytes = fs::read(&file)?;
    for canary in &canaries {
        ensure!(canary.found_in(&bytes).is_none(), "a {} is in the file, {}", canary.name, canary.found_in(&bytes).unwrap_or_default());
    }
    // The search finds what is there: under a passphrase hashes and owners go along, and nothing else of these.
    let full = crate::node::export(&world.node, directory, "full.jsonl")?;
    let full = fs::read(full)?;
    for canary in &canaries {
        ensure!(canary.found_in(&full).is_some() == matches!(canary.name, "hash" | "owner"), "a {} in the full file", canary.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sanitised_file_makes_keys_and_upstreams_that_are_disabled() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({ "name": "ci", "tags": ["a"], "description": "personal", "owner": "ada" })).await?;
    let directory = world.directory.path();
    let file = directory.join("clean.jsonl");
    keyrelay(&world.node, &["export", "--sanitize", "--output", path(&file)?])?.expect(0)?;
    let again = keyrelay(&world.node, &["import", path(&file)?, "--yes"])?.expect(1)?;
    ensure!(again.stderr.contains("sanitized_refused"), "{}", again.stderr);
    // What the file leaves out stays as it is where it came from.
    let head = world.admin.head().await?;
    keyrelay(&world.node, &["import", path(&file)?, "--force", "--yes"])?.expect(0)?;
    let kept = world.admin.key(&key.id).await?;
    ensure!(kept["description"] == "personal" && kept["owner"] == "ada" && world.admin.head().await? == head, "{kept}");

    let other = empty_node(directory, "other").await?;
    let admin = other.admin()?;
    keyrelay(&other, &["import", path(&file)?, "--yes"])?.expect(0)?;
    let made = admin.key(&key.id).await?;
    ensure!(
        made["state"] == "disabled" && made["tags"] == json!(["a"]) && made["description"].is_null() && made["owner"].is_null(),
        "{made}"
    );
    let upstreams = admin.get("/upstreams").await?.success()?;
    let upstreams = upstreams["upstreams"].as_array().context("upstreams")?;
    ensure!(upstreams.len() == 2 && upstreams.iter().all(|one| one["credential"].is_null() && !one["disabled"].is_null()), "{upstreams:?}");
    other.relay().chat(&key.secret, "withheld").await?.expect(401)?;
    // It is taken once more where nothing else is; and a rotation makes the key of use.
    keyrelay(&other, &["import", path(&file)?, "--yes"])?.expect(0)?;
    let rotated = admin.post(&format!("/keys/{}/rotate", key.id), &json!({ "overlap": "0s" })).await?.success()?;
    ensure!(rotated["secret"].as_str().is_some_and(|secret| secret != key.secret), "no new secret");
    let late = keyrelay(&other, &["import", path(&file)?, "--yes"])?.expect(1)?;
    ensure!(late.stderr.contains("sanitized_refused"), "{}", late.stderr);
    Ok(())
}
