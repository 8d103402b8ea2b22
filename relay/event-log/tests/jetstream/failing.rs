//! Servers end, stand still and come back: nothing is lost, nothing is told wrong, and readers go on.

use std::sync::Arc;
use std::time::Duration;

use event_log::{AppendError, Appended, EventLog, ReadError, Stored};
use futures_util::TryStreamExt as _;
use nats_server::Cluster;
use schemas::Sequence;
use tokio::time::{Instant, timeout};

use crate::servers::{SOON, STREAM, append, bytes, conflict, decided, fill, last, open, reached, start};

/// How long a server that goes on may take to answer what it was asked while it stood still.
const GLANCE: Duration = Duration::from_secs(3);
/// A busy machine hides what pipelining gains, and never makes it up: it has to show once in so many.
const ROUNDS: u64 = 5;

/// Reads until so many records were met.
async fn take(log: Arc<dyn EventLog>, from: u64, count: usize) -> Vec<Stored> {
    let mut batches = log.read(Sequence(from)).await.unwrap();
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(timeout(3 * SOON, batches.try_next()).await.unwrap().unwrap().unwrap());
    }
    records
}

/// Kills the leader and lets it come back.
fn strike(cluster: &mut Cluster) {
    let leader = cluster.wait_leader_of(STREAM).unwrap();
    cluster.server(leader).kill().unwrap();
    cluster.wait_leader_of(STREAM).unwrap();
    cluster.server(leader).run().unwrap();
    cluster.wait_ready().unwrap();
}

