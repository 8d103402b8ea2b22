//! Leases: one holder, an end, and terms that grow.

use std::time::{Duration, Instant};

use bytes::Bytes;
use coordination::CoordinationError;

use crate::backend::{Room, node, patiently, until};

const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn another_node_is_kept_out_until_the_release(room: Room) {
    let (a, b) = (room.node(1).await, room.node(2).await);
    let first = patiently!(a.lease("expiry", LONG)).unwrap().unwrap();
    assert_eq!((first.name.as_str(), first.holder, first.term), ("expiry", node(1), 1));
    assert_eq!(patiently!(b.lease("expiry", LONG)).unwrap(), None);
    assert_eq!(patiently!(b.lease("rotation", LONG)).unwrap().unwrap().term, 1, "another lease");

    let extended = patiently!(a.lease("expiry", LONG)).unwrap().unwrap();
    assert_eq!(extended.term, 1);
    assert!(extended.expires_at > first.expires_at);

    patiently!(b.release("expiry")).unwrap();
    assert_eq!(patiently!(b.lease("expiry", LONG)).unwrap(), None, "only the holder gives it back");
    patiently!(a.release("expiry")).unwrap();
    let second = patiently!(b.lease("expiry", LONG)).unwrap().unwrap();
    assert_eq!((second.holder, second.term), (node(2), 2));
    assert_eq!(patiently!(a.lease("expiry", LONG)).unwrap(), None);
    patiently!(b.release("expiry")).unwrap();
    assert_eq!(patiently!(b.lease("expiry", LONG)).unwrap().unwrap().term, 3, "taken anew");
}

pub(crate) async fn a_lease_ends_after_its_ttl_and_not_before_whatever_the_clocks_say(room: Room) {
    // Long enough for those who are kept out to ask meanwhile, on a busy machine too.
    let ttl = Duration::from_secs(6);
    let a = room.node(1).await;
    let others = [room.node_with_clock(2, 3600).await, room.node_with_clock(3, -3600).await];
    patiently!(a.lease("notary", ttl)).unwrap().unwrap();
    for other in &others {
        assert_eq!(patiently!(other.lease("notary", ttl)).unwrap(), None);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let extended = Instant::now();
    patiently!(a.lease("notary", ttl)).unwrap().unwrap();
    // From here on the holder is as if it were paused.
    let (lease, _) = until("the end of a lease", async || {
        let mut held = None;
        for other in &others {
            held = held.or(patiently!(other.lease("notary", ttl)).unwrap());
        }
        held
    })
    .await;
    let taken = extended.elapsed();
    assert!(taken >= ttl, "taken {taken:?} after it was extended for {ttl:?}");
    assert!(taken < ttl + Duration::from_secs(20), "taken only {taken:?} after it was extended for {ttl:?}");
    assert_eq!(lease.term, 2);
    assert_eq!(patiently!(a.lease("notary", ttl)).unwrap(), None, "who comes back finds it taken");
}

pub(crate) async fn of_16_contenders_one_holds(room: Room) {
    let mut nodes = Vec::new();
    for number in 1..=16 {
        nodes.push(room.node(number).await);
    }
    for round in 1..=4 {
        let attempts: Vec<_> =
            nodes.iter().cloned().map(|node| tokio::spawn(async move { patiently!(node.lease("refresh", LONG)) })).collect();
        let mut held = Vec::new();
        for (index, attempt) in attempts.into_iter().enumerate() {
            held.extend(attempt.await.unwrap().unwrap().map(|lease| (index, lease.term)));
        }
        assert_eq!(held.len(), 1, "in round {round}: {held:?}");
        assert_eq!(held[0].1, round);
        patiently!(nodes[held[0].0].release("refresh")).unwrap();
    }
}

pub(crate) async fn a_name_that_is_none_is_refused(room: Room) {
    let node = room.node(1).await;
    for name in ["", "a.b", "A", "a b", "ü", ">", &"a".repeat(65)] {
        let refused = CoordinationError::Name { name: name.to_owned() };
        assert_eq!(node.lease(name, LONG).await.unwrap_err(), refused);
        assert_eq!(node.release(name).await.unwrap_err(), refused);
        assert_eq!(node.add(name, 1, 1).await.unwrap_err(), refused);
        assert_eq!(node.total(name).await.unwrap_err(), refused);
        assert_eq!(node.put(name, Bytes::new(), LONG).await.unwrap_err(), refused);
        assert_eq!(node.get(name).await.unwrap_err(), refused);
    }
}
