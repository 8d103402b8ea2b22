//! Planted bugs: what the properties of the chain must notice. Each test plants them in its own thread.

use std::cell::Cell;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// One permit lets the request pass, whoever denies.
    PermitOverrides,
    /// A candidate that one policy took away comes back with the next that picks it.
    Revival,
    /// Of two caps the higher one holds.
    HighestCap,
    /// The order of candidates is that of the policy that spoke last.
    LastRanks,
    /// A policy that has nothing to say denies.
    LoudSilence,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether this is the bug that is planted in this thread.
pub(super) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Runs something with a bug.
pub(super) fn with<T>(bug: Bug, run: impl FnOnce() -> T) -> T {
    PLANTED.set(Some(bug));
    let outcome = run();
    PLANTED.set(None);
    outcome
}
