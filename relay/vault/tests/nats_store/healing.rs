//! A server loses what it acknowledged, and the nodes put it back.

use super::*;

/// A server whose data can be taken back to what it was when this was made.
struct Forgetful {
    cluster: Cluster,
    copied: tempfile::TempDir,
}

impl Forgetful {
    /// The nodes are level again afterwards.
    fn remember(mut cluster: Cluster, nodes: &[&Node]) -> Self {
        let copied = tempdir().unwrap();
        restart(&mut cluster, nodes, |server| server.copy_store(&copied.path().join("store")).unwrap());
        Self { cluster, copied }
    }

    /// The nodes are level again afterwards, and may still be putting back.
    fn forget(&mut self, nodes: &[&Node]) {
        restart(&mut self.cluster, nodes, |server| server.roll_back_to(&self.copied.path().join("store")).unwrap());
    }
}

fn restart(cluster: &mut Cluster, nodes: &[&Node], meanwhile: impl FnOnce(&Server)) {
    cluster.server(0).stop().unwrap();
    for node in nodes {
        node.wait("the connection is lost", |mirrored| mirrored.revision.is_none());
    }
    meanwhile(cluster.server(0));
    cluster.server(0).run().unwrap();
    cluster.wait_ready().unwrap();
    for node in nodes {
        node.wait("level", |mirrored| mirrored.is_level);
    }
}

/// What a node without a mirror finds in the bucket.
fn fresh(cluster: &Cluster) -> (Node, tempfile::TempDir) {
    let dir = tempdir().unwrap();
    (Node::level(&cluster.url(), dir.path(), 1), dir)
}

#[test]
fn what_the_server_lost_is_put_back_once_by_two_nodes_at_once() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let [one, two] = ["one", "two"].map(|name| Node::level(&cluster.url(), &dir.path().join(name), 1));
    put(&one, 1, b"before");
    swap(&one, 1, None, Some(b"before"));
    put(&one, 2, b"to be deleted");
    swap(&one, 2, None, Some(b"to be deleted"));
    let mut server = Forgetful::remember(cluster, &[&one, &two]);
    swap(&one, 1, Some(b"before"), Some(b"after"));
    swap(&one, 2, Some(b"to be deleted"), None);
    one.store.delete_sealed(&slot(2), b"to be deleted").unwrap();
    for id in 3..103 {
        put(&one, id, &[id; 50]);
        swap(&one, id, None, Some(&[id; 60]));
    }
    // Four entries, three changes, and the hundred twos.
    let last = Some(4 + 3 + 200);
    one.wait("followed", |mirrored| mirrored.revision == last);
    two.wait("followed", |mirrored| mirrored.revision == last);
    server.forget(&[&one, &two]);

    let healed = |node: &Node| (node.store.mirrored().put_back, node.store.mirrored().erased_again);
    until("everything is back", || {
        let ((put_one, erased_one), (put_two, erased_two)) = (healed(&one), healed(&two));
        (put_one + put_two, erased_one + erased_two) == (201, 2)
    });
    let (fresh, _dir) = fresh(&server.cluster);
    for node in [&one, &two, &fresh] {
        assert_eq!(wrapped(node, 1).unwrap(), b"after");
        assert_eq!((sealed(node, 2), wrapped(node, 2)), (None, None));
        for id in 3..103 {
            assert_eq!(sealed(node, id).unwrap(), [id; 50]);
            assert_eq!(wrapped(node, id).unwrap(), [id; 60]);
        }
        assert_eq!(node.store.scan(Entry::Sealed, None, 1000).unwrap().len(), 101);
    }
    // Neither more nor again: the next comparison finds nothing to do.
    restart(&mut server.cluster, &[&one, &two, &fresh], |_| {});
    assert_eq!(healed(&one).0 + healed(&two).0, 201);
    assert_eq!(healed(&fresh), (0, 0));
    [one, two, fresh].into_iter().for_each(Node::stop);
}

#[test]
fn a_bucket_that_is_gone_is_filled_again() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let mut server = Forgetful::remember(cluster, &[]);
    let node = Node::level(&server.cluster.url(), dir.path(), 1);
    let vault = Vault::open(RootKey::generate().unwrap(), node.store.clone()).unwrap();
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    server.forget(&[&node]);
    node.wait("put back", |mirrored| mirrored.put_back == 4);
    let (fresh, _dir) = fresh(&server.cluster);
    assert_eq!(sealed(&fresh, 1), sealed(&node, 1));
    assert_eq!(**vault.unseal(&address(1)).unwrap(), b"sk-secret"[..]);
    drop(vault);
    [fresh, node].into_iter().for_each(Node::stop);
}

