//! How far the mirror has followed the bucket: written by the task, waited for by calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::link::blocking;

/// How a mirror stands to its bucket, for metrics and readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirrored {
    /// Whether the mirror has been compared with the bucket since the last connection, and follows it.
    pub is_level: bool,
    /// Whether it ever was level: only then it can serve while NATS is away.
    pub was_level: bool,
    /// Whether the bucket is one that this node does not follow: another definition, or another cluster's. It takes an operator.
    pub is_refused: bool,
    /// The last revision of the bucket that is in the mirror; none while it is not level.
    pub revision: Option<u64>,
    /// Entries that the bucket had lost and this node put back, since it started.
    pub put_back: u64,
    /// Entries that the bucket had forgotten to be erased and this node erased again, since it started.
    pub erased_again: u64,
}

pub(crate) struct Progress {
    /// Written by the task alone.
    followed: Mutex<Followed>,
    changed: Condvar,
    pub(crate) put_back: AtomicU64,
    pub(crate) erased_again: AtomicU64,
}

struct Followed {
    revision: Option<u64>,
    was_level: bool,
    is_refused: bool,
}

impl Progress {
    pub(crate) fn new(was_level: bool) -> Self {
        Self {
            followed: Mutex::new(Followed { revision: None, was_level, is_refused: false }),
            changed: Condvar::new(),
            put_back: AtomicU64::new(0),
            erased_again: AtomicU64::new(0),
        }
    }

    /// The mirror has everything up to a revision.
    pub(crate) fn followed(&self, revision: u64) {
        *self.followed.lock() = Followed { revision: Some(revision), was_level: true, is_refused: false };
        self.changed.notify_all();
    }

    /// The bucket may change unseen from now on.
    pub(crate) fn lost_touch(&self) {
        self.followed.lock().revision = None;
    }

    /// The bucket is not followed at all.
    pub(crate) fn refused(&self) {
        self.followed.lock().is_refused = true;
    }

    pub(crate) fn was_level(&self) -> bool {
        self.followed.lock().was_level
    }

    /// Blocks until the mirror has everything up to a revision; false if it has not by then.
    pub(crate) fn wait_followed(&self, revision: u64, deadline: Instant) -> bool {
        blocking(|| {
            let mut followed = self.followed.lock();
            while followed.revision.is_none_or(|reached| reached < revision) {
                if self.changed.wait_until(&mut followed, deadline).timed_out() {
                    return false;
                }
            }
            true
        })
    }

    pub(crate) fn mirrored(&self) -> Mirrored {
        let Followed { revision, was_level, is_refused } = *self.followed.lock();
        Mirrored {
            is_level: revision.is_some(),
            was_level,
            is_refused,
            revision,
            put_back: self.put_back.load(Ordering::Relaxed),
            erased_again: self.erased_again.load(Ordering::Relaxed),
        }
    }
}
