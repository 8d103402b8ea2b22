//! Rotation schedules: set by the command line's flags, carried by exports and set by imports, of keys and of tenants.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Admin, Node, World};

use crate::node::{empty_node, export, import, keyrelay};

/// Runs `keyrelay … --json`.
fn told(node: &Node, words: &[&str]) -> Result<Value> {
    keyrelay(node, &[words, &["--json"]].concat())?.expect(0)?.json()
}

/// The schedules of all keys by name, and those of the tenant.
async fn schedules(admin: &Admin) -> Result<(BTreeMap<String, (Value, Value)>, Value)> {
    let keys = admin.get("/keys?limit=1000").await?.success()?;
    let rows = keys["keys"].as_array().context("keys")?.iter();
    let named = rows.map(|key| Ok((key["name"].as_str().context("a name")?.to_owned(), key["rotation"].clone())));
    let times = |rotation: Value| (rotation["every"].clone(), rotation["overlap"].clone());
    let named: Result<BTreeMap<_, _>> = named.map(|one: Result<_>| one.map(|(name, rotation)| (name, times(rotation)))).collect();
    Ok((named?, admin.get("/tenants/default").await?.success()?["tenant"]["rotations"].clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_sets_schedules_and_takes_them_away() -> Result<()> {
    let world = World::start().await?;
    let node = &world.node;
    let never = ["--never-expires"];
    let create = |words: &[&str]| told(node, &[&["keys", "create"], words, &never].concat());
    let made = create(&["a", "--rotate-every", "30d", "--rotate-overlap", "2d"])?;
    let rotation = &made["key"]["rotation"];
    ensure!(rotation["every"] == "30d" && rotation["overlap"] == "2d" && rotation["due_at"].is_string(), "{made}");
    let id = made["key"]["id"].as_str().context("an id")?.to_owned();
    ensure!(
        create(&["b", "--rotate-every", "3d"])?["key"]["rotation"]["overlap"] == "3d",
        "the overlap is no longer than the time between"
    );
    ensure!(create(&["c"])?["key"]["rotation"].is_null(), "a schedule that nobody asked for");
    // With a count each key has it.
    keyrelay(node, &[&["keys", "create", "--count", "2", "--name-pattern", "many-{n}", "--rotate-every", "10d"][..], &never].concat())?
        .expect(0)?;

    let changed = told(node, &["keys", "update", &id, "--rotate-every", "60d", "--rotate-overlap", "5d"])?;
    ensure!(changed["key"]["rotation"]["every"] == "60d" && changed["key"]["rotation"]["overlap"] == "5d", "{changed}");
    ensure!(told(node, &["keys", "update", &id, "--no-rotation"])?["key"]["rotation"].is_null(), "it is still rotated");
    let tenant = told(node, &["tenants", "update", "default", "--rotate-tag", "ci=30d/7d", "--rotate-tag", "eu=90d"])?;
    let expected = json!([{ "tag": "ci", "every": "30d", "overlap": "7d" }, { "tag": "eu", "every": "90d", "overlap": "7d" }]);
    ensure!(tenant["tenant"]["rotations"] == expected, "{tenant}");
    let (keys, of_tenant) = schedules(&world.admin).await?;
    let every = |name: &str| keys.get(name).map(|(every, _)| every.clone());
    ensure!(every("a") == Some(Value::Null) && every("b") == Some("3d".into()), "{keys:?}");
    ensure!(keys.values().filter(|(every, _)| *every == "10d").count() == 2, "{keys:?}");
    ensure!(of_tenant == expected, "{of_tenant}");
    ensure!(told(node, &["tenants", "update", "default", "--no-rotations"])?["tenant"]["rotations"] == json!([]), "still scheduled");

    // What cannot be is refused, by the flags or by the node.
    let refused = |words: &[&str], says: &str| {
        let run = keyrelay(node, &[&["keys", "create", "refused"], words, &never].concat())?;
        ensure!(run.code != 0 && run.stderr.contains(says), "{}: {}", run.code, run.stderr);
        Ok(())
    };
    refused(&["--rotate-overlap", "2d"], "--rotate-every")?;
    refused(&["--rotate-every", "1d", "--rotate-overlap", "2d"], "a rotation is scheduled")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_arrive_elsewhere_and_come_back_with_an_older_export() -> Result<()> {
    let world = World::start().await?;
    let (directory, admin) = (world.directory.path(), &world.admin);
    let scheduled = world.key(json!({ "name": "scheduled", "rotation": { "every": "30d", "overlap": "2d" } })).await?;
    let plain = world.key(json!({ "name": "plain" })).await?;
    told(&world.node, &["tenants", "update", "default", "--rotate-tag", "ci=30d/7d"])?;
    let before = schedules(admin).await?;
    ensure!(before.0["scheduled"] == ("30d".into(), "2d".into()), "{before:?}");
    let file = export(&world.node, directory, "before.jsonl")?;

    let other = empty_node(directory, "other").await?;
    // The tenant that every node is founded with is here, and differs.
    let done = import(&other, directory, &file, &["--force"])?.expect(0)?.json()?;
    ensure!(done["result"]["failed"] == 0, "{done}");
    let arrived = schedules(&other.admin()?).await?;
    ensure!(arrived == before, "{before:?}\n{arrived:?}");

    // Here they are changed, and a rollback sets them to the file's.
    told(&world.node, &["keys", "update", &scheduled.id, "--no-rotation"])?;
    told(&world.node, &["keys", "update", &plain.id, "--rotate-every", "9d"])?;
    told(&world.node, &["tenants", "update", "default", "--no-rotations"])?;
    let asked = import(&world.node, directory, &file, &[])?.expect(1)?;
    ensure!(asked.stderr.contains("import_conflicts") && asked.stderr.contains(&scheduled.id), "{}", asked.stderr);
    // A merge gives what is not there and leaves what is.
    import(&world.node, directory, &file, &["--merge"])?.expect(0)?;
    let (merged, _) = schedules(admin).await?;
    ensure!(merged["scheduled"].0 == "30d" && merged["plain"].0 == "9d", "{merged:?}");
    import(&world.node, directory, &file, &["--force"])?.expect(0)?;
    ensure!(schedules(admin).await? == before, "{before:?}");
    // A file of a release that did not tell of them leaves them alone.
    let older = crate::node::rewritten(&file, |line| {
        for member in ["rotation", "rotations"] {
            line.as_object_mut().map(|line| line.remove(member));
        }
    })?;
    std::fs::write(directory.join("older.jsonl"), older)?;
    import(&world.node, directory, &directory.join("older.jsonl"), &["--force"])?.expect(0)?;
    ensure!(schedules(admin).await? == before, "{before:?}");
    Ok(())
}
