//! NATS is away.

use super::*;

fn is_unavailable<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable { .. }))
}

#[test]
fn reads_go_on_from_the_mirror_and_writes_are_unavailable_within_the_bound() {
    let (mut cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let node = Node::level(&cluster.url(), dir.path(), 1);
    put(&node, 1, b"one");
    swap(&node, 1, None, Some(b"first"));
    swap(&node, 1, Some(b"first"), Some(b"second"));
    swap(&node, 2, None, Some(b"erased"));
    swap(&node, 2, Some(b"erased"), None);
    cluster.server(0).kill().unwrap();
    node.wait("the connection is lost", |mirrored| !mirrored.is_level);

    let begin = Instant::now();
    assert_eq!(sealed(&node, 1).unwrap(), b"one");
    assert_eq!(wrapped(&node, 1).unwrap(), b"second");
    assert_eq!(wrapped(&node, 2), None, "known to be erased");
    assert_eq!(node.store.scan(Entry::Wrapped, None, 9).unwrap(), [(slot(1), b"second".to_vec())]);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());

    let bound = vault::nats_store::OPERATION_WAIT + Duration::from_secs(3);
    let bounded = |call: &dyn Fn() -> bool| {
        let begin = Instant::now();
        assert!(call());
        assert!(begin.elapsed() < bound, "{:?}", begin.elapsed());
    };
    bounded(&|| is_unavailable(node.store.put_sealed(&slot(3), b"three")));
    bounded(&|| is_unavailable(node.store.swap_wrapped(&slot(1), Some(b"second"), Some(b"third"))));
    bounded(&|| is_unavailable(node.store.delete_sealed(&slot(1), b"one")));
    bounded(&|| is_unavailable(node.store.read(Entry::Sealed, &slot(3))));
    bounded(&|| is_unavailable(node.store.owner_slots(&slot(1).tenant, "credential", &[1; 16])));

    cluster.server(0).run().unwrap();
    node.wait("level again", |mirrored| mirrored.is_level);
    assert_eq!(sealed(&node, 3), None, "what was unavailable was not done later");
    put(&node, 3, b"three");
    node.stop();
}

#[test]
fn a_server_that_stands_still_makes_writes_unavailable_within_the_bound() {
    let (mut cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let node = Node::level(&cluster.url(), dir.path(), 1);
    put(&node, 1, b"one");
    swap(&node, 1, None, Some(b"first"));
    cluster.server(0).pause().unwrap();
    let begin = Instant::now();
    assert!(is_unavailable(node.store.swap_wrapped(&slot(1), Some(b"first"), Some(b"second"))));
    assert!(begin.elapsed() < vault::nats_store::OPERATION_WAIT + Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(wrapped(&node, 1).unwrap(), b"first", "the mirror answers");
    cluster.server(0).resume().unwrap();
    node.wait("level again", |mirrored| mirrored.is_level);
    assert_eq!(wrapped(&node, 1).unwrap(), b"first");
    node.stop();
}

#[test]
fn a_node_starts_from_its_mirror_and_an_empty_one_claims_nothing() {
    let (mut cluster, dir, root) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap(), RootKey::generate().unwrap());
    let again = || RootKey::parse(&root.text()).unwrap();
    let node = Node::level(&cluster.url(), &dir.path().join("one"), 1);
    let vault = Vault::open(again(), node.store.clone()).unwrap();
    assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
    let fingerprint = vault.fingerprint(b"sk-secret");
    drop(vault);
    node.stop();
    cluster.server(0).kill().unwrap();

    let node = Node::start(&cluster.url(), &dir.path().join("one"), 1);
    let vault = Vault::open(again(), node.store.clone()).unwrap();
    assert_eq!(**vault.unseal(&address(1)).unwrap(), b"sk-secret"[..]);
    assert_eq!(vault.fingerprint(b"sk-secret"), fingerprint);
    assert!(matches!(vault.unseal(&address(2)), Err(UnsealError::Store(StoreError::Unavailable { .. }))));
    assert!(matches!(vault.seal(&address(2), b"x", LASTING), Err(vault::SealError::Store(StoreError::Unavailable { .. }))));

    let empty = Node::start(&cluster.url(), &dir.path().join("two"), 1);
    let opened = Vault::open(again(), empty.store.clone());
    assert!(matches!(opened, Err(vault::OpenError::Store(StoreError::Unavailable { .. }))), "no pepper is drawn");
    empty.stop();
    drop(vault);
    node.stop();
}
