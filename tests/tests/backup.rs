//! Backup and restore: taken from a node under load, proved without one, restored elsewhere to the same state; nothing that is changed, cut short or
//! half done passes for whole.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use event_log::decisions::{DecisionLog, DecisionStream as _};
use event_log::usage::{UsageLog, UsageStream as _};
use event_log::{EmbeddedLog, EventLog as _};
use policy_host::Output;
use policy_host::contract::{Effect, Verdict, route};
use schemas::Sequence;
use serde_json::{Value, json};
use tests::cli::{self, Run};
use tests::world::CREDENTIAL;
use tests::{Admin, Launch, Relay, World, wait};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vault::{Entry, KeyStore as _, RocksKeyStore};

#[path = "../../relay/policy-host/tests/policies/guest.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the host's tests do more with it")]
mod guest;

fn keyrelay(words: &[&OsStr]) -> Result<Run> {
    cli::run(cli::command("keyrelay")?.args(words).arg("--json"))
}

fn back_up(data: &Path, output: &Path) -> Result<Run> {
    keyrelay(&["backup".as_ref(), "--data".as_ref(), data.as_ref(), "--output".as_ref(), output.as_ref()])
}

fn verify(file: &Path) -> Result<Run> {
    verify_with(file, None)
}

fn verify_with(file: &Path, bug: Option<&str>) -> Result<Run> {
    let mut command = cli::command("keyrelay")?;
    command.envs(tests::planted::environment(bug));
    cli::run(command.args(["backup", "verify", "--json"]).arg(file))
}

fn restore(file: &Path, data: &Path, root_key: &Path) -> Result<Run> {
    keyrelay(&["restore".as_ref(), file.as_ref(), "--data".as_ref(), data.as_ref(), "--root-key".as_ref(), root_key.as_ref()])
}

/// What a restored node must show as the first one did.
async fn shown(admin: &Admin) -> Result<Value> {
    let mut shown = json!({});
    for list in ["keys?limit=1000", "upstreams", "pools", "policies", "bindings", "usage?group_by=key"] {
        shown[list] = admin.get(&format!("/{list}")).await?.success()?;
        if let Some(answer) = shown[list].as_object_mut() {
            // Where the read models stood: the restored node has its own enrolment on top.
            answer.remove("as_of");
        }
    }
    Ok(shown)
}

/// A node with everything that a backup holds: keys in several states, secrets, a policy in force, usage, decisions.
struct Furnished {
    world: World,
    secret: String,
}

impl Furnished {
    async fn new(keys: usize) -> Result<Self> {
        let world = World::with(|launch| launch.with("KEYRELAY_POLICY_DECISION_SAMPLE_PPM", "1000000")).await?;
        for number in 0..keys {
            let key = world.key(json!({ "name": format!("key-{number}"), "description": "sealed" })).await?;
            match number % 4 {
                0 => drop(world.admin.post(&format!("/keys/{}/revoke", key.id), &json!({ "reason": "gone" })).await?.success()?),
                1 => drop(world.admin.post(&format!("/keys/{}/disable", key.id), &json!({})).await?.success()?),
                _ => {}
            }
        }
        let module = guest::Guest::saying(Output::Route(route::Output { verdict: Verdict::plain(Effect::NotApplicable), picks: vec![] }));
        let policy = world.admin.upload_policy("route", "open", module.module()).await?;
        world.admin.bind_policy(policy["policy"]["digest"].as_str().context("a digest")?).await?;
        let key = world.key(json!({ "name": "in use" })).await?;
        for _ in 0..5 {
            world.relay.chat(&key.secret, "before").await?.success()?;
        }
        world.admin.usage_of(&key.id, 5).await?;
        wait::until("the decisions", || async {
            let shown = world.admin.get("/decisions?limit=100").await?.success()?;
            Ok(shown["decisions"].as_array().filter(|decisions| decisions.len() >= 5).map(|_| ()))
        })
        .await?;
        Ok(Self { world, secret: key.secret })
    }

    fn data(&self) -> &Path {
        self.world.node.data()
    }

    fn root_key(&self) -> PathBuf {
        self.data().join("root.key")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.directory.path().join(name)
    }

    /// Starts a node on a restored directory, with the owner's token that was kept.
    async fn start_restored(&self, data: &Path) -> Result<tests::Node> {
        fs::copy(self.data().join("owner.token"), data.join("owner.token"))?;
        Launch::new(data).start().await
    }
}

