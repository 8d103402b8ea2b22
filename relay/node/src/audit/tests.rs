#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use control::audit::{Claims, Export, StateRow};
use ed25519_dalek::{Signer as _, SigningKey};
use event_log::{Appended, EventLog, Expect, MemoryLog};
use futures_util::FutureExt as _;
use schemas::cluster::{ClusterFounded, FORMAT_LEVEL};
use schemas::judge::sign_enrolment;
use schemas::pool::{PoolChanged, PoolCreated};
use schemas::record::{Header, Seen, encode};
use schemas::writer::WriterEnrolled;
use schemas::{Actor, ClusterId, CommandId, Digest, Event, PoolId, PublicKey, Sequence, Stream, TenantId, Timestamp, Version, WriterId};

use super::*;

const CLUSTER: ClusterId = ClusterId::from_bytes([9; 16]);

/// A log in the making, with the keys of its cluster and of one writer.
struct World {
    log: MemoryLog,
    fold: Fold,
    cluster_key: SigningKey,
    writer_key: SigningKey,
    commands: u8,
}

/// The log in memory answers at once.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

impl World {
    /// Founding, enrolment, a pool with three records, one void record in between.
    fn new() -> Self {
        let (cluster_key, writer_key) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let mut world = Self { log: MemoryLog::new(), fold: Fold::default(), cluster_key, writer_key, commands: 0 };
        let founded = ClusterFounded {
            cluster_id: CLUSTER,
            format_level: FORMAT_LEVEL,
            cluster_public_key: public(&world.cluster_key),
            root_key_commitment: Digest::from_bytes([3; 32]),
            owner_token_hash: Digest::from_bytes([4; 32]),
        };
        let key = world.cluster_key.clone();
        world.append(&Stream::CLUSTER, 1, Event::ClusterFounded(founded), &key);
        let public_key = public(&world.writer_key);
        let cluster_signature = sign_enrolment(CLUSTER, &public_key, &world.cluster_key);
        let key = world.writer_key.clone();
        world.append(
            &Stream::writer(WriterId::of(&public_key)),
            1,
            Event::WriterEnrolled(WriterEnrolled { public_key, cluster_signature }),
            &key,
        );
        let pool = Stream::pool(TenantId::default_tenant(), PoolId::from_bytes([5; 16]));
        world.append(&pool, 1, Event::PoolCreated(PoolCreated { name: "default".into() }), &key);
        world.store(&pool.subject(), b"garbage");
        world.append(&pool, 2, Event::PoolChanged(PoolChanged { name: "other".into() }), &key);
        world.append(&pool, 3, Event::PoolChanged(PoolChanged { name: "third".into() }), &key);
        world
    }

    fn append(&mut self, stream: &Stream, version: u64, event: Event, key: &SigningKey) {
        self.commands += 1;
        let command_id = CommandId::from_bytes([self.commands; 16]);
        let size = self.fold.size();
        let seen = self.fold.root_at(size).map_or_else(Seen::nothing, |root| Seen { sequence: size, root });
        let header = Header {
            writer: WriterId::of(&public(key)),
            record_id: command_id.record_id(),
            command_id,
            request_digest: Digest::from_bytes([0; 32]),
            stream: stream.clone(),
            version: Version(version),
            actor: Actor::Owner,
            causation: None,
            correlation: command_id,
            time: Timestamp::from_micros(1_800_000_000_000_000),
            seen,
        };
        self.store(&stream.subject(), &encode(CLUSTER, &header, &[event], key).unwrap());
    }

    fn store(&mut self, subject: &str, bytes: &[u8]) {
        let expect = Expect { subject: at_once(self.log.last(subject)).unwrap(), log: None };
        let appended = at_once(self.log.append(subject, expect, Bytes::copy_from_slice(bytes))).unwrap();
        assert_eq!(appended, Appended::Appended(self.fold.size().next()));
        assert_eq!(self.fold.add(subject, bytes), Ok(None));
    }

    fn records(&self) -> Vec<(String, Vec<u8>)> {
        let stored = at_once(self.log.read_range(Sequence(1), 100)).unwrap();
        stored.iter().map(|record| (record.subject.to_string(), record.bytes.to_vec())).collect()
    }

