//! The fold's rows are a function of the log, however it is cut, repeated or interrupted.

use std::path::Path;
use std::sync::Arc;

use event_log::Stored;
use proptest::prelude::*;
use schemas::aggregate::Head;
use schemas::judge::StopReason;
use schemas::key::{Expiry, KeyRenewed};
use schemas::record::Seen;
use schemas::{CommandId, Digest, Event, Sequence, Stream, Version, VoidReason};

use super::world::{World, hash, key_created, key_stream};
use crate::fold::rows::{AGGREGATES, COMMANDS, FAMILIES, FINDINGS, KEYS_BY_HASH, StreamRow, VOIDS, of_command, of_hash, of_sequence};
use crate::fold::{CommandRow, FoldError, Folder, SeenFault, SeenFinding, StopCause};
use crate::store::{Row, Store, key};
use crate::{Memory, ROOTS_KEPT};

pub(super) fn open(path: &Path) -> Folder {
    Folder::open(Arc::new(Store::open(path, FAMILIES, &Memory::new(0)).unwrap())).unwrap()
}

pub(super) fn fold(folder: &mut Folder, records: &[Stored]) {
    let (_, stop) = folder.fold(records).unwrap();
    assert_eq!(stop, None);
}

/// The rows of a log that is folded in one piece.
pub(super) fn rows_of(records: &[Stored]) -> Vec<Row> {
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    fold(&mut folder, records);
    folder.store().dump().unwrap()
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Create(u8),
    Rotate(u8),
    Revoke(u8),
    Renew(u8),
    Purge(u8),
    Upstream(u8),
    Garbage(u8),
    WrongVersion(u8),
    Repeat(u8),
    Pass(u8),
    SeeOther,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let n = 0..6_u8;
    prop_oneof![
        4 => n.clone().prop_map(Step::Create),
        2 => n.clone().prop_map(Step::Rotate),
        2 => n.clone().prop_map(Step::Revoke),
        2 => n.clone().prop_map(Step::Renew),
        1 => n.clone().prop_map(Step::Purge),
        1 => n.clone().prop_map(Step::Upstream),
        2 => n.clone().prop_map(Step::Garbage),
        1 => n.clone().prop_map(Step::WrongVersion),
        2 => n.clone().prop_map(Step::Repeat),
        2 => n.prop_map(Step::Pass),
        1 => Just(Step::SeeOther),
    ]
}

