//! The log goes away: what is served goes on being served, ages honestly, and never follows a log that came back as another.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use schemas::{Sequence, Timestamp};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::models::{PATIENCE, config};
use super::shaky::ShakyLog;
use super::start::world_of;
use super::world::{World, hash};
use crate::{CheckError, Clock, Config, FollowError, OpenError, Projector, ReadModels, State};

const HOUR: Duration = Duration::from_secs(3600);

struct Node {
    models: ReadModels,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), FollowError>>,
}

async fn open(config: Config, log: &ShakyLog) -> Result<(Projector, ReadModels), OpenError> {
    Projector::open(config, Arc::new(log.clone())).await
}

impl Node {
    async fn start(config: Config, log: &ShakyLog) -> Self {
        let (projector, models) = open(config, log).await.unwrap();
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        Self { models, cancel, task: tokio::spawn(async move { projector.run(token).await }) }
    }

    async fn comes_to(&self, wanted: impl FnMut(&State) -> bool) {
        let mut states = self.models.states();
        let reached = tokio::time::timeout(PATIENCE, states.wait_for(wanted)).await;
        assert!(reached.is_ok(), "{:?}", self.models.status());
    }

    async fn waits(&self) {
        self.comes_to(|state| matches!(state, State::Waiting { .. })).await;
    }

    async fn follows_to(&self, sequence: Sequence) {
        assert!(self.models.wait_for(sequence, PATIENCE).await, "{:?}", self.models.status());
        self.comes_to(|state| *state == State::Following).await;
    }

    async fn comes_to_be_fresh(&self) {
        let begun = Instant::now();
        while self.models.staleness() > Duration::ZERO {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.models.status());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn refusal(self) -> CheckError {
        let outcome = tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        assert!(matches!(self.models.status().state, State::Stopped { .. }));
        match outcome {
            Err(FollowError::Refused(refused)) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A clock that a test sets.
struct TestClock(Arc<Mutex<Timestamp>>);

impl TestClock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Timestamp::from_micros(1_800_000_000_000_000))))
    }

    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Arc::new(move || *now.lock())
    }

    fn config(&self, data: &Path) -> Config {
        Config { clock: self.clock(), ..config(data) }
    }

    fn pass(&self, time: Duration) {
        let mut now = self.0.lock();
        *now = now.plus_seconds(time.as_secs());
    }

    fn go_back(&self, time: Duration) {
        let mut now = self.0.lock();
        *now = Timestamp::from_micros(now.as_micros() - time.as_micros() as u64);
    }
}

/// A data directory whose models were level with the world's log when the node stopped.
async fn level_with(world: &World, clock: &TestClock) -> (tempfile::TempDir, ShakyLog) {
    let (data, log) = (tempfile::tempdir().unwrap(), ShakyLog::of(world).await);
    let node = Node::start(clock.config(data.path()), &log).await;
    node.follows_to(world.head()).await;
    node.comes_to_be_fresh().await;
    node.stop().await;
    (data, log)
}

#[tokio::test]
async fn a_node_starts_from_its_own_models_and_goes_on_when_the_log_is_back() {
    let (mut world, clock) = (world_of(2), TestClock::new());
    let (data, log) = level_with(&world, &clock).await;
    clock.pass(HOUR);
    log.leave();
    let node = Node::start(clock.config(data.path()), &log).await;
    assert!(matches!(node.models.status().state, State::Waiting { .. }));
    assert!(!node.models.status().is_ready());
    assert!(node.models.key_by_hash(&hash(1, 1)).unwrap().is_some());
    let staleness = node.models.staleness();
    assert!(staleness >= HOUR && staleness < HOUR + PATIENCE, "{staleness:?}");
    node.waits().await;
    world.create_key(3);
    log.write(&world).await;
    log.come_back();
    node.follows_to(world.head()).await;
    node.comes_to_be_fresh().await;
    node.stop().await;
}

