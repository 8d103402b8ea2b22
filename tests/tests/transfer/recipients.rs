//! Files that are sealed to recipients of age, and what is said where something else than their identity is given.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::World;

use crate::node::{empty_node, export, furnish, holdings, keyrelay, passphrase_file, path};

/// Made by rage; nothing else is theirs.
const ADA: (&str, &str) = (
    "AGE-SECRET-KEY-1YWEX5H9GR4S3FS0RGKVG7D8556JGD6CJ8HX58986FCCGHEJVY2XSLWUAVT",
    "age1w9k3rmc02y02v5559rvljzuqpxcwsfcmyph7028m3ummf9avt5lsgq49sx",
);
const BOB: (&str, &str) = (
    "AGE-SECRET-KEY-19VTCJFHKAXR83JKT75TM52GJ9TQJR5GAGLUT2C4RZX59A7JNECASWDTEVC",
    "age13pyj847wy98cququvcj44ql45um0xzvwdzrerkagp9s5jw4ej3hs5fgvhl",
);

/// As `age-keygen` writes it.
fn identity_file(directory: &Path, name: &str, identity: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, format!("# created: 2026-11-01T09:00:00Z\n# public key: age1…\n{identity}\n"))?;
    Ok(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_to_recipients_arrives_with_either_identity_and_with_no_other() -> Result<()> {
    let world = World::start().await?;
    let furnished = furnish(&world).await?;
    let directory = world.directory.path();
    let file = directory.join("sealed.jsonl");
    let words = ["export", "--output", path(&file)?, "--recipient", ADA.1, "--recipient", BOB.1];
    keyrelay(&world.node, &words)?.expect(0)?;
    let text = std::fs::read_to_string(&file)?;
    ensure!(!text.contains(tests::world::CREDENTIAL) && !text.contains("for the build"), "a secret or a personal text is plain");
    let inspected = keyrelay(&world.node, &["export", "inspect", path(&file)?])?.expect(0)?.stdout;
    ensure!(inspected.contains(&format!("sealed to {}, {}", ADA.1, BOB.1)), "{inspected}");
    let head = keyrelay(&world.node, &["export", "inspect", path(&file)?, "--json"])?.expect(0)?.json()?;
    ensure!(head["head"]["sealing"]["scheme"] == "age-x25519-xchacha20poly1305", "{head}");

    let ours = holdings(&world.admin).await?;
    for (name, identity) in [("ada", ADA.0), ("bob", BOB.0)] {
        let other = empty_node(directory, name).await?;
        let identity = identity_file(directory, &format!("{name}.key"), identity)?;
        keyrelay(&other, &["import", path(&file)?, "--yes", "--identity", path(&identity)?])?.expect(0)?;
        let theirs = holdings(&other.admin()?).await?;
        ensure!(ours == theirs, "exported:\n{ours:#}\nimported by {name}:\n{theirs:#}");
        other.relay().chat(&furnished.plain.secret, "goes on").await?.expect(200)?;
        let seen = world.upstream.seen();
        ensure!(seen.last().is_some_and(|seen| seen.header("authorization").ends_with(tests::world::CREDENTIAL)), "another credential");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_opens_a_file_is_told_where_something_else_was_given() -> Result<()> {
    let world = World::start().await?;
    world.key(json!({ "description": "for the build" })).await?;
    let (directory, node) = (world.directory.path(), &world.node);
    let (to_ada, under_passphrase) = (directory.join("ada.jsonl"), export(node, directory, "passphrase.jsonl")?);
    keyrelay(node, &["export", "--output", path(&to_ada)?, "--recipient", ADA.1])?.expect(0)?;
    let (ada, bob) = (identity_file(directory, "ada.key", ADA.0)?, identity_file(directory, "bob.key", BOB.0)?);
    let (mistyped, public) = (identity_file(directory, "mistyped", &ADA.0[..60])?, identity_file(directory, "public", ADA.1)?);
    let passphrase = passphrase_file(directory)?;

    let (to_ada, under_passphrase) = (path(&to_ada)?, path(&under_passphrase)?);
    let cases: [(&str, &str, &[&str]); 7] = [
        ("wrong_identity", to_ada, &["--identity", path(&bob)?]),
        ("identity_needed", to_ada, &[]),
        ("sealed_to_recipients", to_ada, &["--passphrase-file", path(&passphrase)?]),
        ("sealed_under_passphrase", under_passphrase, &["--identity", path(&ada)?]),
        ("passphrase_needed", under_passphrase, &[]),
        ("bad_identity", to_ada, &["--identity", path(&mistyped)?]),
        ("bad_identity", to_ada, &["--identity", path(&public)?]),
    ];
    let head = world.admin.head().await?;
    for (code, file, words) in cases {
        let run = keyrelay(node, &[&["import", file, "--yes"], words].concat())?.expect(1)?;
        ensure!(run.stderr.contains(code), "not {code}: {}", run.stderr);
        ensure!(!run.stderr.contains("SECRET-KEY-1Y"), "an identity is shown: {}", run.stderr);
    }
    ensure!(world.admin.head().await? == head, "something was written");
    // Both may be given: the file says which of them it is for.
    let both = ["import", to_ada, "--yes", "--identity", path(&ada)?, "--passphrase-file", path(&passphrase)?];
    keyrelay(node, &both)?.expect(0)?;

    for recipient in [ADA.0, "age1abc", "ssh-ed25519 AAAA"] {
        let run = keyrelay(node, &["export", "--recipient", recipient])?.expect(1)?;
        ensure!(run.stderr.contains("bad_recipient") && run.stdout.is_empty(), "{}", run.stderr);
    }
    // The node looks for itself too.
    for recipient in [ADA.0, "age1abc"] {
        let refused = world.admin.get(&format!("/export?recipients={recipient}")).await?.expect(400)?.json()?;
        ensure!(refused["code"] == "bad_recipient", "{refused}");
    }
    let twice = world.admin.get(&format!("/export?sanitize=true&recipients={}", ADA.1)).await?;
    twice.expect(400)?;
    ensure!(twice.json()?["code"] == "bad_sealing", "{}", twice.text());
    Ok(())
}
