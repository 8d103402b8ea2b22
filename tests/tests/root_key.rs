//! Changing the root key: while requests are served, while the node is killed, and never by mistake.
#![allow(clippy::disallowed_methods, reason = "tests own their tasks and their clock")]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use schemas::{TenantId, Timestamp};
use serde_json::{Value, json};
use tests::cli::{self, Run};
use tests::cluster::{Cluster, Plan};
use tests::{Admin, Launch, Relay, World, wait};
use vault::{Entry, KeyStore as _, Lifetime, MemoryKeyStore, RocksKeyStore, RootKey, SecretAddress, Vault, files};

/// Secrets beside those of the node's own objects.
fn secrets() -> u32 {
    if std::env::var_os("KEYRELAY_TESTS_FULL").is_some() { 200_000 } else { 40_000 }
}

fn keyrelay(data: &Path, words: &[&OsStr]) -> Result<Run> {
    cli::run(cli::command("keyrelay")?.args(words).args([OsStr::new("--json"), "--data".as_ref(), data.as_ref()]))
}

fn migrate(data: &Path, from: &Path, to: &Path, further: &[&str]) -> Result<Run> {
    let words: [&OsStr; 5] = ["migrate-keys".as_ref(), "--from".as_ref(), from.as_ref(), "--to".as_ref(), to.as_ref()];
    let further: Vec<&OsStr> = further.iter().map(OsStr::new).collect();
    keyrelay(data, &[&words, further.as_slice()].concat())
}

fn root_key(path: &Path) -> Result<RootKey> {
    Ok(RootKey::parse(std::str::from_utf8(&files::read_secret(path)?)?)?)
}

/// A new root key where the node finds it, and a copy of it that is recorded.
fn make_next(data: &Path, directory: &Path) -> Result<RootKey> {
    let next = data.join("root.key.next");
    keyrelay(data, &["root-key".as_ref(), "new".as_ref()])?.expect(0)?;
    keyrelay(data, &["root-key".as_ref(), "announce".as_ref(), next.as_ref()])?.expect(0)?;
    let copy = directory.join("copy.key");
    keyrelay(data, &["root-key".as_ref(), "backup".as_ref(), "--to".as_ref(), copy.as_ref()])?.expect(0)?;
    let verified = keyrelay(data, &["root-key".as_ref(), "verify-backup".as_ref(), copy.as_ref()])?.expect(0)?.json()?;
    ensure!(verified["state"] == "announced", "{verified}");
    root_key(&next)
}

/// Seals secrets that nothing refers to into the key store of a stopped node, as fast as can be.
fn fill(data: &Path, root: &RootKey, count: u32) -> Result<()> {
    let memory = Arc::new(MemoryKeyStore::default());
    let vault = Vault::open(root.clone(), memory.clone())?;
    // Not swept: no record refers to them, but they are young.
    let now = Timestamp::from_micros(u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros())?);
    for number in 0..count {
        let _ = vault.seal(&filler(number), &number.to_be_bytes(), Lifetime::lasting(now))?;
    }
    let store = RocksKeyStore::open(&data.join("keys"))?;
    for entry in [Entry::Wrapped, Entry::Sealed] {
        let entries = memory.scan(entry, None, usize::MAX)?;
        // Not the other store's own secrets.
        let own = entries.iter().filter(|(slot, _)| slot.owner_kind == "credential");
        store.fill(own.map(|(slot, bytes)| (entry, slot.clone(), bytes.as_slice())))?;
    }
    Ok(())
}

fn filler(number: u32) -> SecretAddress {
    let mut owner_id = [0xf1; 16];
    owner_id[..4].copy_from_slice(&number.to_be_bytes());
    SecretAddress {
        tenant: TenantId::default_tenant(),
        owner_kind: "credential",
        owner_id,
        field: "secret",
        version: 1,
        origin: "https://api.example.com".to_owned(),
    }
}

/// Sends requests one after the other until the node is gone, and gives how many were answered.
async fn request(relay: Relay, secret: String) -> Result<u64> {
    let mut answered = 0;
    loop {
        match relay.chat(&secret, "hello").await {
            Ok(answer) => ensure!(answer.status == 200, "a request failed: {} {}", answer.status, answer.text()),
            // The connection went with the node.
            Err(_) => return Ok(answered),
        }
        answered += 1;
    }
}

