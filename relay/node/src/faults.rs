//! The bug that a fault test plants in this process, by the name in `KEYRELAY_FAULT`. Only with the feature `faults`.

use std::path::Path;
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

/// The file in the data directory that says by how many seconds a node with `moved-clock` is ahead. Without it, it is not.
const AHEAD_FILE: &str = "clock-ahead";

/// How far the node's clock is ahead of the machine's, in seconds. Asked with every look at the clock, so that a test moves it by a file.
pub(crate) fn clock_ahead_seconds(data: &Path) -> u64 {
    if !is_planted("moved-clock") {
        return 0;
    }
    std::fs::read_to_string(data.join(AHEAD_FILE)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