#[test]
fn an_erased_entry_does_not_come_back_from_a_node_that_was_away() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let paths = ["one", "two"].map(|name| dir.path().join(name));
    let [one, two] = paths.each_ref().map(|path| Node::level(&cluster.url(), path, 1));
    let mut server = Forgetful::remember(cluster, &[&one, &two]);
    let content: Vec<u8> = (0..=255).collect();
    put(&one, 1, &content);
    swap(&one, 1, None, Some(&content));
    two.wait("followed", |mirrored| mirrored.revision == Some(2));
    two.stop();
    swap(&one, 1, Some(&content), None);
    one.store.delete_sealed(&slot(1), &content).unwrap();
    one.stop();
    // The server knows of neither. First comes the node that saw the entry and not that it was erased.
    server.forget(&[]);
    let two = Node::level(&server.cluster.url(), &paths[1], 1);
    two.wait("it puts back what it knows", |mirrored| mirrored.put_back == 2);
    let one = Node::level(&server.cluster.url(), &paths[0], 1);
    one.wait("it knows better", |mirrored| mirrored.erased_again == 2);
    until("erased on the other too", || sealed(&two, 1).is_none() && wrapped(&two, 1).is_none());
    until("and in no file", || !holds(&paths[1], &content));
    // Nor does it come back when the server forgets once more, whoever is first.
    server.forget(&[&one, &two]);
    let (fresh, _dir) = fresh(&server.cluster);
    for node in [&one, &two, &fresh] {
        assert_eq!((sealed(node, 1), wrapped(node, 1)), (None, None));
    }
    [one, two, fresh].into_iter().for_each(Node::stop);
}

#[test]
fn what_was_written_after_the_loss_is_not_taken_back() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let paths = ["one", "two"].map(|name| dir.path().join(name));
    let [one, two] = paths.each_ref().map(|path| Node::level(&cluster.url(), path, 1));
    let mut server = Forgetful::remember(cluster, &[&one, &two]);
    for n in 0_u8..10 {
        swap(&one, 1, (n > 0).then(|| [n.saturating_sub(1); 9]).as_ref().map(|from| &from[..]), Some(&[n; 9]));
    }
    swap(&one, 1, Some(&[9; 9]), None);
    until("followed", || wrapped(&two, 1).is_none() && two.store.mirrored().revision == Some(11));
    one.stop();
    two.stop();
    server.forget(&[]);
    // A node that never heard of it writes there, at a lower revision than the others remember.
    let (fresh, _dir) = fresh(&server.cluster);
    swap(&fresh, 1, None, Some(b"anew"));
    let [one, two] = paths.each_ref().map(|path| Node::level(&server.cluster.url(), path, 1));
    for node in [&one, &two, &fresh] {
        assert_eq!(wrapped(node, 1).unwrap(), b"anew");
    }
    [one, two, fresh].into_iter().for_each(Node::stop);
}

#[test]
fn a_call_meets_the_loss_before_the_comparison_does() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let node = Node::level(&cluster.url(), dir.path(), 1);
    let mut server = Forgetful::remember(cluster, &[&node]);
    swap(&node, 1, None, Some(b"first"));
    put(&node, 1, b"one");
    server.forget(&[]);
    // At once, whether it is healed yet or not.
    let retried = |call: &dyn Fn() -> Result<bool, StoreError>| loop {
        match call() {
            Err(StoreError::Unavailable { .. }) => {}
            done => return done.unwrap(),
        }
    };
    assert_eq!(wrapped(&node, 1).unwrap(), b"first");
    assert!(retried(&|| Ok(node.store.swap_wrapped(&slot(1), None, Some(b"other"))? == Swap::Conflict)));
    assert!(retried(&|| Ok(node.store.swap_wrapped(&slot(1), Some(b"first"), Some(b"second"))? == Swap::Swapped)));
    assert!(retried(&|| Ok(node.store.put_sealed(&slot(1), b"other")? == Put::Exists)));
    assert_eq!((sealed(&node, 1).unwrap(), wrapped(&node, 1).unwrap()), (b"one".to_vec(), b"second".to_vec()));
    node.stop();
}

#[test]
fn what_a_single_node_held_is_carried_into_the_bucket() {
    let (cluster, dir, root) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap(), RootKey::generate().unwrap());
    {
        let alone = RocksKeyStore::open(&dir.path().join("keys")).unwrap();
        let vault = Vault::open(RootKey::parse(&root.text()).unwrap(), std::sync::Arc::new(alone)).unwrap();
        assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    }
    let node = Node::level(&cluster.url(), dir.path(), 1);
    node.wait("carried over", |mirrored| mirrored.put_back == 4);
    let (fresh, _dir) = fresh(&cluster);
    let vault = Vault::open(root, fresh.store.clone()).unwrap();
    assert_eq!(**vault.unseal(&address(1)).unwrap(), b"sk-secret"[..]);
    drop(vault);
    [node, fresh].into_iter().for_each(Node::stop);
}

#[test]
fn a_mirror_that_was_away_for_too_long_drops_what_it_alone_holds() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let node = Node::level(&cluster.url(), dir.path(), 1);
    put(&node, 1, b"in the bucket");
    let mut server = Forgetful::remember(cluster, &[&node]);
    let content: Vec<u8> = (0..=255).collect();
    put(&node, 2, &content);
    node.stop();
    {
        let mirror = rocksdb::DB::open_default(dir.path().join("keys")).unwrap();
        let level_at = u64::from_be_bytes(mirror.get(b"\0level").unwrap().unwrap().try_into().unwrap());
        mirror.put(b"\0level", (level_at - 31 * 24 * 3600).to_be_bytes()).unwrap();
    }
    server.forget(&[]);
    assert!(holds(dir.path(), &content));
    let node = Node::level(&server.cluster.url(), dir.path(), 1);
    assert_eq!((sealed(&node, 1).unwrap(), sealed(&node, 2)), (b"in the bucket".to_vec(), None));
    until("it is in no file", || !holds(dir.path(), &content));
    assert_eq!(node.store.mirrored().put_back, 0);
    node.stop();
}
