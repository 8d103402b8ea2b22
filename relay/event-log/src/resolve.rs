//! Appending until the outcome is known.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use crate::contract::{AppendError, Appended, EventLog, Expect};

/// The first wait after an unknown outcome; each further one is twice as long ...
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
/// ... up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Appends a record, and appends it again while the outcome is unknown, until the deadline.
///
/// `Unknown` comes back only if the outcome still is unknown at the deadline, or if the log fails or closes while it is; a log that cannot be
/// reached is asked again, since it may have taken the record before it went away. The caller then owes the subject a later call with the
/// same arguments before anything else is appended to it. An error comes back only if it is certain that nothing was stored.
pub async fn append_resolving(
    log: &dyn EventLog,
    subject: &str,
    expect: Expect,
    record: Bytes,
    deadline: Instant,
) -> Result<Appended, AppendError> {
    let mut outcome = log.append(subject, expect, record.clone()).await;
    let mut back_off = BACK_OFF_MIN;
    while outcome == Ok(Appended::Unknown) {
        let next_attempt = Instant::now() + back_off;
        if next_attempt >= deadline {
            break;
        }
        sleep_until(next_attempt).await;
        back_off = (back_off * 2).min(BACK_OFF_MAX);
        // An error says that this attempt stored nothing; about the attempt before, it says nothing.
        outcome = match log.append(subject, expect, record.clone()).await {
            Ok(outcome) => Ok(outcome),
            Err(AppendError::Unavailable { .. }) => Ok(Appended::Unknown),
            Err(_) => return Ok(Appended::Unknown),
        };
    }
    outcome
}
