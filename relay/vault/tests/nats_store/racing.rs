//! Two nodes on two connections, three servers.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;

fn three() -> (Cluster, tempfile::TempDir, [Node; 2]) {
    let (cluster, dir) = (Cluster::start(3, Sync::Default).unwrap(), tempdir().unwrap());
    let nodes = ["one", "two"].map(|name| Node::level(&cluster.url(), &dir.path().join(name), 3));
    (cluster, dir, nodes)
}

#[test]
fn of_two_nodes_that_race_one_wins_and_both_read_its_bytes() {
    let (_cluster, _dir, nodes) = three();
    for round in 0..40 {
        let barrier = Barrier::new(2);
        let won: Vec<(bool, bool)> = thread::scope(|scope| {
            let racers = nodes.each_ref().map(|node| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let name = format!("{:p}", node);
                    barrier.wait();
                    let put = node.store.put_sealed(&slot(round), name.as_bytes()).unwrap() == Put::Stored;
                    (put, node.store.swap_wrapped(&slot(round), None, Some(name.as_bytes())).unwrap() == Swap::Swapped)
                })
            });
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert!(won[0].0 != won[1].0 && won[0].1 != won[1].1, "round {round}: {won:?}");
        let winner = |won: bool| format!("{:p}", &nodes[usize::from(!won)]).into_bytes();
        for node in &nodes {
            assert_eq!(sealed(node, round).unwrap(), winner(won[0].0));
            assert_eq!(wrapped(node, round).unwrap(), winner(won[0].1));
        }
    }
    nodes.into_iter().for_each(Node::stop);
}

/// Every swap adds one to a number. A follower that stands still again and again answers late or with old content whoever asks it.
#[test]
fn a_replica_that_lags_fools_no_swap_and_no_read() {
    let (mut cluster, _dir, nodes) = three();
    swap(&nodes[0], 1, None, Some(b"0"));
    let leader = cluster.wait_leader_of("KV_KEYRELAY_KEYS").unwrap();
    let follower = (0..3).find(|index| *index != leader).unwrap();
    let (done, swapped, unavailable) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for node in &nodes {
            let (done, swapped, unavailable) = (&done, &swapped, &unavailable);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let Ok(Some(from)) = node.store.read(Entry::Wrapped, &slot(1)) else { continue };
                    let from: u64 = std::str::from_utf8(&from).unwrap().parse().unwrap();
                    // What was swapped before this began is seen.
                    let to = (from + 1).to_string();
                    match node.store.swap_wrapped(&slot(1), Some(from.to_string().as_bytes()), Some(to.as_bytes())) {
                        Ok(Swap::Swapped) => drop(swapped.fetch_add(1, Ordering::SeqCst)),
                        Ok(Swap::Conflict) => {}
                        Err(StoreError::Unavailable { .. }) => drop(unavailable.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        for _ in 0..15 {
            cluster.server(follower).pause().unwrap();
            thread::sleep(Duration::from_millis(200));
            cluster.server(follower).resume().unwrap();
            thread::sleep(Duration::from_millis(200));
        }
        done.store(true, Ordering::SeqCst);
    });
    let (swapped, unavailable) = (swapped.into_inner(), unavailable.into_inner());
    let reached: u64 = String::from_utf8(wrapped(&nodes[0], 1).unwrap()).unwrap().parse().unwrap();
    // One that was unavailable may have been kept.
    assert!((swapped..=swapped + unavailable).contains(&reached), "{swapped} swapped, {unavailable} unavailable, {reached} reached");
    assert!(swapped > 100, "only {swapped} swapped");
    nodes.into_iter().for_each(Node::stop);
}

/// The reader asks through a server whose own replica lags: it stood still during the writes, and hears of them while it is asked.
#[test]
fn what_one_node_wrote_another_reads_at_once_through_a_replica_that_lags() {
    let (mut cluster, dir, nodes) = three();
    let leader = cluster.wait_leader_of("KV_KEYRELAY_KEYS").unwrap();
    let follower = (0..3).find(|index| *index != leader).unwrap();
    let writer = Node::level(&cluster.servers()[leader].url(), &dir.path().join("writer"), 3);
    let reader = Node::level(&cluster.servers()[follower].url(), &dir.path().join("reader"), 3);
    let (mut last, mut before): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
    for round in 0_u8..10 {
        cluster.server(follower).pause().unwrap();
        // Much to catch up with, and what is asked for at its end.
        for n in 0_u8..150 {
            let much = [[round, n]; 8 * 1024].concat();
            swap(&writer, 2, before.as_deref(), Some(&much));
            before = Some(much);
        }
        let next = round.to_string().into_bytes();
        swap(&writer, 1, last.as_deref(), Some(&next));
        last = Some(next);
        thread::scope(|scope| {
            let read = scope.spawn(|| wrapped(&reader, 1));
            // Long enough for the question to wait at the server.
            thread::sleep(Duration::from_millis(50));
            cluster.server(follower).resume().unwrap();
            assert_eq!(read.join().unwrap(), last, "round {round}");
        });
    }
    for node in nodes.into_iter().chain([writer, reader]) {
        node.stop();
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_leader_is_killed() {
    let (mut cluster, _dir, nodes) = three();
    let done = AtomicBool::new(false);
    let stored: Vec<u8> = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut stored = Vec::new();
            for id in 0..u8::MAX {
                // Unavailable means again; the second time it may be there.
                let begin = Instant::now();
                while node_put(&nodes[id as usize % 2], id).is_none() {
                    assert!(begin.elapsed() < Duration::from_secs(40), "no leader again");
                }
                stored.push(id);
                if done.load(Ordering::SeqCst) {
                    break;
                }
            }
            stored
        });
        let leader = cluster.wait_leader_of("KV_KEYRELAY_KEYS").unwrap();
        cluster.server(leader).kill().unwrap();
        cluster.wait_leader_of("KV_KEYRELAY_KEYS").unwrap();
        cluster.server(leader).run().unwrap();
        cluster.wait_ready().unwrap();
        done.store(true, Ordering::SeqCst);
        writer.join().unwrap()
    });
    let dir = tempdir().unwrap();
    let fresh = Node::level(&cluster.url(), dir.path(), 3);
    assert!(!stored.is_empty());
    for id in &stored {
        assert_eq!(sealed(&fresh, *id).unwrap(), [*id]);
    }
    fresh.stop();
    nodes.into_iter().for_each(Node::stop);
}

fn node_put(node: &Node, id: u8) -> Option<Put> {
    match node.store.put_sealed(&slot(id), &[id]) {
        Ok(put) => Some(put),
        Err(StoreError::Unavailable { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}
