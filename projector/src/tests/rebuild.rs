//! A rebuild by known verdicts: the same rows as judging gives, and no other log's.

use std::path::Path;
use std::sync::Arc;

use event_log::Stored;
use parking_lot::Mutex;
use proptest::prelude::*;
use schemas::{Sequence, VoidReason};
use tokio_util::sync::CancellationToken;

use super::fold::{Step, rows_of, step};
use super::models::{PATIENCE, config};
use super::world::{World, key_stream};
use crate::fold::rows::FAMILIES;
use crate::fold::{Folder, Known};
use crate::store::Store;
use crate::{FoldError, Memory, Projector, ReadModels, RebuildError, Rebuilding, Verdicts};

/// Models that are level with the world's log, and nothing that follows.
async fn level(data: &Path, world: &World) -> (Projector, ReadModels) {
    let (projector, models) = Projector::open(config(data), Arc::new(world.log().await)).await.unwrap();
    let cancel = CancellationToken::new();
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), async {
        assert!(models.wait_for(world.head(), PATIENCE).await);
        cancel.cancel();
    });
    outcome.unwrap();
    (projector, models)
}

/// What a rebuild tells of itself, and what it was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Rebuilding>>>);

impl Told {
    fn listen(&self) -> impl Fn(Rebuilding) + Send + Sync + 'static {
        let told = Arc::clone(&self.0);
        move |rebuilding| told.lock().push(rebuilding)
    }

    fn verdicts(&self) -> Vec<Verdicts> {
        let mut verdicts: Vec<Verdicts> = self.0.lock().iter().map(|rebuilding| rebuilding.verdicts).collect();
        verdicts.dedup();
        verdicts
    }
}

/// The world's records with one of them changed.
async fn tampered(world: &World, place: usize, change: impl FnOnce(&mut Vec<u8>)) -> event_log::MemoryLog {
    let mut other = World::founded();
    other.records.clone_from(&world.records);
    let Stored { bytes, .. } = &mut other.records[place];
    let mut changed = bytes.to_vec();
    change(&mut changed);
    *bytes = changed.into();
    other.log().await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn known_verdicts_give_the_rows_that_judging_gave(steps in prop::collection::vec(step(), 1..60)) {
        // Void records of three kinds are in every log, whatever else is.
        let steps: Vec<Step> = steps.into_iter().chain([Step::Garbage(1), Step::WrongVersion(2), Step::Create(1)]).collect();
        let mut world = super::fold::world(&steps);
        forge(&mut world);
        world.create_pool(9);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (rebuilt, rows, told) = runtime.block_on(async {
            let (data, told) = (tempfile::tempdir().unwrap(), Told::default());
            let (projector, models) = level(data.path(), &world).await;
            let rebuilt = projector.rebuild(Verdicts::Known, told.listen()).await.unwrap();
            (rebuilt, models.dump().unwrap(), told)
        });
        prop_assert_eq!((rebuilt.verdicts, rebuilt.position.sequence), (Verdicts::Known, world.head()));
        prop_assert_eq!(rows, rows_of(&world.records));
        prop_assert_eq!(told.verdicts(), [Verdicts::Known]);
    }
}

/// A record that is all it should be but for its signature.
fn forge(world: &mut World) -> Sequence {
    let stream = key_stream(200);
    let mut bytes =
        world.record(schemas::CommandId::from_bytes([77; 16]), &stream, &[super::world::key_created(200, super::world::hash(200, 1))]);
    let place = signature_of(&bytes);
    bytes[place] ^= 1;
    world.append_bytes(&stream.subject(), bytes)
}

/// Where a record's signature begins.
fn signature_of(bytes: &[u8]) -> usize {
    let signature = schemas::record::Frame::parse(bytes).unwrap().signature;
    signature.as_ptr() as usize - bytes.as_ptr() as usize
}

#[tokio::test]
async fn a_signature_that_was_judged_is_not_checked_again_and_one_that_was_found_bad_stays_void() {
    let (mut world, data) = (World::founded(), tempfile::tempdir().unwrap());
    world.create_key(1);
    let forged = forge(&mut world);
    world.create_key(2);
    let (projector, models) = level(data.path(), &world).await;
    assert_eq!(models.void(forged).unwrap(), Some(VoidReason::BadSignature));

    // Without the list the forged record would pass, which shows that no signature was looked at.
    let known = Known::of(&projector.shared.view());
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), FAMILIES, &Memory::new(0)).unwrap();
    let mut folder = Folder::open(Arc::new(store)).unwrap();
    folder.fold_known(&world.records, &crate::fold::Voids::new()).unwrap();
    assert_eq!(folder.row().counts.void, 0);
    assert_eq!(known.voids(&world.records).unwrap().into_iter().collect::<Vec<_>>(), [(forged, VoidReason::BadSignature)]);
    assert_eq!(known.voids(&world.records[..3]).unwrap().len(), 0);

    projector.rebuild(Verdicts::Known, |_| {}).await.unwrap();
    assert_eq!(models.void(forged).unwrap(), Some(VoidReason::BadSignature));
    assert_eq!(models.dump().unwrap(), rows_of(&world.records));
}

