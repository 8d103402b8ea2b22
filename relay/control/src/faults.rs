//! Planted bugs for fault tests. Only with the feature `faults`.

use std::sync::OnceLock;

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
