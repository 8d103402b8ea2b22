//! What anybody else does to the log: records that nobody enrolled has signed are void and block nothing; a log that lost or changed what it
//! had is refused, and a change below what a start looks at is found by folding it again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use event_log::{Appended, EmbeddedLog, EventLog as _, Expect, Stored};
use schemas::key::KeyRevoked;
use schemas::record::{Frame, Header, encode};
use schemas::{ClusterId, Event, PublicKey, RecordId, Sequence, WriterId};
use serde_json::json;
use tests::cli::Run;
use tests::node::Start;
use tests::{Admin, Launch, Node, World, cli};

/// Does something to the log of a stopped node.
async fn with_log<T>(log: &Path, act: impl AsyncFnOnce(&EmbeddedLog) -> Result<T>) -> Result<T> {
    let log = EmbeddedLog::open(log)?;
    let done = act(&log).await;
    log.close().await;
    done
}

async fn append(log: &EmbeddedLog, subject: &str, bytes: impl Into<Bytes>) -> Result<u64> {
    let expect = Expect { subject: log.last(subject).await?, log: None };
    match log.append(subject, expect, bytes.into()).await? {
        Appended::Appended(sequence) => Ok(sequence.0),
        other => anyhow::bail!("not appended: {other:?}"),
    }
}

/// All records of a log.
async fn records(log: &EmbeddedLog) -> Result<Vec<Stored>> {
    let (mut all, mut from) = (Vec::new(), Sequence(1));
    loop {
        let run = log.read_range(from, 1000).await?;
        let Some(last) = run.last() else { return Ok(all) };
        from = last.sequence.next();
        all.extend(run);
    }
}

/// The record that would revoke a key next, as a forger makes it.
fn forged(after: &Stored, cluster: ClusterId, key: &SigningKey, writer: Option<WriterId>) -> Result<Vec<u8>> {
    let header = Frame::parse(&after.bytes)?.header()?;
    let writer = writer.unwrap_or(header.writer);
    let header = Header { writer, version: header.version.next(), record_id: RecordId::from_bytes([7; 16]), ..header };
    Ok(encode(cluster, &header, &[Event::KeyRevoked(KeyRevoked { reason: None })], key)?)
}

#[tokio::test]
async fn records_of_strangers_are_void_and_block_nothing() -> Result<()> {
    strangers_change_nothing(None).await
}

