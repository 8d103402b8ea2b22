//! Many keys at once: created, found, changed, and a batch that is killed in the middle ends as one that ran through.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Admin, Launch, World, cli};

/// Keys of a batch that is killed: more than a node has in hand at once, so that a kill leaves some undone.
const KEYS: usize = 700;

/// The lines that came before the answer ended, or was cut off.
async fn lines(admin: &Admin, batch: &Value, word: &str, most: usize) -> Result<Vec<Value>> {
    let mut answer = admin.open_once("/keys/batch", batch, word).await?;
    let mut text = Vec::new();
    // A node that is killed cuts the body off; whole lines count all the same.
    while let Ok(Some(piece)) = answer.next().await {
        text.extend_from_slice(&piece);
        if text.iter().filter(|byte| **byte == b'\n').count() >= most {
            break;
        }
    }
    ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(&text));
    let text = String::from_utf8(text)?;
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|line| serde_json::from_str(line).context("a line")).collect()
}

/// The items of a whole answer, which must all have been done.
fn items(lines: &[Value], count: usize) -> Result<&[Value]> {
    let (Some(begin), Some(end)) = (lines.first(), lines.last()) else { anyhow::bail!("no lines") };
    ensure!(begin["type"] == "begin" && end["type"] == "end" && end["done"] == true, "{begin} … {end}");
    ensure!(end["counts"]["failed"] == 0 && lines.len() == count + 2, "{} lines, {end}", lines.len());
    Ok(&lines[1..=count])
}

/// What a batch leaves: the state of each key of a tag by name.
async fn left(admin: &Admin, tag: &str) -> Result<BTreeMap<String, Value>> {
    let (mut states, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = admin.get(&format!("/keys?tag={tag}&sort=name&limit=150{cursor}")).await?.success()?;
        for key in page["keys"].as_array().context("keys")? {
            let name = key["name"].as_str().context("a name")?.to_owned();
            let state = json!([key["state"], key["version"], key["tags"], key["expires_at"].is_null()]);
            ensure!(states.insert(name, state).is_none(), "two keys have one name: {key}");
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(states),
        }
    }
}

async fn killed_batches_end_as_whole_ones() -> Result<()> {
    let rounds = if std::env::var_os("KEYRELAY_TESTS_FULL").is_some() { 100 } else { 20 };
    let directory = tempfile::tempdir()?;
    let mut launch = Launch::new(&directory.path().join("data"));
    let mut random: usize = 20_261_122;
    let (mut whole, mut cut) = (None, 0);
    for round in 0..=rounds {
        let tag = format!("round-{round}");
        let create = json!({ "create": { "count": KEYS, "key": { "name": "k-{n:03}", "tags": [tag], "expires_in": "30d" } } });
        let disable = json!({ "disable": {}, "filter": { "tag": tag, "state": "active", "sort": "name" } });
        let mut seen: Vec<Value> = Vec::new();
        // Round 0 runs through; it is what the others are held against.
        for (batch, verb) in [(&create, "create"), (&disable, "disable")] {
            let word = format!("{tag}-{verb}");
            if round > 0 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let moment = 1 + (random >> 33) % KEYS;
                let node = launch.start().await.with_context(|| format!("round {round}"))?;
                let before = lines(&node.admin()?, batch, &word, moment).await?;
                launch = node.kill()?;
                if verb == "create" {
                    seen = before;
                }
            }
            let node = launch.start().await.with_context(|| format!("round {round}, after the kill"))?;
            let admin = node.admin()?;
            let again = lines(&admin, batch, &word, usize::MAX).await?;
            let counts = again.last().map(|end| end["counts"].clone()).unwrap_or_default();
            cut += usize::from(round > 0 && verb == "create" && counts["changed"] != 0 && counts["repeated"] != 0);
            if verb == "create" {
                let items = items(&again, KEYS)?;
                for line in seen.iter().filter(|line| line["type"] == "item") {
                    let place = line["index"].as_u64().context("an index")? as usize;
                    for member in ["id", "name", "secret", "sequence", "version"] {
                        ensure!(items[place][member] == line[member], "round {round}: first {line}, then {}", items[place]);
                    }
                }
                let secrets: BTreeSet<&str> = items.iter().filter_map(|line| line["secret"].as_str()).collect();
                ensure!(secrets.len() == KEYS, "round {round}: {} secrets", secrets.len());
            } else {
                let end = again.last().context("an end")?;
                ensure!(end["done"] == true && end["counts"]["failed"] == 0, "round {round}: the rest was not done: {end}");
            }
            launch = node.stop().await?;
        }
        let node = launch.start().await?;
        let admin = node.admin()?;
        let left = left(&admin, &tag).await?;
        let of_tag = |key: &Value| json!([key[0], key[1], key[3]]);
        let state: Vec<(&String, Value)> = left.iter().map(|(name, key)| (name, of_tag(key))).collect();
        let state = json!(state);
        ensure!(left.len() == KEYS, "round {round}: {} keys", left.len());
        ensure!(*whole.get_or_insert_with(|| state.clone()) == state, "round {round} did not end as a batch that ran through");
        let total = admin.get("/keys?limit=1").await?.success()?["total"].as_u64();
        ensure!(total == Some((KEYS * (round + 1)) as u64), "round {round}: {total:?} keys in all");
        launch = node.stop().await?;
    }
    ensure!(cut > 0, "no kill fell into the middle of a batch");
    let node = launch.start().await?;
    let events = node.admin()?.events().await?;
    for (event, count) in [("KeyCreated", KEYS * (rounds + 1)), ("KeyDisabled", KEYS * (rounds + 1))] {
        let found = events.iter().filter(|found| found["type"] == event).count();
        ensure!(found == count, "{found} {event}, {count} are due");
    }
    node.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_killed_and_sent_again_ends_as_one_that_ran_through() -> Result<()> {
    killed_batches_end_as_whole_ones().await
}

