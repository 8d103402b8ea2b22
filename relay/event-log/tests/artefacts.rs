//! Artefacts over both forms, and the snapshots.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and waits for the tasks it spawns")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use event_log::artefacts::{
    ARTEFACT_BYTES_MAX, ARTEFACTS_BUCKET, ArtefactEntry, ArtefactError, ArtefactKind, Artefacts, FileArtefacts, NatsArtefacts,
    SNAPSHOTS_KEPT, SnapshotError, Snapshots,
};
use nats_server::{Cluster, Sync};
use schemas::Digest;

const KIND: ArtefactKind = ArtefactKind::PolicyModule;
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that has a connection now, and takes up a lost one at once.
async fn client(nats: &Cluster) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new().reconnect_delay_callback(|_| Duration::from_millis(50));
    options.connect(nats.servers()[0].url()).await.unwrap()
}

async fn until<T, E: std::fmt::Debug>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where the file of an artefact is.
fn file_of(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join(KIND.as_str()).join(digest.to_string())
}

async fn artefacts_are_kept(store: &dyn Artefacts) {
    let (small, empty) = (Bytes::from_static(b"a module"), Bytes::new());
    // More than one message and than one piece of reading, and no round number.
    let large = Bytes::from((0..3_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>());
    let mut expected = Vec::new();
    for bytes in [&small, &empty, &large] {
        let digest = store.put(KIND, bytes.clone()).await.unwrap();
        assert_eq!(digest, Digest::blake3(bytes));
        assert_eq!(store.put(KIND, bytes.clone()).await.unwrap(), digest, "putting again is no fault");
        assert_eq!(store.get(KIND, &digest).await.unwrap().as_ref(), Some(bytes));
        expected.push(ArtefactEntry { digest, bytes: bytes.len() as u64 });
    }
    expected.sort_unstable();
    assert_eq!(store.list(KIND).await.unwrap(), expected);

    let digest = Digest::blake3(&small);
    for _ in 0..2 {
        store.delete(KIND, &digest).await.unwrap();
        assert_eq!(store.get(KIND, &digest).await.unwrap(), None);
    }
    assert_eq!(store.list(KIND).await.unwrap().len(), 2);
    assert_eq!(store.put(KIND, small.clone()).await.unwrap(), digest);
    assert_eq!(store.get(KIND, &digest).await.unwrap(), Some(small));

    let too_large = Bytes::from(vec![0; ARTEFACT_BYTES_MAX + 1]);
    assert!(matches!(store.put(KIND, too_large).await, Err(ArtefactError::TooLarge { .. })));
}

#[tokio::test]
async fn files_keep_artefacts() {
    let directory = tempfile::tempdir().unwrap();
    artefacts_are_kept(&FileArtefacts::open(directory.path()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_keeps_artefacts() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let files = FileArtefacts::open(directory.path()).unwrap();
    artefacts_are_kept(&NatsArtefacts::new(client(&nats).await, files, 1)).await;
}

#[tokio::test]
async fn a_file_that_changed_is_not_given_out_and_can_be_mended() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileArtefacts::open(directory.path()).unwrap();
    let bytes = Bytes::from_static(b"a module");
    let digest = store.put(KIND, bytes.clone()).await.unwrap();
    for damage in [&b"a nodule"[..], b"", b"a module and more"] {
        fs::write(file_of(directory.path(), &digest), damage).unwrap();
        assert!(matches!(store.get(KIND, &digest).await, Err(ArtefactError::Damaged { digest: told }) if told == digest));
    }
    assert_eq!(store.put(KIND, bytes.clone()).await.unwrap(), digest);
    assert_eq!(store.get(KIND, &digest).await.unwrap(), Some(bytes));
}

#[tokio::test]
async fn what_a_dead_process_left_unfinished_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileArtefacts::open(directory.path()).unwrap();
    let digest = store.put(KIND, Bytes::from_static(b"whole")).await.unwrap();
    let unfinished = directory.path().join(KIND.as_str()).join(format!("{}.0.new", Digest::blake3(b"half")));
    fs::write(&unfinished, b"ha").unwrap();
    assert_eq!(store.list(KIND).await.unwrap().len(), 1, "it is nothing yet");
    drop(store);
    let store = FileArtefacts::open(directory.path()).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(store.get(KIND, &digest).await.unwrap(), Some(Bytes::from_static(b"whole")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_put_another_gets_and_keeps_without_nats() {
    let mut nats = Cluster::start(1, Sync::Default).unwrap();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let files = directories.each_ref().map(|directory| FileArtefacts::open(directory.path()).unwrap());
    let [one, two] =
        [NatsArtefacts::new(client(&nats).await, files[0].clone(), 1), NatsArtefacts::new(client(&nats).await, files[1].clone(), 1)];
    let bytes = Bytes::from(vec![7; 300_000]);
    let digest = one.put(KIND, bytes.clone()).await.unwrap();
    assert_eq!(two.get(KIND, &digest).await.unwrap(), Some(bytes.clone()));
    nats.server(0).kill().unwrap();
    for (store, directory) in [(&one, &directories[0]), (&two, &directories[1])] {
        assert_eq!(store.get(KIND, &digest).await.unwrap(), Some(bytes.clone()));
        assert!(file_of(directory.path(), &digest).exists());
    }
    let unknown = Digest::blake3(b"unknown");
    let is_away = |error| matches!(error, ArtefactError::Unavailable { .. });
    assert!(two.get(KIND, &unknown).await.is_err_and(is_away), "not known is not the same as not there");
    assert!(two.put(KIND, Bytes::from_static(b"new")).await.is_err_and(is_away));
    assert!(two.list(KIND).await.is_err_and(is_away));

    // A damaged copy is fetched anew as soon as that can be.
    fs::write(file_of(directories[1].path(), &digest), b"damaged").unwrap();
    nats.server(0).run().unwrap();
    assert_eq!(until(async || two.get(KIND, &digest).await).await, Some(bytes.clone()));
    assert_eq!(fs::read(file_of(directories[1].path(), &digest)).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_other_content_is_told_and_put_anew() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let client = client(&nats).await;
    let store = NatsArtefacts::new(client.clone(), FileArtefacts::open(directory.path()).unwrap(), 1);
    let bytes = Bytes::from_static(b"a module");
    let digest = store.put(KIND, bytes.clone()).await.unwrap();

    let objects = jetstream::new(client).get_object_store(ARTEFACTS_BUCKET).await.unwrap();
    objects.put(format!("{}/{digest}", KIND.as_str()).as_str(), &mut &b"something else"[..]).await.unwrap();
    fs::remove_file(file_of(directory.path(), &digest)).unwrap();
    assert!(matches!(store.get(KIND, &digest).await, Err(ArtefactError::Damaged { .. })));
    assert_eq!(store.put(KIND, bytes.clone()).await.unwrap(), digest);
    fs::remove_file(file_of(directory.path(), &digest)).unwrap();
    assert_eq!(store.get(KIND, &digest).await.unwrap(), Some(bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_store_with_other_replicas_is_not_used() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let files = FileArtefacts::open(directory.path()).unwrap();
    NatsArtefacts::new(client(&nats).await, files.clone(), 1).put(KIND, Bytes::from_static(b"a module")).await.unwrap();
    let refused = NatsArtefacts::new(client(&nats).await, files, 3).list(KIND).await;
    assert!(matches!(&refused, Err(ArtefactError::Unavailable { reason }) if reason.contains("has 1 replicas")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_fetched_whole_and_the_newest_are_kept() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::new(client(&nats).await, 1);
    let (source, target) = (directory.path().join("source"), directory.path().join("target"));
    assert_eq!(snapshots.list().await.unwrap(), []);

    let mut put = Vec::new();
    for n in 1..=SNAPSHOTS_KEPT + 2 {
        fs::write(&source, vec![n as u8; n * 1_000_003]).unwrap();
        let metadata = BTreeMap::from([("sequence".to_owned(), n.to_string())]);
        put.push(snapshots.put(&format!("snapshot-{n}"), &source, metadata).await.unwrap());
    }
    let newest_first: Vec<_> = put.iter().rev().take(SNAPSHOTS_KEPT).cloned().collect();
    assert_eq!(snapshots.list().await.unwrap(), newest_first);
    let newest = &newest_first[0];
    assert_eq!((newest.bytes, newest.metadata["sequence"].as_str()), (5_000_015, "5"));

    assert_eq!(snapshots.fetch(&newest.name, &target).await.unwrap(), *newest);
    assert_eq!(fs::read(&target).unwrap(), fs::read(&source).unwrap());
    let gone = snapshots.fetch("snapshot-1", &directory.path().join("other")).await;
    assert!(matches!(gone, Err(SnapshotError::NotFound { .. })), "{gone:?}");
    assert!(!directory.path().join("other").exists() && !directory.path().join("other.new").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_not_what_was_put_is_refused() {
    let nats = Cluster::start(1, Sync::Default).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let client = client(&nats).await;
    let snapshots = Snapshots::new(client.clone(), 1);
    let (source, target) = (directory.path().join("source"), directory.path().join("target"));
    fs::write(&source, vec![1; 200_000]).unwrap();
    snapshots.put("snapshot", &source, BTreeMap::new()).await.unwrap();

    // The same entry over other bytes, as a forger would leave it.
    let objects = jetstream::new(client).get_object_store(event_log::artefacts::SNAPSHOTS_BUCKET).await.unwrap();
    let metadata = objects.info("snapshot").await.unwrap().metadata;
    let meta = jetstream::object_store::ObjectMetadata { name: "snapshot".to_owned(), metadata, ..Default::default() };
    objects.put(meta, &mut &vec![2; 200_000][..]).await.unwrap();
    let refused = snapshots.fetch("snapshot", &target).await;
    assert!(matches!(refused, Err(SnapshotError::Damaged { .. })), "{refused:?}");
    assert!(!target.exists());
}
