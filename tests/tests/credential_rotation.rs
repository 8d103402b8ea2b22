//! Upstreams get new credentials while requests go on: nothing is refused for it, whatever breaks off in the middle is gone on with, and what the
//! provider does not take never stays in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::world::{CREDENTIAL, World};
use tests::{Admin, Relay, cli, wait};
use tokio::task::JoinSet;

const NEXT: &str = "sk-provider-next-4hT7cPq9ZbX2nVw6RkLs";
const ROTATIONS: &str = "/upstreams/openai/rotations";
/// Clients that ask one after another, without a pause to speak of.
const CLIENTS: usize = 4;

/// Clients that ask until they are told to stop, each request a whole or a streamed answer in turn.
struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<Vec<String>>>,
}

impl Clients {
    fn start(relays: &[Relay], secret: &str) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for client in 0..CLIENTS {
            let (stop, relay, secret) = (Arc::clone(&stop), relays[client % relays.len()].clone(), secret.to_owned());
            tasks.spawn(async move {
                let (mut answers, mut pace) = (Vec::new(), tokio::time::interval(Duration::from_millis(20)));
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let question = format!("{client} asks {}", answers.len());
                    let answer = match answers.len() % 2 {
                        0 => relay.chat(&secret, &question).await?,
                        _ => relay.chat_stream(&secret, &question).await?.whole().await?,
                    };
                    answers.push(format!("{} {}", answer.status.as_u16(), answer.header("x-keyrelay-attempts")));
                }
                Ok(answers)
            });
        }
        Self { stop, tasks }
    }

    /// Ends them; every answer must have been a success of the first attempt.
    async fn all_served(mut self, at_least: usize) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            answers.extend(ended??);
        }
        ensure!(answers.len() >= at_least, "only {} requests were sent", answers.len());
        let failed: Vec<_> = answers.iter().filter(|answer| *answer != "200 1").collect();
        ensure!(failed.is_empty(), "{} of {} requests: {failed:?}", failed.len(), answers.len());
        Ok(answers.len())
    }
}

/// Begins a rotation and gives its id.
async fn begin(admin: &Admin, body: Value) -> Result<String> {
    let answer = admin.post(ROTATIONS, &body).await?.expect(201)?.json()?;
    ensure!(answer["due"] == true && !answer.to_string().contains(NEXT), "{answer}");
    answer["rotation"]["id"].as_str().map(str::to_owned).context("an id")
}

async fn shown(admin: &Admin, rotation: &str) -> Result<Value> {
    let mut shown = admin.get(&format!("{ROTATIONS}/{rotation}")).await?.success()?;
    Ok(shown["rotation"].take())
}

/// The statuses that a rotation goes through, in order.
const WAY: [&str; 5] = ["installed", "tested", "dual", "draining", "finished"];

/// Waits until a rotation has come to a status, or gone past it.
async fn comes_to(admin: &Admin, rotation: &str, status: &str) -> Result<()> {
    let place = |status: &str| WAY.iter().position(|step| *step == status);
    wait::until(&format!("a rotation that has come to {status}"), || async {
        let shown = shown(admin, rotation).await?;
        let at = shown["status"].as_str().and_then(place).with_context(|| format!("off its way: {shown}"))?;
        Ok((Some(at) >= place(status)).then_some(()))
    })
    .await
}

/// Waits until a rotation stands at a status.
async fn reaches(admin: &Admin, rotation: &str, status: &str) -> Result<Value> {
    wait::until(&format!("a rotation that is {status}"), || async {
        let shown = shown(admin, rotation).await?;
        Ok((shown["status"] == status).then_some(shown))
    })
    .await
}

async fn step(admin: &Admin, rotation: &str, verb: &str, body: Value) -> Result<tests::http::Answer> {
    admin.post(&format!("{ROTATIONS}/{rotation}/{verb}"), &body).await
}

async fn credential(admin: &Admin) -> Result<Value> {
    let mut shown = admin.get("/upstreams/openai").await?.success()?;
    Ok(shown["upstream"]["credential"].take())
}

