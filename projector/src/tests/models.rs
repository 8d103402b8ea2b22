//! The read side over a running projector.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use event_log::MemoryLog;
use schemas::credential::CredentialRevoked;
use schemas::judge::Prefix as _;
use schemas::key::KeyState;
use schemas::tenant::{TenantCreated, TenantResumed, TenantSuspended};
use schemas::upstream::{Dialect, UpstreamChanged, UpstreamDetails, UpstreamRemoved};
use schemas::{Aggregate, CredentialId, Digest, Event, KeyId, PoolId, Sequence, Stream, TenantId, Timestamp, UpstreamId, Version};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fold::rows_of;
use super::shaky::ShakyLog;
use super::start::world_of;
use super::world::{ORIGIN, World, hash, key_id, key_stream, tenant};
use crate::{Config, FollowError, Memory, Projector, ReadModels, RebuildError, State, Verdicts};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// What the clocks of tests show, unless a test sets its own.
const NOW_MICROS: u64 = 1_800_000_000_000_000;

pub(super) fn config(data: &Path) -> Config {
    Config { data: data.to_owned(), memory: Memory::new(0), clock: Arc::new(|| Timestamp::from_micros(NOW_MICROS)) }
}

/// A projector that follows a log until the value goes.
pub(super) struct Node {
    pub(super) models: ReadModels,
    pub(super) projector: Arc<Projector>,
    log: MemoryLog,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), FollowError>>,
}

impl Node {
    pub(super) async fn start(data: &Path, world: &World) -> Self {
        let log = world.log().await;
        let (projector, models) = Projector::open(config(data), Arc::new(log.clone())).await.unwrap();
        let (projector, cancel) = (Arc::new(projector), CancellationToken::new());
        let (runner, token) = (Arc::clone(&projector), cancel.clone());
        let task = tokio::spawn(async move { runner.run(token).await });
        let node = Self { models, projector, log, cancel, task };
        node.catch_up(world).await;
        node
    }

    /// Writes what the world has more, and waits for it.
    pub(super) async fn catch_up(&self, world: &World) {
        world.write_to(&self.log).await;
        assert!(self.models.wait_for(world.head(), PATIENCE).await, "{:?}", self.models.status());
    }

    pub(super) async fn stop(self) -> ReadModels {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
        self.models
    }
}

fn state(models: &ReadModels, hash: &Digest) -> Option<KeyState> {
    models.key_by_hash(hash).unwrap().map(|key| key.state(Timestamp::MAX))
}

#[tokio::test]
async fn a_key_is_found_by_every_hash_it_had() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    world.create_key(1);
    let node = Node::start(data.path(), &world).await;
    let models = &node.models;
    assert_eq!(state(models, &hash(1, 1)), Some(KeyState::Active));
    assert_eq!(state(models, &hash(2, 1)), None);
    world.rotate_key(1, 2);
    world.rotate_key(1, 3);
    node.catch_up(&world).await;
    for number in 1..=3 {
        let key = models.key_by_hash(&hash(1, number)).unwrap().unwrap();
        assert_eq!(key.secrets.last().unwrap().number, 3);
    }
    world.revoke_key(1);
    node.catch_up(&world).await;
    for number in 1..=3 {
        assert_eq!(state(models, &hash(1, number)), Some(KeyState::Revoked), "secret {number}");
    }
    let (aggregate, head) = models.load(&key_stream(1)).unwrap();
    assert!(matches!(aggregate, Some(Aggregate::Key(_))));
    assert_eq!((head.version, head.sequence), (Version(4), world.head()));
    assert_eq!(models.load(&key_stream(9)).unwrap(), (None, schemas::Head::default()));
    node.stop().await;
}

