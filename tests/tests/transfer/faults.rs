//! A file that is not as it was written, or says what cannot be: nothing of it is applied, and it is told where.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Node, World};

use crate::node::{empty_node, export, furnish, import, keyrelay, passphrase_file, path};

/// A file with other lines, and a head whose digest fits them: worked out here, by the rule that the README gives.
fn rewritten(file: &Path, change: impl Fn(&mut Value)) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let (head, lines) = text.split_once('\n').context("a head")?;
    let mut body = String::new();
    for line in lines.lines() {
        let mut line: Value = serde_json::from_str(line)?;
        change(&mut line);
        body += &format!("{line}\n");
    }
    let (before, _) = head.rsplit_once("\"digest\":\"").context("a digest")?;
    let with = |digest: &str| format!("{before}\"digest\":\"{digest}\"}}");
    let mut hasher = blake3::Hasher::new_derive_key("keyrelay 2026 export file v1");
    hasher.update(blake3::hash(body.as_bytes()).as_bytes()).update(with(&"0".repeat(64)).as_bytes());
    Ok(format!("{}\n{body}", with(hasher.finalize().to_hex().as_str())))
}

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