/// Waits until the log has grown by so many records.
async fn grown(log: &dyn EventLog, records: u64) {
    let mut goal = None;
    timeout(SOON, async {
        loop {
            if let Ok(head) = log.head().await
                && head.0 >= *goal.get_or_insert(head.0 + records)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_on_when_leaders_are_killed() {
    let mut cluster = start(3);
    let log: Arc<dyn EventLog> = Arc::new(open(&cluster).await);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (log, stopped) = (Arc::clone(&log), stopped.clone());
            tokio::spawn(async move {
                let subject = format!("kr.e.writer.{writer}");
                let mut places = Vec::new();
                while !*stopped.borrow() {
                    let expect = last(places.last().map_or(0, |place: &Sequence| place.0));
                    places.push(append(log.as_ref(), &subject, expect, bytes(places.len().to_string())).await);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (subject, places)
            })
        })
        .collect();
    // One reader on a connection of its own, and one that shares the writers'.
    let other: Arc<dyn EventLog> = Arc::new(open(&cluster).await);
    let readers = [Arc::clone(&log), other].map(|log| {
        let stopped = stopped.clone();
        tokio::spawn(async move {
            let mut batches = log.read(Sequence(1)).await.unwrap();
            let mut records: Vec<Stored> = Vec::new();
            loop {
                let is_last_look = *stopped.borrow();
                let head = if is_last_look { reached!(log.head()) } else { Sequence(u64::MAX) };
                if is_last_look && records.len() as u64 >= head.0 {
                    return records;
                }
                if let Ok(run) = timeout(Duration::from_millis(500), batches.try_next()).await {
                    records.extend(run.unwrap().unwrap());
                }
            }
        })
    });
    for _ in 0..3 {
        grown(log.as_ref(), 100).await;
        tokio::task::block_in_place(|| strike(&mut cluster));
    }
    grown(log.as_ref(), 100).await;
    stop.send_replace(true);
    let mut placed = Vec::new();
    for writer in writers {
        placed.push(writer.await.unwrap());
    }
    let mut seen = Vec::new();
    for reader in readers {
        seen.push(reader.await.unwrap());
    }
    // Dense, and the same for both.
    let [first, second] = &seen[..] else { panic!() };
    assert_eq!(first, second);
    assert!(first.iter().zip(1..).all(|(stored, sequence)| stored.sequence == Sequence(sequence)));
    // Every record where its writer was told, and none twice.
    assert_eq!(first.len(), placed.iter().map(|(_, places)| places.len()).sum::<usize>());
    for (subject, places) in &placed {
        for (n, place) in places.iter().enumerate() {
            let stored = &first[place.0 as usize - 1];
            assert_eq!((&*stored.subject, &stored.bytes), (subject.as_str(), &bytes(n.to_string())));
        }
    }
    assert!(first.len() >= 400, "{}", first.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_when_the_server_starts_again() {
    let mut cluster = start(1);
    let log: Arc<dyn EventLog> = Arc::new(open(&cluster).await);
    fill(log.as_ref(), "kr.e.a", 10).await;
    let reader = tokio::spawn(take(Arc::clone(&log), 1, 20));
    for _ in 0..2 {
        cluster.server(0).kill().unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.server(0).run().unwrap();
        cluster.wait_ready().unwrap();
        let mut expect = last(reached!(log.last("kr.e.a")).0);
        for n in 0..5 {
            expect.subject = append(log.as_ref(), "kr.e.a", expect, bytes(n.to_string())).await;
        }
    }
    let records = reader.await.unwrap();
    assert_eq!(records.iter().map(|stored| stored.sequence.0).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
}

/// Whoever reads slowly neither stops the others nor misses anything; what waits for it is bounded by one pull.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_misses_nothing() {
    let mut cluster = start(1);
    let log: Arc<dyn EventLog> = Arc::new(open(&cluster).await);
    fill(log.as_ref(), "kr.e.a", 1).await;
    let mut slow = log.read(Sequence(1)).await.unwrap();
    assert_eq!(slow.try_next().await.unwrap().unwrap().len(), 1);
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { fill(log.as_ref(), &format!("kr.e.writer.{writer}"), 100).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // A fast one has met all by now.
    assert_eq!(take(Arc::clone(&log), 1, 6401).await.len(), 6401);
    // The slow one meets the first, its consumer goes away meanwhile, and it meets the rest.
    let mut sequences: Vec<u64> = vec![1];
    sequences.extend(slow.try_next().await.unwrap().unwrap().iter().map(|stored| stored.sequence.0));
    cluster.server(0).kill().unwrap();
    cluster.server(0).run().unwrap();
    cluster.wait_ready().unwrap();
    while sequences.len() < 6401 {
        let run = timeout(SOON, slow.try_next()).await.unwrap().unwrap().unwrap();
        sequences.extend(run.iter().map(|stored| stored.sequence.0));
    }
    assert_eq!(sequences, (1..=6401).collect::<Vec<_>>());
}

/// A leader that stood still takes itself for the leader when it goes on, and answers out of an old log. Nobody follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_stood_still_is_not_believed() {
    for _ in 0..5 {
        if stand_still().await {
            return;
        }
    }
    panic!("no leader that stood still answered out of an old log");
}

/// Whether the old leader was met before it had given up.
async fn stand_still() -> bool {
    let mut cluster = start(3);
    let log = open(&cluster).await;
    let before = fill(&log, "kr.e.a", 20).await;
    let old = cluster.wait_leader_of(STREAM).unwrap();
    let to_old = async_nats::ConnectOptions::new().retry_on_initial_connect().ping_interval(SOON);
    let client = to_old.connect(cluster.servers()[old].url()).await.unwrap();
    client.flush().await.unwrap();
    cluster.servers()[old].pause().unwrap();
    // The others elect one of them, and the log goes on.
    let mut expect = last(before.0);
    for n in 0..20 {
        expect.subject = append(&log, "kr.e.a", expect, bytes(format!("after {n}"))).await;
    }
    // They end, and only the old leader is left.
    let others: Vec<_> = (0..3).filter(|server| *server != old).collect();
    others.iter().for_each(|server| cluster.server(*server).kill().unwrap());
    // Connected before it stands still, so that the question is the first thing it finds when it goes on.
    let answer = tokio::spawn(async move {
        let answer = client.request(format!("$JS.API.STREAM.INFO.{STREAM}"), "".into());
        timeout(GLANCE, answer).await.ok().and_then(Result::ok)
    });
    cluster.servers()[old].resume().unwrap();
    let told = answer.await.unwrap();
    let told: serde_json::Value = told.map(|message| serde_json::from_slice(&message.payload).unwrap()).unwrap_or_default();
    let was_met = told["state"]["last_seq"] == 20;

    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        let (head, appended) = tokio::join!(log.head(), log.append("kr.e.a", expect, bytes("next")));
        // It may have heard the rest from the others before they ended.
        assert!(matches!(head, Err(ReadError::Unavailable { .. }) | Ok(Sequence(40))), "{head:?}");
        assert!(matches!(appended, Ok(Appended::Unknown) | Err(AppendError::Unavailable { .. })), "{appended:?}");
    }
    others.iter().for_each(|server| cluster.server(*server).run().unwrap());
    let next = append(&log, "kr.e.a", expect, bytes("next")).await;
    assert_eq!(next, Sequence(41));
    assert_eq!(decided(&log, "kr.e.a", last(0), bytes("stale")).await, conflict(41));
    let all = take(Arc::new(log), 1, 41).await;
    assert!(all.iter().zip(1..).all(|(stored, sequence)| stored.sequence == Sequence(sequence)));
    was_met
}

/// Many appends are on their way at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_are_pipelined() {
    let cluster = start(3);
    let log: Arc<dyn EventLog> = Arc::new(open(&cluster).await);
    for round in 0..ROUNDS {
        let (one_by_one, at_once) = one_by_one_and_at_once(&log, round).await;
        eprintln!("one by one {one_by_one:?}, at once {at_once:?} each");
        if at_once * 2 < one_by_one {
            return;
        }
    }
    panic!("appends at once took as long as one by one, {ROUNDS} times");
}

/// What an append takes of the time of 200 after each other, and of 2,000 at once.
async fn one_by_one_and_at_once(log: &Arc<dyn EventLog>, round: u64) -> (Duration, Duration) {
    let begin = Instant::now();
    for n in 0..200 {
        append(log.as_ref(), &format!("kr.e.one.{round}.{n}"), last(0), bytes("x")).await;
    }
    let one_by_one = begin.elapsed() / 200;
    let begin = Instant::now();
    let appends = (0..2000).map(|n| {
        let log = Arc::clone(log);
        tokio::spawn(async move { append(log.as_ref(), &format!("kr.e.many.{round}.{n}"), last(0), bytes("x")).await })
    });
    let mut sequences = Vec::new();
    for append in appends.collect::<Vec<_>>() {
        sequences.push(append.await.unwrap().0);
    }
    let at_once = begin.elapsed() / 2000;
    sequences.sort_unstable();
    let first = round * 2200 + 201;
    assert_eq!(sequences, (first..first + 2000).collect::<Vec<_>>());
    (one_by_one, at_once)
}