/// Writes and requests until it is told to stop: keys come and end, upstreams come and go with their secrets.
struct Load {
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    /// Keys whose creation was answered.
    created: Arc<Mutex<Vec<String>>>,
}

impl Load {
    fn start(admin: &Admin, relay: &Relay, secret: &str, upstream: &str) -> Self {
        let (stop, created) = (CancellationToken::new(), Arc::default());
        let mut load = Self { stop, tasks: JoinSet::new(), created };
        for writer in 0..4 {
            let (admin, stop, created, upstream) = (admin.clone(), load.stop.clone(), load.created.clone(), upstream.to_owned());
            load.tasks.spawn(async move {
                for number in 0.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let key = admin.create_key(&json!({ "name": "load", "expires": "never" })).await?;
                    created.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?.push(key.id.clone());
                    if writer == 0 {
                        let name = format!("load-{number}");
                        let added = admin.add_upstream(&name, "openai", &upstream, CREDENTIAL).await?;
                        let path = format!("/api/v1/upstreams/{}", added["upstream"]["id"].as_str().context("an id")?);
                        admin.call(http::Method::DELETE, &path, &[], &Value::Null).await?;
                    }
                    admin.post(&format!("/keys/{}/revoke", key.id), &json!({})).await?.success()?;
                }
                Ok(())
            });
        }
        let (relay, secret, stop) = (relay.clone(), secret.to_owned(), load.stop.clone());
        load.tasks.spawn(async move {
            while !stop.is_cancelled() {
                relay.chat(&secret, "load").await?.success()?;
            }
            Ok(())
        });
        load
    }

    fn created(&self) -> Result<Vec<String>> {
        Ok(self.created.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))?.clone())
    }

    async fn finish(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_restored_elsewhere_shows_and_serves_what_the_first_did() -> Result<()> {
    let furnished = Furnished::new(24).await?;
    let world = &furnished.world;
    let before = shown(&world.admin).await?;
    let events = world.admin.events().await?;
    let file = furnished.path("quiet.backup");
    let taken = tokio::task::block_in_place(|| back_up(furnished.data(), &file))?.expect(0)?.json()?;
    ensure!(taken["sequence"] == world.admin.head().await?, "{taken}");
    let again = tokio::task::block_in_place(|| back_up(furnished.data(), &file))?;
    ensure!(again.code == 2 && again.stderr.contains("is there already"), "{}: {}", again.code, again.stderr);
    let report = verify(&file)?.expect(0)?.json()?;
    ensure!(report["ok"] == true && report["root"] == taken["root"] && report["secrets"] == 2 && report["modules"] == 1, "{report}");
    for part in ["usage_batches", "decision_batches"] {
        ensure!(report[part].as_u64() > Some(0), "{part}: {report}");
    }
    let opened = keyrelay(&["backup".as_ref(), "verify".as_ref(), file.as_ref(), "--root-key".as_ref(), furnished.root_key().as_ref()])?;
    ensure!(opened.expect(0)?.json()?["secrets_opened"] == 2);

    let data = furnished.path("restored");
    let restored = restore(&file, &data, &furnished.root_key())?.expect(0)?.json()?;
    ensure!(restored["root"] == taken["root"] && restored["sequence"] == taken["sequence"], "{restored}");
    ensure!(!data.join("writer.key").exists() && !data.join("restore.unfinished").exists());
    let node = furnished.start_restored(&data).await?;
    let admin = node.admin()?;
    ensure!(node.ready["node"] != world.node.ready["node"], "the restored node signs as the first one");
    wait::until("the same usage", || async {
        let now = admin.get("/usage?group_by=key").await?.success()?;
        Ok((now["usage"] == before["usage?group_by=key"]["usage"]).then_some(()))
    })
    .await?;
    let after = shown(&admin).await?;
    for (list, was) in before.as_object().context("lists")? {
        ensure!(after[list] == *was, "{list} changed from {was} to {}", after[list]);
    }
    let its = admin.events().await?;
    ensure!(its.len() == events.len() + 1 && its[..events.len()] == events[..], "the events before the enrolment are others");
    ensure!(its[events.len()]["type"] == "WriterEnrolled", "{}", its[events.len()]);
    let decisions = |admin: Admin| async move { admin.get("/decisions?limit=100").await?.success() };
    let (first, second) = (decisions(world.admin.clone()).await?, decisions(admin.clone()).await?);
    ensure!(first["decisions"].as_array().is_some_and(|decisions| decisions.len() >= 5), "{first}");
    ensure!(first["decisions"] == second["decisions"], "{first}\n{second}");
    // Through to the upstream, with the provider's credential out of the restored key store.
    let served = world.upstream.seen().len();
    node.relay().chat(&furnished.secret, "after").await?.success()?;
    let seen = world.upstream.seen();
    ensure!(seen.len() == served + 1 && seen[served].header("authorization") == format!("Bearer {CREDENTIAL}"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_holds_one_position_and_all_that_it_refers_to() -> Result<()> {
    let furnished = Furnished::new(4).await?;
    let world = &furnished.world;
    let load = Load::start(&world.admin, &world.relay, &furnished.secret, &world.upstream.openai_url());
    let mut last = 0;
    for round in 0..4 {
        let more = wait::until("keys under load", || async { Ok(Some(load.created()?.len()).filter(|created| *created > last)) }).await?;
        last = more;
        let acknowledged = load.created()?;
        let file = furnished.path(&format!("{round}.backup"));
        let taken = tokio::task::block_in_place(|| back_up(furnished.data(), &file))?.expect(0)?.json()?;
        let root_key = furnished.root_key();
        let words = ["backup".as_ref(), "verify".as_ref(), file.as_ref(), "--root-key".as_ref(), root_key.as_ref()];
        let report = tokio::task::block_in_place(|| keyrelay(&words))?.expect(0)?.json()?;
        ensure!(report["sequence"] == taken["sequence"] && report["root"] == taken["root"], "{report}");
        if round < 3 {
            continue;
        }
        load.finish().await?;
        let data = furnished.path("restored");
        restore(&file, &data, &root_key)?.expect(0)?;
        let node = furnished.start_restored(&data).await?;
        let admin = node.admin()?;
        for id in &acknowledged {
            admin.key(id).await.context("a key that was answered before the backup was asked for")?;
        }
        node.relay().chat(&furnished.secret, "restored").await?.success()?;
        return Ok(());
    }
    Ok(())
}

/// Where the frames of a backup begin, and its length: kind (1 byte), length (4), content, after a first line of 16 bytes.
fn frames(bytes: &[u8]) -> Result<Vec<usize>> {
    let (mut places, mut at) = (Vec::new(), 16);
    while at < bytes.len() {
        places.push(at);
        let length: [u8; 4] = bytes[at + 1..at + 5].try_into()?;
        at += 5 + usize::try_from(u32::from_be_bytes(length))?;
    }
    ensure!(at == bytes.len(), "the last frame ends at {at} of {}", bytes.len());
    places.push(at);
    Ok(places)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_was_changed_with_every_digest_put_right_is_found() -> Result<()> {
    let furnished = Furnished::new(2).await?;
    let file = furnished.path("whole.backup");
    tokio::task::block_in_place(|| back_up(furnished.data(), &file))?.expect(0)?;
    let mut bytes = fs::read(&file)?;
    let frames = frames(&bytes)?;
    let (manifest, end) = (frames[frames.len() - 4], frames[frames.len() - 2]);
    let claim = b"\"usage_unreadable\": 0";
    let place = bytes[manifest..].windows(claim.len()).position(|window| window == claim).context("the claim")?;
    bytes[manifest + place + claim.len() - 1] = b'7';
    let digest = *blake3::hash(&bytes[..end]).as_bytes();
    bytes[end + 5..].copy_from_slice(&digest);
    let forged = furnished.path("forged.backup");
    fs::write(&forged, &bytes)?;
    let report = verify(&forged)?.expect(1)?;
    ensure!(report.stdout.contains("signature") && report.stdout.contains("changed after it was taken"), "{}", report.stdout);
    let data = furnished.path("restored");
    restore(&forged, &data, &furnished.root_key())?.expect(1)?;
    ensure!(!data.exists(), "something was written");
    Ok(())
}

async fn changes_are_found(bug: Option<String>) -> Result<()> {
    let furnished = Furnished::new(6).await?;
    let file = furnished.path("whole.backup");
    tokio::task::block_in_place(|| back_up(furnished.data(), &file))?.expect(0)?;
    verify(&file)?.expect(0)?;
    let whole = fs::read(&file)?;
    let frames = frames(&whole)?;
    ensure!(frames.len() == 5 + 3 + 1, "each part has a frame, then manifest, signature and end: {frames:?}");
    let mut places = BTreeSet::from([0, 7, 15]);
    for pair in frames.windows(2) {
        let (begin, end) = (pair[0], pair[1]);
        places.extend((0..5).map(|byte| begin + byte));
        places.extend((0..10).map(|step| begin + 5 + (end - begin - 6) * step / 9));
    }
    let changed = furnished.path("changed.backup");
    for place in &places {
        let mut bytes = whole.clone();
        bytes[*place] ^= 1 << (place % 8);
        fs::write(&changed, &bytes)?;
        let run = verify_with(&changed, bug.as_deref())?;
        ensure!(run.code == 1, "a change at byte {place} was not found: exit code {}\n{}", run.code, run.stderr);
        ensure!(run.json()?["ok"] == false, "{}", run.stdout);
    }
    for end in frames.iter().copied().chain([0, 1, 16, whole.len() / 2, whole.len() - 1]).filter(|end| *end < whole.len()) {
        fs::write(&changed, &whole[..end])?;
        ensure!(verify(&changed)?.code == 1, "a cut at {end} was not found");
    }
    fs::write(&changed, [whole.as_slice(), b"x"].concat())?;
    verify(&changed)?.expect(1).context("something behind the end")?;
    verify(&furnished.path("nothing"))?.expect(2).context("a file that is not there")?;
    // Nothing of a backup that is not good is restored.
    let data = furnished.path("restored");
    let run = restore(&changed, &data, &furnished.root_key())?;
    ensure!(run.code == 1 && !data.exists(), "{}: {}", run.code, run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_and_a_cut_are_found_wherever_they_are() -> Result<()> {
    changes_are_found(None).await
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_read_on_trust_is_noticed() -> Result<()> {
    tests::planted::turns_red("trusting-backup", "was not found", changes_are_found).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_not_empty_and_a_wrong_root_key_are_refused_with_the_cure() -> Result<()> {
    let furnished = Furnished::new(2).await?;
    let (file, data) = (furnished.path("whole.backup"), furnished.path("restored"));
    tokio::task::block_in_place(|| back_up(furnished.data(), &file))?.expect(0)?;
    let run = restore(&file, furnished.data(), &furnished.root_key())?;
    ensure!(run.code == 2 && run.stderr.contains("is not empty"), "a node's own directory: {}: {}", run.code, run.stderr);
    ensure!(furnished.world.admin.head().await? > 0);

    let other = World::start().await?;
    let wrong = other.node.data().join("root.key");
    let words = ["backup".as_ref(), "verify".as_ref(), file.as_os_str(), "--root-key".as_ref(), wrong.as_os_str()];
    let proof = cli::keyrelay(words)?.expect(1)?;
    ensure!(
        proof.stdout.contains("the root key that was given does not fit") && !proof.stdout.contains("give --root-key"),
        "{}",
        proof.stdout
    );
    let run = restore(&file, &data, &wrong)?;
    let told = run.json()?["findings"][0].to_string();
    ensure!(run.code == 1 && told.contains("root key") && told.contains("kept apart"), "{}: {told}", run.code);
    ensure!(!data.exists(), "something was written");

    // Without a root key it is restored, and the node says what it lacks.
    keyrelay(&["restore".as_ref(), file.as_ref(), "--data".as_ref(), data.as_ref()])?.expect(0)?;
    let refused = Launch::new(&data).refused().await?;
    ensure!(refused.stderr.contains("root.key"), "{}", refused.stderr);
    fs::copy(&wrong, data.join("root.key"))?;
    let refused = Launch::new(&data).refused().await?;
    ensure!(refused.stderr.contains("root key"), "{}", refused.stderr);
    fs::copy(furnished.root_key(), data.join("root.key"))?;
    furnished.start_restored(&data).await?.relay().chat(&furnished.secret, "at last").await?.success()?;
    Ok(())
}

/// Everything in the stores of a stopped node.
async fn content(data: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut content = Vec::new();
    let log = EmbeddedLog::open(&data.join("log"))?;
    let head = log.head().await?;
    let mut from = Sequence(1);
    while from <= head {
        for stored in log.read_range(from, 1000).await? {
            from = stored.sequence.next();
            content.push((format!("{} {}", stored.sequence, stored.subject), stored.bytes.to_vec()));
        }
    }
    let keys = RocksKeyStore::open(&data.join("keys"))?;
    for kind in [Entry::Sealed, Entry::Wrapped] {
        content.extend(keys.scan(kind, None, 100_000)?.into_iter().map(|(slot, bytes)| (format!("{kind:?} {slot:?}"), bytes)));
    }
    let usage = UsageLog::open(&data.join("usage-log"))?;
    for stored in usage.read_range(Sequence(1), 1000).await? {
        content.push((format!("usage {}", stored.sequence), stored.batch?.encode()));
    }
    let decisions = DecisionLog::open(&data.join("decision-log"))?;
    let held = decisions.held().batches;
    ensure!(held > 0, "no decisions");
    content.push(("decisions".to_owned(), format!("{held} {}", decisions.head().await?).into_bytes()));
    for module in fs::read_dir(data.join("artefacts/policy-modules"))? {
        let path = module?.path();
        content.push((path.file_name().context("a name")?.display().to_string(), fs::read(&path)?));
    }
    log.close().await;
    usage.close().await;
    decisions.close().await;
    Ok(content)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_a_restore_is_refused_to_nodes_and_made_whole_by_a_second_run() -> Result<()> {
    let rounds = if std::env::var_os("KEYRELAY_TESTS_FULL").is_some() { 100 } else { 20 };
    let furnished = Furnished::new(40).await?;
    let (file, clean) = (furnished.path("whole.backup"), furnished.path("clean"));
    tokio::task::block_in_place(|| back_up(furnished.data(), &file))?.expect(0)?;
    let begin = Instant::now();
    let whole = restore(&file, &clean, &furnished.root_key())?.expect(0)?.json()?;
    let lasts = begin.elapsed();
    let expected = content(&clean).await?;
    ensure!(expected.len() > 100, "{}", expected.len());
    let (mut half, mut done) = (0, 0);
    for round in 0..rounds {
        let data = furnished.path(&format!("killed-{round}"));
        let mut command = cli::command("keyrelay")?;
        command.arg("restore").arg(&file).arg("--data").arg(&data).arg("--root-key").arg(furnished.root_key());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // From before its first step to after its last; the moments differ from run to run by themselves.
        tokio::time::sleep(lasts.mul_f64(f64::from(round) / f64::from(rounds - 1))).await;
        // It may have ended by itself.
        let _ = child.kill();
        child.wait()?;
        if data.join("restore.unfinished").exists() {
            half += 1;
            let refused = Launch::new(&data).refused().await?;
            ensure!(refused.stderr.contains("half restored"), "round {round}: {}", refused.stderr);
        }
        let run = restore(&file, &data, &furnished.root_key())?;
        if run.code == 2 && run.stderr.contains("is not empty") {
            // It had come to its end.
            done += 1;
        } else {
            let again = run.expect(0).with_context(|| format!("round {round}"))?.json()?;
            ensure!(again["root"] == whole["root"], "round {round}: {again}");
        }
        ensure!(content(&data).await? == expected, "round {round}: the stores are not those of a clean run");
        let audit = keyrelay(&["log".as_ref(), "verify".as_ref(), "--offline".as_ref(), "--data".as_ref(), data.as_ref()])?;
        ensure!(audit.expect(0)?.json()?["root"] == whole["root"], "round {round}");
        fs::remove_dir_all(&data)?;
    }
    eprintln!("{rounds} kills within {lasts:?}: {half} half restored, {done} done");
    ensure!(half > 0, "none of {rounds} kills met a restore at work");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_during_a_backup_leaves_nothing_that_passes_for_one() -> Result<()> {
    for round in 0..6_u64 {
        let furnished = Furnished::new(8).await?;
        let folder = furnished.path("backups");
        fs::create_dir(&folder)?;
        // What had come off the wire when the node went.
        let mut stream = {
            let token = format!("Bearer {}", furnished.world.node.owner_token()?);
            let url = format!("{}/api/v1/backup", furnished.world.admin.origin());
            tests::http::Http::default().open(http::Method::GET, &url, &[("authorization", &token)], "").await?
        };
        let piece = stream.next().await?.context("a piece")?;
        let mut command = cli::command("keyrelay")?;
        command.arg("backup").arg("--data").arg(furnished.data()).arg("--output").arg(&folder);
        let mut taking = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        tokio::time::sleep(Duration::from_millis(round * 12)).await;
        let Furnished { world, .. } = furnished;
        world.node.kill()?;
        let status = taking.wait()?;
        let cut = folder.join("cut");
        fs::write(&cut, &piece[..piece.len() - 1])?;
        verify(&cut)?.expect(1)?;
        fs::remove_file(&cut)?;
        let left: Vec<PathBuf> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        if status.success() {
            // It was whole before the node went.
            ensure!(left.len() == 1, "{left:?}");
            verify(&left[0])?.expect(0)?;
        } else {
            ensure!(status.code() == Some(2) && left.is_empty(), "round {round}: {status}, {left:?}");
        }
    }
    Ok(())
}

/// The value of a setting in a unit file, which must stand there once.
fn setting<'a>(unit: &'a str, name: &str) -> Result<&'a str> {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = values.next().with_context(|| format!("no {name}"))?;
    ensure!(values.next().is_none(), "{name} stands there twice");
    Ok(value)
}

/// Runs a command of a deploy file against a node here; gives what is in the folder of backups then.
fn run_as_deployed(command: &str, data: &Path, backups: &Path) -> Result<Vec<String>> {
    let mut words = command.split_whitespace();
    ensure!(words.next() == Some("/usr/local/bin/keyrelay"), "{command}");
    let mut keyrelay = cli::command("keyrelay")?;
    for word in words {
        match word {
            "/var/lib/keyrelay" => keyrelay.arg(data),
            "/var/lib/keyrelay-backup" => keyrelay.arg(backups),
            word => keyrelay.arg(word),
        };
    }
    cli::run(&mut keyrelay)?.expect(0)?;
    let mut left: Vec<_> = fs::read_dir(backups)?.map(|entry| Ok(entry?.file_name().display().to_string())).collect::<Result<_>>()?;
    left.sort();
    Ok(left)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timer_and_the_cron_line_take_a_backup_at_two_and_keep_a_week() -> Result<()> {
    let unit = |name: &str| fs::read_to_string(cli::workspace().join("deploy/systemd").join(name));
    let (timer, service) = (unit("keyrelay-backup.timer")?, unit("keyrelay-backup.service")?);
    ensure!(setting(&timer, "OnCalendar")? == "*-*-* 02:00:00" && setting(&timer, "Persistent")? == "true");
    ensure!(setting(&timer, "WantedBy")? == "timers.target" && setting(&service, "Type")? == "oneshot");
    let command = setting(&service, "ExecStart")?;
    let readme = fs::read_to_string(cli::workspace().join("README.md"))?;
    let cron = readme.lines().find_map(|line| line.trim().strip_prefix("0 2 * * *")).context("no cron line in README.md")?;
    let (user, cron) = cron.trim().split_once(char::is_whitespace).context("a user and a command")?;
    ensure!(user == "keyrelay" && cron.trim() == command, "the cron line does another thing than the timer: {cron}");

    let world = World::start().await?;
    let backups = world.directory.path().join("backups");
    fs::create_dir(&backups)?;
    let first = tokio::task::block_in_place(|| run_as_deployed(command, world.node.data(), &backups))?;
    let name = first.first().context("a backup")?.clone();
    verify(&backups.join(&name))?.expect(0)?;
    // The same cluster's backup of long ago goes, what is anything else stays.
    let stamp = name.split('-').nth(2).context("a time")?;
    let (old, foreign) = (name.replace(stamp, "20200101T020000Z"), "keyrelay-cl_other-20200101T020000Z-1.backup");
    fs::write(backups.join(&old), "old")?;
    fs::write(backups.join(foreign), "another cluster's")?;
    // A record more, so that the second has a name of its own within the same second.
    world.key(json!({})).await?;
    let left = tokio::task::block_in_place(|| run_as_deployed(command, world.node.data(), &backups))?;
    ensure!(left.len() == 3 && left.contains(&name) && left.iter().any(|name| name == foreign) && !left.contains(&old), "{left:?}");
    Ok(())
}
