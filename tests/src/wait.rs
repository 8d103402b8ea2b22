//! Waiting for something that happens elsewhere, under a deadline.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, timeout};

/// How long a test waits for anything before it says that it never came.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often something is asked that cannot tell by itself.
const PACE: Duration = Duration::from_millis(20);

/// Waits for a future, at most [`PATIENCE`].
pub async fn for_future<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    timeout(PATIENCE, future).await.with_context(|| format!("{what}: did not come within {PATIENCE:?}"))
}

/// Asks again until there is an answer, at most [`PATIENCE`].
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(what: &str, ask: impl FnMut() -> F) -> Result<T> {
    until_within(PATIENCE, what, ask).await
}

/// As [`until`], where something takes longer or must not.
pub async fn until_within<T, F: Future<Output = Result<Option<T>>>>(most: Duration, what: &str, mut ask: impl FnMut() -> F) -> Result<T> {
    let mut pace = tokio::time::interval(PACE);
    let deadline = Instant::now() + most;
    loop {
        pace.tick().await;
        if let Some(answer) = ask().await.with_context(|| what.to_owned())? {
            return Ok(answer);
        }
        anyhow::ensure!(Instant::now() < deadline, "{what}: did not come within {most:?}");
    }
}

/// Waits until a counter has stood still for a while, and says where.
pub async fn until_still(mut read: impl FnMut() -> u64) -> u64 {
    /// So many equal readings in a row count as standing still: one second.
    const STILL_READINGS: u32 = 50;
    let mut pace = tokio::time::interval(PACE);
    let (mut last, mut equal) = (read(), 0);
    while equal < STILL_READINGS {
        pace.tick().await;
        let now = read();
        equal = if now == last { equal + 1 } else { 0 };
        last = now;
    }
    last
}
