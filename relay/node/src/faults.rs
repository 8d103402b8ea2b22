//! The bug that a fault test plants in this process, by the name in `KEYRELAY_FAULT`. Only with the feature `faults`.

use std::sync::OnceLock;

/// Written once, in the beginning of the process.
static PLANTED: OnceLock<String> = OnceLock::new();

/// Plants the bug of this name; a process has one at most.
pub fn plant(name: &str) {
    PLANTED.get_or_init(|| name.to_owned());
}

/// Whether this is the bug that was planted.
pub fn is_planted(name: &str) -> bool {
    PLANTED.get().is_some_and(|planted| planted == name)
}
