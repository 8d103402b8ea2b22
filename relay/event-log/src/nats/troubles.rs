//! What to do about shipping that fails: how long to wait, and what to tell.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::remote::Remote;

/// The pause after a failure, doubled with each further one, up to the most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a connection is looked for while there is none.
const CONNECTION_PAUSE: Duration = Duration::from_millis(100);
/// How often a failure that lasts is told again.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// A run of failures: how long to wait, and what to tell.
pub(crate) struct Troubles {
    /// What is not shipped.
    what: &'static str,
    count: u32,
    reported: Option<Instant>,
}

impl Troubles {
    pub(crate) const fn of(what: &'static str) -> Self {
        Self { what, count: 0, reported: None }
    }

    pub(crate) fn tell(&mut self, error: &(dyn std::error::Error + 'static)) {
        if self.reported.is_none_or(|reported| reported.elapsed() >= REPORT_EVERY) {
            tracing::warn!(error, "{} cannot be shipped; it stays in the spool", self.what);
            self.reported = Some(Instant::now());
        }
    }

    /// Waits out a failure: a growing while with chance in it, so that nodes do not come back in step, or until there is a connection again.
    pub(crate) async fn wait(&mut self, remote: &Remote) {
        if !remote.is_connected() {
            while !remote.is_connected() {
                sleep(CONNECTION_PAUSE).await;
            }
            // The failures before were those of another connection.
            self.count = 0;
            sleep(with_chance(PAUSE_MIN)).await;
            return;
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.count.min(10)).min(PAUSE_MAX);
        self.count += 1;
        sleep(with_chance(pause)).await;
    }

    pub(crate) fn end(&mut self) {
        if self.reported.is_some() {
            tracing::info!("{} is shipped again", self.what);
        }
        *self = Self::of(self.what);
    }
}

/// Between half of a pause and all of it.
pub(crate) fn with_chance(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without chance the pause is a fixed one, which is no fault.
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause / 2 * u32::from(byte[0]) / 255
}
