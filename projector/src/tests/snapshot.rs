//! A snapshot is as good as a replay, and nothing else that looks like one is installed.

use std::fs;
use std::path::Path;

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use schemas::{Digest, Sequence, WriterId};

use super::fold::{Step, rows_of, step};
use super::models::config;
use super::start::{files, fold, open, world_of};
use super::world::{World, hash};
use crate::snapshot::MANIFEST;
use crate::snapshot::manifest::{signature_text, statement};
use crate::{CheckError, InstallError, Position, SnapshotError, SnapshotManifest, VERSION, install_snapshot};

/// Folds the world's log and takes a snapshot of it as its writer.
async fn take(world: &World, into: &Path) -> SnapshotManifest {
    let data = tempfile::tempdir().unwrap();
    fold(data.path(), world).await;
    let (projector, _models) = open(data.path(), world).await.unwrap();
    projector.snapshot(into, world.writer(), |statement| world.sign(statement)).await.unwrap()
}

async fn install(data: &Path, from: &Path, world: &World) -> Result<Position, InstallError> {
    let (cluster, key) = world.cluster();
    install_snapshot(&config(data), from, cluster, key, &world.log().await).await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn what_is_installed_and_followed_equals_a_replay(
        before in prop::collection::vec(step(), 0..40),
        after in prop::collection::vec(step(), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let steps: Vec<Step> = before.iter().chain(&after).copied().collect();
        let (earlier, world) = (super::fold::world(&before), super::fold::world(&steps));
        let rows = runtime.block_on(async {
            let (data, snapshots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let from = snapshots.path().join("snapshot");
            let manifest = take(&earlier, &from).await;
            let position = install(data.path(), &from, &world).await.unwrap();
            assert_eq!((position.sequence, position.root), (manifest.position, manifest.root));
            let (projector, models) = open(data.path(), &world).await.unwrap();
            assert_eq!(models.dump().unwrap(), rows_of(&earlier.records));
            drop(projector);
            drop(models);
            fold(data.path(), &world).await;
            let (_projector, models) = open(data.path(), &world).await.unwrap();
            models.dump().unwrap()
        });
        prop_assert_eq!(rows, rows_of(&world.records));
    }
}

#[tokio::test]
async fn an_installed_model_is_in_the_place_of_an_older_one_and_never_was_level() {
    let (data, snapshots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, world) = (snapshots.path().join("snapshot"), world_of(3));
    take(&world, &from).await;
    fold(data.path(), &world_of(1)).await;
    install(data.path(), &from, &world).await.unwrap();
    // The log has gone on: what the older model's last contact was says nothing about this one.
    let (_projector, models) = open(data.path(), &world_of(4)).await.unwrap();
    assert_eq!(models.position().sequence, world.head());
    assert_eq!(models.staleness(), std::time::Duration::MAX);
    assert!(models.key_by_hash(&hash(3, 1)).unwrap().is_some());
    let folders = fs::read_dir(data.path().join("read-models")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(folders.count(), 1, "the older model is gone");
}

#[tokio::test]
async fn a_snapshot_is_not_taken_of_nothing_or_by_a_stranger() {
    let (data, snapshots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (into, world) = (snapshots.path().join("snapshot"), world_of(1));
    let (projector, models) = open(data.path(), &world).await.unwrap();
    let empty = projector.snapshot(&into, world.writer(), |statement| world.sign(statement)).await;
    assert!(matches!(empty, Err(SnapshotError::Empty)), "{empty:?}");
    drop((projector, models));
    fold(data.path(), &world).await;
    let (projector, _models) = open(data.path(), &world).await.unwrap();
    let (_, stranger) = world.cluster();
    let refused = projector.snapshot(&into, stranger, |statement| world.sign(statement)).await;
    assert!(matches!(refused, Err(SnapshotError::NotEnrolled { writer }) if writer == WriterId::of(&stranger)), "{refused:?}");
    assert!(!into.exists());
    projector.snapshot(&into, world.writer(), |statement| world.sign(statement)).await.unwrap();
    let again = projector.snapshot(&into, world.writer(), |statement| world.sign(statement)).await;
    assert!(matches!(again, Err(SnapshotError::Io { .. })), "{again:?}");
    assert!(into.join(MANIFEST).exists(), "the snapshot that was there is left alone");
}

/// A snapshot of five records, and a data directory with a model of three that no refusal may change.
struct Bench {
    world: World,
    manifest: SnapshotManifest,
    from: tempfile::TempDir,
    data: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let (from, data, world) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), world_of(3));
        let manifest = take(&world, &from.path().join("good")).await;
        fold(data.path(), &world_of(1)).await;
        Self { world, manifest, from, data }
    }

    /// Copies the snapshot, changes the copy, and has it refused.
    async fn refusal(&self, log: &World, change: impl FnOnce(&Path)) -> InstallError {
        let (good, bad) = (self.from.path().join("good"), self.from.path().join("bad"));
        fs::create_dir_all(bad.join("rows")).unwrap();
        for (path, bytes) in files(&good) {
            fs::write(bad.join(Path::new(&path).strip_prefix(&good).unwrap()), bytes).unwrap();
        }
        change(&bad);
        let before = files(self.data.path());
        let (cluster, key) = self.world.cluster();
        let refused = install_snapshot(&config(self.data.path()), &bad, cluster, key, &log.log().await).await.unwrap_err();
        assert!(files(self.data.path()) == before, "a refusal changed something: {refused:?}");
        fs::remove_dir_all(&bad).unwrap();
        refused
    }

    /// Has a manifest refused that the snapshot's writer has signed all the same.
    async fn refusal_of(&self, change: impl FnOnce(&mut SnapshotManifest)) -> InstallError {
        let mut manifest = self.manifest.clone();
        change(&mut manifest);
        self.refusal(&self.world, |bad| write_manifest(bad, &manifest, |statement| self.world.sign(statement))).await
    }
}

fn write_manifest(snapshot: &Path, manifest: &SnapshotManifest, sign: impl FnOnce(&[u8]) -> [u8; 64]) {
    let bytes = serde_json::to_vec(manifest).unwrap();
    fs::write(snapshot.join("manifest.sig"), signature_text(&sign(&statement(&bytes)))).unwrap();
    fs::write(snapshot.join("manifest.json"), bytes).unwrap();
}

#[tokio::test]
async fn the_bench_of_refusals_installs_what_is_good() {
    let bench = Bench::new().await;
    let position = install(bench.data.path(), &bench.from.path().join("good"), &bench.world).await.unwrap();
    assert_eq!(position.sequence, Sequence(5));
}

#[tokio::test]
async fn a_changed_manifest_or_signature_is_refused() {
    let bench = Bench::new().await;
    for name in ["manifest.json", "manifest.sig"] {
        let length = fs::read(bench.from.path().join("good").join(name)).unwrap().len();
        for at in (0..length).step_by(7) {
            let refused = bench
                .refusal(&bench.world, |bad| {
                    let mut bytes = fs::read(bad.join(name)).unwrap();
                    bytes[at] ^= 1;
                    fs::write(bad.join(name), bytes).unwrap();
                })
                .await;
            let is_refusal = matches!(
                refused,
                InstallError::Manifest
                    | InstallError::Signature
                    | InstallError::OtherFormat { .. }
                    | InstallError::OtherCluster { .. }
                    | InstallError::NotEnrolled { .. }
            );
            assert!(is_refusal, "{name} at {at}: {refused:?}");
        }
    }
    let missing = bench.refusal(&bench.world, |bad| fs::remove_file(bad.join("manifest.sig")).unwrap()).await;
    assert!(matches!(missing, InstallError::Io { .. }), "{missing:?}");
}

#[tokio::test]
async fn a_snapshot_that_a_stranger_signed_is_refused() {
    let bench = Bench::new().await;
    let stranger = SigningKey::from_bytes(&[200; 32]);
    let sign = |statement: &[u8]| stranger.sign(statement).to_bytes();
    // In the name of the writer.
    let refused = bench.refusal(&bench.world, |bad| write_manifest(bad, &bench.manifest, sign)).await;
    assert!(matches!(refused, InstallError::Signature), "{refused:?}");
    // In its own, enrolled by another cluster.
    let mut manifest = bench.manifest.clone();
    manifest.writer = World::founded_as(2).enrolment_of(&stranger);
    let refused = bench.refusal(&bench.world, |bad| write_manifest(bad, &manifest, sign)).await;
    assert!(matches!(refused, InstallError::NotEnrolled { .. }), "{refused:?}");
    // A signature over the same bytes that is no snapshot's.
    let bytes = serde_json::to_vec(&bench.manifest).unwrap();
    let unframed = |_: &[u8]| bench.world.sign(&bytes);
    let refused = bench.refusal(&bench.world, |bad| write_manifest(bad, &bench.manifest, unframed)).await;
    assert!(matches!(refused, InstallError::Signature), "{refused:?}");
}

#[tokio::test]
async fn a_retired_writers_snapshot_is_refused() {
    let mut bench = Bench::new().await;
    bench.world.retire_writer();
    let refused = bench.refusal(&bench.world, |_| {}).await;
    assert!(matches!(refused, InstallError::Retired { .. }), "{refused:?}");
}

#[tokio::test]
async fn changed_truncated_swapped_and_missing_files_are_refused() {
    let bench = Bench::new().await;
    for file in &bench.manifest.files {
        let changes: [fn(&Path); 4] = [
            |path| {
                let mut bytes = fs::read(path).unwrap();
                match bytes.last_mut() {
                    Some(last) => *last ^= 1,
                    None => bytes.push(0),
                }
                fs::write(path, bytes).unwrap();
            },
            |path| {
                let bytes = fs::read(path).unwrap();
                let kept = bytes.len().saturating_sub(1);
                if kept == bytes.len() { fs::remove_file(path).unwrap() } else { fs::write(path, &bytes[..kept]).unwrap() }
            },
            |path| fs::write(path, [fs::read(path).unwrap(), b"x".to_vec()].concat()).unwrap(),
            |path| fs::remove_file(path).unwrap(),
        ];
        for change in changes {
            let refused = bench.refusal(&bench.world, |bad| change(&bad.join("rows").join(&file.name))).await;
            assert!(matches!(&refused, InstallError::FileDiffers { name } if *name == file.name), "{refused:?}");
        }
    }
    let tables: Vec<_> = bench.manifest.files.iter().filter(|file| file.name.ends_with(".sst")).collect();
    assert!(tables.len() > 1);
    let refused = bench
        .refusal(&bench.world, |bad| {
            let (a, b) = (bad.join("rows").join(&tables[0].name), bad.join("rows").join(&tables[1].name));
            let (first, second) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
            fs::write(a, second).unwrap();
            fs::write(b, first).unwrap();
        })
        .await;
    assert!(matches!(refused, InstallError::FileDiffers { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_signed_manifest_that_fits_nothing_is_refused() {
    let bench = Bench::new().await;
    let refused = bench.refusal_of(|manifest| manifest.version = VERSION + 1).await;
    assert!(matches!(refused, InstallError::OtherVersion { found } if found == VERSION + 1), "{refused:?}");
    let refused = bench.refusal_of(|manifest| manifest.format += 1).await;
    assert!(matches!(refused, InstallError::OtherFormat { found: 2 }), "{refused:?}");
    let refused = bench.refusal_of(|manifest| manifest.cluster = World::founded_as(2).cluster().0).await;
    assert!(matches!(refused, InstallError::OtherCluster { .. }), "{refused:?}");
    let refused = bench.refusal_of(|manifest| manifest.root = Digest::blake3(b"other")).await;
    assert!(matches!(refused, InstallError::RowsDiffer), "{refused:?}");
    for name in ["../../CURRENT", "/etc/passwd", "a/b", "", ".", ".."] {
        let refused = bench.refusal_of(|manifest| manifest.files[0].name = name.into()).await;
        assert!(matches!(&refused, InstallError::FileName { name: found } if found == name), "{refused:?}");
    }
    // Rows of an earlier place under a later place's name: the record is the log's, the rows are not its.
    let refused = {
        let mut longer = world_of(3);
        longer.revoke_key(1);
        let later = take(&longer, &bench.from.path().join("later")).await;
        let mut manifest = bench.manifest.clone();
        (manifest.position, manifest.leaf, manifest.root) = (later.position, later.leaf, later.root);
        bench.refusal(&longer, |bad| write_manifest(bad, &manifest, |statement| bench.world.sign(statement))).await
    };
    assert!(matches!(refused, InstallError::RowsDiffer), "{refused:?}");
}

#[tokio::test]
async fn a_snapshot_of_another_log_or_ahead_of_the_log_is_refused() {
    let bench = Bench::new().await;
    let refused = bench.refusal(&world_of(2), |_| {}).await;
    assert!(matches!(refused, InstallError::Log(CheckError::LogShorter { position: Sequence(5), head: Sequence(4) })), "{refused:?}");
    let mut other = world_of(2);
    other.revoke_key(1);
    let refused = bench.refusal(&other, |_| {}).await;
    assert!(matches!(refused, InstallError::Log(CheckError::LogDiffers { sequence: Sequence(5) })), "{refused:?}");
    let refused = bench.refusal(&World::founded_as(2), |_| {}).await;
    assert!(matches!(refused, InstallError::Log(CheckError::OtherCluster { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_model_at_or_ahead_of_the_snapshot_or_of_another_cluster_is_kept() {
    let bench = Bench::new().await;
    for keys in [3, 4] {
        let (data, world) = (tempfile::tempdir().unwrap(), world_of(keys));
        fold(data.path(), &world).await;
        let before = files(data.path());
        let refused = install(data.path(), &bench.from.path().join("good"), &world).await.unwrap_err();
        assert!(matches!(refused, InstallError::NotAhead { snapshot: Sequence(5), .. }), "{refused:?}");
        assert!(files(data.path()) == before);
    }
    let data = tempfile::tempdir().unwrap();
    fold(data.path(), &World::founded_as(2)).await;
    let refused = install(data.path(), &bench.from.path().join("good"), &bench.world).await.unwrap_err();
    assert!(matches!(refused, InstallError::Log(CheckError::OtherCluster { .. })), "{refused:?}");
    // A node that runs.
    let data = tempfile::tempdir().unwrap();
    let _node = open(data.path(), &bench.world).await.unwrap();
    let refused = install(data.path(), &bench.from.path().join("good"), &bench.world).await.unwrap_err();
    assert!(matches!(refused, InstallError::Directory(crate::DirectoryError::Locked { .. })), "{refused:?}");
}
