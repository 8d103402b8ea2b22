//! Writes that nobody answered, and calls from threads that must not block.

use super::proxy::Proxy;
use super::*;

#[test]
fn a_write_whose_answer_was_lost_is_looked_up_and_answered_as_what_it_was() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let proxy = Proxy::start(&cluster.servers()[0].url());
    let node = Node::level(&proxy.url, dir.path(), 1);
    let cut = || {
        node.wait("connected and level", |mirrored| mirrored.is_level);
        proxy.cut_after_writes(1);
    };
    cut();
    put(&node, 1, b"one");
    assert_eq!(proxy.cuts_left(), 0, "the answer was cut off");
    assert_eq!(node.store.put_sealed(&slot(1), b"one").unwrap(), Put::Exists);
    cut();
    swap(&node, 1, None, Some(b"first"));
    cut();
    swap(&node, 1, Some(b"first"), Some(b"second"));
    assert_eq!(wrapped(&node, 1).unwrap(), b"second");
    cut();
    swap(&node, 1, Some(b"second"), None);
    cut();
    node.store.delete_sealed(&slot(1), b"one").unwrap();
    assert_eq!(proxy.cuts_left(), 0);
    assert_eq!((sealed(&node, 1), wrapped(&node, 1)), (None, None));
    node.stop();
}

#[test]
fn a_call_from_the_only_thread_of_a_runtime_is_answered() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mirror = RocksKeyStore::open(&dir.path().join("keys")).unwrap();
    let url = cluster.url();
    runtime
        .block_on(runtime.spawn(async move {
            let client = async_nats::connect(url).await.unwrap();
            let store = vault::NatsKeyStore::open(client, mirror, 1).await.unwrap();
            let (running, cancel) = (store.clone(), tokio_util::sync::CancellationToken::new());
            let stop = cancel.clone();
            let run = tokio::runtime::Handle::current().spawn(async move { running.run(stop).await });
            let vault = Vault::open(RootKey::generate().unwrap(), store).unwrap();
            assert_eq!(vault.seal(&address(1), b"sk-secret", LASTING).unwrap(), Sealing::Sealed);
            assert_eq!(**vault.unseal(&address(1)).unwrap(), b"sk-secret"[..]);
            cancel.cancel();
            run.await.unwrap();
        }))
        .unwrap();
}

#[test]
fn a_runtime_that_cannot_go_on_meanwhile_gets_an_answer_too() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mirror = RocksKeyStore::open(&dir.path().join("keys")).unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(cluster.url()).await.unwrap();
        let store = vault::NatsKeyStore::open(client, mirror, 1).await.unwrap();
        let begin = Instant::now();
        assert!(matches!(store.put_sealed(&slot(1), b"one"), Err(StoreError::Unavailable { .. })));
        assert!(begin.elapsed() < vault::nats_store::OPERATION_WAIT + Duration::from_secs(3));
    });
}