/// The types of the events of the upstream's credential.
async fn history(admin: &Admin) -> Result<Vec<String>> {
    let id = credential(admin).await?["id"].as_str().context("an id")?.to_owned();
    admin.event_types(&format!("default.credential.{id}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_traffic_costs_no_request() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let before = credential(&world.admin).await?;
    let clients = Clients::start(std::slice::from_ref(&world.relay), &key.secret);
    wait::until("requests with the old credential", || async { Ok((world.upstream.shown(CREDENTIAL) > 20).then_some(())) }).await?;

    let rotation = begin(&world.admin, json!({ "credential": NEXT, "window": "4s", "grace": "8s", "reason": "quarterly" })).await?;
    let dual = reaches(&world.admin, &rotation, "dual").await?;
    ensure!(dual["tested"]["status"] == 200 && dual["reason"] == "quarterly", "{dual}");
    let standing = credential(&world.admin).await?;
    ensure!(standing["secret_version"] == 2 && standing["rotation"]["status"] == "dual", "{standing}");
    ensure!(standing["rotation"]["previous"]["fingerprint"] == before["fingerprint"], "{standing}");
    reaches(&world.admin, &rotation, "draining").await?;
    let finished = reaches(&world.admin, &rotation, "finished").await?;
    ensure!(finished["cause"] == "due" && finished["previous_uses"] == 0, "{finished}");
    // What the operator does at the provider after the end.
    world.upstream.refuse(CREDENTIAL);
    let (shown_old, shown_new) = (world.upstream.shown(CREDENTIAL), world.upstream.shown(NEXT));
    wait::until("requests with the new credential", || async { Ok((world.upstream.shown(NEXT) > shown_new + 40).then_some(())) }).await?;
    ensure!(world.upstream.shown(CREDENTIAL) == shown_old, "the old credential is still shown");
    clients.all_served(100).await?;

    let after = credential(&world.admin).await?;
    ensure!(after["rotation"]["status"] == "idle" && after["rotation"]["previous"].is_null(), "{after}");
    ensure!(after["fingerprint"] != before["fingerprint"] && !after["rotation"]["last_rotated_at"].is_null(), "{after}");
    let steps = ["RotationStaged", "RotationInstalled", "RotationTested", "RotationPromoted", "RotationDraining", "RotationFinished"];
    ensure!(history(&world.admin).await?[1..] == steps, "{:?}", history(&world.admin).await?);
    ensure!(world.admin.metrics().await?.contains("keyrelay_credential_rotation{"), "no metric of rotations");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_others_know_is_gone_within_a_minute() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let clients = Clients::start(std::slice::from_ref(&world.relay), &key.secret);
    wait::until("requests with the old credential", || async { Ok((world.upstream.shown(CREDENTIAL) > 20).then_some(())) }).await?;
    let began = Instant::now();
    let rotation = begin(&world.admin, json!({ "credential": NEXT, "compromise": true })).await?;
    let finished = reaches(&world.admin, &rotation, "finished").await?;
    ensure!(began.elapsed() < Duration::from_secs(60) && finished["cause"] == "compromise", "{:?} {finished}", began.elapsed());
    // The old one was out of use when the new one came into use, so that it is asked no more.
    let shown_old = world.upstream.shown(CREDENTIAL);
    world.upstream.refuse(CREDENTIAL);
    let shown_new = world.upstream.shown(NEXT);
    wait::until("requests with the new credential", || async { Ok((world.upstream.shown(NEXT) > shown_new + 40).then_some(())) }).await?;
    ensure!(world.upstream.shown(CREDENTIAL) == shown_old, "the old credential is still shown");
    clients.all_served(50).await?;
    let refused = step(&world.admin, &rotation, "rollback", json!({})).await?;
    ensure!(refused.expect(409)?.json()?["code"] == "rotation_over", "{}", refused.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_credential_that_is_refused_in_use_is_rolled_back_and_costs_no_request() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let rotation = begin(&world.admin, json!({ "credential": NEXT })).await?;
    reaches(&world.admin, &rotation, "dual").await?;
    let clients = Clients::start(std::slice::from_ref(&world.relay), &key.secret);
    wait::until("requests with the new credential", || async { Ok((world.upstream.shown(NEXT) > 20).then_some(())) }).await?;
    world.upstream.refuse(NEXT);
    let ended = reaches(&world.admin, &rotation, "rolled_back").await?;
    ensure!(ended["ended_because"] == "refused" && ended["previous_uses"].as_u64() > Some(0), "{ended}");
    let (shown_new, shown_old) = (world.upstream.shown(NEXT), world.upstream.shown(CREDENTIAL));
    wait::until("requests with the old one", || async { Ok((world.upstream.shown(CREDENTIAL) > shown_old + 40).then_some(())) }).await?;
    // The clients that were under way with the snapshot from before the rollback.
    ensure!(world.upstream.shown(NEXT) <= shown_new + CLIENTS, "the new credential is still shown");
    clients.all_served(50).await?;
    let after = credential(&world.admin).await?;
    ensure!(after["secret_version"] == 1 && after["rotation"]["status"] == "idle", "{after}");
    ensure!(history(&world.admin).await?.iter().any(|kind| kind == "RotationFallbackUsed"), "no event of the fall-back");
    let metrics = world.admin.metrics().await?;
    ensure!(metrics.contains("keyrelay_relay_previous_credential_uses_total{dialect=\"openai\"}"), "no metric of the fall-back");
    // The number of the secret that was given up is not used again.
    world.upstream.take(NEXT);
    let again = begin(&world.admin, json!({ "credential": NEXT })).await?;
    ensure!(reaches(&world.admin, &again, "dual").await?["new"]["secret_version"] == 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_learns_of_the_new_credential_late_is_no_reason_to_roll_back() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let clients = Clients::start(std::slice::from_ref(&world.relay), &key.secret);
    let rotation = begin(&world.admin, json!({ "credential": NEXT })).await?;
    reaches(&world.admin, &rotation, "dual").await?;
    world.upstream.refuse(NEXT);
    wait::until("uses of the old credential that are on the record", || async {
        Ok((shown(&world.admin, &rotation).await?["previous_uses"].as_u64() >= Some(3)).then_some(()))
    })
    .await?;
    world.upstream.take(NEXT);
    let shown_new = world.upstream.shown(NEXT);
    wait::until("requests with the new credential", || async { Ok((world.upstream.shown(NEXT) > shown_new + 40).then_some(())) }).await?;
    ensure!(shown(&world.admin, &rotation).await?["status"] == "dual", "{}", shown(&world.admin, &rotation).await?);
    clients.all_served(50).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_credential_is_destroyed_only_while_the_provider_takes_the_new_one() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let rotation = begin(&world.admin, json!({ "credential": NEXT, "window": "1s", "grace": "4s" })).await?;
    reaches(&world.admin, &rotation, "draining").await?;
    world.upstream.refuse(NEXT);
    let asked = step(&world.admin, &rotation, "advance", json!({})).await?.expect(409)?.json()?;
    ensure!(asked["code"] == "credential_test_failed", "{asked}");
    let ended = reaches(&world.admin, &rotation, "rolled_back").await?;
    ensure!(ended["ended_because"] == "refused", "{ended}");
    world.relay.chat(&key.secret, "with the old one").await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_credential_that_is_no_good_is_never_used() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let wrong = begin(&world.admin, json!({ "credential": "sk-wrong-one-that-the-provider-refuses" })).await?;
    let ended = reaches(&world.admin, &wrong, "aborted").await?;
    ensure!(ended["ended_because"] == "refused" && ended["promoted_at"].is_null(), "{ended}");

    world.upstream.name_account(CREDENTIAL, "org-ours");
    world.upstream.name_account(NEXT, "org-theirs");
    let foreign = begin(&world.admin, json!({ "credential": NEXT })).await?;
    ensure!(reaches(&world.admin, &foreign, "aborted").await?["ended_because"] == "other_account");

    world.upstream.name_account(NEXT, "org-ours");
    let good = begin(&world.admin, json!({ "credential": NEXT })).await?;
    ensure!(reaches(&world.admin, &good, "dual").await?["tested"]["same_account"] == true);
    world.relay.chat(&key.secret, "hello").await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_steers_a_rotation_and_a_repetition_changes_nothing() -> Result<()> {
    let world = World::start().await?;
    let admin = &world.admin;
    let code = |answer: tests::http::Answer| Ok::<_, anyhow::Error>((answer.status.as_u16(), answer.json()?["code"].clone()));

    // Nothing is due, so that a job that comes every night does nothing, with a new credential or without.
    for body in [json!({ "if_older_than": "7d" }), json!({ "if_older_than": "7d", "credential": NEXT }), json!({ "if_due": true })] {
        let answer = admin.post(ROTATIONS, &body).await?.expect(200)?.json()?;
        ensure!(answer["due"] == false && answer["rotation"].is_null(), "{answer}");
    }
    ensure!(history(admin).await? == ["CredentialAdded"], "{:?}", history(admin).await?);
    ensure!(code(admin.post(ROTATIONS, &json!({})).await?)? == (400, "credential_required".into()));
    ensure!(code(admin.post(ROTATIONS, &json!({ "credential": CREDENTIAL })).await?)? == (409, "same_secret".into()));

    let body = json!({ "credential": NEXT, "rotation_id": "rot_mfrggzdfmztwq2lknnwg23tpoa" });
    let rotation = begin(admin, body.clone()).await?;
    ensure!(begin(admin, body).await? == rotation);
    reaches(admin, &rotation, "dual").await?;
    let other = admin.post(ROTATIONS, &json!({ "credential": "sk-provider-third-one" })).await?;
    ensure!(code(other)? == (409, "rotation_running".into()));
    let nightly = admin.post(ROTATIONS, &json!({ "credential": "sk-provider-third-one", "if_older_than": "1s" })).await?;
    ensure!(nightly.expect(200)?.json()?["rotation"]["id"] == rotation.as_str());
    let patched = admin.call(Method::PATCH, "/api/v1/upstreams/openai", &[], &json!({ "credential": "sk-provider-third-one" })).await?;
    ensure!(code(patched)? == (409, "rotation_running".into()));
    ensure!(code(step(admin, &rotation, "abort", json!({})).await?)? == (409, "rotation_promoted".into()));

    let draining = step(admin, &rotation, "advance", json!({ "to": "draining" })).await?.success()?;
    ensure!(draining["rotation"]["status"] == "draining", "{draining}");
    let again = step(admin, &rotation, "advance", json!({ "to": "draining" })).await?.success()?;
    ensure!(again["due"] == false && again["rotation"]["status"] == "draining", "{again}");
    let back = step(admin, &rotation, "rollback", json!({})).await?.success()?;
    ensure!(back["rotation"]["status"] == "rolled_back" && back["rotation"]["ended_because"] == "asked", "{back}");
    ensure!(step(admin, &rotation, "rollback", json!({})).await?.success()?["rotation"]["status"] == "rolled_back");
    ensure!(credential(admin).await?["secret_version"] == 1);

    // What was refused has left nothing in the place of the next secret.
    let too_long = admin.post(ROTATIONS, &json!({ "credential": "sk-provider-fourth-one", "grace": "100d" })).await?;
    ensure!(code(too_long)? == (400, "bad_rotation_times".into()));
    admin.call(Method::PATCH, "/api/v1/upstreams/openai", &[], &json!({ "credential": CREDENTIAL })).await?.success()?;
    ensure!(credential(admin).await?["secret_version"] == 3);

    // The same from the command line, with the secret in a file.
    let file = world.directory.path().join("next.key");
    std::fs::write(&file, format!("{NEXT}\n"))?;
    let data = world.node.data().display().to_string();
    let run = |arguments: &[&str]| cli::keyrelay([&["upstreams", "rotate", "openai", "--json", "--data", &data], arguments].concat());
    let begun = run(&["--credential-file", &file.display().to_string(), "--unused-after", "1s"])?.expect(0)?.json()?;
    let second = begun["rotation"]["id"].as_str().context("an id")?.to_owned();
    ensure!(reaches(admin, &second, "finished").await?["cause"] == "unused");
    let listed = run(&["--status"])?.expect(0)?.json()?;
    let statuses: Vec<_> = listed["rotations"].as_array().context("a list")?.iter().map(|one| one["status"].clone()).collect();
    ensure!(statuses == ["finished", "rolled_back"], "{statuses:?}");
    run(&["--rollback"])?.expect(1)?;
    ensure!(run(&["--advance"])?.expect(0)?.json()?["due"] == false);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_upstreams_may_have_one_rotation_id() -> Result<()> {
    let world = World::start().await?;
    world.admin.add_upstream("other", "openai", &world.upstream.openai_url(), CREDENTIAL).await?;
    let body = json!({ "credential": NEXT, "rotation_id": "rot_mfrggzdfmztwq2lknnwg23tpoa" });
    let rotations = [ROTATIONS, "/upstreams/other/rotations"];
    for path in rotations {
        world.admin.post(path, &body).await?.expect(201)?;
    }
    for path in rotations {
        wait::until(&format!("a new credential in use by {path}"), || async {
            let listed = world.admin.get(path).await?.success()?;
            Ok((listed["rotations"][0]["status"] == "dual").then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_goes_on_after_a_kill_at_every_step() -> Result<()> {
    let mut world = World::start().await?;
    let key = world.key(json!({})).await?;
    let rotation = begin(&world.admin, json!({ "credential": NEXT, "window": "5s", "grace": "10s" })).await?;
    for status in WAY {
        comes_to(&world.admin, &rotation, status).await?;
        let World { node, upstream, directory, .. } = world;
        let node = node.kill()?.start().await?;
        let (admin, relay) = (node.admin()?, node.relay());
        world = World { node, upstream, admin, relay, directory };
        world.relay.chat(&key.secret, &format!("after a kill when {status}")).await?.success()?;
    }
    let ended = shown(&world.admin, &rotation).await?;
    ensure!(ended["status"] == "finished" && ended["previous_uses"] == 0, "{ended}");
    let steps = ["RotationStaged", "RotationInstalled", "RotationTested", "RotationPromoted", "RotationDraining", "RotationFinished"];
    ensure!(history(&world.admin).await?[1..] == steps, "{:?}", history(&world.admin).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_goes_on_with_a_rotation_whose_node_was_killed() -> Result<()> {
    use tests::cluster::{Cluster, Plan};

    let mut cluster = Cluster::start(Plan { servers: 1, nodes: 2, ..Plan::default() }).await?;
    let (first, second) = (cluster.admin(0)?, cluster.admin(1)?);
    let key = first.create_key(&json!({ "name": "both", "expires": "never" })).await?;
    second.shown_after(&format!("/keys/{}", key.id), key.sequence).await?;
    let relays = [cluster.relay(0)?, cluster.relay(1)?];
    let clients = Clients::start(&relays, &key.secret);
    let rotation = begin(&first, json!({ "credential": NEXT, "window": "5s", "grace": "10s" })).await?;
    wait::until("the rotation at the other node", || async {
        Ok(second.get(&format!("{ROTATIONS}/{rotation}")).await?.status.is_success().then_some(()))
    })
    .await?;
    comes_to(&second, &rotation, "dual").await?;
    clients.all_served(10).await?;

    let clients = Clients::start(&relays[1..], &key.secret);
    cluster.kill_node(0)?;
    reaches(&second, &rotation, "finished").await?;
    let upstream = &cluster.upstream;
    upstream.refuse(CREDENTIAL);
    let shown_new = upstream.shown(NEXT);
    wait::until("requests with the new credential", || async { Ok((upstream.shown(NEXT) > shown_new + 20).then_some(())) }).await?;
    clients.all_served(20).await?;
    let steps = ["RotationStaged", "RotationInstalled", "RotationTested", "RotationPromoted", "RotationDraining", "RotationFinished"];
    ensure!(history(&second).await?[1..] == steps, "{:?}", history(&second).await?);
    Ok(())
}
