//! Hooks for fault tests: where a commit fails, where a reader pauses, and one bug that a test must be able to find.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::store::CommitError;

type Hook = Arc<dyn Fn() + Send + Sync>;

/// The hooks of one read model.
#[derive(Default)]
pub struct Faults {
    commits_to_fail: AtomicU64,
    /// Called by a reader of a key between its read of the store and its insert into the cache.
    between_get_and_insert: Mutex<Option<Hook>>,
    keep_stale_inserts: AtomicBool,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    /// Fails this many of the next commits.
    pub fn fail_commits(&self, commits: u64) {
        self.commits_to_fail.store(commits, Ordering::SeqCst);
    }

    /// Runs a hook in every reader that missed the key cache, after it has read the store.
    pub fn between_get_and_insert(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.between_get_and_insert.lock() = Some(Arc::new(hook));
    }

    /// The planted bug: the key cache accepts what was read before its last invalidation.
    pub fn keep_stale_inserts(&self, on: bool) {
        self.keep_stale_inserts.store(on, Ordering::SeqCst);
    }

    pub(crate) fn before_commit(&self) -> Result<(), CommitError> {
        let take_one = |left: u64| left.checked_sub(1);
        match self.commits_to_fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one) {
            Ok(_) => Err(CommitError("a fault test asked for this".into())),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn pause_before_insert(&self) {
        let hook = self.between_get_and_insert.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
    }

    pub(crate) fn keeps_stale_inserts(&self) -> bool {
        self.keep_stale_inserts.load(Ordering::SeqCst)
    }
}

/// The bug that `KEYRELAY_FAULT` plants in this process, by name.
static PLANTED: OnceLock<String> = OnceLock::new();

/// Plants the bug of this name; a process has one at most.
pub fn plant(name: &str) {
    PLANTED.get_or_init(|| name.to_owned());
}

/// Whether this is the bug that was planted.
pub(crate) fn is_planted(name: &str) -> bool {
    PLANTED.get().is_some_and(|planted| planted == name)
}