async fn strangers_change_nothing(bug: Option<String>) -> Result<()> {
    let world = World::with_bug(bug.as_deref()).await?;
    let key = world.key(json!({})).await?;
    let mut planted = Vec::new();
    let World { node, upstream, directory, .. } = world;
    let launch = node.stop().await?;
    with_log(&launch.data.join("log"), async |log| {
        let subject = format!("kr.e.{}", key.stream());
        let cluster = log.identity().await?.context("a founded log")?;
        let real = log.read_range(Sequence(key.sequence), 1).await?.remove(0);
        ensure!(*real.subject == *subject, "the key stands on {}", real.subject);
        let stranger = SigningKey::from_bytes(&[9; 32]);
        let stranger_id = WriterId::of(&PublicKey::from_bytes(stranger.verifying_key().to_bytes()));
        planted.push((append(log, &subject, "garbage").await?, "unframed"));
        planted.push((append(log, &subject, forged(&real, cluster, &stranger, None)?).await?, "bad_signature"));
        planted.push((append(log, &subject, forged(&real, cluster, &stranger, Some(stranger_id))?).await?, "writer_not_enrolled"));
        planted.push((append(log, "kr.e.default.key.nonsense", real.bytes.clone()).await?, "wrong_stream"));
        planted.push((append(log, &subject, real.bytes.clone()).await?, "wrong_version"));
        Ok(())
    })
    .await?;

    let node = launch.start().await?;
    let (admin, relay) = (node.admin()?, node.relay());
    let events = admin.events().await?;
    for (sequence, reason) in &planted {
        let shown = events.iter().find(|event| event["sequence"] == *sequence).context("a record is not listed")?;
        ensure!(*shown == json!({ "sequence": sequence, "void": reason }), "expected {reason} at {sequence}, the node shows {shown}");
    }
    relay.chat(&key.secret, "as if nothing were there").await?.success()?;
    admin.post(&format!("/keys/{}/disable", key.id), &json!({})).await?.success()?;
    relay.chat(&key.secret, "disabled").await?.expect(403)?;
    let shown = admin.key(&key.id).await?;
    ensure!(shown["state"] == "disabled" && shown["version"] == 2, "{shown}");
    admin.create_key(&json!({ "name": "after", "expires": "never" })).await?;
    let verified = cli::keyrelay(["log".as_ref(), "verify".as_ref(), "--json".as_ref(), "--data".as_ref(), node.data().as_os_str()])?;
    let report = verified.expect(0)?.json()?;
    ensure!(report["void"] == planted.len(), "{report}");
    drop((upstream, directory));
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_node_that_does_not_check_signatures_is_noticed() -> Result<()> {
    tests::planted::turns_red("skip-signature-check", "expected bad_signature", strangers_change_nothing).await
}

/// A stopped node, and copies of its folders from before its last keys were made.
struct Stopped {
    directory: tempfile::TempDir,
    launch: Launch,
}

impl Stopped {
    /// A node that has written, was stopped, and has written more since its log was copied.
    async fn new(bug: Option<&str>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let node = Node::start(&directory.path().join("data")).await?;
        create_keys(&node.admin()?, 10).await?;
        let launch = node.stop().await?;
        copy(&launch.data.join("log"), &directory.path().join("log.old"))?;
        let node = launch.start().await?;
        create_keys(&node.admin()?, 5).await?;
        let launch = node.stop().await?.with_bug(bug);
        Ok(Self { directory, launch })
    }

    fn log(&self) -> PathBuf {
        self.launch.data.join("log")
    }

    fn old_log(&self) -> PathBuf {
        self.directory.path().join("log.old")
    }

    fn verify(&self) -> Result<Run> {
        let data = self.launch.data.as_os_str();
        cli::keyrelay(["log".as_ref(), "verify".as_ref(), "--offline".as_ref(), "--json".as_ref(), "--data".as_ref(), data])
    }

    async fn is_refused(&self, what: &str) -> Result<()> {
        let run = self.launch.clone().refused().await.with_context(|| what.to_owned())?;
        ensure!(run.code == 1 || run.code == 2, "{what}: exit code {}\n{}", run.code, run.stderr);
        ensure!(run.stderr.contains("log"), "{what}: the refusal does not say what is wrong:\n{}", run.stderr);
        Ok(())
    }
}

async fn create_keys(admin: &Admin, count: usize) -> Result<()> {
    for _ in 0..count {
        admin.create_key(&json!({ "name": "damage", "expires": "never" })).await?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() { copy(&entry.path(), &target)? } else { _ = fs::copy(entry.path(), target)? }
    }
    Ok(())
}

fn replace(folder: &Path, with: &Path) -> Result<()> {
    fs::remove_dir_all(folder)?;
    copy(with, folder)
}

#[tokio::test]
async fn a_log_that_is_not_the_one_the_read_models_know_is_refused() -> Result<()> {
    other_logs_are_refused(None).await
}

async fn other_logs_are_refused(bug: Option<String>) -> Result<()> {
    let node = Stopped::new(bug.as_deref()).await?;
    let whole = node.directory.path().join("log.whole");
    copy(&node.log(), &whole)?;

    // Shorter than the position row: the last records are gone, with everything in the log's own folder that could tell.
    replace(&node.log(), &node.old_log())?;
    node.is_refused("a log without its tail").await?;

    // As long, but another: the tail was written again, by the same node, while the read models were away.
    let models = node.directory.path().join("read-models.away");
    fs::rename(node.launch.data.join("read-models"), &models)?;
    let again = node.launch.clone().start().await?;
    create_keys(&again.admin()?, 5).await?;
    again.stop().await?;
    fs::remove_dir_all(node.launch.data.join("read-models"))?;
    fs::rename(&models, node.launch.data.join("read-models"))?;
    node.is_refused("a log with another record at the position").await?;
    node.verify()?.expect(1).context("another log")?;

    // With its own log back, it starts.
    replace(&node.log(), &whole)?;
    node.verify()?.expect(0)?;
    node.launch.clone().start().await?.stop().await?;
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_start_that_trusts_the_log_is_noticed() -> Result<()> {
    tests::planted::turns_red("trusting-open", "it should have refused", other_logs_are_refused).await
}

/// The files in which the storage engine keeps the records.
fn storage_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(storage_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "log" || extension == "sst") && fs::metadata(&path)?.len() > 0 {
            found.push(path);
        }
    }
    Ok(found)
}

