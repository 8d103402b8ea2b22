//! Counters: exact, whoever adds at once and however often an addition is sent.

use crate::backend::{Room, patiently};

pub(crate) async fn additions_are_exact_under_concurrency(room: Room) {
    const NODES: u64 = 8;
    const ADDITIONS: u64 = 40;
    let mut adding = Vec::new();
    for number in 0..NODES {
        let node = room.node(number as u8).await;
        adding.push(tokio::spawn(async move {
            let mut totals = Vec::new();
            for addition in 0..ADDITIONS {
                let id = u128::from(number * ADDITIONS + addition);
                totals.push(patiently!(node.add("spent", number + 1, id)).unwrap());
            }
            totals
        }));
    }
    let mut totals = Vec::new();
    for node in adding {
        let of_one = node.await.unwrap();
        assert!(of_one.is_sorted_by(|earlier, later| earlier < later), "{of_one:?}");
        totals.extend(of_one);
    }
    totals.sort_unstable();
    totals.dedup();
    assert_eq!(totals.len() as u64, NODES * ADDITIONS, "every addition has a total of its own");
    let all = ADDITIONS * NODES * (NODES + 1) / 2;
    assert_eq!(totals.last(), Some(&all));
    assert_eq!(patiently!(room.node(9).await.total("spent")).unwrap(), all);
}

pub(crate) async fn an_addition_that_is_sent_again_counts_once(room: Room) {
    let (a, b) = (room.node(1).await, room.node(2).await);
    assert_eq!(patiently!(a.add("spent", 5, 1)).unwrap(), 5);
    assert_eq!(patiently!(b.add("spent", 2, 2)).unwrap(), 7);
    // The server's answer to a duplicate has no total; it is that of the first.
    assert_eq!(patiently!(a.add("spent", 5, 1)).unwrap(), 5);
    assert_eq!(patiently!(b.add("spent", 5, 1)).unwrap(), 5);

    let at_once: Vec<_> = [&a, &b]
        .into_iter()
        .cycle()
        .take(16)
        .cloned()
        .map(|node| tokio::spawn(async move { patiently!(node.add("spent", 3, 3)) }))
        .collect();
    for addition in at_once {
        assert_eq!(addition.await.unwrap().unwrap(), 10);
    }
    assert_eq!(patiently!(a.total("spent")).unwrap(), 10);
}

pub(crate) async fn counters_are_apart(room: Room) {
    let node = room.node(1).await;
    assert_eq!(patiently!(node.total("a")).unwrap(), 0);
    assert_eq!(patiently!(node.add("a", 0, 1)).unwrap(), 0);
    assert_eq!(patiently!(node.add("a", 1 << 60, 2)).unwrap(), 1 << 60);
    assert_eq!(patiently!(node.add("b", 1, 2)).unwrap(), 1, "an id belongs to a counter");
    assert_eq!(patiently!(node.total("a")).unwrap(), 1 << 60);
    assert_eq!(patiently!(node.total("b")).unwrap(), 1);
}