#[tokio::test]
async fn keys_are_paged_in_the_order_of_their_ids() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    for n in [9, 3, 7, 1, 5] {
        world.create_key(n);
    }
    world.create_pool(4);
    let node = Node::start(data.path(), &world).await;
    let page = |after: Option<u8>, limit| -> Vec<KeyId> {
        let keys = node.models.keys(&tenant(), after.map(key_id), limit).unwrap();
        keys.into_iter().map(|key| key.value.id).collect()
    };
    assert_eq!(page(None, 2), [key_id(1), key_id(3)]);
    assert_eq!(page(Some(3), 2), [key_id(5), key_id(7)]);
    assert_eq!(page(Some(4), 9), [key_id(5), key_id(7), key_id(9)]);
    assert_eq!(page(Some(9), 9), []);
    let other: TenantId = "default-2".parse().unwrap();
    assert!(node.models.keys(&other, None, 9).unwrap().is_empty());
    assert_eq!(node.models.pools(&tenant(), None, 9).unwrap()[0].value.name, "p4");
    assert_eq!(node.models.key(&tenant(), key_id(7)).unwrap().unwrap().version, Version(1));
    node.stop().await;
}

#[tokio::test]
async fn routes_swap_when_an_upstream_a_credential_or_a_pool_changes() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    let node = Node::start(data.path(), &world).await;
    assert!(node.models.routes().upstreams.is_empty());
    world.create_pool(1);
    let added = world.add_upstream(2);
    world.add_upstream(1);
    node.catch_up(&world).await;
    let routes = node.models.routes();
    assert!(routes.as_of > added);
    assert_eq!(routes.pools.len(), 1);
    let names: Vec<&str> = routes.upstreams.iter().map(|route| route.upstream.details.name.as_str()).collect();
    assert_eq!(names, ["u1", "u2"]);
    assert!(routes.upstreams.iter().all(|route| route.credential.is_some()));

    world.create_key(1);
    node.catch_up(&world).await;
    assert!(Arc::ptr_eq(&routes, &node.models.routes()), "a key changes no route");

    let revoked = Event::CredentialRevoked(CredentialRevoked {});
    world.append(&Stream::credential(tenant(), CredentialId::from_bytes([1; 16])), &[revoked]);
    let details = UpstreamDetails {
        name: "moved".into(),
        dialect: Dialect::Openai,
        base_url: "https://elsewhere.example.com/v1".into(),
        pool: PoolId::from_bytes([1; 16]),
        priority: 1,
        weight: 1,
        models: vec![],
    };
    let moved = Event::UpstreamChanged(UpstreamChanged { details, credential: Some(CredentialId::from_bytes([2; 16])) });
    world.append(&Stream::upstream(tenant(), UpstreamId::from_bytes([2; 16])), &[moved]);
    node.catch_up(&world).await;
    let routes = node.models.routes();
    assert!(routes.upstreams[0].credential.is_none(), "a revoked credential is not used");
    assert!(routes.upstreams[1].credential.is_none(), "a credential for {ORIGIN} goes nowhere else");

    world.append(&Stream::upstream(tenant(), UpstreamId::from_bytes([2; 16])), &[Event::UpstreamRemoved(UpstreamRemoved {})]);
    node.catch_up(&world).await;
    assert_eq!(node.models.routes().upstreams.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_suspension_is_seen_at_once_and_is_one_tenants_alone() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    let node = Node::start(data.path(), &world).await;
    let [a, b] = ["a", "a-b"].map(|id| id.parse::<TenantId>().unwrap());
    for id in [&b, &a] {
        world.append(&Stream::tenant_of(id.clone()), &[Event::TenantCreated(TenantCreated { name: id.to_string() })]);
    }
    world.append(&Stream::tenant_of(a.clone()), &[Event::TenantSuspended(TenantSuspended { reason: None })]);
    node.catch_up(&world).await;
    let routes = node.models.routes();
    assert_eq!(routes.tenants.iter().map(|tenant| &tenant.value.id).collect::<Vec<_>>(), [&a, &b]);
    let suspended = |node: &Node| [&a, &b].map(|id| node.models.is_suspended(id));
    assert_eq!(suspended(&node), [true, false]);
    assert!(routes.tenant(&a).unwrap().value.suspended.is_some() && routes.tenant(&b).unwrap().value.suspended.is_none());
    assert!(routes.tenant(&"c".parse().unwrap()).is_none() && !node.models.is_suspended(&tenant()));

    // What a start reads is what the fold had told.
    node.stop().await;
    let node = Node::start(data.path(), &world).await;
    assert_eq!(suspended(&node), [true, false]);
    world.append(&Stream::tenant_of(a.clone()), &[Event::TenantResumed(TenantResumed {})]);
    node.catch_up(&world).await;
    assert_eq!(suspended(&node), [false, false]);
    node.stop().await;
}

