//! The log of one machine at its bound, and after a write that failed.

use event_log::decisions::{DecisionLog, DecisionStream as _};
use schemas::Sequence;

use crate::backend::{batch, numbers, read_until};

#[tokio::test]
async fn what_is_dropped_is_counted_and_the_newest_always_stays() {
    let directory = tempfile::tempdir().unwrap();
    let size = batch(1, 100).encode().len() as u64;
    let log = DecisionLog::open_bounded(directory.path(), 3 * size).unwrap();
    for number in 1..=5 {
        log.append(&batch(number, 100)).await.unwrap();
    }
    let held = log.held();
    assert_eq!((held.batches, held.bytes, held.dropped), (3, 3 * size, 2));
    log.append(&batch(6, 10_000)).await.unwrap();
    assert_eq!((log.held().batches, log.held().dropped), (1, 5));
    assert_eq!(numbers(&read_until(&log, Sequence(1), 6).await), [6]);
    log.close().await;
    drop(log);

    let log = DecisionLog::open_bounded(directory.path(), 3 * size).unwrap();
    assert_eq!((log.head().await, log.held().batches), (Ok(Sequence(6)), 1));
    log.append(&batch(7, 100)).await.unwrap();
    assert_eq!(read_until(&log, Sequence(1), 7).await, [(Sequence(7), batch(7, 100))]);
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_failed_write_takes_no_more_until_opened_again() {
    use event_log::decisions::DecisionAppendError;
    use event_log::faults::{Fault, fail_next_write};

    for (fault, kept) in [(Fault::NotKept, vec![1, 3]), (Fault::Kept, vec![1, 2, 3])] {
        let directory = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(directory.path()).unwrap();
        log.append(&batch(1, 10)).await.unwrap();
        fail_next_write(fault);
        for number in [2, 3] {
            let refused = log.append(&batch(number, 10)).await;
            assert!(matches!(refused, Err(DecisionAppendError::Failed(_))), "{refused:?}");
        }
        drop(log);
        let log = DecisionLog::open(directory.path()).unwrap();
        log.append(&batch(3, 10)).await.unwrap();
        assert_eq!(numbers(&read_until(&log, Sequence(1), 3).await), kept);
    }
}
