//! NATS away: not there yet, ended, paused; and back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use coordination::{ANSWER_WAIT, Coordination, CoordinationError};
use nats_server::{Cluster, Sync};

use crate::backend::{Room, liveness, node, shows, status, until};

const LONG: Duration = Duration::from_secs(60);

/// Every call is answered within the bound, and says that nobody answers.
async fn is_unavailable(nats: &dyn Coordination) {
    let is_away = |begin: Instant, error: CoordinationError| {
        assert!(begin.elapsed() < ANSWER_WAIT + Duration::from_secs(3), "answered after {:?}", begin.elapsed());
        assert!(matches!(error, CoordinationError::Unavailable { .. }), "{error}");
    };
    let begin = Instant::now();
    let (lease, release, add) = tokio::join!(nats.lease("expiry", LONG), nats.release("other"), nats.add("spent", 1, 99));
    is_away(begin, lease.unwrap_err());
    is_away(begin, release.unwrap_err());
    is_away(begin, add.unwrap_err());
    let begin = Instant::now();
    let (total, put, get) = tokio::join!(nats.total("spent"), nats.put("soft", Bytes::new(), LONG), nats.get("soft"));
    is_away(begin, total.unwrap_err());
    is_away(begin, put.unwrap_err());
    is_away(begin, get.unwrap_err());
    let begin = Instant::now();
    is_away(begin, nats.forget(node(7)).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_while_nats_is_away() {
    let mut servers = Cluster::start(1, Sync::Default).unwrap();
    servers.server(0).kill().unwrap();
    let room = Room::on(&servers);
    let (a, b) = (room.node(1).await, room.node(2).await);
    a.announce(status(1, 1));
    b.announce(status(2, 1));
    is_unavailable(a.as_ref()).await;
    assert_eq!(a.nodes().borrow().len(), 1, "it knows itself");
    assert_eq!(a.listening(), None, "nobody can be heard");
    servers.server(0).run().unwrap();
    until("a lease", async || a.lease("expiry", LONG).await.ok()).await;
    until("own messages", async || a.listening()).await;
    shows(&mut a.nodes(), "the other", |nodes| liveness(nodes, 2) == Some(true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_in_bound_and_go_on_after_a_restart() {
    let mut servers = Cluster::start(1, Sync::Always).unwrap();
    let room = Room::on(&servers);
    let (a, b) = (room.node(1).await, room.node(2).await);
    a.announce(status(1, 1));
    b.announce(status(2, 1));
    assert_eq!(a.lease("expiry", LONG).await.unwrap().unwrap().term, 1);
    assert_eq!(a.add("spent", 5, 1).await.unwrap(), 5);
    assert_eq!(a.add("spent", 2, 3).await.unwrap(), 7);
    shows(&mut a.nodes(), "the other", |nodes| liveness(nodes, 2) == Some(true)).await;

    servers.server(0).pause().unwrap();
    is_unavailable(a.as_ref()).await;
    shows(&mut a.nodes(), "the other is not heard", |nodes| liveness(nodes, 2) == Some(false)).await;
    assert_eq!(liveness(&a.nodes().borrow(), 1), Some(true), "it knows itself");
    assert_eq!(a.listening(), None, "that the other is silent means nothing");
    servers.server(0).resume().unwrap();
    let (listening, since) = until("own messages again", async || a.listening()).await;
    assert!(listening < since + Duration::from_secs(1), "what came before the break counts: {listening:?}");
    shows(&mut a.nodes(), "the other again", |nodes| liveness(nodes, 2) == Some(true)).await;
    let (lease, _) = until("a lease", async || a.lease("expiry", LONG).await.ok()).await;
    assert_eq!(lease.unwrap().term, 1);

    servers.server(0).kill().unwrap();
    is_unavailable(a.as_ref()).await;
    servers.server(0).run().unwrap();
    let (lease, gap) = until("a lease", async || a.lease("expiry", LONG).await.ok()).await;
    eprintln!("a server is started again: extended after {gap:?}");
    assert_eq!(lease.unwrap().term, 1);
    assert_eq!(b.lease("expiry", LONG).await.unwrap(), None);
    // The server remembers the ids of additions from what it stored.
    let (total, _) = until("the counter", async || a.add("spent", 5, 1).await.ok()).await;
    assert_eq!(total, 5);
    let (total, _) = until("the counter", async || b.add("spent", 1, 2).await.ok()).await;
    assert!(total == 8 || total == 9, "with or without the one whose outcome was not known: {total}");
    shows(&mut a.nodes(), "the other again", |nodes| liveness(nodes, 2) == Some(true)).await;
    a.announce(status(1, 8));
    shows(&mut b.nodes(), "what is new", |nodes| nodes.iter().any(|entry| entry.status.applied.0 == 8)).await;
}
