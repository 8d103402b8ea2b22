//! A real nats-server that loses what it did not sync: killed, and its data rolled back to an older copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::{AppendError, Appended, EventLog, Expect, Health, JetStreamLog, Nats, NatsConfig, Stored, WitnessedLog};
use futures_util::StreamExt;
use nats_server::{Cluster, Sync};
use schemas::Sequence;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::node::plant;
use crate::records::{append, fill, record, root, signed};

/// To notice: the 10 s of the issue. The rest is a server that starts and a client that finds it.
const SETTLED_MAX: Duration = Duration::from_secs(25);

struct Node {
    nats: Nats,
    inner: JetStreamLog,
    log: WitnessedLog,
    cancel: CancellationToken,
    _directory: TempDir,
}

impl Node {
    async fn start(cluster: &Cluster) -> Self {
        plant();
        let config = NatsConfig { url: vec![cluster.url()], ..NatsConfig::default() };
        let nats = Nats::connect(config).await.unwrap();
        nats.connected().wait_for(|connection| connection.is_up).await.unwrap();
        let inner = JetStreamLog::new(&nats);
        inner.prepare().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let log = WitnessedLog::open(Arc::new(inner.clone()), directory.path()).unwrap();
        let cancel = CancellationToken::new();
        let (publish, reconnects) = watch::channel(0);
        let mut connection = nats.connected();
        tokio::spawn(async move {
            while connection.changed().await.is_ok() {
                let epoch = connection.borrow_and_update().epoch;
                publish.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
            }
        });
        tokio::spawn({
            let (log, cancel) = (log.clone(), cancel.clone());
            async move { log.run(cancel, reconnects).await }
        });
        let node = Self { nats, inner, log, cancel, _directory: directory };
        node.becomes(|health| *health == Health::Trusted).await;
        node
    }

    async fn becomes(&self, is_it: impl Fn(&Health) -> bool) -> Health {
        let mut health = self.log.health();
        let found = tokio::time::timeout(SETTLED_MAX, health.wait_for(is_it)).await;
        found.unwrap_or_else(|_| panic!("the log is {:?}", self.log.health().borrow().clone())).unwrap().clone()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.nats.close().await;
    }
}

/// Ends the server, puts the copy in the place of its data, and starts it again.
fn lose_what_came_after(cluster: &mut Cluster, copy: &TempDir) {
    cluster.server(0).kill().unwrap();
    cluster.server(0).roll_back_to(&copy.path().join("store")).unwrap();
    cluster.server(0).run().unwrap();
    cluster.wait_ready().unwrap();
}

fn copy(cluster: &Cluster) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    cluster.servers()[0].copy_store(&copy.path().join("store")).unwrap();
    copy
}