async fn shown(admin: &Admin) -> Result<Value> {
    admin.get("/root-key").await?.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_still_is_run_for_as_long_as_the_change_takes() -> Result<()> {
    let world = World::start().await?;
    let (data, directory) = (world.node.data().to_owned(), world.directory.path().to_owned());
    let (new, old) = (make_next(&data, &directory)?, data.join("root.key"));
    let old_file = directory.join("old.key");
    fs::copy(&old, &old_file)?;
    let key = world.key(json!({})).await?;
    let launch = world.node.stop().await?;
    let refused = migrate(&data, &old_file, &data.join("root.key.next"), &["--no-wait"])?.expect(1)?;
    ensure!(refused.stderr.contains("node_stands_still"), "{}", refused.stderr);
    let changed = migrate(&data, &old_file, &data.join("root.key.next"), &[])?.expect(0)?;
    ensure!(changed.stderr.contains("one is started for this command"), "{}", changed.stderr);
    ensure!(changed.json()?["rewrap"]["state"] == "done", "{}", changed.stdout);
    let nowhere = directory.join("nowhere");
    fs::create_dir(&nowhere)?;
    fs::copy(data.join("owner.token"), nowhere.join("owner.token"))?;
    let refused = migrate(&nowhere, &old_file, &data.join("root.key.next"), &[])?.expect(1)?;
    ensure!(refused.stderr.contains("no_node") && fs::read_dir(&nowhere)?.count() == 1, "a cluster was founded: {}", refused.stderr);

    // The node is free to start again, and opens what it sealed.
    let node = launch.start().await?;
    ensure!(shown(&node.admin()?).await?["root_keys"][1]["commitment"] == json!(new.commitment()), "the new root key is in use");
    ensure!(node.relay().chat(&key.secret, "after").await?.status == 200, "a request after the change");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_goes_on_through_kills_while_requests_are_served_and_ends_with_every_secret() -> Result<()> {
    let count = secrets();
    let mut world = World::start().await?;
    let key = world.key(json!({})).await?;
    let old = root_key(&world.node.data().join("root.key"))?;
    world = world.restarted(|data| fill(data, &old, count)).await?;
    let (data, directory) = (world.node.data().to_owned(), world.directory.path().to_owned());
    let new = make_next(&data, &directory)?;
    let old_file = directory.join("old.key");
    fs::copy(data.join("root.key"), &old_file)?;
    let launch = world.node.stop().await?;
    let (mut launch, mut kills, mut answered, mut before): (Launch, u32, u64, u64) = (launch, 0, 0, 0);
    let begun = std::time::Instant::now();
    loop {
        let node = launch.start().await?;
        let (admin, relay) = (node.admin()?, node.relay());
        let requests = tokio::spawn(request(relay, key.secret.clone()));
        if kills == 0 {
            migrate(&data, &old_file, &data.join("root.key.next"), &["--no-wait"])?.expect(0)?;
        }
        // Killed a second later, if not all is wrapped again by then: every time somewhere else. The scan at the end is left to end.
        let wrapped = wait::until_within(Duration::from_secs(1), "the end of the re-wrap", || async {
            let state = shown(&admin).await?["rewrap"]["state"].take();
            Ok((state == "verifying" || state == "done").then_some(()))
        });
        let done = match wrapped.await {
            Err(_) => None,
            Ok(()) => Some(
                wait::until_within(3 * wait::PATIENCE, "the end of the scan", || async {
                    let rewrap = shown(&admin).await?["rewrap"].take();
                    Ok((rewrap["state"] == "done").then_some(rewrap))
                })
                .await?,
            ),
        };
        if done.is_none() {
            let rewrap = shown(&admin).await?["rewrap"].take();
            ensure!(rewrap["damaged"] == 0 && rewrap["unheld"] == 0, "{rewrap}");
            before += rewrap["rewrapped"].as_u64().unwrap_or_default();
        }
        launch = node.kill()?;
        answered += requests.await??;
        if let Some(rewrap) = done {
            ensure!(rewrap["damaged"] == 0 && rewrap["unheld"] == 0, "{rewrap}");
            ensure!(kills == 0 || rewrap["rewrapped"].as_u64() < Some(u64::from(count)), "nothing was begun anew: {rewrap}");
            break;
        }
        kills += 1;
        ensure!(kills < 200, "it does not end");
    }
    ensure!(answered > 0, "no request was answered");
    eprintln!("{count} secrets, {kills} kills, {answered} requests, at least {before} re-wrapped before a kill, {:?}", begun.elapsed());

    // The old root key is not needed any more, and is destroyed.
    let node = launch.start().await?;
    let admin = node.admin()?;
    keyrelay(&data, &["root-key".as_ref(), "destroy".as_ref(), old_file.as_ref()])?.expect(0)?;
    wait::until("the new root key under its own name", || async { Ok((!data.join("root.key.next").exists()).then_some(())) }).await?;
    ensure!(root_key(&data.join("root.key"))?.commitment() == new.commitment(), "root.key is the new one");
    ensure!(node.relay().chat(&key.secret, "after").await?.status == 200, "a request after the change");
    let shown = shown(&admin).await?;
    let states: Vec<&str> = shown["root_keys"].as_array().into_iter().flatten().filter_map(|key| key["state"].as_str()).collect();
    ensure!(states == ["destroyed", "active"], "{shown}");
    let types = admin.event_types("_.cluster.0").await?;
    ensure!(types.iter().filter(|name| *name == "RootKeyChanged").count() == 1, "{types:?}");
    let launch = node.stop().await?;

    // Every secret, under the new root key alone.
    {
        let store = Arc::new(RocksKeyStore::open(&data.join("keys"))?);
        let vault = Vault::open_existing(new, store)?;
        for number in 0..count {
            ensure!(vault.unseal(&filler(number))?[..] == number.to_be_bytes(), "secret {number}");
        }
    }

    // With the old one the node does not start, and nothing is changed.
    let kept = fs::read(data.join("root.key"))?;
    files::write_secret(&data.join("root.key"), &fs::read(&old_file)?)?;
    let refused = launch.clone().refused().await?;
    ensure!(refused.stderr.contains("this node's root key is another one"), "{}", refused.stderr);
    files::write_secret(&data.join("root.key"), &kept)?;
    let node = launch.start().await?;
    ensure!(node.admin()?.event_types("_.cluster.0").await? == types, "the refused start left events");
    ensure!(node.relay().chat(&key.secret, "again").await?.status == 200, "a request after the refused start");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_wrongly_is_refused_and_changes_nothing() -> Result<()> {
    let world = World::start().await?;
    let (data, directory) = (world.node.data(), world.directory.path());
    let (old, next, other) = (data.join("root.key"), data.join("root.key.next"), directory.join("other.key"));
    let said = |run: Run, code: &str| -> Result<()> {
        let run = run.expect(1)?;
        ensure!(run.stderr.contains(code), "no {code} in {}", run.stderr);
        Ok(())
    };
    keyrelay(data, &["root-key".as_ref(), "new".as_ref(), "--output".as_ref(), other.as_ref()])?.expect(0)?;
    // Never over a file that is there.
    keyrelay(data, &["root-key".as_ref(), "new".as_ref(), "--output".as_ref(), other.as_ref()])?.expect(2)?;
    let alone = keyrelay(data, &["migrate-keys".as_ref(), "--from".as_ref(), old.as_ref()])?;
    said(alone, "Encryption cannot be switched off")?;
    let text = root_key(&other)?.text();
    let shown_to_all = keyrelay(data, &["migrate-keys".as_ref(), "--to".as_ref(), text.as_str().as_ref()])?;
    ensure!(!shown_to_all.stderr.contains(text.as_str()), "the key is repeated");
    said(shown_to_all, "does not belong on a command line")?;
    // Everything is sealed already.
    said(keyrelay(data, &["migrate-keys".as_ref(), "--to".as_ref(), other.as_ref()])?, "root_key_from_missing")?;
    keyrelay(data, &["migrate-keys".as_ref(), "--to".as_ref(), old.as_ref()])?.expect(0)?;

    keyrelay(data, &["root-key".as_ref(), "new".as_ref()])?.expect(0)?;
    let head = world.admin.head().await?;
    let wrong = migrate(data, &other, &next, &[])?;
    ensure!(wrong.stderr.contains("nothing was changed"), "{}", wrong.stderr);
    said(wrong, "root_key_not_active")?;
    let forecast = migrate(data, &old, &next, &["--dry-run"])?.expect(0)?.json()?;
    ensure!(forecast["is_here"] == true && forecast["is_backed_up"] == false, "{forecast}");
    ensure!(forecast["data_keys"] == forecast["to_rewrap"] && forecast["data_keys"].as_u64() > Some(3), "{forecast}");
    ensure!(world.admin.head().await? == head, "a refusal or a dry run was recorded");
    said(migrate(data, &old, &next, &[])?, "root_key_not_backed_up")?;
    // A root key that no node has.
    keyrelay(data, &["root-key".as_ref(), "withdraw".as_ref(), next.as_ref()])?.expect(0)?;
    said(migrate(data, &old, &other, &["--without-backup"])?, "root_key_not_everywhere")?;
    keyrelay(data, &["root-key".as_ref(), "withdraw".as_ref(), other.as_ref()])?.expect(0)?;
    said(keyrelay(data, &["root-key".as_ref(), "destroy".as_ref(), old.as_ref()])?, "root_key_in_use")?;
    let shown = shown(&world.admin).await?;
    ensure!(shown["root_keys"].as_array().is_some_and(|keys| keys.len() == 1), "{shown}");

    // From standard input, and with the re-wrap waited for.
    let mut command = cli::command("keyrelay")?;
    command.args(["migrate-keys", "--from", "-", "--without-backup", "--json", "--data"]).arg(data).arg("--to").arg(&next);
    let changed = cli::run(command.stdin(fs::File::open(&old)?))?.expect(0)?.json()?;
    ensure!(changed["rewrap"]["state"] == "done" && changed["rewrap"]["damaged"] == 0, "{changed}");
    // Asked for again it is done.
    migrate(data, &old, &next, &[])?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lacks_the_new_root_key_blocks_the_change_until_it_has_it() -> Result<()> {
    let mut cluster = Cluster::start(Plan { servers: 1, nodes: 2, ..Plan::default() }).await?;
    let old = root_key(&cluster.root_key_file())?;
    let key = cluster.admin(0)?.create_key(&json!({ "name": "ci", "expires": "never" })).await?;
    cluster.settle().await?;
    let (first, second) = (cluster.data(0).join("root.key.next"), cluster.data(1).join("root.key.next"));
    let new = RootKey::generate()?;
    let text = format!("{}\n", new.text().as_str());
    files::write_secret(&first, text.as_bytes())?;
    let change = json!({ "from": old.commitment(), "to": new.commitment(), "without_backup": true });
    let refused = cluster.admin(0)?.post("/root-key/change", &change).await?;
    let lacking = cluster.node(1)?.ready["node"].as_str().context("a node id")?.to_owned();
    ensure!(refused.status == 409 && refused.text().contains("root_key_not_everywhere"), "{}", refused.text());
    ensure!(refused.text().contains(&lacking), "{}", refused.text());
    // Announced, and not in use.
    let types = cluster.admin(0)?.event_types("_.cluster.0").await?;
    ensure!(types == ["ClusterFounded", "RootKeyAnnounced"], "{types:?}");

    files::write_secret(&second, text.as_bytes())?;
    // From the other node, which is given it while it runs.
    wait::until("the change", || async {
        let answer = cluster.admin(1)?.post("/root-key/change", &change).await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await?;
    for index in [0, 1] {
        let admin = cluster.admin(index)?;
        wait::until("a re-wrap that is done", || async { Ok((shown(&admin).await?["rewrap"]["state"] == "done").then_some(())) }).await?;
        ensure!(cluster.relay(index)?.chat(&key.secret, "hello").await?.status == 200, "node {index}");
    }

    // Without the new root key a node does not start again; with it alone it does, once nothing lies under the old one.
    cluster.stop_node(1).await?;
    fs::rename(&second, cluster.directory().join("kept"))?;
    let refused = cluster.launch(1)?.refused().await?;
    ensure!(refused.stderr.contains("root key"), "{}", refused.stderr);
    let destroyed = wait::until("the old root key's end", || async {
        let answer = cluster.admin(0)?.post("/root-key/destroy", &json!({ "commitment": old.commitment() })).await?;
        Ok((answer.status == 200).then_some(answer))
    });
    destroyed.await?;
    let mut launch = cluster.launch(1)?;
    launch.environment.retain(|(name, _)| name != "KEYRELAY_VAULT_ROOT_KEY_FILE");
    let launch = launch.with("KEYRELAY_VAULT_ROOT_KEY_FILE", &cluster.directory().join("kept").to_string_lossy());
    cluster.adopt(1, launch).await?;
    ensure!(cluster.relay(1)?.chat(&key.secret, "hello").await?.status == 200, "with the new root key alone");
    Ok(())
}
