//! The rows by which keys are found, over a running projector.

use schemas::key::{Expiry, KeyCreated, KeyExpired, KeyRenewed, KeyRevoked, KeySecretBrought, KeySecretUpgraded, SecretScheme};
use schemas::{Digest, Event, Stream, Timestamp};

use super::fold::rows_of;
use super::models::Node;
use super::world::{World, hash, key_created, key_id, key_stream, tenant};

fn holds(models: &crate::ReadModels, hash: &Digest) -> bool {
    let bytes = hash.as_bytes();
    models.dump().unwrap().iter().any(|row| [&row.key, &row.value].iter().any(|part| part.windows(32).any(|window| window == bytes)))
}

#[tokio::test]
async fn a_purged_key_is_in_no_read_model_and_no_hash_of_its_is_left() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    world.create_key(1);
    world.create_key(2);
    for number in 2..=4 {
        world.rotate_key(1, number);
    }
    let node = Node::start(data.path(), &world).await;
    assert!(holds(&node.models, &hash(1, 1)) && node.models.key_by_hash(&hash(1, 1)).unwrap().is_some());
    world.purge_key(1);
    node.catch_up(&world).await;
    for number in 1..=4 {
        assert_eq!(node.models.key_by_hash(&hash(1, number)).unwrap(), None, "secret {number}");
        assert!(!holds(&node.models, &hash(1, number)), "secret {number}");
    }
    assert!(node.models.key(&tenant(), key_id(1)).unwrap().is_none());
    let left: Vec<_> = node.models.keys(&tenant(), None, 9).unwrap().into_iter().map(|key| key.value.id).collect();
    assert_eq!(left, [key_id(2)]);
    // What an append expects is still known.
    assert_eq!(node.models.load(&key_stream(1)).unwrap().1.sequence, world.head());
    node.stop().await;
}

#[tokio::test]
async fn a_hash_of_a_purged_key_can_be_another_keys_and_one_of_a_present_key_cannot() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    world.create_key(1);
    world.append(&key_stream(2), &[key_created(2, hash(1, 1))]);
    let node = Node::start(data.path(), &world).await;
    let owner = |hash| node.models.key_by_hash(&hash).unwrap().map(|key| key.id);
    assert_eq!(owner(hash(1, 1)), Some(key_id(1)));
    // The key that came too late takes nothing with it.
    world.purge_key(2);
    node.catch_up(&world).await;
    assert_eq!(owner(hash(1, 1)), Some(key_id(1)));
    world.purge_key(1);
    world.append(&key_stream(3), &[key_created(3, hash(1, 1))]);
    node.catch_up(&world).await;
    assert_eq!(owner(hash(1, 1)), Some(key_id(3)));
    node.stop().await;
}

#[tokio::test]
async fn an_upgraded_secret_is_found_by_its_new_hash() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    world.create_key(1);
    world.append(&key_stream(1), &[Event::KeySecretUpgraded(KeySecretUpgraded { number: 1, hash: hash(1, 9), pepper: 1 })]);
    let node = Node::start(data.path(), &world).await;
    let key = node.models.key_by_hash(&hash(1, 9)).unwrap().unwrap();
    assert!(key.secret(&hash(1, 9), Timestamp::MAX).is_some());
    node.stop().await;
}

#[tokio::test]
async fn salts_are_known_while_a_present_key_has_a_secret_under_them_and_an_upgrade_leaves_nothing_of_the_old_hash() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    let brought = |salt| Event::KeySecretBrought(KeySecretBrought { number: 1, scheme: SecretScheme::ClaudeRelayService { salt } });
    for (n, salt) in [(1, 7), (2, 7), (3, 0)] {
        world.append(&key_stream(n), &[key_created(n, hash(n, 1)), brought(salt)]);
    }
    world.create_key(4);
    let node = Node::start(data.path(), &world).await;
    assert_eq!(node.models.salts()[..], [0, 7]);
    let upgraded = |n| Event::KeySecretUpgraded(KeySecretUpgraded { number: 1, hash: hash(n, 9), pepper: 1 });
    world.append(&key_stream(1), &[upgraded(1)]);
    node.catch_up(&world).await;
    assert_eq!(node.models.salts()[..], [0, 7]);
    assert_eq!(node.models.key_by_hash(&hash(1, 1)).unwrap(), None);
    assert_eq!(node.models.key_by_hash(&hash(1, 9)).unwrap().map(|key| key.id), Some(key_id(1)));
    assert!(!holds(&node.models, &hash(1, 1)));
    world.purge_key(2);
    world.append(&key_stream(3), &[upgraded(3)]);
    node.catch_up(&world).await;
    assert!(node.models.salts().is_empty());
    // A fold in one go and one record at a time agree.
    let rows = node.stop().await.dump().unwrap();
    assert_eq!(rows, rows_of(&world.records));
}

#[tokio::test]
async fn keys_are_found_by_the_time_at_which_their_expiry_is_due() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    let at = |seconds| world_time().plus_seconds(seconds);
    let until = |n: u8, seconds| match key_created(n, hash(n, 1)) {
        Event::KeyCreated(created) => Event::KeyCreated(KeyCreated { expiry: Expiry::At(at(seconds)), ..created }),
        other => panic!("{other:?}"),
    };
    for (n, seconds) in [(1, 50), (2, 40), (3, 60), (4, 40), (5, 45)] {
        world.append(&key_stream(n), &[until(n, seconds)]);
    }
    world.create_key(6);
    let node = Node::start(data.path(), &world).await;
    let due = |by, after: Option<&(Timestamp, Stream)>, limit| node.models.keys_expired_by(at(by), after, limit).unwrap();
    let row = |seconds, n| (at(seconds), key_stream(n));
    assert_eq!(due(50, None, 9), [row(40, 2), row(40, 4), row(45, 5), row(50, 1)]);
    assert_eq!(due(50, None, 2), [row(40, 2), row(40, 4)]);
    assert_eq!(due(50, Some(&row(40, 4)), 9), [row(45, 5), row(50, 1)]);
    assert_eq!(due(39, None, 9), []);
    world.append(&key_stream(2), &[Event::KeyExpired(KeyExpired { expired_at: at(40) })]);
    world.append(&key_stream(4), &[Event::KeyRenewed(KeyRenewed { expiry: Expiry::At(at(47)) })]);
    world.append(&key_stream(5), &[Event::KeyRevoked(KeyRevoked { reason: None })]);
    world.purge_key(1);
    node.catch_up(&world).await;
    assert_eq!(due(99, None, 9), [row(47, 4), row(60, 3)]);
    // A fold in one go and one record at a time agree.
    let rows = node.stop().await.dump().unwrap();
    assert_eq!(rows, rows_of(&world.records));
}

fn world_time() -> Timestamp {
    World::founded().now
}
