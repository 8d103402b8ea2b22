//! A refresher in a runtime of its own, which a test kills: what it was doing ends wherever it waits, as in a process that dies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::refresh::{RefreshTimes, Refresher, RefresherParts};
use control::{Clock, Metrics};
use coordination::LocalCoordination;
use prometheus_client::registry::Registry;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::fake_provider::FakeProvider;
use crate::world::Node;

pub(super) struct Process {
    runtime: Option<Runtime>,
    folder: PathBuf,
}

impl Process {
    /// Each process has leases of its own here, as if the cluster's had been lost and taken at once by all.
    pub(super) fn start(node: &Node, data: &Path, clock: Clock, provider: Arc<FakeProvider>, times: RefreshTimes) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let parts = RefresherParts {
            commands: node.commands.clone(),
            models: node.models.clone(),
            vault: node.vault.clone(),
            coordination: Arc::new(LocalCoordination::new(node.id, clock.clone())),
            provider,
            clock,
            metrics: Metrics::register(&mut Registry::default()),
            data: data.to_owned(),
            times,
        };
        let refresher = Refresher::open(parts, CancellationToken::new()).unwrap();
        runtime.spawn(refresher.run());
        Self { runtime: Some(runtime), folder: data.join("refresh") }
    }

    pub(super) async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
    }

    fn kept(&self) -> usize {
        let is_whole = |name: &std::ffi::OsStr| ![".partial", ".sending"].iter().any(|end| name.to_string_lossy().ends_with(end));
        std::fs::read_dir(&self.folder).unwrap().filter(|entry| is_whole(&entry.as_ref().unwrap().file_name())).count()
    }

    async fn until(&self, holds: impl Fn(usize) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds(self.kept()) {
            assert!(Instant::now() < deadline, "{} files are kept", self.kept());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until an answer lies in a file.
    pub(super) async fn answer_kept(&self) {
        self.until(|kept| kept > 0).await;
    }

    /// Waits until no file is left.
    pub(super) async fn nothing_kept(&self) {
        self.until(|kept| kept == 0).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
