//! What only nodes over NATS can meet: an earlier process of a node, foreign messages, and the end of the leader.

use std::time::{Duration, Instant};

use coordination::{ANSWER_WAIT, Coordination, CoordinationError};
use futures_util::StreamExt as _;
use nats_server::{Cluster, Sync};

use crate::backend::{Room, node, shows, status, until};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_takes_its_lease_anew() {
    let servers = Cluster::start(1, Sync::Default).unwrap();
    let room = Room::on(&servers);
    let before = room.nats_node(1, 0).await;
    assert_eq!(before.lease("expiry", LONG).await.unwrap().unwrap().term, 1);
    drop(before);
    let after = room.nats_node(1, 0).await;
    assert_eq!(after.lease("expiry", LONG).await.unwrap().unwrap().term, 2, "what the earlier process began may still be under way");
    assert_eq!(after.lease("expiry", LONG).await.unwrap().unwrap().term, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_foreign_is_ignored_and_never_taken_for_ours() {
    let servers = Cluster::start(1, Sync::Default).unwrap();
    let (room, other) = (Room::on(&servers), Room::on(&servers));
    let (ours, theirs) = (room.nats_node(1, 0).await, other.nats_node(2, 0).await);
    ours.announce(status(1, 1));
    theirs.announce(status(2, 1));
    shows(&mut ours.nodes(), "itself", |nodes| nodes.len() == 1).await;

    // Another cluster's message is taken as it goes over the wire and sent to this one, and then spoilt in other ways.
    let client = room.client().await;
    let mut messages = client.subscribe(format!("kr.n.{}", other.cluster)).await.unwrap();
    let message = messages.next().await.unwrap().payload;
    let text = String::from_utf8(message.to_vec()).unwrap();
    let ours_text = text.replace(&other.cluster.to_string(), &room.cluster.to_string());
    let newer = ours_text.replace("\"v\":1", "\"v\":2");
    let long = ours_text.replace("0.1.0", &"0".repeat(100_000));
    let foreign = [text, newer, long, String::new(), "{}".to_owned(), "\u{0}".to_owned()];
    for text in &foreign {
        client.publish(format!("kr.n.{}", room.cluster), text.clone().into()).await.unwrap();
    }
    until("foreign messages", async || (ours.ignored() == foreign.len() as u64).then_some(())).await;
    assert_eq!(ours.nodes().borrow().len(), 1);
    client.publish(format!("kr.n.{}", room.cluster), ours_text.into()).await.unwrap();
    shows(&mut ours.nodes(), "what is whole", |nodes| nodes.len() == 2).await;

    let key = format!("$KV.KEYRELAY_COORDINATION.{}.lease.expiry", room.cluster);
    ours.lease("expiry", LONG).await.unwrap().unwrap();
    client.request(key, "not ours".into()).await.unwrap();
    assert_eq!(ours.lease("expiry", LONG).await.unwrap_err(), CoordinationError::Foreign { name: "expiry".to_owned() });
    assert_eq!(theirs.lease("expiry", LONG).await.unwrap().unwrap().term, 1, "clusters share nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_busy_node_applies_is_told_together() {
    let servers = Cluster::start(1, Sync::Default).unwrap();
    let room = Room::on(&servers);
    let mut messages = room.client().await.subscribe(format!("kr.n.{}", room.cluster)).await.unwrap();
    let (a, b) = (room.node(1).await, room.node(2).await);
    b.announce(status(2, 1));
    let begin = Instant::now();
    for applied in 1..=500 {
        a.announce(status(1, applied));
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    shows(&mut b.nodes(), "the last", |nodes| nodes.iter().any(|entry| entry.status.applied.0 == 500)).await;
    let taken = begin.elapsed();
    let intervals = taken.as_millis() / 5;
    let mut told = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(200), messages.next()).await {
        told += 1;
    }
    eprintln!("500 changes in {taken:?} were told in {told} messages");
    assert!((1..intervals + 10).contains(&told), "{told} messages in {intervals} intervals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_outlives_the_leader() {
    let mut servers = Cluster::start(3, Sync::Always).unwrap();
    let room = Room::on(&servers);
    let (a, b) = (room.node(1).await, room.node(2).await);
    a.announce(status(1, 1));
    b.announce(status(2, 1));
    for (number, stream) in ["KV_KEYRELAY_COORDINATION", "KEYRELAY_COUNTERS"].into_iter().enumerate() {
        let (first, _) = until("the streams", async || a.lease("expiry", LONG).await.ok()).await;
        assert_eq!(first.unwrap().term, 1);
        let id = number as u128;
        until("a counter", async || a.add("spent", 1, id).await.ok()).await;
        let leader = servers.wait_leader_of(stream).unwrap();
        servers.server(leader).kill().unwrap();

        let (extended, gap) = until("a lease with another leader", async || {
            let begin = Instant::now();
            let extended = a.lease("expiry", LONG).await;
            assert!(begin.elapsed() < ANSWER_WAIT + Duration::from_secs(3));
            extended.ok()
        })
        .await;
        eprintln!("the leader of {stream} killed: extended after {gap:?}");
        assert_eq!(extended.map(|lease| (lease.holder, lease.term)), Some((node(1), 1)));
        let (found, _) = until("an answer", async || b.lease("expiry", LONG).await.ok()).await;
        assert_eq!(found, None);
        // The addition is remembered by the new leader as well.
        let (total, _) = until("the counter", async || a.add("spent", 1, id).await.ok()).await;
        assert_eq!(total, id as u64 + 1);
        shows(&mut b.nodes(), "both nodes", |nodes| nodes.iter().filter(|entry| entry.live).count() == 2).await;
        servers.server(leader).run().unwrap();
        servers.wait_ready().unwrap();
    }
    assert_eq!(until("the total", async || b.total("spent").await.ok()).await.0, 2);
}