    /// The export of these records, with the state and the root of this world.
    fn export_of(&self, records: &[(String, Vec<u8>)]) -> Vec<u8> {
        let created_at = Timestamp::from_micros(1_800_000_001_000_000);
        let mut export = Export::begin(Vec::new(), created_at).unwrap();
        for (subject, bytes) in records {
            export.record(subject, bytes).unwrap();
        }
        for (sequence, (reason, leaf)) in self.fold.voids() {
            export.row(&StateRow::Void { sequence: *sequence, reason: *reason, leaf: *leaf }).unwrap();
        }
        for (stream, Row { head, aggregate }) in self.fold.streams() {
            export.row(&StateRow::Stream { stream: stream.clone(), head: *head, aggregate: aggregate.clone() }).unwrap();
        }
        let claims = Claims {
            cluster: CLUSTER,
            cluster_public_key: public(&self.cluster_key),
            root: self.fold.root(),
            writer: WriterId::of(&public(&self.writer_key)),
            created_at,
        };
        export.finish(claims, |statement| self.writer_key.sign(statement).to_bytes()).unwrap()
    }

    fn export(&self) -> Vec<u8> {
        self.export_of(&self.records())
    }
}

fn verified(export: &[u8]) -> Report {
    verify_stream(export, Expected::default(), |_| {}).unwrap()
}

/// The sequences that findings name.
fn sequences(report: &Report) -> Vec<u64> {
    report.findings.iter().filter_map(|finding| finding.sequence).map(|sequence| sequence.0).collect()
}

#[test]
fn a_whole_export_is_good() {
    let world = World::new();
    let report = verified(&world.export());
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!((report.size, report.valid, report.void, report.events), (Sequence(6), 5, 1, 5));
    assert_eq!(report.voids[0].sequence, Sequence(4));
    assert_eq!((report.root, report.anchor), (world.fold.root(), Anchor::OwnFounding));
}

#[test]
fn a_folder_and_a_stream_give_the_same_report() {
    let (world, parent) = (World::new(), tempfile::tempdir().unwrap());
    let directory = parent.path().join("export");
    let manifest = unpack(world.export().as_slice(), &directory).unwrap();
    assert_eq!(manifest.size, Sequence(6));
    let report = verify_directory(&directory, Expected::default(), |_| {}).unwrap();
    assert_eq!(serde_json::to_value(&report).unwrap(), serde_json::to_value(verified(&world.export())).unwrap());
    assert!(matches!(unpack(world.export().as_slice(), &directory), Err(StreamError::NotEmpty { .. })));
}

#[test]
fn the_given_cluster_key_and_root_are_the_anchor() {
    let world = World::new();
    let key = public(&world.cluster_key);
    let report = |expected| verify_stream(world.export().as_slice(), expected, |_| {}).unwrap();
    let good = report(Expected { cluster_key: Some(key), root: world.fold.root_at(Sequence(3)).map(|root| (Sequence(3), root)) });
    assert!(good.ok && good.anchor == Anchor::ClusterKey);
    let other = report(Expected { cluster_key: Some(public(&world.writer_key)), root: None });
    assert_eq!(sequences(&other), [1]);
    let other = report(Expected { cluster_key: None, root: Some((Sequence(3), world.fold.root())) });
    assert_eq!(sequences(&other), [3]);
}

/// The files of an export, by name.
fn files_of(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = ["manifest.json", "manifest.sig", "state.bin", "records/000000000001.bin"];
    names.map(|name| (name.to_owned(), fs::read(directory.join(name)).unwrap())).into()
}

fn verified_files(files: &BTreeMap<String, Vec<u8>>) -> Report {
    let mut verification = Verification::new();
    files.iter().for_each(|(name, content)| verification.file(name, content.as_slice()).unwrap());
    verification.finish(Expected::default())
}

#[test]
fn every_byte_of_every_file_counts() {
    let (world, parent) = (World::new(), tempfile::tempdir().unwrap());
    let directory = parent.path().join("export");
    unpack(world.export().as_slice(), &directory).unwrap();
    let mut files = files_of(&directory);
    assert!(verified_files(&files).ok);
    for name in files.keys().cloned().collect::<Vec<_>>() {
        for at in 0..files[&name].len() {
            files.get_mut(&name).unwrap()[at] ^= 1;
            let report = verified_files(&files);
            assert!(!report.ok, "byte {at} of {name}");
            if !name.starts_with("manifest") {
                assert!(report.findings.iter().any(|finding| finding.file == name), "byte {at} of {name}: {:?}", report.findings);
            }
            if name.starts_with("records") {
                assert!(!sequences(&report).is_empty(), "byte {at} of {name} names no sequence: {:?}", report.findings);
            }
            files.get_mut(&name).unwrap()[at] ^= 1;
        }
    }
}

