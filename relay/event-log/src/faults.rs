//! Hooks for fault tests. They hold for the whole process and exist only with the feature `faults`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

static SYNC: AtomicBool = AtomicBool::new(true);
static NEXT_WRITE: Mutex<Option<Fault>> = Mutex::new(None);

/// How a write that is reported as failed has really ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing of it is there.
    NotKept,
    /// All of it is there, durably.
    Kept,
}

/// Whether the embedded logs sync what they write before they answer. Turning it off breaks the contract: it is there to
/// show that a test of durability would notice.
pub fn set_sync(sync: bool) {
    SYNC.store(sync, Ordering::SeqCst);
}

/// Makes the next write of an embedded log fail, one way or the other.
pub fn fail_next_write(fault: Fault) {
    *NEXT_WRITE.lock() = Some(fault);
}

pub(crate) fn sync() -> bool {
    SYNC.load(Ordering::SeqCst) && !is_planted("unsynced-log")
}

pub(crate) fn take_write_fault() -> Option<Fault> {
    NEXT_WRITE.lock().take()
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
