//! Many keys that move: a node's read models are rebuilt, its keys exported, and taken in by an empty node that ends with the same state.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{Admin, Launch, Node};

use super::migration::{PATIENCE, Ran, Spent, run, show};
use super::report::row;
use super::stage::mib;

pub(crate) async fn measure(node: &Node, directory: &Path, keys: u64) -> Result<()> {
    let data = node.data().as_os_str();
    let before = node.admin()?.get("/log").await?.success()?;
    let Ran { answer, elapsed, .. } = run(&["log".as_ref(), "rebuild".as_ref(), "--data".as_ref(), data]).await?;
    ensure!(answer["root"] == before["root"], "{answer} is not {before}");
    show("rebuilt beside those in use; same root", keys, elapsed, Spent::of(node.pid())?, "<= 10 s")?;

    let passphrase = directory.join("passphrase");
    std::fs::write(&passphrase, "correct horse battery staple")?;
    let passphrase = ["--passphrase-file".as_ref(), passphrase.as_os_str()];
    let (here, there) = (directory.join("here.jsonl"), directory.join("there.jsonl"));
    let export = |data, file| {
        [&["export".as_ref(), "--types".as_ref(), "keys".as_ref(), "--data".as_ref(), data, "--output".as_ref(), file], &passphrase[..]]
            .concat()
    };
    let Ran { elapsed, spent, .. } = run(&export(data, here.as_os_str())).await?;
    let size = format!("{:.0} MiB", mib(std::fs::metadata(&here)?.len()));
    show("exported", keys, elapsed, spent, &size)?;
    show("the node, with this export", keys, elapsed, Spent::of(node.pid())?, "<= 512 MiB with 1 M")?;

    let mut launch = Launch::new(&directory.join("other")).with("KEYRELAY_LOG_LEVEL", "warn");
    launch.patience = PATIENCE;
    let other = launch.start().await?;
    let words =
        [&["import".as_ref(), here.as_os_str(), "--yes".as_ref(), "--data".as_ref(), other.data().as_os_str()], &passphrase[..]].concat();
    let Ran { elapsed, spent, .. } = run(&words).await?;
    show("imported into an empty node", keys, elapsed, spent, "")?;
    show("the empty node, with this import", keys, elapsed, Spent::of(other.pid())?, "<= 512 MiB with 1 M")?;
    run(&export(other.data().as_os_str(), there.as_os_str())).await?;
    let (ours, theirs) = (state(&here, &node.admin()?).await?, state(&there, &other.admin()?).await?);
    ensure!(ours == theirs, "the states differ: {ours:?}, {theirs:?}");
    row("state digest of both sides", "the same", &format!("{} lines", ours.0))?;
    // The import stands in a log of its own, so it is good after a restart too.
    other.admin()?.create_key(&json!({ "name": "after", "expires": "never" })).await?;
    other.stop().await?;
    Ok(())
}

/// How many lines a file has after its head, which tells when and where it was written, and their digest. The pool that every cluster has from
/// its founding on is an id of the cluster's own; it counts by its name.
async fn state(file: &Path, admin: &Admin) -> Result<(u64, blake3::Hash)> {
    let pool = admin.get("/pools/default").await?.success()?;
    let pool = pool["pool"]["id"].as_str().context("the id of the default pool")?.to_owned();
    let (mut lines, mut hasher) = (0, blake3::Hasher::new());
    for line in BufReader::new(File::open(file)?).lines().skip(1) {
        hasher.update(line?.replace(&pool, "default").as_bytes()).update(b"\n");
        lines += 1;
    }
    Ok((lines, hasher.finalize()))
}
