//! Secrets that clients had before: accepted as they are, kept as a hash, and replaced by one of ours at a rotation; and what is told of who still
//! uses the secret before the current one.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::admin::IssuedKey;
use tests::{World, cli, wait};

const BROUGHT: &str = "cr_9f3c1a7e5b20d8644e1f7b9a0c2d6e8f9f3c1a7e5b20d8644e1f7b9a0c2d6e8f";

/// The files below a directory whose bytes hold a text.
fn holding(directory: &Path, text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, text)?);
        } else if std::fs::read(&path)?.windows(text.len()).any(|window| window == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_client_goes_on_with_the_secret_it_has() -> Result<()> {
    let world = World::start().await?;
    let body = json!({ "name": "moved", "expires": "never", "secret": BROUGHT });
    let made = world.admin.post_once("/keys", &body, "move").await?.success()?;
    ensure!(made["secret"].is_null() && made["key"]["secrets"][0]["brought"] == true, "{made}");
    let again = world.admin.post_once("/keys", &body, "move").await?.success()?;
    ensure!(again["key"]["id"] == made["key"]["id"], "a retry is the same key: {again}");
    let id = made["key"]["id"].as_str().context("an id")?.to_owned();

    world.relay.chat(BROUGHT, "as ever").await?.success()?;
    for field in ["x-api-key", "x-goog-api-key", "api-key"] {
        world
            .relay
            .open(tests::relay::CHAT, &[(field, BROUGHT)], tests::relay::chat("as ever").to_string())
            .await?
            .whole()
            .await?
            .success()?;
    }
    let other = BROUGHT.replace("9f3c", "9f3d");
    let refused = world.relay.chat(&other, "not quite").await?;
    refused.expect(401)?;
    ensure!(refused.header("x-keyrelay-reason") == "key_unknown", "{}", refused.text());

    let types = world.admin.event_types(&format!("default.key.{id}")).await?;
    ensure!(types == ["KeyCreated", "KeySecretBrought"], "{types:?}");
    let world = world
        .restarted(|data| {
            let found = holding(data, BROUGHT)?;
            ensure!(found.is_empty(), "the secret stands in {found:?}");
            Ok(std::fs::remove_dir_all(data.join("read-models"))?)
        })
        .await?;
    world.relay.chat(BROUGHT, "after a rebuild").await?.success()?;

    let rotated = world.admin.post(&format!("/keys/{id}/rotate"), &json!({ "overlap": "1h" })).await?.success()?;
    let issued = IssuedKey::parse(&rotated)?;
    ensure!(issued.secret.starts_with("sk-kr-") && rotated["key"]["secrets"][1]["brought"] == false, "{rotated}");
    world.relay.chat(BROUGHT, "in the overlap").await?.success()?;
    world.relay.chat(&issued.secret, "the new one").await?.success()?;
    world.admin.post(&format!("/keys/{id}/finish-rotation"), &json!({})).await?.success()?;
    world.relay.chat(BROUGHT, "over").await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn a_secret_must_fit_be_strong_or_allowed_and_be_nobody_elses() -> Result<()> {
    let world = World::start().await?;
    let create = |secret: String, allow_weak: bool| {
        let admin = world.admin.clone();
        let body = json!({ "name": "moved", "expires": "never", "secret": secret, "allow_weak": allow_weak });
        async move { admin.post("/keys", &body).await }
    };
    for secret in [
        "x".repeat(15),
        "x".repeat(513),
        " a space before it is not carried".to_owned(),
        "nor is one behind it, as in this ".to_owned(),
        format!("sk-kr-{}", "a".repeat(85)),
    ] {
        create(secret, true).await?.expect(400)?;
    }
    let weak = create("password12345678".into(), false).await?;
    weak.expect(400)?;
    ensure!(weak.json()?["code"] == "weak_secret", "{}", weak.text());
    create("password12345678".into(), true).await?.success()?;
    world.relay.chat("password12345678", "as the operator wished").await?.success()?;
    create("four words and 3 spaces".into(), true).await?.success()?;
    world.relay.chat("four words and 3 spaces", "a header carries spaces that are inside").await?.success()?;

    let first = create(BROUGHT.into(), false).await?.success()?;
    let taken = create(BROUGHT.into(), false).await?;
    taken.expect(409)?;
    ensure!(taken.json()?["code"] == "secret_taken" && !taken.text().contains(BROUGHT), "{}", taken.text());
    // A purged key leaves its secret to others.
    let id = first["key"]["id"].as_str().context("an id")?;
    world.admin.post(&format!("/keys/{id}/archive"), &json!({})).await?.success()?;
    world.admin.post(&format!("/keys/{id}/purge"), &json!({})).await?.success()?;
    create(BROUGHT.into(), false).await?.success()?;
    world.relay.chat(BROUGHT, "another key's now").await?.success()?;
    Ok(())
}

#[tokio::test]
async fn the_command_line_brings_a_secret_from_a_file() -> Result<()> {
    let world = World::start().await?;
    let file = world.directory.path().join("secret");
    std::fs::write(&file, format!("{BROUGHT}\n"))?;
    let mut command = cli::command("keyrelay")?;
    command.args(["keys", "create", "moved", "--never-expires", "--json", "--secret-file"]).arg(&file);
    command.arg("--data").arg(world.node.data());
    let run = cli::run(&mut command)?.expect(0)?;
    ensure!(!run.stdout.contains(BROUGHT) && run.json()?["secret"].is_null(), "{}", run.stdout);
    world.relay.chat(BROUGHT, "from a file").await?.success()?;
    Ok(())
}

#[tokio::test]
async fn whoever_still_shows_the_old_secret_is_told_and_counted() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let plain = world.relay.chat(&key.secret, "before").await?;
    ensure!(plain.header("x-keyrelay-key-rotated").is_empty(), "there was no rotation");
    let rotated = world.admin.post(&format!("/keys/{}/rotate", key.id), &json!({ "overlap": "1h" })).await?.success()?;
    let current = IssuedKey::parse(&rotated)?;
    let until = rotated["key"]["secrets"][0]["valid_until"].as_str().context("an end")?;
    for _ in 0..2 {
        let told = world.relay.chat(&key.secret, "the old one").await?;
        told.expect(200)?;
        ensure!(told.header("x-keyrelay-key-rotated") == format!("until={until}"), "{}", told.header("x-keyrelay-key-rotated"));
    }
    let plain = world.relay.chat(&current.secret, "the new one").await?;
    ensure!(plain.header("x-keyrelay-key-rotated").is_empty(), "the new secret was told too");
    let secrets = wait::until("four settled requests", || async {
        let secrets = world.admin.key(&key.id).await?["secrets"].clone();
        let count = |index: usize| secrets[index]["requests"].as_u64().unwrap_or_default();
        Ok((count(0) + count(1) == 4).then_some(secrets))
    })
    .await?;
    ensure!(secrets[0]["requests"] == 3 && secrets[1]["requests"] == 1, "{secrets}");
    ensure!(!secrets[0]["last_used_at"].is_null() && !secrets[1]["last_used_at"].is_null(), "{secrets}");
    let clients = &secrets[0]["clients"];
    ensure!(clients[0]["address"] == "loopback" && clients[0]["requests"] == 3 && clients[1].is_null(), "{clients}");
    Ok(())
}
