//! Signatures that are checked ahead of the fold change no verdict, however early they were checked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use event_log::{EventLog, Stored};
use schemas::{CommandId, Event, Sequence, Stream, Timestamp, VoidReason, WriterId};
use tokio_util::sync::CancellationToken;

use super::fold::rows_of;
use super::world::{World, hash, key_created, key_stream};
use crate::fold::rows::{FAMILIES, VOIDS, of_sequence};
use crate::fold::{CheckedAhead, Folder};
use crate::store::Store;
use crate::{Config, Memory, Projector};

const RETIRED: Sequence = Sequence(7);

fn open(path: &Path) -> Folder {
    Folder::open(Arc::new(Store::open(path, FAMILIES, &Memory::new(0)).unwrap())).unwrap()
}

/// The founding, an enrolment, keys; a forged record; the retirement of the writer and what it wrote later; another writer.
fn world() -> World {
    let mut world = World::founded();
    world.create_key(1);
    world.create_key(2);
    let mut forged = world.record(CommandId::from_bytes([9; 16]), &key_stream(3), &[key_created(3, hash(3, 1))]);
    forged[300] ^= 1;
    world.append_bytes(&key_stream(3).subject(), forged);
    world.create_key(3);
    assert_eq!(world.retire_writer(), RETIRED);
    let late = world.record(CommandId::from_bytes([8; 16]), &key_stream(4), &[key_created(4, hash(4, 1))]);
    world.append_bytes(&key_stream(4).subject(), late);
    let key = SigningKey::from_bytes(&[101; 32]);
    let enrolled = world.enrolment_of(&key);
    let writer = WriterId::of(&enrolled.public_key);
    world.sign_as(key);
    world.append(&Stream::writer(writer), &[Event::WriterEnrolled(enrolled)]);
    world.create_key(5);
    world
}

#[test]
fn a_check_with_the_keys_of_any_moment_gives_the_same_rows() {
    let records = world().records;
    let rows = rows_of(&records);
    for known in 0..=records.len() {
        let directory = tempfile::tempdir().unwrap();
        let mut folder = open(directory.path());
        folder.fold(&records[..known]).unwrap();
        let authority = Arc::clone(folder.authority());
        let mut again = open(&directory.path().join("again"));
        for run in records.chunks(4) {
            let (_, stop) = again.fold_checked(run, &CheckedAhead::of(run, Arc::clone(&authority))).unwrap();
            assert_eq!(stop, None);
        }
        assert_eq!(again.store().dump().unwrap(), rows, "checked with the keys that are known at sequence {known}");
        let void = |n| again.store().get::<VoidReason>(VOIDS, &of_sequence(Sequence(n))).unwrap();
        assert_eq!(void(5), Some(VoidReason::BadSignature));
        assert_eq!(void(RETIRED.0 + 1), Some(VoidReason::WriterNotEnrolled));
    }
}

#[test]
fn a_check_stands_only_where_the_same_keys_count() {
    let records = world().records;
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    let authority = |folder: &Folder| Arc::clone(folder.authority());
    folder.fold(&records[..3]).unwrap();
    let then = authority(&folder);
    let run = &records[2..];
    let ahead = CheckedAhead::of(run, Arc::clone(&then));
    let standing = |now: &Arc<_>| run.iter().filter(|stored| ahead.stands(stored.sequence, now)).map(|stored| stored.sequence.0).collect();
    let good: Vec<u64> = standing(&then);
    assert_eq!(good, [3, 4, 6, 7, 8], "what the one writer signed, and not what was forged");
    assert!(!ahead.stands(Sequence(2), &then) && !ahead.stands(Sequence(99), &then), "nothing was checked there");
    folder.fold(&records[..6]).unwrap();
    assert_eq!(standing(&authority(&folder)), good, "the same keys");
    folder.fold(&records).unwrap();
    assert_eq!(standing(&authority(&folder)), Vec::<u64>::new(), "the writer is retired");
    let other = tempfile::tempdir().unwrap();
    let mut other = open(other.path());
    other.fold(&World::founded_as(2).records).unwrap();
    assert_eq!(standing(&authority(&other)), Vec::<u64>::new(), "the same writer in another cluster");
}

#[tokio::test]
async fn following_a_long_log_gives_the_rows_of_a_fold_in_one_piece() {
    let mut world = world();
    for n in 0..200 {
        world.append_bytes("kr.e.default.key.x", vec![n]);
        world.create_pool(n);
    }
    let directory = tempfile::tempdir().unwrap();
    let log: Arc<dyn EventLog> = Arc::new(world.log().await);
    let config = Config { data: directory.path().to_owned(), memory: Memory::new(0), clock: Arc::new(|| Timestamp::from_micros(0)) };
    let (projector, models) = Projector::open(config, log).await.unwrap();
    let (head, cancel) = (world.head(), CancellationToken::new());
    let reached = async {
        let reached = models.wait_for(head, Duration::from_secs(30)).await;
        cancel.cancel();
        reached
    };
    let (followed, reached) = tokio::join!(projector.run(cancel.clone()), reached);
    followed.unwrap();
    assert!(reached);
    let records: &[Stored] = &world.records;
    assert_eq!(models.dump().unwrap(), rows_of(records));
}
