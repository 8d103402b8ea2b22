//! The registry: who is there, who is live, and how far each has applied.

use std::time::{Duration, Instant};

use coordination::LIVE_WAIT;

use crate::backend::{Room, liveness, node, patiently, shows, status};

/// No test of speed, since other tests run beside this one, but well below a heartbeat. Alone it is about 1 ms.
const CEILING: Duration = Duration::from_millis(300);
/// What a busy machine may add.
const BUSY: Duration = Duration::from_secs(15);
/// A burst in so many has to be quick: one may meet another process's turn.
const BURSTS: u64 = 5;

pub(crate) async fn applied_is_told_at_once(room: Room) {
    let (a, b) = (room.node(1).await, room.node(2).await);
    a.announce(status(1, 0));
    b.announce(status(2, 0));
    for node in [&a, &b] {
        let met = shows(&mut node.nodes(), "two live nodes", |nodes| nodes.len() == 2 && nodes.iter().all(|entry| entry.live)).await;
        eprintln!("two nodes know each other after {met:?}");
    }
    let mut nodes = b.nodes();
    let mut latencies = Vec::new();
    for applied in 1..=100 {
        let begin = Instant::now();
        a.announce(status(1, applied));
        shows(&mut nodes, "what the other applied", |nodes| nodes[0].status.applied.0 >= applied).await;
        latencies.push(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    // A burst: the last is what counts.
    let mut burst = Duration::MAX;
    for last in (1..=BURSTS).map(|n| n * 10_000) {
        let begin = Instant::now();
        (last - 9_899..=last).for_each(|applied| a.announce(status(1, applied)));
        shows(&mut nodes, "the end of a burst", |nodes| nodes[0].status.applied.0 == last).await;
        burst = burst.min(begin.elapsed());
    }
    latencies.sort_unstable();
    let (p50, p99) = (latencies[50], latencies[98]);
    eprintln!("announced to seen: p50 {p50:?}, p99 {p99:?}, max {:?}; after a burst of 9,900: {burst:?}", latencies[99]);
    assert!(p50 < CEILING && burst < CEILING * 3);
}

pub(crate) async fn a_node_that_stops_is_listed_until_it_is_forgotten(room: Room) {
    let (a, b, c) = (room.node(1).await, room.node(2).await, room.node(3).await);
    for (number, node) in [(1, &a), (2, &b), (3, &c)] {
        node.announce(status(number, 7));
    }
    for node in [&a, &c] {
        shows(&mut node.nodes(), "three live nodes", |nodes| nodes.iter().filter(|entry| entry.live).count() == 3).await;
    }
    // What follows needs the entry of the node that stops, which is written soon after the first announcement.
    room.is_written(2).await;
    b.close().await;
    drop(b);
    for node in [&a, &c] {
        let is_alone = |nodes: &_| liveness(nodes, 2) == Some(false) && [1, 3].iter().all(|other| liveness(nodes, *other) == Some(true));
        let ended = shows(&mut node.nodes(), "one node that is not live", is_alone).await;
        assert!(ended < LIVE_WAIT + BUSY, "live for {ended:?}");
    }
    let d = room.node(4).await;
    shows(&mut d.nodes(), "a node that was quiet before this one started", |nodes| liveness(nodes, 2) == Some(false)).await;

    patiently!(a.forget(node(2))).unwrap();
    for node in [&a, &c, &d] {
        shows(&mut node.nodes(), "no forgotten node", |nodes| liveness(nodes, 2).is_none() && liveness(nodes, 1) == Some(true)).await;
    }
    let e = room.node(5).await;
    shows(&mut e.nodes(), "the others", |nodes| liveness(nodes, 1) == Some(true) && liveness(nodes, 3) == Some(true)).await;
    assert_eq!(liveness(&e.nodes().borrow(), 2), None);
}

pub(crate) async fn who_leaves_is_gone(room: Room) {
    let (a, b) = (room.node(1).await, room.node(2).await);
    a.announce(status(1, 1));
    b.announce(status(2, 1));
    shows(&mut a.nodes(), "both", |nodes| nodes.len() == 2).await;
    patiently!(b.forget(node(2))).unwrap();
    let left = shows(&mut a.nodes(), "the one that stays", |nodes| liveness(nodes, 2).is_none()).await;
    assert!(left < BUSY, "listed for {left:?}");
}