#[test]
fn a_changed_record_is_named_although_the_manifest_was_made_again() {
    let world = World::new();
    for changed in 0..6 {
        let mut records = world.records();
        let last = records[changed].1.len() - 1;
        records[changed].1[last] ^= 1;
        let report = verified(&world.export_of(&records));
        assert_eq!(sequences(&report).first(), Some(&(changed as u64 + 1)), "{:?}", report.findings);
    }
}

#[test]
fn a_dropped_a_moved_and_a_repeated_record_are_found() {
    let world = World::new();
    for place in 0..6 {
        let mut dropped = world.records();
        dropped.remove(place);
        assert!(!verified(&world.export_of(&dropped)).ok, "without record {}", place + 1);
        let mut repeated = world.records();
        repeated.insert(place, repeated[place].clone());
        assert!(!verified(&world.export_of(&repeated)).ok, "with record {} twice", place + 1);
    }
    for place in 0..5 {
        let mut moved = world.records();
        moved.swap(place, place + 1);
        let report = verified(&world.export_of(&moved));
        assert!(!sequences(&report).is_empty(), "with records {} and {} swapped", place + 1, place + 2);
    }
}

#[test]
fn files_that_are_missing_or_too_many_are_found() {
    let (world, parent) = (World::new(), tempfile::tempdir().unwrap());
    let directory = parent.path().join("export");
    unpack(world.export().as_slice(), &directory).unwrap();
    let whole = files_of(&directory);
    for name in whole.keys() {
        let mut files = whole.clone();
        files.remove(name);
        let report = verified_files(&files);
        assert!(report.findings.iter().any(|finding| finding.file == *name), "without {name}: {:?}", report.findings);
    }
    for extra in ["notes.txt", "records/000000000007.bin"] {
        fs::write(directory.join(extra), "").unwrap();
        let report = verify_directory(&directory, Expected::default(), |_| {}).unwrap();
        assert!(report.findings.iter().any(|finding| finding.file == extra), "with {extra}: {:?}", report.findings);
        fs::remove_file(directory.join(extra)).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", directory.join("link")).unwrap();
    assert!(!verify_directory(&directory, Expected::default(), |_| {}).unwrap().ok);
}

#[test]
fn a_state_that_the_records_do_not_lead_to_is_found() {
    let (world, mut other) = (World::new(), World::new());
    let pool = Stream::pool(TenantId::default_tenant(), PoolId::from_bytes([5; 16]));
    let key = other.writer_key.clone();
    other.append(&pool, 4, Event::PoolChanged(PoolChanged { name: "planted".into() }), &key);
    let report = verified(&other.export_of(&world.records()));
    assert!(report.findings.iter().any(|finding| finding.file == "state.bin" && finding.problem.contains(&pool.to_string())));
}

#[test]
fn a_signature_of_somebody_else_is_found() {
    let mut world = World::new();
    world.writer_key = SigningKey::from_bytes(&[7; 32]);
    let report = verified(&world.export());
    assert!(report.findings.iter().any(|finding| finding.problem.contains("is not enrolled")), "{:?}", report.findings);
}

#[test]
fn a_stream_that_is_cut_short_or_brings_other_files_is_not_unpacked() {
    let (export, parent) = (World::new().export(), tempfile::tempdir().unwrap());
    let directory = parent.path().join("export");
    for length in [0, 512, 600, export.len() / 2, export.len() - 2048] {
        assert!(unpack(&export[..length], &directory).is_err(), "{length}");
    }
    for (name, kind) in [("../escaped", tar::EntryType::Regular), ("state.bin", tar::EntryType::Symlink), ("x", tar::EntryType::Regular)] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
        let stream = archive.into_inner().unwrap();
        assert!(matches!(unpack(stream.as_slice(), &directory), Err(StreamError::Unexpected { .. })), "{name}");
    }
    assert!(!directory.exists() && fs::read_dir(parent.path()).unwrap().next().is_none());
}
