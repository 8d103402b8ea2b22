//! An export is verified offline by the same binary; a change in any of its files is found, and its sequence named.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::cli::Run;
use tests::{World, cli};

/// Text that stands in one record's payload and nowhere else.
const MARK: &str = "marked-name-of-a-key";

fn verify(export: &Path, bug: Option<&str>) -> Result<Run> {
    let mut command = cli::command("keyrelay")?;
    command.envs(tests::planted::environment(bug));
    cli::run(command.args([OsStr::new("audit"), OsStr::new("verify"), export.as_os_str(), OsStr::new("--json")]))
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Verifies with one byte of a file changed, which must be found; the file is whole again after.
fn with_changed_byte(export: &Path, file: &Path, place: usize, bug: Option<&str>) -> Result<Value> {
    let whole = fs::read(file)?;
    let mut changed = whole.clone();
    changed[place] ^= 1;
    fs::write(file, &changed)?;
    let run = verify(export, bug)?;
    fs::write(file, &whole)?;
    ensure!(run.code == 1, "a changed byte at {place} of {} was not found: exit code {}\n{}", file.display(), run.code, run.stderr);
    let report = run.json()?;
    ensure!(report["ok"] == false, "{report}");
    Ok(report)
}

async fn changes_are_found(bug: Option<String>) -> Result<()> {
    let bug = bug.as_deref();
    let world = World::start().await?;
    let marked = world.key(json!({ "name": MARK })).await?;
    for _ in 0..3 {
        let key = world.key(json!({ "description": "sealed" })).await?;
        world.admin.post(&format!("/keys/{}/revoke", key.id), &json!({ "reason": "sealed too" })).await?.success()?;
    }
    let export = world.directory.path().join("export");
    let words = [OsStr::new("audit"), OsStr::new("export"), export.as_os_str(), OsStr::new("--data"), world.node.data().as_os_str()];
    cli::keyrelay(words)?.expect(0)?;
    let head = world.admin.head().await?;
    // From here on there is no node.
    world.node.stop().await?;

    let report = verify(&export, bug)?.expect(0)?.json()?;
    ensure!(report["ok"] == true && report["size"] == head && report["anchor"] == "own_founding", "{report}");

    let mut marks = 0;
    for file in files(&export)? {
        let bytes = fs::read(&file)?;
        for place in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            with_changed_byte(&export, &file, place, bug)?;
        }
        let is_records = !file.ends_with("state.bin");
        if let Some(place) = bytes.windows(MARK.len()).position(|window| window == MARK.as_bytes()).filter(|_| is_records) {
            marks += 1;
            let report = with_changed_byte(&export, &file, place, bug)?;
            let sequences: Vec<&Value> =
                report["findings"].as_array().context("findings")?.iter().map(|finding| &finding["sequence"]).collect();
            ensure!(sequences.contains(&&json!(marked.sequence)), "the changed record {} is not named: {report}", marked.sequence);
        }
    }
    ensure!(marks == 1, "the marked record stands in {marks} files");

    let first = files(&export)?.remove(0);
    let away = world.directory.path().join("away");
    fs::rename(&first, &away)?;
    verify(&export, bug)?.expect(1).context("a missing file")?;
    fs::rename(&away, &first)?;
    fs::write(export.join("another"), "file")?;
    verify(&export, bug)?.expect(1).context("a file too many")?;
    fs::remove_file(export.join("another"))?;
    verify(&export, bug)?.expect(0)?;
    let other_key = OsStr::new("0101010101010101010101010101010101010101010101010101010101010101");
    cli::keyrelay([OsStr::new("audit"), OsStr::new("verify"), export.as_os_str(), OsStr::new("--cluster-key"), other_key])?.expect(1)?;
    Ok(())
}

#[tokio::test]
async fn a_change_in_any_file_of_an_export_is_found() -> Result<()> {
    changes_are_found(None).await
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn an_audit_that_trusts_the_bytes_is_noticed() -> Result<()> {
    tests::planted::turns_red("trusting-audit", "was not found", changes_are_found).await
}
