//! Rotations by schedule: one successor however many nodes look, and the secret given out once.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use control::{Commands, ExpirySweeper, Request, Rotations, SUCCESSOR_OWNER};
use coordination::LocalCoordination;
use schemas::key::{ImportedSecret, Key, KeyCommand, KeyImport};
use schemas::{Actor, Aggregate, Command, CommandId, Digest, KeyId, Stream, TenantId, client_key};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vault::{Entry, KeyStore as _, RootKey, SecretAddress};

use crate::world::{Node, World, clock};

const DAY: u64 = 86_400;

/// Lets a node sweep, as of so many days from now, and tells it to stop after.
struct Sweep(CancellationToken);

impl Sweep {
    fn begin(node: &Node, days: u64) -> Self {
        let stop = CancellationToken::new();
        let ahead: control::Clock = Arc::new(move || clock()().plus_seconds(days * DAY));
        let (commands, models, vault) = (node.commands.clone(), node.models.clone(), node.vault.clone());
        let sweeper = ExpirySweeper {
            commands: commands.clone(),
            models: models.clone(),
            coordination: Arc::new(LocalCoordination::new(node.id, clock())),
            clock: ahead,
            interval: Duration::from_millis(50),
            rotations: Arc::new(Rotations { commands, models, vault }),
        };
        tokio::spawn(sweeper.run(stop.clone()));
        Self(stop)
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn key(node: &Node, id: &str) -> Value {
    node.get(&format!("/api/v1/keys/{id}")).await.body["key"].clone()
}

/// The key, once this holds of it.
async fn key_with(node: &Node, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let key = key(node, id).await;
        if holds(&key) {
            return key;
        }
        assert!(tokio::time::Instant::now() < deadline, "{key}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn collect(node: &Node, id: &str, idempotency_key: Option<&str>) -> (StatusCode, Value) {
    let fields: Vec<_> = idempotency_key.map(|key| ("idempotency-key", key)).into_iter().collect();
    let answer = node.call_with("POST", &format!("/api/v1/keys/{id}/successor"), &fields, Vec::new()).await;
    (answer.status, answer.body)
}

/// Where the second secret of a key waits.
fn second_secret(id: &str) -> SecretAddress {
    SecretAddress {
        tenant: TenantId::default_tenant(),
        owner_kind: SUCCESSOR_OWNER,
        owner_id: *id.parse::<KeyId>().unwrap().as_bytes(),
        field: "successor",
        version: 2,
        origin: String::new(),
    }
}

/// A key that is rotated every 30 days.
async fn scheduled_key(node: &Node) -> String {
    let id = node.create_key().await;
    let set = node.call("PATCH", &format!("/api/v1/keys/{id}"), json!({ "rotation": { "every": "30d" } })).await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.body);
    id
}

/// The names of the events of a key.
async fn events(node: &Node, id: &str) -> Vec<String> {
    let answer = node.get(&format!("/api/v1/events?stream={id}&limit=1000")).await.body;
    answer["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_sweep_at_once_make_one_successor_and_its_secret_is_given_out_once() {
    let (world, root) = (World::default(), RootKey::generate().unwrap());
    let (first, _first_data) = world.node(&root).await;
    let (second, _second_data) = world.node(&root).await;
    let id = first.create_key().await;
    let set = first.call("PATCH", &format!("/api/v1/keys/{id}"), json!({ "rotation": { "every": "30d", "overlap": "2d" } })).await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.body);
    assert_eq!((&set.body["key"]["rotation"]["every"], &set.body["key"]["rotation"]["overlap"]), (&json!("30d"), &json!("2d")));
    assert_eq!(collect(&first, &id, None).await.1["code"], "no_successor");

    // Not yet: the sweeps of today find nothing.
    let early = [Sweep::begin(&first, 29), Sweep::begin(&second, 29)];
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(early);
    assert_eq!(key(&first, &id).await["secrets"].as_array().unwrap().len(), 1);
    // Both hold a lease of their own here, as if the one had been lost and the other taken.
    let sweeps: Vec<Sweep> = (0..5).flat_map(|_| [Sweep::begin(&first, 31), Sweep::begin(&second, 31)]).collect();
    let rotated = key_with(&first, &id, |key| key["successor"] == 2).await;
    assert_eq!(rotated["secrets"].as_array().unwrap().len(), 2);
    assert_eq!(rotated["rotation"]["due_at"], Value::Null);
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(sweeps);
    assert_eq!(events(&first, &id).await, ["KeyCreated", "KeyRotationScheduled", "KeyRotated", "KeySuccessorSealed"]);

    // Whoever collects on another node gets the secret that the key has; a retry gets the same, and nobody else any.
    assert!(second.models.wait_for(world.log.true_head().await, Duration::from_secs(10)).await);
    let (status, collected) = collect(&second, &id, Some("mine")).await;
    assert_eq!(status, StatusCode::OK, "{collected}");
    let secret = collected["secret"].as_str().unwrap().to_owned();
    let held = second.models.key_by_hash(&client_key::hash(&secret)).unwrap().unwrap();
    assert_eq!((held.id.to_string(), held.current_secret().hash), (id.clone(), client_key::hash(&secret)));
    assert_eq!(collected["key"]["successor"], Value::Null);
    for _ in 0..3 {
        let (status, again) = collect(&second, &id, Some("mine")).await;
        assert_eq!((status, &again["secret"]), (StatusCode::OK, &json!(secret)), "{again}");
    }
    assert_eq!(collect(&second, &id, None).await.0, StatusCode::CONFLICT);
    assert_eq!(collect(&second, &id, Some("yours")).await.1["code"], "no_successor");
    assert_eq!(events(&second, &id).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_sealed_before_a_crash_is_the_one_that_the_key_gets() {
    let world = World::default();
    let (node, _data) = world.node(&RootKey::generate().unwrap()).await;
    let id = scheduled_key(&node).await;
    // The log goes away behind the seal: what is sealed waits there, and the key is what it was.
    world.log.leave();
    let sweep = Sweep::begin(&node, 31);
    let (address, deadline) = (second_secret(&id), tokio::time::Instant::now() + Duration::from_secs(30));
    let sealed = loop {
        match world.store.read(Entry::Sealed, &address.slot()).unwrap() {
            Some(sealed) => break sealed,
            None => assert!(tokio::time::Instant::now() < deadline, "nothing is sealed"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    drop(sweep);
    let text = node.vault.unseal(&address).unwrap();
    assert_eq!(key(&node, &id).await["successor"], Value::Null);
    world.log.come_back();
    let _sweep = Sweep::begin(&node, 31);
    key_with(&node, &id, |key| key["successor"] == 2).await;
    assert_eq!(world.store.read(Entry::Sealed, &address.slot()).unwrap().unwrap(), sealed);
    let (status, collected) = collect(&node, &id, None).await;
    assert_eq!(status, StatusCode::OK, "{collected}");
    assert_eq!(collected["secret"].as_str().unwrap().as_bytes(), text.as_slice());
    let hash = client_key::hash(collected["secret"].as_str().unwrap());
    assert_eq!(node.models.key_by_hash(&hash).unwrap().unwrap().id.to_string(), id);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_a_tag_follow_their_tenants_schedule_and_those_that_are_put_away_do_not() {
    let world = World::default();
    let (node, _data) = world.node(&RootKey::generate().unwrap()).await;
    let wrong = json!({ "rotations": [{ "tag": "ci", "every": "30d", "overlap": "31d" }] });
    assert_eq!(node.call("PATCH", "/api/v1/tenants/default", wrong).await.code(), "bad_rotation_schedule");
    let rotations = json!({ "rotations": [{ "tag": "ci", "every": "30d" }, { "tag": "eu", "every": "10d" }] });
    let set = node.call("PATCH", "/api/v1/tenants/default", rotations).await;
    assert_eq!(set.body["tenant"]["rotations"][0], json!({ "tag": "ci", "every": "30d", "overlap": "7d" }), "{}", set.body);

    let mut ids = Vec::new();
    for (name, tags) in [("both", json!(["ci", "eu"])), ("late", json!(["ci"])), ("other", json!(["us"])), ("held", json!(["eu"]))] {
        let made = node.call("POST", "/api/v1/keys", json!({ "name": name, "expires": "never", "tags": tags })).await;
        ids.push(made.body["key"]["id"].as_str().unwrap().to_owned());
    }
    let own = node.call("PATCH", &format!("/api/v1/keys/{}", ids[1]), json!({ "rotation": { "every": "90d" } })).await;
    assert_eq!(own.status, StatusCode::OK);
    node.call("POST", &format!("/api/v1/keys/{}/disable", ids[3]), json!({})).await;
    let _sweep = Sweep::begin(&node, 31);
    key_with(&node, &ids[0], |key| key["successor"] == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for id in &ids[1..] {
        assert_eq!(key(&node, id).await["successor"], Value::Null, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_the_key_store_lost_is_not_taken_for_collected() {
    let world = World::default();
    let (node, _data) = world.node(&RootKey::generate().unwrap()).await;
    let id = scheduled_key(&node).await;
    let sweep = Sweep::begin(&node, 31);
    key_with(&node, &id, |key| key["successor"] == 2).await;
    drop(sweep);
    let (slot, before) = (second_secret(&id).slot(), events(&node, &id).await);
    let read = |entry| world.store.read(entry, &slot).unwrap();
    let (sealed, wrapped) = (read(Entry::Sealed).unwrap(), read(Entry::Wrapped).unwrap());

    let _ = world.store.swap_wrapped(&slot, Some(&wrapped), None).unwrap();
    let (status, refused) = collect(&node, &id, Some("mine")).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("successor_gone")), "{refused}");
    assert_eq!((events(&node, &id).await, read(Entry::Sealed)), (before.clone(), Some(sealed.clone())));
    assert_eq!(key(&node, &id).await["successor"], 2);

    // One that comes back while it is waited for is given out, and only that is collected.
    let _ = world.store.swap_wrapped(&slot, None, Some(&wrapped)).unwrap();
    world.store.delete_sealed(&slot, &sealed).unwrap();
    let heal = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(events(&node, &id).await, before);
        let _ = world.store.put_sealed(&slot, &sealed).unwrap();
    };
    let ((status, collected), ()) = tokio::join!(collect(&node, &id, Some("mine")), heal);
    assert_eq!(status, StatusCode::OK, "{collected}");
    let hash = client_key::hash(collected["secret"].as_str().unwrap());
    assert_eq!(node.models.key_by_hash(&hash).unwrap().unwrap().id.to_string(), id);
    assert_eq!(events(&node, &id).await.last().unwrap(), "KeySuccessorCollected");
    assert_eq!((read(Entry::Sealed), read(Entry::Wrapped)), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_an_import_set_back_is_rotated_again() {
    let world = World::default();
    let (node, _data) = world.node(&RootKey::generate().unwrap()).await;
    let id = scheduled_key(&node).await;
    let stream = Stream::key(TenantId::default_tenant(), id.parse().unwrap());
    let (Some(Aggregate::Key(before)), _) = node.models.load(&stream).unwrap() else { panic!("no such key") };
    let sweep = Sweep::begin(&node, 31);
    key_with(&node, &id, |key| key["successor"] == 2).await;
    drop(sweep);
    let first = collect(&node, &id, None).await.1["secret"].clone();

    let set_back = Request {
        stream,
        command: Command::Key(KeyCommand::Import(Box::new(as_it_was(&before)))),
        actor: Actor::Owner,
        command_id: CommandId::from_bytes([7; 16]),
        request_digest: Digest::blake3(b"import"),
        if_version: None,
        deadline: Commands::deadline(),
    };
    node.commands.execute(set_back).await.unwrap();
    assert_eq!(key(&node, &id).await["secrets"][0]["number"], 1);
    let _sweep = Sweep::begin(&node, 31);
    key_with(&node, &id, |key| key["successor"] == 2).await;
    let second = collect(&node, &id, None).await.1["secret"].clone();
    assert!(first.is_string() && second.is_string() && first != second);
}

/// What brings a key back to a state that it had.
fn as_it_was(key: &Key) -> KeyImport {
    let secret = key.current_secret();
    KeyImport {
        details: key.details.clone(),
        metadata: key.metadata.clone(),
        dedicated: key.dedicated,
        rotation: None,
        secrets: vec![ImportedSecret { number: secret.number, hash: secret.hash, scheme: secret.scheme, valid_until: None }],
        term: key.term(),
        first_used_at: None,
        created_at: key.created_at,
        renewed_at: None,
        rotated_at: None,
        expired_at: None,
        disabled: None,
        revoked: None,
        archived: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_place_in_the_key_store_is_broken_holds_no_other_back() {
    let world = World::default();
    let (node, _data) = world.node(&RootKey::generate().unwrap()).await;
    // Keys with schedules of their own come before those that follow their tenant's.
    let rotations = json!({ "rotations": [{ "tag": "ci", "every": "30d" }] });
    assert_eq!(node.call("PATCH", "/api/v1/tenants/default", rotations).await.status, StatusCode::OK);
    let made = node.call("POST", "/api/v1/keys", json!({ "name": "sound", "expires": "never", "tags": ["ci"] })).await;
    let (sound, broken) = (made.body["key"]["id"].as_str().unwrap().to_owned(), scheduled_key(&node).await);
    let slot = second_secret(&broken).slot();
    let _ = world.store.put_sealed(&slot, b"erased in part").unwrap();

    let _sweep = Sweep::begin(&node, 31);
    key_with(&node, &sound, |key| key["successor"] == 2).await;
    assert_eq!(key(&node, &broken).await["successor"], Value::Null);
    // Once its place is cleared it gets its turn.
    world.store.delete_sealed(&slot, b"erased in part").unwrap();
    key_with(&node, &broken, |key| key["successor"] == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_destroys_the_secret_that_waits() {
    let world = World::default();
    let (node, _data) = world.node(&RootKey::generate().unwrap()).await;
    let id = scheduled_key(&node).await;
    let sweep = Sweep::begin(&node, 31);
    key_with(&node, &id, |key| key["successor"] == 2).await;
    drop(sweep);
    let slot = second_secret(&id).slot();
    let read = || [Entry::Sealed, Entry::Wrapped].map(|entry| world.store.read(entry, &slot).unwrap().is_some());
    assert_eq!(read(), [true, true]);
    assert_eq!(node.call("POST", &format!("/api/v1/keys/{id}/archive"), json!({})).await.status, StatusCode::OK);
    let purged = node.call("POST", &format!("/api/v1/keys/{id}/purge"), json!({})).await;
    assert_eq!((purged.status, &purged.body["erased"]), (StatusCode::OK, &json!(true)), "{}", purged.body);
    assert_eq!(read(), [false, false]);
}