/// Steps that a log can hold: a key is created once, the rest only where it exists.
pub(super) fn world(steps: &[Step]) -> World {
    let mut world = World::founded();
    let (mut keys, mut gone, mut upstreams, mut rotations) = ([false; 6], [false; 6], [false; 6], [1_u32; 6]);
    let is_there = |n: u8, keys: &[bool; 6], gone: &[bool; 6]| keys[usize::from(n)] && !gone[usize::from(n)];
    for step in steps {
        match *step {
            Step::Create(n) if !std::mem::replace(&mut keys[usize::from(n)], true) => {
                world.create_key(n);
            }
            Step::Rotate(n) if is_there(n, &keys, &gone) => {
                rotations[usize::from(n)] += 1;
                world.rotate_key(n, rotations[usize::from(n)]);
            }
            Step::Revoke(n) if is_there(n, &keys, &gone) => {
                world.revoke_key(n);
            }
            Step::Renew(n) if is_there(n, &keys, &gone) => {
                let expiry = Expiry::At(world.now.plus_seconds(60 + u64::from(n)));
                world.append(&key_stream(n), &[Event::KeyRenewed(KeyRenewed { expiry })]);
            }
            Step::Purge(n) if is_there(n, &keys, &gone) => {
                world.purge_key(n);
                gone[usize::from(n)] = true;
            }
            Step::Upstream(n) if !std::mem::replace(&mut upstreams[usize::from(n)], true) => {
                world.add_upstream(n);
            }
            Step::Garbage(n) => {
                world.append_bytes(&key_stream(n).subject(), vec![n; 7]);
            }
            Step::WrongVersion(n) => {
                let Stored { subject, bytes, .. } = world.records[1].clone();
                world.append_bytes(&subject, bytes);
                world.append_bytes("kr.e.nothing", vec![n]);
            }
            // One command id on many records, over times at which some of them are forgotten.
            Step::Repeat(n) if is_there(n, &keys, &gone) => {
                world.append_as(CommandId::from_bytes([n; 16]), &key_stream(n), &[Event::KeyEnabled(schemas::key::KeyEnabled {})]);
            }
            Step::Pass(days) => world.pass(u64::from(days) * 7 * 86_400),
            Step::SeeOther => world.seen = Seen { sequence: Sequence(2), root: Digest::blake3(b"other") },
            _ => {}
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_way_of_cutting_gives_the_same_rows(
        steps in prop::collection::vec(step(), 1..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let records = world(&steps).records;
        let directory = tempfile::tempdir().unwrap();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(records.len())).chain([0, records.len()]).collect();
        cuts.sort_unstable();
        let mut folder = open(directory.path());
        for cut in cuts.windows(2) {
            fold(&mut folder, &records[cut[0]..cut[1]]);
            // Redelivery changes nothing, and neither does a restart without a flush.
            fold(&mut folder, &records[..cut[1]]);
            drop(folder);
            folder = open(directory.path());
        }
        prop_assert_eq!(folder.store().dump().unwrap(), rows_of(&records));
    }
}

#[test]
fn a_failed_commit_leaves_neither_rows_nor_position() {
    let mut world = World::founded();
    world.create_key(1);
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    fold(&mut folder, &world.records);
    let before = folder.store().dump().unwrap();
    world.rotate_key(1, 2);
    world.create_key(2);
    #[cfg(feature = "faults")]
    {
        folder.store().faults.fail_commits(1);
        assert!(matches!(folder.fold(&world.records), Err(FoldError::Commit(_))));
        assert_eq!(folder.store().dump().unwrap(), before);
        assert_eq!(folder.row().sequence, Sequence(3));
    }
    fold(&mut folder, &world.records);
    assert_ne!(folder.store().dump().unwrap(), before);
    assert_eq!(folder.store().dump().unwrap(), rows_of(&world.records));
}

#[test]
fn a_crash_loses_whole_batches_and_replay_restores_them() {
    let mut world = World::founded();
    (1..30).for_each(|n| {
        world.create_key(n);
    });
    let (live, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut folder = open(live.path());
    fold(&mut folder, &world.records[..10]);
    let at_ten = folder.store().dump().unwrap();
    // What the disk held at some moment, with the end of the write-ahead log torn off.
    for file in std::fs::read_dir(live.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let log =
        std::fs::read_dir(copy.path()).unwrap().map(|file| file.unwrap().path()).find(|path| path.extension() == Some("log".as_ref()));
    let log = std::fs::File::options().write(true).open(log.unwrap()).unwrap();
    log.set_len(log.metadata().unwrap().len() - 20).unwrap();
    let mut torn = open(copy.path());
    assert_eq!(torn.row().sequence, Sequence::ZERO);
    assert_eq!(torn.store().dump().unwrap(), []);
    fold(&mut torn, &world.records[..10]);
    assert_eq!(torn.store().dump().unwrap(), at_ten);
    fold(&mut torn, &world.records);
    assert_eq!(torn.store().dump().unwrap(), rows_of(&world.records));
}

#[test]
fn void_records_block_nothing_and_move_the_head() {
    let mut world = World::founded();
    world.append_bytes(&key_stream(1).subject(), b"garbage".to_vec());
    let forged = {
        let mut bytes = world.record(CommandId::from_bytes([1; 16]), &key_stream(1), &[key_created(1, hash(1, 1))]);
        bytes[300] ^= 1;
        bytes
    };
    world.append_bytes(&key_stream(1).subject(), forged);
    world.append_bytes("kr.e.default.key.*", b"\0".to_vec());
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    fold(&mut folder, &world.records);
    let row = |folder: &Folder| folder.store().get::<StreamRow>(AGGREGATES, &key::of_stream(&key_stream(1))).unwrap().unwrap();
    assert_eq!(row(&folder).head, Head { version: Version(0), sequence: Sequence(4) });
    assert_eq!(row(&folder).aggregate, None);
    let void = |folder: &Folder, n| folder.store().get::<VoidReason>(VOIDS, &of_sequence(Sequence(n))).unwrap();
    assert_eq!(void(&folder, 3), Some(VoidReason::Unframed));
    assert_eq!(void(&folder, 4), Some(VoidReason::BadSignature));
    assert_eq!(void(&folder, 5), Some(VoidReason::Unframed));
    world.create_key(1);
    fold(&mut folder, &world.records);
    assert_eq!(row(&folder).head, Head { version: Version(1), sequence: Sequence(6) });
    assert_eq!(folder.row().counts.void, 3);
    assert_eq!(folder.row().counts.valid, 3);
}

#[test]
fn a_record_that_cannot_be_folded_stops_and_what_came_before_is_kept() {
    let mut world = World::founded();
    world.create_key(1);
    let stop_at = world.create_key(1);
    world.create_key(2);
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    let (_, stop) = folder.fold(&world.records).unwrap();
    let stop = stop.unwrap();
    assert_eq!(stop.sequence, stop_at);
    assert!(matches!(stop.cause, StopCause::Apply(_)));
    assert_eq!(folder.store().dump().unwrap(), rows_of(&world.records[..3]));
    // And again: the same place, nothing moved.
    assert_eq!(folder.fold(&world.records).unwrap().1, Some(stop));
    assert_eq!(folder.row().sequence, Sequence(3));
}

#[test]
fn a_log_that_begins_otherwise_stops_at_its_first_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::founded();
    world.records.remove(0);
    world.records[0].sequence = Sequence(1);
    let (_, stop) = open(directory.path()).fold(&world.records).unwrap();
    assert_eq!(stop.unwrap().cause, StopCause::Judged(StopReason::NotFounded));
}

#[test]
fn a_hole_in_the_log_is_refused() {
    let mut world = World::founded();
    world.create_key(1);
    world.create_key(2);
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    fold(&mut folder, &world.records[..2]);
    let hole = folder.fold(&world.records[3..]);
    assert!(matches!(hole, Err(FoldError::Gap { expected: Sequence(3), found: Sequence(4) })));
}

#[test]
fn a_command_is_forgotten_by_the_times_of_records() {
    let mut world = World::founded();
    let command = CommandId::from_bytes([9; 16]);
    world.append_as(command, &key_stream(1), &[key_created(1, hash(1, 1))]);
    world.pass(30 * 86_400 - 2);
    world.create_key(2);
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    fold(&mut folder, &world.records);
    let row = |folder: &Folder| folder.store().get::<CommandRow>(COMMANDS, &of_command(&command)).unwrap();
    assert_eq!(row(&folder).map(|row| row.sequence), Some(Sequence(3)));
    world.pass(2);
    world.create_key(3);
    fold(&mut folder, &world.records);
    assert_eq!(row(&folder), None);
    assert_eq!(folder.store().dump().unwrap(), rows_of(&world.records));
}

#[test]
fn what_writers_saw_is_checked_and_never_voids() {
    let mut world = World::founded();
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    fold(&mut folder, &world.records);
    let at_two = Seen { sequence: Sequence(2), root: folder.row().root };
    world.seen = at_two;
    world.create_key(1);
    let other = Seen { root: Digest::blake3(b"other"), ..at_two };
    world.seen = other;
    let differs = world.create_key(2);
    let ahead = Seen { sequence: Sequence(5), ..at_two };
    world.seen = ahead;
    let not_before = world.create_key(3);
    fold(&mut folder, &world.records);
    let finding = |folder: &Folder, at| folder.store().get::<SeenFinding>(FINDINGS, &of_sequence(at)).unwrap();
    assert_eq!(finding(&folder, Sequence(3)), None);
    assert_eq!(finding(&folder, differs), Some(SeenFinding { seen: other, fault: SeenFault::OtherRoot }));
    assert_eq!(finding(&folder, not_before), Some(SeenFinding { seen: ahead, fault: SeenFault::NotBefore }));
    assert_eq!(folder.row().counts.seen_findings, 2);
    assert_eq!(folder.row().counts.valid, 5);

    // Beyond the roots kept, nothing is said; at the last one kept, in any batch, it is.
    world.seen = at_two;
    while world.head().0 < ROOTS_KEPT + 1 {
        world.append_bytes("kr.e.x", b"x".to_vec());
    }
    world.create_key(4);
    world.create_key(5);
    fold(&mut folder, &world.records);
    assert_eq!(folder.row().counts.seen_unchecked, 1);
    assert_eq!(folder.row().counts.seen_findings, 2);
    assert_eq!(folder.store().dump().unwrap(), rows_of(&world.records));
}

#[test]
fn a_hash_stays_with_its_first_key() {
    let mut world = World::founded();
    world.create_key(1);
    world.append(&key_stream(2), &[key_created(2, hash(1, 1))]);
    let directory = tempfile::tempdir().unwrap();
    let mut folder = open(directory.path());
    fold(&mut folder, &world.records);
    assert_eq!(folder.store().get::<Stream>(KEYS_BY_HASH, &of_hash(&hash(1, 1))).unwrap(), Some(key_stream(1)));
}