#[tokio::test]
async fn void_records_and_the_prefix_can_be_asked_for() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    let void = world.append_bytes("kr.e.x", b"x".to_vec());
    world.create_key(1);
    let node = Node::start(data.path(), &world).await;
    assert!(node.models.void(void).unwrap().is_some());
    assert!(node.models.void(void.next()).unwrap().is_none());
    assert_eq!(node.models.voids(Sequence(1), 9).unwrap().len(), 1);
    assert!(node.models.voids(void.next(), 9).unwrap().is_empty());
    assert_eq!(node.models.prefix().version(&key_stream(1)), Version(1));
    assert!(node.models.prefix().cluster().is_some());
    let status = node.models.status();
    assert_eq!((status.counts.void, status.counts.valid, status.lag), (1, 3, 0));
    node.stop().await;
}

#[tokio::test]
async fn waiting_sees_what_is_there_and_what_comes_and_gives_up() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    let node = Node::start(data.path(), &world).await;
    assert!(node.models.wait_for(world.head(), Duration::ZERO).await);
    assert!(!node.models.wait_for(world.head().next(), Duration::ZERO).await);
    let (models, next) = (node.models.clone(), world.head().next());
    let waiting = tokio::spawn(async move { models.wait_for(next, PATIENCE).await });
    world.create_key(1);
    world.write_to(&node.log).await;
    assert!(waiting.await.unwrap());
    assert_eq!(node.models.status().state, State::Following);
    node.stop().await;
}

#[tokio::test]
async fn a_stop_is_visible_and_what_is_there_is_served() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    world.create_key(1);
    let node = Node::start(data.path(), &world).await;
    let stop_at = world.create_key(1);
    world.write_to(&node.log).await;
    assert!(matches!(node.task.await.unwrap(), Err(FollowError::Fold(_))));
    let status = node.models.status();
    assert!(matches!(status.state, State::Stopped { sequence, .. } if sequence == stop_at), "{status:?}");
    assert_eq!(status.position.sequence, Sequence(stop_at.0 - 1));
    assert_eq!(state(&node.models, &hash(1, 1)), Some(KeyState::Active));
}

#[tokio::test]
async fn a_rebuild_gives_the_same_rows_beside_the_running_fold() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    for n in 1..50 {
        world.create_key(n);
    }
    world.add_upstream(1);
    let node = Node::start(data.path(), &world).await;
    let before = node.models.dump().unwrap();
    assert_eq!(state(&node.models, &hash(1, 1)), Some(KeyState::Active));
    let rebuilt = node.projector.rebuild(Verdicts::Judged, |_| {}).await.unwrap();
    assert_eq!(rebuilt.position, node.models.position());
    assert_eq!(node.models.dump().unwrap(), before);
    assert_eq!(node.models.routes().upstreams.len(), 1);
    world.revoke_key(1);
    node.catch_up(&world).await;
    assert_eq!(state(&node.models, &hash(1, 1)), Some(KeyState::Revoked));
    let folders = std::fs::read_dir(data.path().join("read-models")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(folders.count(), 1, "the old model is gone");
    let rows = node.models.dump().unwrap();
    let (projector, log) = (Arc::clone(&node.projector), node.log.clone());
    drop(node.stop().await);
    drop(projector);
    let (_projector, models) = Projector::open(config(data.path()), Arc::new(log)).await.unwrap();
    assert_eq!(models.dump().unwrap(), rows, "the pointer names the rebuilt model");
}

