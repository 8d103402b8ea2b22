//! What a start refuses, and that a refusal changes nothing.

use std::path::Path;
use std::sync::Arc;

use schemas::Sequence;
use tokio_util::sync::CancellationToken;

use super::models::{PATIENCE, config};
use super::world::World;
use crate::start::DirectoryError;
use crate::{CheckError, OpenError, Projector, ReadModels, State};

pub(super) async fn open(data: &Path, world: &World) -> Result<(Projector, ReadModels), OpenError> {
    Projector::open(config(data), Arc::new(world.log().await)).await
}

/// Folds all of the world's log and closes.
pub(super) async fn fold(data: &Path, world: &World) {
    let (projector, models) = open(data, world).await.unwrap();
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), async {
        assert!(models.wait_for(world.head(), PATIENCE).await);
        cancel.cancel();
    });
    outcome.unwrap();
}

pub(super) fn files(data: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { files.push((path.display().to_string(), std::fs::read(&path).unwrap())) }
        }
    }
    files.sort();
    files
}

pub(super) fn world_of(keys: u8) -> World {
    let mut world = World::founded();
    (1..=keys).for_each(|n| {
        world.create_key(n);
    });
    world
}

#[tokio::test]
async fn an_empty_directory_is_filled_from_the_first_record() {
    let data = tempfile::tempdir().unwrap();
    let (_projector, models) = open(data.path(), &world_of(3)).await.unwrap();
    let status = models.status();
    assert_eq!((status.state.clone(), status.lag), (State::Rebuilding, 5));
    assert!(!status.is_ready());
    drop((_projector, models));
    fold(data.path(), &world_of(3)).await;
    let (_projector, models) = open(data.path(), &world_of(4)).await.unwrap();
    assert_eq!(models.position().sequence, Sequence(5));
    assert_eq!(models.status().lag, 1);
}

#[tokio::test]
async fn a_shorter_log_is_refused() {
    let data = tempfile::tempdir().unwrap();
    fold(data.path(), &world_of(3)).await;
    let shorter = open(data.path(), &world_of(2)).await.err();
    assert!(matches!(shorter, Some(OpenError::Check(CheckError::LogShorter { position: Sequence(5), head: Sequence(4) }))), "{shorter:?}");
    let mut empty = world_of(0);
    empty.records.clear();
    let empty = open(data.path(), &empty).await.err();
    assert!(matches!(empty, Some(OpenError::Check(CheckError::LogShorter { position: Sequence(5), head: Sequence(0) }))), "{empty:?}");
    fold(data.path(), &world_of(3)).await;
}

#[tokio::test]
async fn another_record_at_the_position_is_refused() {
    let data = tempfile::tempdir().unwrap();
    fold(data.path(), &world_of(3)).await;
    let mut other = world_of(2);
    other.revoke_key(1);
    other.revoke_key(2);
    let refused = open(data.path(), &other).await.err();
    assert!(matches!(refused, Some(OpenError::Check(CheckError::LogDiffers { sequence: Sequence(5) }))), "{refused:?}");
}

#[tokio::test]
async fn a_void_record_at_the_position_is_recognised() {
    let data = tempfile::tempdir().unwrap();
    let mut world = world_of(1);
    world.append_bytes("kr.e.x", b"x".to_vec());
    fold(data.path(), &world).await;
    open(data.path(), &world).await.unwrap();
    let mut other = world_of(1);
    other.append_bytes("kr.e.x", b"y".to_vec());
    assert!(matches!(open(data.path(), &other).await.err(), Some(OpenError::Check(CheckError::LogDiffers { .. }))));
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let data = tempfile::tempdir().unwrap();
    fold(data.path(), &world_of(0)).await;
    let refused = open(data.path(), &World::founded_as(2)).await.err();
    assert!(matches!(refused, Some(OpenError::Check(CheckError::OtherCluster { .. }))), "{refused:?}");
}

#[tokio::test]
async fn models_of_a_newer_release_are_refused_and_left_alone() {
    let data = tempfile::tempdir().unwrap();
    fold(data.path(), &world_of(1)).await;
    let pointer = data.path().join("read-models/CURRENT");
    let newer = crate::VERSION + 1;
    std::fs::write(&pointer, format!("v{newer}-7\n")).unwrap();
    let before = files(data.path());
    let refused = open(data.path(), &world_of(1)).await.err();
    assert!(matches!(refused, Some(OpenError::NewerVersion { found, supported: crate::VERSION }) if found == newer), "{refused:?}");
    assert_eq!(files(data.path()), before);
    std::fs::write(&pointer, "what\n").unwrap();
    let refused = open(data.path(), &world_of(1)).await.err();
    assert!(matches!(refused, Some(OpenError::Directory(DirectoryError::Pointer { .. }))), "{refused:?}");
}

#[tokio::test]
async fn models_of_an_older_release_are_replaced() {
    let data = tempfile::tempdir().unwrap();
    let old = data.path().join("read-models/v0-4");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(data.path().join("read-models/CURRENT"), "v0-4\n").unwrap();
    fold(data.path(), &world_of(1)).await;
    assert!(!old.exists());
    assert!(data.path().join(format!("read-models/v{}-5", crate::VERSION)).exists());
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let held = open(data.path(), &world_of(1)).await.unwrap();
    let refused = open(data.path(), &world_of(1)).await.err();
    assert!(matches!(refused, Some(OpenError::Directory(DirectoryError::Locked { .. }))), "{refused:?}");
    drop(held);
    open(data.path(), &world_of(1)).await.unwrap();
}