#[tokio::test]
async fn a_start_with_the_log_at_hand_is_fresh_at_once_if_nothing_is_due() {
    let (mut world, clock) = (world_of(1), TestClock::new());
    let (data, log) = level_with(&world, &clock).await;
    clock.pass(HOUR);
    let (projector, models) = open(clock.config(data.path()), &log).await.unwrap();
    assert!(models.staleness() < HOUR);
    drop((projector, models));
    world.create_key(2);
    log.write(&world).await;
    let (_projector, models) = open(clock.config(data.path()), &log).await.unwrap();
    assert!(models.staleness() >= HOUR);
}

#[tokio::test]
async fn without_models_and_without_a_log_a_node_opens_and_is_not_ready() {
    let (data, world) = (tempfile::tempdir().unwrap(), world_of(1));
    let log = ShakyLog::of(&world).await;
    log.leave();
    let node = Node::start(config(data.path()), &log).await;
    node.waits().await;
    assert_eq!(node.models.staleness(), Duration::MAX);
    assert!(!node.models.status().is_ready());
    log.come_back();
    node.follows_to(world.head()).await;
    node.comes_to_be_fresh().await;
    node.stop().await;
}

#[tokio::test]
async fn models_that_never_were_level_are_stale_without_bound() {
    let (data, world) = (tempfile::tempdir().unwrap(), world_of(1));
    let log = ShakyLog::of(&world).await;
    drop(open(config(data.path()), &log).await.unwrap());
    log.leave();
    let (_projector, models) = open(config(data.path()), &log).await.unwrap();
    assert_eq!(models.staleness(), Duration::MAX);
}

#[tokio::test]
async fn another_log_at_first_contact_is_refused_and_nothing_is_folded() {
    let clock = TestClock::new();
    let (data, log) = level_with(&world_of(3), &clock).await;
    let mut other = world_of(2);
    other.revoke_key(1);
    other.revoke_key(2);
    for (world, is_refusal) in [
        (other, (|error| matches!(error, CheckError::LogDiffers { sequence: Sequence(5) })) as fn(&CheckError) -> bool),
        (world_of(2), |error| matches!(error, CheckError::LogShorter { position: Sequence(5), head: Sequence(4) })),
        (World::founded_as(2), |error| matches!(error, CheckError::OtherCluster { .. })),
    ] {
        log.leave();
        let node = Node::start(clock.config(data.path()), &log).await;
        node.waits().await;
        log.become_log_of(&world).await;
        let before = node.models.dump().unwrap();
        log.come_back();
        let models = node.models.clone();
        let refused = node.refusal().await;
        assert!(is_refusal(&refused), "{refused:?}");
        assert_eq!(models.dump().unwrap(), before);
    }
}

#[tokio::test]
async fn a_log_that_comes_back_as_another_is_refused_however_it_went() {
    for leave in [ShakyLog::leave, ShakyLog::leave_without_a_word] {
        let (data, log) = level_with(&world_of(3), &TestClock::new()).await;
        let node = Node::start(config(data.path()), &log).await;
        node.follows_to(Sequence(5)).await;
        leave(&log);
        node.waits().await;
        assert_eq!(node.models.position().sequence, Sequence(5));
        // Rolled back, and longer by now than it was.
        let mut other = world_of(2);
        (1..=2).for_each(|n| {
            other.revoke_key(n);
        });
        (3..=9).for_each(|n| {
            other.create_key(n);
        });
        log.become_log_of(&other).await;
        let before = node.models.dump().unwrap();
        log.come_back();
        let models = node.models.clone();
        let refused = node.refusal().await;
        assert!(matches!(refused, CheckError::LogDiffers { sequence: Sequence(5) }), "{refused:?}");
        assert_eq!(models.dump().unwrap(), before);
    }
}

#[tokio::test]
async fn a_head_below_the_position_is_a_refusal_only_if_it_stays() {
    let (world, data) = (world_of(3), tempfile::tempdir().unwrap());
    let log = ShakyLog::of(&world).await;
    let node = Node::start(config(data.path()), &log).await;
    node.follows_to(world.head()).await;
    log.become_log_of(&world_of(2)).await;
    // A leader that is a moment behind its own log.
    log.tells_its_head().await;
    log.become_log_of(&world).await;
    let longer = world_of(4);
    log.write(&longer).await;
    node.follows_to(longer.head()).await;
    // One that stays behind.
    log.become_log_of(&world).await;
    let refused = node.refusal().await;
    assert!(matches!(refused, CheckError::LogShorter { position: Sequence(6), head: Sequence(5) }), "{refused:?}");
}