/// Keys are created and revoked while the model is rebuilt again and again. Readers, who know which revocations were announced, never see
/// one of them undone, and positions never go back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_under_followers_and_readers_takes_nothing_back() {
    const KEYS: u8 = 120;
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    let node = Node::start(data.path(), &world).await;
    let (announced, is_done) = (Arc::new(AtomicU8::new(0)), CancellationToken::new());
    let readers = (0..2).map(|_| {
        let (models, announced, is_done) = (node.models.clone(), Arc::clone(&announced), is_done.clone());
        tokio::task::spawn_blocking(move || {
            let mut last = Sequence::ZERO;
            while !is_done.is_cancelled() {
                let revoked = announced.load(Ordering::SeqCst);
                for n in 1..=revoked {
                    assert_eq!(state(&models, &hash(n, 1)), Some(KeyState::Revoked), "key {n} of {revoked}");
                }
                let position = models.position().sequence;
                assert!(position >= last, "{position} after {last}");
                last = position;
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    let (projector, done) = (Arc::clone(&node.projector), is_done.clone());
    let (rebuilt, mut rebuilds) = watch::channel(0);
    let rebuilding = tokio::spawn(async move {
        for verdicts in [Verdicts::Judged, Verdicts::Known].into_iter().cycle().take_while(|_| !done.is_cancelled()) {
            assert_eq!(projector.rebuild(verdicts, |_| {}).await.unwrap().verdicts, verdicts);
            rebuilt.send_modify(|rebuilt| *rebuilt += 1);
        }
    });
    for n in 1..=KEYS {
        world.create_key(n);
        node.catch_up(&world).await;
        assert_eq!(state(&node.models, &hash(n, 1)), Some(KeyState::Active));
        world.revoke_key(n);
        node.catch_up(&world).await;
        announced.store(n, Ordering::SeqCst);
        // However fast or slow the machine is, some rebuilds begin before and end after what is written.
        if n % 40 == 0 {
            rebuilds.wait_for(|rebuilds| *rebuilds >= n / 40).await.unwrap();
        }
    }
    is_done.cancel();
    for reader in readers {
        reader.await.unwrap();
    }
    rebuilding.await.unwrap();
    assert_eq!(node.models.status().state, State::Following);
    assert_eq!(node.stop().await.dump().unwrap(), rows_of(&world.records));
}

#[tokio::test]
async fn a_rebuild_waits_out_an_absence_of_the_log_and_is_not_fooled_by_another() {
    let (data, world) = (tempfile::tempdir().unwrap(), world_of(3));
    let log = ShakyLog::of(&world).await;
    let (projector, models) = Projector::open(config(data.path()), Arc::new(log.clone())).await.unwrap();
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), async {
        assert!(models.wait_for(world.head(), PATIENCE).await);
        cancel.cancel();
    });
    outcome.unwrap();
    let mut states = models.states();
    log.leave();
    let token = CancellationToken::new();
    let (rebuilt, followed, ()) = tokio::join!(projector.rebuild(Verdicts::Judged, |_| {}), projector.run(token.clone()), async {
        states.wait_for(|state| matches!(state, State::Waiting { .. })).await.unwrap();
        log.come_back();
        states.wait_for(|state| *state == State::Following).await.unwrap();
        token.cancel();
    });
    followed.unwrap();
    assert_eq!(rebuilt.unwrap().position, models.position());
    let before = models.dump().unwrap();
    let mut other = world_of(2);
    other.revoke_key(1);
    log.become_log_of(&other).await;
    let refused = projector.rebuild(Verdicts::Judged, |_| {}).await;
    assert!(matches!(refused, Err(RebuildError::RootDiffers { sequence: Sequence(5), .. })), "{refused:?}");
    assert_eq!(models.dump().unwrap(), before);
}

#[tokio::test]
async fn a_second_builder_is_refused() {
    let (data, world) = (tempfile::tempdir().unwrap(), World::founded());
    let node = Node::start(data.path(), &world).await;
    // On a single-threaded runtime the second is asked while the first waits for its first blocking step.
    let (first, second) = tokio::join!(node.projector.rebuild(Verdicts::Judged, |_| {}), node.projector.rebuild(Verdicts::Judged, |_| {}));
    assert!(first.is_ok(), "{first:?}");
    assert!(matches!(second, Err(RebuildError::Running)));
    node.stop().await;
}

#[tokio::test]
async fn a_rebuild_with_another_root_is_a_finding_and_the_old_model_stays() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
    world.create_key(1);
    let node = Node::start(data.path(), &world).await;
    let before = node.stop().await.dump().unwrap();
    // The same length, the same record at the position, another past.
    let mut other = World::founded();
    other.records[1] = event_log::Stored { bytes: b"other".to_vec().into(), ..other.records[1].clone() };
    other.create_key(1);
    let (projector, models) = Projector::open(config(data.path()), Arc::new(other.log().await)).await.unwrap();
    assert!(matches!(projector.rebuild(Verdicts::Judged, |_| {}).await, Err(RebuildError::RootDiffers { sequence: Sequence(3), .. })));
    assert_eq!(models.dump().unwrap(), before);
    let folders = std::fs::read_dir(data.path().join("read-models")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(folders.count(), 1, "the refused model is gone");
}

#[cfg(feature = "faults")]
mod faults {
    use parking_lot::Mutex;
    use tokio::runtime::Handle;

    use super::*;

    /// A reader that has read an active key is held until the revocation was committed, invalidated and announced; then it
    /// inserts. Gives what the next reader is told.
    async fn state_after_a_late_insert(plant_the_bug: bool) -> Option<KeyState> {
        let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
        world.create_key(1);
        let node = Node::start(data.path(), &world).await;
        let faults = node.models.faults();
        faults.keep_stale_inserts(plant_the_bug);
        let announced = {
            world.revoke_key(1);
            let (models, log, head) = (node.models.clone(), node.log.clone(), world.head());
            let (runtime, world) = (Handle::current(), Mutex::new(Some(world)));
            move || {
                // The first reader only.
                let Some(world) = world.lock().take() else { return };
                runtime.block_on(async {
                    world.write_to(&log).await;
                    assert!(models.wait_for(head, PATIENCE).await);
                });
            }
        };
        faults.between_get_and_insert(announced);
        let reader = node.models.clone();
        let late = tokio::task::spawn_blocking(move || state(&reader, &hash(1, 1))).await.unwrap();
        assert_eq!(late, Some(KeyState::Active), "the late reader has the old row in its hands");
        let next = state(&node.models, &hash(1, 1));
        node.stop().await;
        next
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_late_insert_does_not_bring_a_revoked_key_back() {
        assert_eq!(state_after_a_late_insert(false).await, Some(KeyState::Revoked));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_the_check_a_late_insert_brings_it_back() {
        assert_eq!(state_after_a_late_insert(true).await, Some(KeyState::Active), "the planted bug goes unseen");
    }

    #[tokio::test]
    async fn a_failed_commit_is_visible_and_running_again_goes_on() {
        let (data, mut world) = (tempfile::tempdir().unwrap(), World::founded());
        let node = Node::start(data.path(), &world).await;
        node.models.faults().fail_commits(1);
        let at = world.create_key(1);
        world.write_to(&node.log).await;
        assert!(node.task.await.unwrap().is_err());
        assert!(matches!(node.models.status().state, State::Stopped { sequence, .. } if sequence == at));
        let (runner, cancel) = (Arc::clone(&node.projector), node.cancel.clone());
        let task = tokio::spawn(async move { runner.run(cancel).await });
        assert!(node.models.wait_for(at, PATIENCE).await);
        assert_eq!(state(&node.models, &hash(1, 1)), Some(KeyState::Active));
        node.cancel.cancel();
        task.await.unwrap().unwrap();
    }
}