#[tokio::test]
async fn a_log_that_was_tampered_with_is_noticed_and_judged_anew() {
    let (mut world, data) = (World::founded(), tempfile::tempdir().unwrap());
    for n in 1..=40 {
        world.create_key(n);
    }
    let (projector, models) = level(data.path(), &world).await;
    let before = models.dump().unwrap();
    drop((projector, models));
    let signature = signature_of(&world.records[20].bytes);
    // The signature alone is no part of what known verdicts look at: only the root tells.
    for (what, log) in [
        ("signature", tampered(&world, 20, |bytes| bytes[signature] ^= 1).await),
        ("header", tampered(&world, 20, |bytes| bytes[signature - 1] ^= 1).await),
        ("frame", tampered(&world, 20, |bytes| bytes.truncate(9)).await),
    ] {
        let told = Told::default();
        let (projector, models) = Projector::open(config(data.path()), Arc::new(log)).await.unwrap();
        let refused = projector.rebuild(Verdicts::Known, told.listen()).await;
        assert!(matches!(refused, Err(RebuildError::RootDiffers { sequence, .. }) if sequence == world.head()), "{what}: {refused:?}");
        assert_eq!(told.verdicts().last(), Some(&Verdicts::Judged), "{what}: it was found out by judging");
        assert_eq!(models.dump().unwrap(), before, "{what}");
    }
    // A payload that is not what its header commits to stops every fold.
    let last = world.records[20].bytes.len() - 1;
    let log = tampered(&world, 20, |bytes| bytes[last] ^= 1).await;
    let (projector, models) = Projector::open(config(data.path()), Arc::new(log)).await.unwrap();
    let refused = projector.rebuild(Verdicts::Known, |_| {}).await;
    assert!(matches!(&refused, Err(RebuildError::Fold(FoldError::Stop(stop))) if stop.sequence == Sequence(21)), "{refused:?}");
    assert_eq!(models.dump().unwrap(), before);
    let folders = std::fs::read_dir(data.path().join("read-models")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(folders.count(), 1, "what was begun is gone");
}

#[tokio::test]
async fn what_comes_after_the_judged_position_is_judged() {
    let (mut world, data) = (World::founded(), tempfile::tempdir().unwrap());
    for n in 1..=3 {
        world.create_key(n);
    }
    let log = world.log().await;
    let (projector, models) = Projector::open(config(data.path()), Arc::new(log.clone())).await.unwrap();
    let cancel = CancellationToken::new();
    let following = async {
        assert!(models.wait_for(Sequence(5), PATIENCE).await);
        // While the rebuild is on its way, by the verdicts of five records.
        let (go, begun) = std::sync::mpsc::channel::<()>();
        let hold = Mutex::new(begun);
        let rebuild = projector.rebuild(Verdicts::Known, move |_| {
            let _held = hold.lock().recv_timeout(PATIENCE);
        });
        let forging = async {
            let forged = forge(&mut world);
            world.write_to(&log).await;
            assert!(models.wait_for(forged, PATIENCE).await);
            drop(go);
            forged
        };
        let (rebuilt, forged) = tokio::join!(rebuild, forging);
        assert_eq!(rebuilt.unwrap().position.sequence, forged);
        assert_eq!(models.void(forged).unwrap(), Some(VoidReason::BadSignature));
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(projector.run(cancel.clone()), following);
    outcome.unwrap();
    assert_eq!(models.dump().unwrap(), rows_of(&world.records));
}

#[tokio::test]
async fn a_model_that_takes_over_is_in_its_files() {
    let (mut world, data) = (World::founded(), tempfile::tempdir().unwrap());
    for n in 1..=40 {
        world.create_key(n);
    }
    let (projector, models) = level(data.path(), &world).await;
    for verdicts in [Verdicts::Known, Verdicts::Judged] {
        projector.rebuild(verdicts, |_| {}).await.unwrap();
        // What a crash of the process would leave now.
        let (path, left) = (data.path().join("read-models"), tempfile::tempdir().unwrap());
        let current = std::fs::read_to_string(path.join("CURRENT")).unwrap();
        for file in std::fs::read_dir(path.join(current.trim_end())).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
        }
        let store = Store::open(left.path(), FAMILIES, &Memory::new(0)).unwrap();
        assert_eq!(store.dump().unwrap(), rows_of(&world.records), "{verdicts:?}");
    }
    drop(models);
}
