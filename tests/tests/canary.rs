//! Canaries: secrets are found nowhere but in the two files that are there to hold them, in no spelling.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::json;
use tests::canary::Canary;
use tests::relay::{CHAT, chat};
use tests::world::CREDENTIAL;
use tests::{Behaviour, World};

/// The secret part of a client key, which stands in nothing else.
fn secret_part(key: &str) -> Result<Canary> {
    Ok(Canary::new("client key", key.rsplit('-').next().filter(|part| part.len() > 20).context("a client key")?.as_bytes()))
}

fn search(place: &str, bytes: &[u8], canaries: &[Canary]) -> Result<()> {
    for canary in canaries {
        ensure!(canary.found_in(bytes).is_none(), "the {} is in {place}, {}", canary.name, canary.found_in(bytes).unwrap_or_default());
    }
    Ok(())
}

/// Searches all files of a data directory; gives their number.
fn search_files(folder: &Path, data: &Path, canaries: &[Canary]) -> Result<usize> {
    let mut searched = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            searched += search_files(&path, data, canaries)?;
            continue;
        }
        // The two files that are there to hold one secret each.
        let held = [("root.key", "root key"), ("owner.token", "owner token")].into_iter().find(|(file, _)| path == data.join(file));
        let name = path.display().to_string();
        let bytes = fs::read(&path)?;
        for canary in canaries.iter().filter(|canary| held.is_none_or(|(_, holds)| !canary.name.starts_with(holds))) {
            ensure!(canary.found_in(&bytes).is_none(), "the {} is in {name}, {}", canary.name, canary.found_in(&bytes).unwrap_or_default());
        }
        searched += 1;
    }
    Ok(searched)
}

async fn secrets_stay_secret(bug: Option<String>) -> Result<()> {
    let world = World::with(|launch| launch.with_bug(bug.as_deref()).with("KEYRELAY_LOG_LEVEL", "trace")).await?;
    let mut said = Vec::new();
    let created = world.admin.post_once("/keys", &json!({ "name": "canary", "expires": "never" }), "canary-1").await?.success()?;
    let first = tests::admin::IssuedKey::parse(&created)?;
    let rotated = world.admin.post_once(&format!("/keys/{}/rotate", first.id), &json!({ "overlap": "1h" }), "canary-2").await?.success()?;
    let second = rotated["secret"].as_str().context("a secret")?;

    // Uses of every kind, good and bad.
    world.relay.chat(&first.secret, "plain").await?.success()?;
    world.relay.chat_stream(second, "streamed").await?.whole().await?;
    world.relay.message(second, "anthropic").await?.success()?;
    for status in [400, 401, 403, 429, 500] {
        world.upstream.next(Behaviour::error(status));
        said.push(world.relay.chat(second, "fails").await?.text());
    }
    let bearer = format!("Bearer {second}");
    said.push(world.relay.chat_body(second, "not json").await?.text());
    said.push(world.relay.open("/v1/no/such/path", &[("authorization", &bearer)], "{}").await?.whole().await?.text());
    said.push(world.relay.open(CHAT, &[("authorization", &bearer), ("x-api-key", &first.secret)], "{}").await?.whole().await?.text());
    let in_query = format!("{CHAT}?key={second}");
    said.push(world.relay.open(&in_query, &[], chat("in the query").to_string()).await?.whole().await?.text());
    said.push(world.relay.chat(&format!("{second}x"), "malformed").await?.text());
    world.admin.post(&format!("/keys/{}/revoke", first.id), &json!({ "reason": "canary" })).await?.success()?;
    said.push(world.relay.chat(second, "revoked").await?.text());
    let bad = json!({ "name": "", "dialect": "openai", "base_url": "nonsense", "credential": CREDENTIAL });
    said.push(world.admin.post("/upstreams", &bad).await?.text());
    let unreachable =
        json!({ "name": "gone", "dialect": "openai", "base_url": "http://127.0.0.1:9/v1", "credential": CREDENTIAL, "priority": 1 });
    said.push(world.admin.add_upstream_with(&unreachable).await?.to_string());
    let third = world.key(json!({})).await?;
    said.push(world.relay.chat(&third.secret, "after a failed connection").await?.text());

    let root = fs::read_to_string(world.node.data().join("root.key"))?;
    let root = root.trim().strip_prefix("kr-root-1:").context("a root key")?;
    let root_bytes = STANDARD_NO_PAD.decode(root.trim_end_matches('='))?;
    let canaries = [
        Canary::new("provider credential", CREDENTIAL.as_bytes()),
        secret_part(&first.secret)?,
        secret_part(second)?,
        secret_part(&third.secret)?,
        Canary::new("root key as text", root.trim_end_matches('=').as_bytes()),
        Canary::new("root key", &root_bytes),
        Canary::new("owner token", world.node.owner_token()?.as_bytes()),
    ];
    search("the events", serde_json::to_string(&world.admin.events().await?)?.as_bytes(), &canaries)?;
    search("the metrics", world.admin.metrics().await?.as_bytes(), &canaries)?;
    for list in ["keys", "upstreams", "pools", "log", "usage?group_by=key"] {
        search(list, &world.admin.get(&format!("/{list}")).await?.body, &canaries)?;
    }
    for text in &said {
        search("an answer", text.as_bytes(), &canaries)?;
    }
    let backup = world.directory.path().join("backup");
    let words = ["backup".as_ref(), "--data".as_ref(), world.node.data().as_os_str(), "--output".as_ref(), backup.as_os_str()];
    tokio::task::block_in_place(|| tests::cli::keyrelay(words))?.expect(0)?;
    search("a backup", &fs::read(&backup)?, &canaries)?;
    let stderr = world.node.stderr();
    ensure!(stderr.contains("TRACE") || stderr.contains("DEBUG"), "the node did not log at trace level");
    search("stderr", stderr.as_bytes(), &canaries)?;
    let data = world.node.stop().await?.data;
    let searched = search_files(&data, &data, &canaries)?;
    ensure!(searched > 10, "only {searched} files were searched");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_found_in_no_spelling() -> Result<()> {
    secrets_stay_secret(None).await
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_in_a_log_line_is_noticed() -> Result<()> {
    tests::planted::turns_red("leak-credential-in-log", "the provider credential is in stderr", secrets_stay_secret).await
}

#[test]
fn every_spelling_is_recognised() {
    let secret = b"correct horse battery staple";
    let canary = Canary::new("test", secret);
    for shift in 0..7 {
        let around = [&b"0123456"[..shift], secret, b"behind"].concat();
        for text in [STANDARD_NO_PAD.encode(&around), URL_SAFE_NO_PAD.encode(&around)] {
            assert!(canary.found_in(text.as_bytes()).is_some(), "{text}");
        }
    }
    assert_eq!(canary.found_in(format!("{secret:?}").as_bytes()), Some("numbers"));
    assert_eq!(canary.found_in(b"correct horse battery stapl"), None);
}
