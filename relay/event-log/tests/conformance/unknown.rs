//! Outcomes that stay unknown, kept and not kept, and how they are resolved.

use std::time::Duration;

use event_log::faults::Fault::{self, Kept, NotKept};
use event_log::testing::Flaky;
use event_log::{Appended, EventLog, append_resolving};
use schemas::Sequence;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::records::{SUBJECT, appended, bytes, conflict, last};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) async fn an_unknown_outcome_is_resolved_by_appending_again(backend: &Backend) {
    let log = backend.open().await;
    let flaky = Flaky::new(log.clone());
    // The faults, and whether one of the attempts under them stored the record.
    let table: [(&[Fault], bool); 5] =
        [(&[], false), (&[NotKept], false), (&[Kept], true), (&[NotKept, Kept, NotKept], true), (&[Kept, Kept], true)];
    for (n, (faults, is_kept)) in (0..).zip(table) {
        flaky.fail_next(faults.iter().copied());
        let outcome = if is_kept { Appended::AlreadyAppended(Sequence(n + 1)) } else { appended(n + 1) };
        let resolved = append_resolving(&flaky, SUBJECT, last(n), bytes(n.to_string()), soon()).await;
        assert_eq!(resolved, Ok(outcome), "{faults:?}");
    }
    let texts: Vec<_> = log.read_range(Sequence(1), 10).await.unwrap().into_iter().map(|stored| stored.bytes).collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4"]);

    // Another writer took the place meanwhile.
    flaky.fail_next([NotKept]);
    assert_eq!(flaky.append(SUBJECT, last(5), bytes("ours")).await, Ok(Appended::Unknown));
    assert_eq!(log.append(SUBJECT, last(5), bytes("theirs")).await, Ok(appended(6)));
    let resolved = append_resolving(&flaky, SUBJECT, last(5), bytes("ours"), soon()).await;
    assert_eq!(resolved, Ok(conflict(6)));
}

pub(crate) async fn an_unknown_outcome_comes_back_at_the_deadline(backend: &Backend) {
    let flaky = Flaky::new(backend.open().await);
    flaky.fail_next([NotKept; 100]);
    let deadline = Instant::now() + Duration::from_millis(100);
    let outcome = append_resolving(&flaky, SUBJECT, last(0), bytes("a"), deadline).await;
    assert_eq!(outcome, Ok(Appended::Unknown));
    assert_eq!(flaky.head().await, Ok(Sequence::ZERO));
}