async fn records(log: &dyn EventLog, count: usize) -> Vec<Stored> {
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(log.read_range(Sequence(records.len() as u64 + 1), count).await.unwrap());
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_did_not_sync_is_put_back() {
    let mut cluster = Cluster::start(1, Sync::Default).unwrap();
    let node = Node::start(&cluster).await;
    fill(&node.log, 1..=50).await;
    let copy = copy(&cluster);
    fill(&node.log, 51..=120).await;
    let before = records(&node.log, 120).await;
    // A reader that had everything goes on where it is.
    let mut runs = node.log.read(Sequence(120)).await.unwrap();
    assert_eq!(runs.next().await.unwrap().unwrap(), before[119..]);

    lose_what_came_after(&mut cluster, &copy);
    let begin = Instant::now();
    while node.log.counts().healed_records < 70 {
        assert!(begin.elapsed() < SETTLED_MAX, "{:?}, the log is {:?}", node.log.counts(), node.log.health().borrow().clone());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.becomes(|health| *health == Health::Trusted).await;
    println!("R1, default sync: 70 of 120 records lost and put back {:?} after the server was there again", begin.elapsed());
    let after = records(&node.log, 120).await;
    assert_eq!(root(&after), root(&before));
    assert_eq!(after, before);
    fill(&node.log, 121..=121).await;
    assert_eq!(runs.next().await.unwrap().unwrap()[0].sequence, Sequence(121));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_records_and_took_others_is_refused() {
    let mut cluster = Cluster::start(1, Sync::Default).unwrap();
    let node = Node::start(&cluster).await;
    fill(&node.log, 1..=20).await;
    let copy = copy(&cluster);
    fill(&node.log, 21..=30).await;
    // A node without a witness writes as soon as it can.
    let careless = Node::start(&cluster).await;
    lose_what_came_after(&mut cluster, &copy);
    let branch = Bytes::from_static(b"branch");
    let begin = Instant::now();
    loop {
        let expect = Expect { subject: Sequence(0), log: None };
        match careless.inner.append("kr.e.default.key.careless", expect, branch.clone()).await {
            Ok(Appended::Appended(_)) => break,
            // The witness was faster: then there is no branch to refuse.
            Ok(Appended::Conflict { .. }) => panic!("a conflict on a new subject"),
            _ => assert!(begin.elapsed() < SETTLED_MAX),
        }
    }
    let health = node.becomes(|health| matches!(health, Health::Refused { .. })).await;
    println!("R1, a branch: refused {:?} after the server was there again", begin.elapsed());
    let Health::Refused { reason, evidence } = health else { panic!("it was refused") };
    assert!(reason.contains("sequence 21 holds another record"), "{reason}");
    assert!(evidence.join("found.jsonl").exists());
    let (subject, bytes) = record(31);
    let refused = node.log.append(&subject, Expect { subject: Sequence(28), log: None }, bytes).await;
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    careless.stop().await;
    node.stop().await;
}

/// What is there when a node joins is read into memory, and compared again after a reconnect, in the background.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_remembered_and_compared_while_it_serves() {
    const COUNT: u64 = 10_000;
    let mut cluster = Cluster::start(1, Sync::Default).unwrap();
    let node = Node::start(&cluster).await;
    let inner = node.inner.clone();
    let appends = (0..COUNT).map(move |number| {
        let (log, subject) = (inner.clone(), format!("kr.e.default.key.{number}"));
        async move { log.append(&subject, Expect { subject: Sequence(0), log: None }, signed(1, number, 0)).await.unwrap() }
    });
    let mut appends = futures_util::stream::iter(appends).buffer_unordered(256);
    while let Some(outcome) = appends.next().await {
        assert!(matches!(outcome, Appended::Appended(_)));
    }
    let begin = Instant::now();
    while node.log.remembered() < COUNT as usize {
        assert!(begin.elapsed() < SETTLED_MAX);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("R1: {COUNT} records remembered in {:?}", begin.elapsed());
    cluster.server(0).kill().unwrap();
    node.nats.connected().wait_for(|connection| !connection.is_up).await.unwrap();
    cluster.server(0).run().unwrap();
    let begin = Instant::now();
    let doubts = node.log.counts().doubts;
    while node.log.counts().doubts == doubts || *node.log.health().borrow() != Health::Trusted {
        assert!(begin.elapsed() < SETTLED_MAX);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("R1: trusted again {:?} after the server was started", begin.elapsed());
    node.stop().await;
}

/// Every append that was answered for is there in the end, whenever the server went down and whatever it lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(1, Sync::Default).unwrap();
    let node = Node::start(&cluster).await;
    append(&node.log, "kr.e.default.key.first", Bytes::from_static(b"first")).await;
    let cancel = CancellationToken::new();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (log, cancel) = (node.log.clone(), cancel.clone());
            tokio::spawn(async move {
                let (subject, mut last, mut acknowledged) = (format!("kr.e.default.key.{client}"), Sequence(0), Vec::new());
                let mut number = 0;
                while !cancel.is_cancelled() {
                    let bytes = Bytes::from(format!("{client}, {number}"));
                    match log.append(&subject, Expect { subject: last, log: None }, bytes.clone()).await {
                        Ok(Appended::Appended(sequence) | Appended::AlreadyAppended(sequence)) => {
                            acknowledged.push(Stored { sequence, subject: subject.as_str().into(), bytes });
                            (last, number) = (sequence, number + 1);
                        }
                        Ok(Appended::Unknown) | Err(AppendError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                        other => panic!("{other:?}"),
                    }
                }
                acknowledged
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let copy = copy(&cluster);
    tokio::time::sleep(Duration::from_millis(500)).await;
    lose_what_came_after(&mut cluster, &copy);
    let begin = Instant::now();
    node.becomes(|health| *health != Health::Trusted).await;
    let settled = node.becomes(|health| matches!(health, Health::Trusted | Health::Refused { .. })).await;
    println!("R1, under load: {} after {:?}, {:?}", settled.as_str(), begin.elapsed(), node.log.counts());
    tokio::time::sleep(Duration::from_secs(2)).await;
    cancel.cancel();
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }
    match node.becomes(|health| matches!(health, Health::Trusted | Health::Refused { .. })).await {
        // The server acknowledged a record and was killed before it acknowledged one that stood before it.
        Health::Refused { reason, .. } => assert!(reason.contains("that no node at hand remembers"), "{reason}"),
        _ => {
            let head = node.log.head().await.unwrap();
            let records = records(&node.log, head.0 as usize).await;
            for stored in acknowledged {
                assert_eq!(records.get(stored.sequence.0 as usize - 1), Some(&stored));
            }
        }
    }
    node.stop().await;
}