/// A batch whose filter finds other keys when it is sent again: what it did is known by the key, whatever its place is by then.
async fn batch_is_sent_again_after_its_filter_changed(bug: Option<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let node = Launch::new(&directory.path().join("data")).with_bug(bug.as_deref()).start().await?;
    let admin = node.admin()?;
    let create = json!({ "create": { "count": 5, "key": { "name": "k-{n}", "tags": ["five"], "expires": "never" } } });
    lines(&admin, &create, "create", usize::MAX).await?;
    let disable = json!({ "disable": {}, "filter": { "tag": "five", "state": "active", "sort": "name" } });
    let first = lines(&admin, &disable, "disable", usize::MAX).await?;
    let last = items(&first, 5)?[4].clone();
    let id = last["id"].as_str().context("an id")?;
    admin.post(&format!("/keys/{id}/enable"), &json!({})).await?.success()?;
    let head = admin.head().await?;

    let again = lines(&admin, &disable, "disable", usize::MAX).await?;
    let end = again.last().context("an end")?;
    ensure!(end["counts"]["failed"] == 0, "the batch does not know its key again: {:?}", again.get(1));
    let repeated = &items(&again, 1)?[0];
    for member in ["id", "sequence", "version"] {
        ensure!(repeated[member] == last[member], "first {last}, then {repeated}");
    }
    ensure!(repeated["outcome"] == "repeated" && admin.head().await? == head, "it was done twice: {repeated}");
    node.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_knows_its_keys_when_its_filter_finds_others() -> Result<()> {
    batch_is_sent_again_after_its_filter_changed(None).await
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_commands_go_by_their_place_is_noticed() -> Result<()> {
    tests::planted::turns_red("batch-by-place", "does not know its key again", batch_is_sent_again_after_its_filter_changed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_are_made_and_changed_on_the_command_line() -> Result<()> {
    let world = World::start().await?;
    let data = world.node.data().to_owned();
    let run = |words: &[&str]| cli::run(cli::command("keyrelay")?.args(words).arg("--data").arg(&data));
    let file = data.join("issued");
    let file_text = file.to_str().context("a path")?;
    let create =
        ["keys", "create", "--count", "25", "--name-pattern", "ci-{n:03}", "--tag", "ci", "--never-expires", "--output", file_text];
    run(&create)?.expect(0)?;
    let issued = std::fs::read_to_string(&file)?;
    ensure!(
        issued.lines().count() == 25 && std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions()) & 0o777 == 0o600
    );
    let secret = issued.lines().next().and_then(|line| line.split(' ').nth(2)).context("a secret")?;
    world.relay.chat(secret, "it works").await?.success()?;
    run(&create)?.expect(2)?;

    let found = run(&["keys", "list", "--search", secret, "--json"])?.expect(0)?.json()?;
    ensure!(found["keys"].as_array().is_some_and(|keys| keys.len() == 1 && keys[0]["name"] == "ci-001"), "{found}");

    run(&["keys", "renew", "--filter", "tag=ci", "--expires-in", "30d"])?.expect(2)?;
    let rehearsed = run(&["keys", "renew", "--filter", "tag=ci", "--expires-in", "30d", "--dry-run"])?.expect(0)?;
    ensure!(rehearsed.stdout.lines().filter(|line| line.contains("expires_at: - -> ")).count() == 25, "{}", rehearsed.stdout);
    run(&["keys", "renew", "--filter", "tag=ci", "--expires-in", "30d", "--yes"])?.expect(0)?;
    let never = world.admin.get("/keys?tag=ci&never_expires=true").await?.success()?;
    ensure!(never["total"] == 0, "{never}");

    let ids = data.join("ids");
    let of_file: Vec<&str> = issued.lines().filter_map(|line| line.split(' ').next()).take(3).chain(["key_nobody"]).collect();
    std::fs::write(&ids, of_file.join("\n"))?;
    let revoked = run(&["keys", "revoke", "--ids-file", ids.to_str().context("a path")?, "--yes", "--json"])?.expect(1)?;
    let end: Value = serde_json::from_str(revoked.stdout.lines().last().context("an end")?)?;
    ensure!((&end["counts"]["changed"], &end["counts"]["failed"]) == (&json!(3), &json!(1)), "{end}");
    let is_named = |line: &str| serde_json::from_str(line).is_ok_and(|line: Value| line["id"] == "key_nobody" && line["status"] == 404);
    ensure!(revoked.stdout.lines().filter(|line| is_named(line)).count() == 1, "a text that is no id is not named: {}", revoked.stdout);
    let enabled = run(&["keys", "enable", "--ids-file", ids.to_str().context("a path")?, "--yes"])?.expect(1)?;
    ensure!(enabled.stdout.contains("key_nobody FAILED"), "{}", enabled.stdout);
    ensure!(world.admin.get("/keys?state=revoked&tag=ci").await?.success()?["total"] == 3);
    world.relay.chat(secret, "it does not").await?.expect(401)?;

    run(&["keys", "archive", "--filter", "state=revoked", "--reason", "leaked", "--yes"])?.expect(0)?;
    ensure!(world.admin.get("/keys?state=archived").await?.success()?["total"] == 3);
    let one = of_file[1];
    let asked = run(&["keys", "purge", one])?.expect(2)?;
    ensure!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    ensure!(world.admin.get("/keys?state=archived").await?.success()?["total"] == 3);
    run(&["keys", "purge", one, "--yes"])?.expect(0)?;
    let unknown = run(&["keys", "show", "ci-005"])?.expect(1)?;
    ensure!(unknown.stderr.contains("keys list --search"), "{}", unknown.stderr);
    run(&["keys", "purge", "--filter", "state=archived", "--filter", "search=ci-001"])?.expect(2)?;
    run(&["keys", "purge", "--filter", "state=archived", "--filter", "search=ci-001", "--yes"])?.expect(0)?;
    let text = of_file[..3].join("\n");
    std::fs::write(&ids, text)?;
    let restored = run(&["keys", "restore", "--ids-file", ids.to_str().context("a path")?, "--yes"])?.expect(1)?;
    ensure!(restored.stdout.contains("FAILED") && restored.stdout.contains("not_found"), "{}", restored.stdout);
    ensure!(world.admin.get("/keys?state=revoked&tag=ci").await?.success()?["total"] == 1);
    ensure!(world.admin.get("/keys").await?.success()?["total"] == 23);
    Ok(())
}