#[tokio::test]
async fn flipped_bytes_under_the_log_are_refused_or_touch_no_record() -> Result<()> {
    let node = Stopped::new(None).await?;
    let whole = node.directory.path().join("log.whole");
    // To look at the log is to open it, which may move records from one file to another: first look, then copy.
    let root = node.verify()?.expect(0)?.json()?["root"].clone();
    copy(&node.log(), &whole)?;
    let (mut refused, mut harmless) = (0, 0);
    for file in storage_files(&node.log())? {
        let bytes = fs::read(&file)?;
        // What was reserved and not written yet is zeros, and may be anything.
        let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for part in 1..6 {
            let place = format!("byte {} of {}", length * part / 6, file.display());
            let mut damaged = bytes.clone();
            damaged[length * part / 6] ^= 0x10;
            fs::write(&file, damaged)?;
            match node.launch.clone().attempt().await.with_context(|| place.clone())? {
                Start::Exited(run) => {
                    ensure!(run.code == 1 || run.code == 2, "{place}: exit code {}\n{}", run.code, run.stderr);
                    ensure!(run.stderr.contains("log"), "{place}: the refusal does not say what is wrong:\n{}", run.stderr);
                    refused += 1;
                }
                // The engine keeps statistics of its files that no read depends on: with those damaged, every record is still as it was.
                Start::Ready(started) => {
                    started.stop().await?;
                    let report = node.verify()?.expect(0).with_context(|| format!("{place}: the start took a damaged log"))?.json()?;
                    ensure!(report["root"] == root, "{place}: the start took a changed log: {report}");
                    harmless += 1;
                }
            }
            // A start may have left something of its own.
            replace(&node.log(), &whole)?;
        }
    }
    ensure!(refused > harmless, "only {refused} of {} flipped bytes were refused", refused + harmless);
    node.launch.clone().start().await?.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_change_deep_in_the_log_is_found_by_folding_it_again() -> Result<()> {
    let node = Stopped::new(None).await?;
    let root = node.verify()?.expect(0)?.json()?["root"].clone();
    let all = with_log(&node.log(), async |log| records(log).await).await?;
    let changed_place = all.len() / 2;

    // The same records in a new log, but for one, with all checksums of the storage in order.
    let rewritten = node.directory.path().join("log.rewritten");
    with_log(&rewritten, async |log| {
        for (place, record) in all.iter().enumerate() {
            let mut bytes = record.bytes.to_vec();
            if place == changed_place {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            }
            append(log, &record.subject, bytes).await?;
        }
        Ok(())
    })
    .await?;
    replace(&node.log(), &rewritten)?;

    let report = node.verify()?.expect(1)?.json()?;
    ensure!(report["ok"] == false && report["root"] != root, "{report}");
    let named = report["findings"].as_array().into_iter().flatten().any(|finding| finding["sequence"] == changed_place + 1);
    ensure!(named, "sequence {} is not named: {report}", changed_place + 1);

    // A rebuild meets it too: the record's payload is not the one that its signature commits to.
    fs::remove_dir_all(node.launch.data.join("read-models"))?;
    node.is_refused("a rebuild over a changed record").await
}
