//! Soft state: there for all, and gone by itself.

use std::time::{Duration, Instant};

use bytes::Bytes;
use coordination::{CoordinationError, SOFT_BYTES_MAX};

use crate::backend::{Room, patiently, until};

pub(crate) async fn others_see_soft_state_until_its_end(room: Room) {
    let (a, b) = (room.node(1).await, room.node_with_clock(2, 3600).await);
    assert_eq!(patiently!(a.get("cooldown")).unwrap(), None);
    patiently!(a.put("cooldown", Bytes::from_static(b"first"), Duration::from_secs(600))).unwrap();
    assert_eq!(patiently!(b.get("cooldown")).unwrap().as_deref(), Some(&b"first"[..]));

    let ttl = Duration::from_millis(2500);
    let begin = Instant::now();
    patiently!(a.put("cooldown", Bytes::from_static(b"second"), ttl)).unwrap();
    let seen = patiently!(b.get("cooldown")).unwrap();
    assert!(seen.as_deref() == Some(b"second") || begin.elapsed() >= ttl, "{seen:?}");
    for node in [&a, &b] {
        until("the end of soft state", async || patiently!(node.get("cooldown")).unwrap().is_none().then_some(())).await;
        assert!(begin.elapsed() >= ttl, "gone after {:?}", begin.elapsed());
        assert!(begin.elapsed() < ttl + Duration::from_secs(20), "there for {:?}", begin.elapsed());
    }
}

pub(crate) async fn a_large_value_is_refused(room: Room) {
    let node = room.node(1).await;
    let ttl = Duration::from_secs(60);
    let largest = Bytes::from(vec![7; SOFT_BYTES_MAX]);
    patiently!(node.put("large", largest.clone(), ttl)).unwrap();
    assert_eq!(patiently!(node.get("large")).unwrap(), Some(largest));
    let larger = node.put("large", Bytes::from(vec![7; SOFT_BYTES_MAX + 1]), ttl).await.unwrap_err();
    assert_eq!(larger, CoordinationError::TooLarge { name: "large".to_owned(), bytes_max: SOFT_BYTES_MAX });
}
