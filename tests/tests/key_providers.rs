//! Providers that make the next key of an upstream and take the old one away: each key is one that the relay knows, whatever breaks off.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, Plan};
use tests::key_maker::ADMIN_KEY;
use tests::world::CREDENTIAL;
use tests::{Admin, KeyMaker, Launch, ScriptedUpstream, World, clock, wait};

const ROTATIONS: &str = "/upstreams/openai/rotations";
const SECRET: &str = "hook-secret-Jx82kQm1ZtR9vWbY3nLp0A";

/// A file that only its owner reads.
fn secret_file(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

/// A world whose upstreams of this name have their keys made by a provider of this kind.
async fn world(maker: &KeyMaker, kind: &str, upstreams: &str, further: &str) -> Result<(World, tempfile::TempDir)> {
    let secrets = tempfile::tempdir()?;
    let file = secret_file(secrets.path(), "secret", if kind == "webhook" { SECRET } else { ADMIN_KEY })?;
    let config = maker.config(kind, upstreams, &file) + further;
    Ok((World::with(|launch| launch.with_config(&config)).await?, secrets))
}

async fn standing(admin: &Admin, upstream: &str) -> Result<Value> {
    let mut shown = admin.get(&format!("/upstreams/{upstream}")).await?.success()?;
    Ok(shown["upstream"]["credential"]["rotation"].take())
}

/// Waits until the newest rotation of an upstream stands at a status.
async fn newest(admin: &Admin, upstream: &str, status: &str) -> Result<Value> {
    wait::until(&format!("a rotation of {upstream} that is {status}"), || async {
        let mut listed = admin.get(&format!("/upstreams/{upstream}/rotations")).await?.success()?;
        let newest = listed.pointer_mut("/rotations/0").map(Value::take).unwrap_or_default();
        Ok((newest["status"] == status).then_some(newest))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_makes_the_next_key_and_takes_the_old_one_away() -> Result<()> {
    let maker = KeyMaker::start().await?;
    let (world, _secrets) = world(&maker, "openai", "openai", "").await?;
    let key = world.key(json!({})).await?;
    let ordered = world.admin.post(ROTATIONS, &json!({ "window": "1s", "grace": "3s" })).await?.expect(201)?.json()?;
    let id = ordered["order"]["id"].as_str().context("an order")?.to_owned();
    ensure!(ordered["due"] == true && ordered["order"]["provider"] == "openai" && ordered["rotation"].is_null(), "{ordered}");
    let first = newest(&world.admin, "openai", "finished").await?;
    ensure!(first["id"] == id.as_str() && first["began_by"] == "scheduler", "{first}");
    ensure!(maker.names() == [format!("keyrelay-{id}")] && maker.made() == 1, "{:?}", maker.names());
    world.relay.chat(&key.secret, "with the key that was made").await?.success()?;
    ensure!(world.upstream.seen().last().is_some_and(|seen| seen.credential().starts_with("sk-made-0001")), "another key is shown");

    world.admin.post(ROTATIONS, &json!({ "window": "1s", "grace": "3s" })).await?.expect(201)?;
    wait::until("the first key to be gone", || async { Ok((maker.removed() == 1).then_some(())) }).await?;
    let second = newest(&world.admin, "openai", "finished").await?;
    ensure!(maker.names() == [format!("keyrelay-{}", second["id"].as_str().unwrap_or_default())], "{:?}", maker.names());
    world.relay.chat(&key.secret, "with the next key").await?.success()?;
    // Nothing of what the provider said of secrets is in the log.
    let log = wait::until("the record of the first key's end", || async {
        let log = serde_json::to_string(&world.admin.events().await?)?;
        Ok(log.contains("ProviderKeyRetired").then_some(log))
    });
    ensure!(!log.await?.contains("sk-made-"), "a secret is in the log");
    ensure!(maker.refusals() == 0 && maker.made() == 2);
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_node_died_before_it_was_sealed_is_taken_away() -> Result<()> {
    let maker = KeyMaker::start().await?;
    let directory = tempfile::tempdir()?;
    let file = secret_file(directory.path(), "secret", ADMIN_KEY)?;
    let (data, config) = (directory.path().join("data"), maker.config("openai", "openai", &file));
    let upstream = ScriptedUpstream::start().await?;
    let launch = || Launch::new(&data).with_config(&config);
    let node = launch().with_bug(Some("dies-with-a-key-of-the-provider")).start().await?;
    let admin = node.admin()?;
    admin.add_upstream("openai", "openai", &upstream.openai_url(), CREDENTIAL).await?;
    let ordered = admin.post(ROTATIONS, &json!({})).await?.expect(201)?.json()?;
    wait::until("a key that nobody holds", || async { Ok((maker.made() == 1).then_some(())) }).await?;
    drop(node.kill()?);

    let node = launch().start().await?;
    let rotation = newest(&node.admin()?, "openai", "dual").await?;
    ensure!(rotation["id"] == ordered["order"]["id"], "{rotation}");
    ensure!((maker.made(), maker.removed()) == (2, 1) && maker.names().len() == 1, "{:?}", maker.names());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_have_one_key_made_for_each_order() -> Result<()> {
    let maker = KeyMaker::start().await?;
    let secrets = tempfile::tempdir()?;
    let config = maker.config("openai", "up-*", &secret_file(secrets.path(), "secret", ADMIN_KEY)?);
    let mut cluster = Cluster::without_nodes(Plan { servers: 1, nodes: 2, ..Plan::default() }).await?;
    for index in 0..2 {
        let launch = cluster.launch(index)?.with_config(&config);
        cluster.adopt(index, launch).await?;
    }
    let (first, second) = (cluster.admin(0)?, cluster.admin(1)?);
    for n in 0..6 {
        first.add_upstream(&format!("up-{n}"), "openai", &cluster.upstream.openai_url(), &format!("{CREDENTIAL}-{n}")).await?;
    }
    for n in 0..6 {
        let path = format!("/upstreams/up-{n}/rotations");
        wait::until("the upstream at the other node", || async { Ok(second.get(&path).await?.status.is_success().then_some(())) }).await?;
        // Both are told at once; one order comes of it.
        let body = json!({ "rotation_id": format!("rot_mfrggzdfmztwq2lknnwg23tp{}", ["ma", "me", "mi", "mm", "mq", "mu"][n]) });
        let (at_first, at_second) = tokio::join!(first.post(&path, &body), second.post(&path, &body));
        ensure!(at_first?.status.is_success() && at_second?.status.is_success());
    }
    for n in 0..6 {
        newest(&second, &format!("up-{n}"), "dual").await?;
    }
    ensure!((maker.made(), maker.removed()) == (6, 0), "{} made, {} removed: {:?}", maker.made(), maker.removed(), maker.names());
    Ok(())
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_ordered_by_itself_and_within_its_hours() -> Result<()> {
    let maker = KeyMaker::start().await?;
    let directory = tempfile::tempdir()?;
    let file = secret_file(directory.path(), "secret", SECRET)?;
    // A second schedule whose hours never come: a day that begins and ends at once.
    let schedules = "[rotation.schedules.nightly]\nupstreams = [\"night\"]\nevery = \"2d\"\nbetween = \"00:00-00:01\"\ndays = [\"mon\"]\n\
                     [rotation.schedules.weekly]\nupstreams = [\"openai\"]\nprovider = \"webhook\"\nevery = \"7d\"\n";
    let (data, config) = (directory.path().join("data"), maker.config("webhook", "*", &file) + schedules);
    let upstream = ScriptedUpstream::start().await?;
    let node = Launch::new(&data).with_config(&config).with_bug(Some(clock::MOVED)).start().await?;
    let admin = node.admin()?;
    for (name, tags) in [("openai", json!([])), ("metered", json!(["risk:metered"])), ("none", json!([])), ("night", json!([]))] {
        let body = json!({ "name": name, "dialect": "openai", "base_url": upstream.openai_url(), "credential": format!("{CREDENTIAL}-{name}"), "tags": tags });
        admin.add_upstream_with(&body).await?;
    }
    let due = standing(&admin, "openai").await?;
    ensure!(due["schedule"] == "weekly" && due["provider"] == "webhook" && due["status"] == "idle", "{due}");
    ensure!(standing(&admin, "metered").await?["schedule"] == "risk" && standing(&admin, "none").await?["due_at"].is_null());
    // To a Wednesday at noon, a week from now or later.
    let now = u64::try_from(clock::now_ms()? / 1000)?;
    let days = (7..14).find(|days| ((now / 86_400) + days + 3) % 7 == 2).context("a Wednesday")?;
    clock::ahead(&data, (now / 86_400 + days) * 86_400 + 43_200 - now)?;
    newest(&admin, "openai", "dual").await?;
    newest(&admin, "metered", "dual").await?;
    for upstream in ["none", "night"] {
        ensure!(standing(&admin, upstream).await?["status"] == "idle", "{upstream} was rotated");
    }
    let hooks = maker.hooks();
    ensure!(hooks.len() == 2 && hooks.iter().all(|(signature, body)| signature.contains(",v1=") && body["action"] == "make"), "{hooks:?}");
    ensure!(maker.made() == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_makes_no_keys_waits_for_a_paste_and_ends_the_old_key() -> Result<()> {
    let maker = KeyMaker::start().await?;
    maker.knows("apikey_old", "sk-provider-Zq...8sYh");
    maker.knows("apikey_other", "sk-provider-Ab...8sYh");
    let (world, _secrets) = world(&maker, "anthropic", "anthropic", "").await?;
    let path = "/upstreams/anthropic/rotations";
    let ordered = world.admin.post(path, &json!({})).await?.expect(201)?.json()?;
    let waiting = standing(&world.admin, "anthropic").await?;
    ensure!(waiting["status"] == "ordered" && waiting["id"] == ordered["order"]["id"], "{waiting}");
    ensure!(world.admin.metrics().await?.contains("status=\"ordered\""), "no metric of the order");
    let again = world.admin.post(path, &json!({})).await?.expect(200)?.json()?;
    ensure!(again["due"] == false && again["order"]["id"] == ordered["order"]["id"], "{again}");

    let pasted = json!({ "credential": "sk-provider-next-4hT7cPq9ZbX2nVw6RkLs", "window": "2s", "grace": "4s" });
    let begun = world.admin.post(path, &pasted).await?.expect(201)?.json()?;
    ensure!(begun["rotation"]["id"] == ordered["order"]["id"] && begun["order"].is_null(), "{begun}");
    newest(&world.admin, "anthropic", "finished").await?;
    wait::until("the old key to be inactive", || async { Ok((!maker.inactive().is_empty()).then_some(())) }).await?;
    ensure!(maker.inactive() == ["apikey_old"] && maker.made() == 0, "{:?}", maker.inactive());

    // An order can be given up, and then there is room for another secret.
    let other = world.admin.post(path, &json!({})).await?.expect(201)?.json()?;
    let abort = format!("{path}/{}/abort", other["order"]["id"].as_str().context("an id")?);
    let dropped = world.admin.post(&abort, &json!({})).await?.success()?;
    ensure!(dropped["order"].is_null() && standing(&world.admin, "anthropic").await?["status"] == "idle", "{dropped}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_make_no_provider_or_schedule_are_refused_together() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = "[rotation.providers.a]\nkind = \"openai\"\nupstreams = [\"*\"]\nproject = \"p\"\n\
                  [rotation.providers.b]\nkind = \"paste\"\nupstreams = []\n\
                  [rotation.schedules.c]\nevery = \"7d\"\nbetween = \"9-17\"\n[rotation.schedules.d]\nevery = \"7d\"\nalways = true\n";
    let refused = Launch::new(&directory.path().join("data")).with_config(config).refused().await?;
    for place in ["rotation.providers.a", "rotation.providers.b", "rotation.schedules.c", "rotation.schedules.d"] {
        ensure!(refused.stderr.contains(place), "{place}: {}", refused.stderr);
    }
    ensure!(refused.code == 2);
    Ok(())
}
