//! What witnessing costs an append.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::{Appended, EmbeddedLog, EventLog, Expect, Health, MemoryLog, WitnessedLog};
use schemas::Sequence;

const CLIENTS: u64 = 64;
const APPENDS: u64 = 300;
const ROUNDS: usize = 3;
/// About a window.
const FULL: usize = 98_000;
/// As large as a record with one small event.
const RECORD: Bytes = Bytes::from_static(&[b'x'; 420]);

/// Appends per second of 64 clients, each on a subject of its own.
async fn rate(log: Arc<dyn EventLog>) -> f64 {
    let begin = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let (subject, mut last) = (format!("kr.e.default.key.{client}"), Sequence(0));
                for _ in 0..APPENDS {
                    match log.append(&subject, Expect { subject: last, log: None }, RECORD).await {
                        Ok(Appended::Appended(sequence)) => last = sequence,
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    (CLIENTS * APPENDS) as f64 / begin.elapsed().as_secs_f64()
}

async fn witnessed(log: Arc<dyn EventLog>, path: &std::path::Path) -> Arc<dyn EventLog> {
    let log = WitnessedLog::open(log, path).unwrap();
    assert_eq!(log.compare().await, Health::Trusted);
    Arc::new(log)
}

/// The figures are for whoever reads the output, medians of interleaved rounds; the floor is generous.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witnessing_costs_a_synced_group_commit() {
    let directory = tempfile::tempdir().unwrap();
    let mut rates = [const { Vec::new() }; 4];
    for round in 0..ROUNDS {
        let path = |name| directory.path().join(format!("{name}-{round}"));
        let embedded = |name| Arc::new(EmbeddedLog::open(&path(name)).unwrap());
        rates[0].push(rate(Arc::new(MemoryLog::new())).await);
        rates[1].push(rate(witnessed(Arc::new(MemoryLog::new()), &path("a")).await).await);
        rates[2].push(rate(embedded("b")).await);
        rates[3].push(rate(witnessed(embedded("c"), &path("d")).await).await);
    }
    let [memory_alone, memory, embedded_alone, embedded] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    // What is left when the disk costs nothing.
    event_log::faults::set_sync(false);
    let unsynced = rate(witnessed(Arc::new(MemoryLog::new()), &directory.path().join("e")).await).await;
    event_log::faults::set_sync(true);
    println!(
        "appends/s, 64 clients, 420 B: memory {memory_alone:.0}, witnessed {memory:.0}, without syncing {unsynced:.0}; \
         embedded {embedded_alone:.0}, witnessed {embedded:.0}"
    );
    assert!(memory > 1_000.0 && embedded > 1_000.0);
}

/// Opening, and comparing everything that is remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_window_is_compared_in_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let log: Arc<dyn EventLog> = Arc::new(MemoryLog::new());
    let path = directory.path().join("witness");
    let log_witnessed = witnessed(Arc::clone(&log), &path).await;
    for number in 0..FULL / 1024 {
        let subject = format!("kr.e.default.key.{number}");
        let appends = (0..1024).map(|place| {
            let expect = Expect { subject: Sequence(0), log: None };
            let (log, subject) = (&log_witnessed, format!("{subject}.{place}"));
            async move { log.append(&subject, expect, RECORD).await.unwrap() }
        });
        let outcomes = futures_util::future::join_all(appends).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Appended::Appended(_))));
    }
    drop(log_witnessed);
    let begin = Instant::now();
    let witness = WitnessedLog::open(log, &path).unwrap();
    let opened = begin.elapsed();
    assert_eq!(witness.remembered(), FULL / 1024 * 1024);
    assert_eq!(witness.compare().await, Health::Trusted);
    println!("{} records: opened in {opened:?}, first comparison after {:?}", witness.remembered(), begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(10));
}
