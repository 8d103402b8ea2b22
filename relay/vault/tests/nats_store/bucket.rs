//! What a node makes of a bucket that is not its own.

use super::*;

#[test]
fn a_bucket_that_differs_is_refused_and_the_difference_told() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(cluster.url()).await.unwrap());
        let config = async_nats::jetstream::kv::Config { bucket: vault::nats_store::BUCKET.to_owned(), history: 5, ..Default::default() };
        context.create_key_value(config).await.unwrap();
    });
    let refused = Node::open(&cluster.url(), dir.path(), 1).err().unwrap().to_string();
    assert!(refused.contains("max_messages_per_subject is 5 and should be 1"), "{refused}");
}

#[test]
fn a_node_of_another_cluster_takes_nothing_and_leaves_nothing() {
    let clusters = [Cluster::start(1, Sync::Default).unwrap(), Cluster::start(1, Sync::Default).unwrap()];
    let dir = tempdir().unwrap();
    let paths = ["one", "two"].map(|name| dir.path().join(name));
    for (cluster, (path, id)) in clusters.iter().zip(paths.iter().zip([1, 2])) {
        let node = Node::level(&cluster.url(), path, 1);
        let vault = Vault::open(RootKey::generate().unwrap(), node.store.clone()).unwrap();
        assert_eq!(vault.seal(&address(id), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
        drop(vault);
        node.stop();
    }
    let stray = Node::start(&clusters[1].url(), &paths[0], 1);
    stray.wait("the bucket is refused", |mirrored| mirrored.is_refused);
    assert_eq!(sealed(&stray, 9), None, "calls are answered");
    assert_eq!(stray.store.mirrored().put_back, 0);
    stray.stop();
    let home = Node::level(&clusters[1].url(), &paths[1], 1);
    assert_eq!(home.store.scan(Entry::Sealed, None, 9).unwrap().len(), 2, "the pepper and one secret");
    home.stop();
}

#[test]
fn the_bucket_is_one_that_other_clients_can_read() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let node = Node::level(&cluster.url(), dir.path(), 1);
    put(&node, 1, b"one");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let found = runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(cluster.url()).await.unwrap());
        let bucket = context.get_key_value(vault::nats_store::BUCKET).await.unwrap();
        bucket.get("a.credential.01010101010101010101010101010101.secret.1.s").await.unwrap()
    });
    assert_eq!(found.unwrap(), &b"one"[..]);
    node.stop();
}

#[test]
fn a_bucket_of_many_entries_comes_level_in_one_go() {
    // More than two batches of what is taken from a subscription at once.
    const ENTRIES: u32 = 3_000;
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let paths = ["one", "two"].map(|name| dir.path().join(name));
    let first = Node::level(&cluster.url(), &paths[0], 1);
    for version in 1..=ENTRIES {
        let slot = Slot { version, ..slot(1) };
        assert_eq!(first.store.put_sealed(&slot, b"sealed").unwrap(), Put::Stored);
    }
    let second = Node::level(&cluster.url(), &paths[1], 1);
    assert_eq!(second.store.scan(Entry::Sealed, None, usize::MAX).unwrap().len(), ENTRIES as usize);
    second.stop();
    first.stop();
}
