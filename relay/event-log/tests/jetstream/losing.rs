//! Servers that lost what they acknowledged: that is told, and never read over.

use event_log::{Damage, EventLog, ReadError, StorageError};
use futures_util::StreamExt as _;
use nats_server::Cluster;
use schemas::Sequence;
use serde_json::json;
use tokio::time::timeout;

use crate::servers::{SOON, STREAM, api, bytes, conflict, fill, last, open, publish, raw, start};

/// Puts the data of the only server back to an older copy, as a disk does that had not synced.
fn roll_back(cluster: &mut Cluster, copied: &std::path::Path) {
    cluster.server(0).kill().unwrap();
    cluster.server(0).roll_back_to(copied).unwrap();
    cluster.server(0).run().unwrap();
    cluster.wait_ready().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_its_end_is_noticed() {
    let mut cluster = start(1);
    let log = open(&cluster).await;
    assert_eq!(fill(&log, "kr.e.a", 5).await, Sequence(5));
    cluster.server(0).stop().unwrap();
    let older = tempfile::tempdir().unwrap();
    cluster.servers()[0].copy_store(&older.path().join("copy")).unwrap();
    cluster.server(0).run().unwrap();
    cluster.wait_ready().unwrap();
    log_again(&log).await;
    let mut batches = log.read(Sequence(1)).await.unwrap();
    assert_eq!(fill(&log, "kr.e.a", 5).await, Sequence(10));
    let mut read = 0;
    while read < 10 {
        read += batches.next().await.unwrap().unwrap().len();
    }
    roll_back(&mut cluster, &older.path().join("copy"));

    let lost = Damage::Lost { remembered: Sequence(10), found: Sequence(5) };
    let lost = ReadError::Storage(StorageError::Damage(lost));
    // The reader ends; it would go on with other records in the same places.
    assert_eq!(timeout(SOON, batches.next()).await.unwrap(), Some(Err(lost.clone())));
    assert!(batches.next().await.is_none());
    assert_eq!(log.head().await, Err(lost.clone()));
    assert_eq!(log.read_range(Sequence(1), 10).await, Err(lost));
    // Whoever appends is told where the subject is now, which is before what is expected of it.
    assert_eq!(log.append("kr.e.a", last(10), bytes("next")).await, Ok(conflict(5)));
    assert_eq!(log.last("kr.e.a").await, Ok(Sequence(5)));
}

/// A record in the middle is gone, as after damage to a disk. That is never skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_is_noticed() {
    let cluster = start(1);
    let client = raw(&cluster).await;
    let mut definition = json!({
        "name": STREAM, "subjects": ["kr.e.>"], "storage": "file", "discard": "new", "max_msg_size": 65536, "allow_direct": true,
        "duplicate_window": 120_000_000_000_u64,
    });
    assert!(api(&client, &format!("STREAM.CREATE.{STREAM}"), definition.clone()).await["error"].is_null());
    for n in 1..=20 {
        assert_eq!(publish(&client, "kr.e.a", &[], &n.to_string()).await["seq"], n);
    }
    assert_eq!(api(&client, &format!("STREAM.MSG.DELETE.{STREAM}"), json!({ "seq": 10 })).await["success"], true);
    // From now on nothing can be deleted, and the stream is as ours.
    definition["deny_delete"] = json!(true);
    definition["deny_purge"] = json!(true);
    assert!(api(&client, &format!("STREAM.UPDATE.{STREAM}"), definition).await["error"].is_null());

    let log = open(&cluster).await;
    let hole = ReadError::Storage(StorageError::Damage(Damage::Hole { expected: Sequence(10), found: Sequence(11) }));
    let mut batches = log.read(Sequence(1)).await.unwrap();
    let run = batches.next().await.unwrap().unwrap();
    assert_eq!(run.iter().map(|stored| stored.sequence.0).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert_eq!(timeout(SOON, batches.next()).await.unwrap(), Some(Err(hole.clone())));
    assert_eq!(log.read_range(Sequence(5), 10).await, Err(hole));
    assert_eq!(log.read_range(Sequence(11), 100).await.unwrap().len(), 10);
}

/// Waits until the log answers again.
async fn log_again(log: &dyn EventLog) {
    timeout(SOON, async { while log.head().await.is_err() {} }).await.unwrap();
}
