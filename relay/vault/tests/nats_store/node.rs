//! A node's key store over NATS, with a runtime of its own as a process has.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vault::{Mirrored, NatsKeyStore, OpenNatsStoreError, RocksKeyStore};

const WAIT: Duration = Duration::from_secs(90);

pub(crate) struct Node {
    pub(crate) store: Arc<NatsKeyStore>,
    run: JoinHandle<()>,
    cancel: CancellationToken,
    runtime: Runtime,
}

impl Node {
    /// Opens and runs the store with its mirror in `dir`. NATS may be away.
    pub(crate) fn start(url: &str, dir: &Path, replicas: usize) -> Self {
        Self::open(url, dir, replicas).unwrap()
    }

    pub(crate) fn open(url: &str, dir: &Path, replicas: usize) -> Result<Self, OpenNatsStoreError> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mirror = RocksKeyStore::open(&dir.join("keys")).unwrap();
        let store = runtime.block_on(async {
            let servers: Vec<&str> = url.split(',').collect();
            let options = ConnectOptions::new().retry_on_initial_connect().reconnect_delay_callback(|_| Duration::from_millis(50));
            let client = options.connect(servers).await.unwrap();
            // A client that retries from the start gives no word of its first connection.
            for _ in 0..100 {
                if client.connection_state() == async_nats::connection::State::Connected {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            NatsKeyStore::open(client, mirror, replicas).await
        })?;
        let (cancel, running) = (CancellationToken::new(), Arc::clone(&store));
        let stop = cancel.clone();
        let run = runtime.spawn(async move { running.run(stop).await });
        Ok(Self { store, run, cancel, runtime })
    }

    /// As [`Node::start`], and waits until the mirror is level.
    pub(crate) fn level(url: &str, dir: &Path, replicas: usize) -> Self {
        let node = Self::start(url, dir, replicas);
        node.wait("the mirror is level", |mirrored| mirrored.is_level);
        node
    }

    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(Mirrored) -> bool) {
        until(what, || is_so(self.store.mirrored()));
    }

    /// Ends the task and lets go of the mirror. Nobody else may hold the store.
    pub(crate) fn stop(self) {
        self.cancel.cancel();
        self.runtime.block_on(self.run).unwrap();
        assert_eq!(Arc::strong_count(&self.store), 1, "the store is still in use");
        drop(self.store);
        self.runtime.shutdown_timeout(Duration::from_secs(10));
    }
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < WAIT, "not so after {WAIT:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
