//! A file that is not as it was written, or says what cannot be: nothing of it is applied, and it is told where.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use tests::{Node, World};

use crate::node::{PASSPHRASE, empty_node, export, furnish, import, keyrelay, passphrase_file, path, rewritten};

/// The import is refused with this code and says this, and nothing was written.
async fn refused(node: &Node, directory: &Path, text: &[u8], says: &[&str]) -> Result<()> {
    let (file, admin) = (directory.join("wrong.jsonl"), node.admin()?);
    fs::write(&file, text)?;
    let before = admin.head().await?;
    let run = import(node, directory, &file, &[])?.expect(1)?;
    for word in says {
        ensure!(run.stderr.contains(word), "{word:?} is not in: {}", run.stderr);
    }
    ensure!(admin.head().await? == before, "something was written");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_wrong_anywhere_is_not_applied_at_all() -> Result<()> {
    let world = World::start().await?;
    furnish(&world).await?;
    let directory = world.directory.path();
    let file = export(&world.node, directory, "all.jsonl")?;
    let other = empty_node(directory, "other").await?;
    let bytes = fs::read(&file)?;
    let head_end = bytes.iter().position(|byte| *byte == b'\n').context("a head")?;

    // One bit anywhere: in the head, in each quarter of the body, in the last byte.
    for at in [20, head_end / 2, head_end - 3, head_end + 40, bytes.len() / 4, bytes.len() / 2, bytes.len() - 2] {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        refused(&other, directory, &wrong, &["bad_"]).await.with_context(|| format!("byte {at}"))?;
        let inspected = keyrelay(&other, &["export", "inspect", path(&directory.join("wrong.jsonl"))?])?;
        ensure!(inspected.code == 1 && inspected.stdout.contains("NOT GOOD"), "byte {at}: {}", inspected.stdout);
    }
    refused(&other, directory, &bytes[..bytes.len() - 200], &["bad_digest"]).await?;
    refused(&other, directory, b"hello", &["bad_head"]).await?;

    let key_line = |line: &Value| line["type"] == "key" && line["name"] == "rotated";
    let with = |member: &'static str, value: Value| {
        rewritten(&file, move |line| {
            if key_line(line) {
                line[member] = value.clone();
            }
        })
    };
    let number = fs::read_to_string(&file)?.lines().position(|line| line.contains("\"name\":\"rotated\"")).context("the key")? + 1;
    let line = format!("line {number}:");
    refused(&other, directory, with("colour", json!("blue"))?.as_bytes(), &["import_invalid", &line, "colour"]).await?;
    refused(&other, directory, with("pools", json!([]))?.as_bytes(), &["import_invalid", &line, "at least one pool"]).await?;
    refused(&other, directory, with("pools", json!(["pool_aaaaaaaaaaaaaaaaaaaaaaaaaa"]))?.as_bytes(), &[&line, "no_pool"]).await?;
    refused(&other, directory, with("name", json!(" x"))?.as_bytes(), &[&line, "white space"]).await?;
    refused(&other, directory, with("tenant", json!("nobody"))?.as_bytes(), &[&line]).await?;
    // No two keys have one secret, in the file or here.
    let body = fs::read_to_string(&file)?;
    let taken = body.lines().find(|line| line.contains("\"name\":\"disabled\"")).context("another key")?;
    let taken: Value = serde_json::from_str(taken)?;
    refused(&other, directory, with("secrets", taken["secrets"].clone())?.as_bytes(), &["secret_taken", "another key has this secret"])
        .await?;
    let made = |line: &mut Value| {
        if key_line(line) {
            line["id"] = json!("key_aaaaaaaaaaaaaaaaaaaaaaaaaa");
        }
    };
    refused(&world.node, directory, rewritten(&file, made)?.as_bytes(), &["import_invalid", &line, "secret_taken"]).await?;
    refused(&other, directory, with("secrets", json!([]))?.as_bytes(), &[&line, "bad_import"]).await?;
    let moved = rewritten(&file, |line| {
        // A sealed text in another object's place does not open.
        if line["type"] == "upstream" && line["name"] == "openai" {
            line["credential"] = json!({ "sealed": "AAAA" });
        }
    })?;
    refused(&other, directory, moved.as_bytes(), &["bad_seal"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_passphrase_and_none_are_told_before_anything_else() -> Result<()> {
    let world = World::start().await?;
    let directory = world.directory.path();
    let none = keyrelay(&world.node, &["export"])?.expect(1)?;
    ensure!(none.stderr.contains("passphrase_needed") && none.stdout.is_empty(), "{}", none.stderr);
    let file = export(&world.node, directory, "all.jsonl")?;
    let other = empty_node(directory, "other").await?;
    let before = other.admin()?.head().await?;
    let wrong = directory.join("wrong");
    fs::write(&wrong, "another passphrase")?;
    let run = keyrelay(&other, &["import", path(&file)?, "--yes", "--passphrase-file", path(&wrong)?])?.expect(1)?;
    ensure!(run.stderr.contains("wrong_passphrase"), "{}", run.stderr);
    let run = keyrelay(&other, &["import", path(&file)?, "--yes"])?.expect(1)?;
    ensure!(run.stderr.contains("passphrase_needed"), "{}", run.stderr);
    ensure!(other.admin()?.head().await? == before, "something was written");
    // Without a terminal nothing is applied that nobody said yes to.
    let passphrase = passphrase_file(directory)?;
    let run = keyrelay(&other, &["import", path(&file)?, "--passphrase-file", path(&passphrase)?])?.expect(2)?;
    ensure!(run.stderr.contains("--yes"), "{}", run.stderr);
    ensure!(other.admin()?.head().await? == before, "something was written");
    Ok(())
}

/// A text under the file's passphrase, in the place of a key's description.
fn sealed(file: &Path, key: &str, text: &str) -> Result<Value> {
    let head = fs::read_to_string(file)?;
    let head: Value = serde_json::from_str(head.lines().next().context("a head")?)?;
    let terms = &head["sealing"];
    let salt = terms["salt"].as_str().context("a salt")?;
    let bytes = (0..16).map(|index| Ok(u8::from_str_radix(&salt[2 * index..2 * index + 2], 16)?)).collect::<Result<Vec<u8>>>()?;
    let number = |name: &str| terms[name].as_u64().and_then(|number| u32::try_from(number).ok()).with_context(|| name.to_owned());
    let salt = bytes.try_into().map_err(|_| anyhow::anyhow!("a salt of another length"))?;
    let stretching = vault::Stretching { salt, memory_kib: number("memory_kib")?, passes: number("passes")? };
    let sealed = stretching.key(PASSPHRASE)?.seal(&format!("key/{key}/description"), text.as_bytes())?;
    Ok(json!({ "sealed": base64::engine::general_purpose::STANDARD.encode(sealed) }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_may_be_as_long_as_the_api_takes_it_and_no_longer() -> Result<()> {
    let world = World::start().await?;
    let directory = world.directory.path();
    // Characters of four bytes each.
    let longest = "\u{1d11e}".repeat(1000);
    let key = world.key(json!({ "description": longest })).await?;
    world.admin.post("/keys", &json!({ "name": "x", "expires": "never", "description": format!("{longest}x") })).await?.expect(400)?;
    let file = export(&world.node, directory, "all.jsonl")?;
    let other = empty_node(directory, "other").await?;
    let too_long = sealed(&file, &key.id, &"x".repeat(1001))?;
    let changed = rewritten(&file, |line| {
        if line["type"] == "key" {
            line["description"] = too_long.clone();
        }
    })?;
    refused(&other, directory, changed.as_bytes(), &["import_invalid", "at most 1000 characters"]).await?;
    import(&other, directory, &file, &[])?.expect(0)?;
    ensure!(other.admin()?.key(&key.id).await?["description"] == longest.as_str(), "the text is another one");
    Ok(())
}