#[tokio::test]
async fn staleness_grows_while_the_log_is_away_and_the_rows_are_served() {
    let mut world = world_of(1);
    let (data, log) = level_with(&world, &TestClock::new()).await;
    let node = Node::start(config(data.path()), &log).await;
    node.follows_to(world.head()).await;
    log.leave();
    world.create_key(2);
    log.write(&world).await;
    let begun = Instant::now();
    while node.models.staleness() == Duration::ZERO {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It counts from the last contact, not from the moment at which it was noticed.
    assert!(node.models.staleness() >= Duration::from_secs(2));
    assert!(node.models.key_by_hash(&hash(1, 1)).unwrap().is_some());
    assert!(node.models.key_by_hash(&hash(2, 1)).unwrap().is_none());
    log.come_back();
    node.follows_to(world.head()).await;
    node.comes_to_be_fresh().await;
    node.stop().await;
}

#[tokio::test]
async fn staleness_adds_up_over_starts_without_a_log_and_a_clock_set_back_makes_nothing_fresh() {
    let (world, clock) = (world_of(1), TestClock::new());
    let (data, log) = level_with(&world, &clock).await;
    log.leave();
    for hours in 1..=2_u32 {
        clock.pass(HOUR);
        let node = Node::start(clock.config(data.path()), &log).await;
        node.waits().await;
        let staleness = node.models.staleness();
        assert!(staleness >= HOUR * hours && staleness < HOUR * hours + PATIENCE, "{staleness:?}");
        // In the running process the wall clock plays no part.
        clock.go_back(HOUR / 2);
        assert!(node.models.staleness() >= staleness);
        clock.pass(HOUR / 2);
        node.stop().await;
    }
    clock.go_back(HOUR);
    let node = Node::start(clock.config(data.path()), &log).await;
    assert_eq!(node.models.staleness(), Duration::MAX, "nobody can tell how long the node was down");
    log.come_back();
    node.follows_to(world.head()).await;
    node.comes_to_be_fresh().await;
    node.stop().await;
}

#[tokio::test]
async fn a_log_that_is_refused_stays_refused_while_it_is_tried_again() {
    let (data, log) = level_with(&world_of(3), &TestClock::new()).await;
    let (projector, models) = open(config(data.path()), &log).await.unwrap();
    let projector = Arc::new(projector);
    let run = |cancel: &CancellationToken| {
        let (projector, cancel) = (Arc::clone(&projector), cancel.clone());
        tokio::spawn(async move { projector.run(cancel).await })
    };
    let (first, wrong) = (run(&CancellationToken::new()), World::founded_as(2));
    tokio::time::timeout(PATIENCE, models.states().wait_for(|state| *state == State::Following)).await.unwrap().unwrap();
    log.leave();
    tokio::time::timeout(PATIENCE, models.states().wait_for(|state| matches!(state, State::Waiting { .. }))).await.unwrap().unwrap();
    log.become_log_of(&wrong).await;
    log.come_back();
    assert!(matches!(first.await.unwrap(), Err(FollowError::Refused(_))));

    // Tried again, with the log as it is and with the log away, nothing but the stop is ever told.
    let mut states = models.states();
    let stopped = states.borrow_and_update().clone();
    assert!(matches!(stopped, State::Stopped { .. }));
    assert!(matches!(run(&CancellationToken::new()).await.unwrap(), Err(FollowError::Refused(_))));
    assert!(!states.has_changed().unwrap(), "{:?}", states.borrow());
    log.leave();
    let cancel = CancellationToken::new();
    let waiting = run(&cancel);
    log.is_asked().await;
    log.is_asked().await;
    assert!(!states.has_changed().unwrap(), "{:?}", states.borrow());
    // Its own log again: the stop is over.
    log.become_log_of(&world_of(4)).await;
    log.come_back();
    assert!(models.wait_for(Sequence(6), PATIENCE).await);
    tokio::time::timeout(PATIENCE, states.wait_for(|state| *state == State::Following)).await.unwrap().unwrap();
    cancel.cancel();
    waiting.await.unwrap().unwrap();
}
