//! The task that keeps comparing.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{COMPARE_INTERVAL, Shared, WitnessedLog};
use crate::contract::{RUN_RECORDS_MAX, ReadError};
use crate::storage::StorageError;

impl WitnessedLog {
    /// Compares the log at once, on each change of `reconnects` and every [`COMPARE_INTERVAL`], and between these reads what is to be remembered
    /// and has not passed by. Returns when it is cancelled.
    pub async fn run(&self, cancel: CancellationToken, mut reconnects: watch::Receiver<u64>) {
        reconnects.mark_unchanged();
        // Without a sender there are no reconnects to hear of.
        let mut reconnected = async || {
            if reconnects.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        loop {
            // Dropped where the connection is new: what was seen before it proves nothing, and appends are exact when repeated.
            let round = async {
                self.shared.compare().await;
                let pause = self.shared.sweep().await;
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.shared.nudge.notified() => {}
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = reconnected() => self.shared.doubt(),
                () = round => {}
            }
        }
    }
}

impl Shared {
    /// Reads what was not compared since the last reconnect, run by run, for at most [`COMPARE_INTERVAL`]. Returns how long to wait then.
    async fn sweep(&self) -> Duration {
        let begin = Instant::now();
        while self.is_trusted() {
            let Some(from) = self.index.lock().unchecked() else { return COMPARE_INTERVAL };
            if begin.elapsed() >= COMPARE_INTERVAL {
                return Duration::ZERO;
            }
            match self.ask(self.log.read_range(from, RUN_RECORDS_MAX)).await {
                // A contradiction has called for a comparison already.
                Ok(run) if run.first().is_some_and(|first| first.sequence == from) && self.pass(&run).await.is_ok() => {}
                Ok(_) | Err(ReadError::Storage(StorageError::Damage(_))) => self.suspect(),
                Err(_) => return COMPARE_INTERVAL,
            }
        }
        COMPARE_INTERVAL
    }
}
