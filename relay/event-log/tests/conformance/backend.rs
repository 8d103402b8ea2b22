//! The logs under test, and how each is opened again.

use std::sync::Arc;

use event_log::{EmbeddedLog, EventLog, MemoryLog};
use tempfile::TempDir;

/// Where a log is kept for one test.
pub(crate) enum Backend {
    Memory(MemoryLog),
    Embedded(TempDir),
}

pub(crate) fn memory() -> Backend {
    Backend::Memory(MemoryLog::new())
}

pub(crate) fn embedded() -> Backend {
    Backend::Embedded(tempfile::tempdir().unwrap())
}

impl Backend {
    /// Opens the log with what is in it. Whoever has it open must have dropped it, streams included.
    pub(crate) fn open(&self) -> Arc<dyn EventLog> {
        match self {
            Self::Memory(log) => Arc::new(log.clone()),
            Self::Embedded(directory) => Arc::new(EmbeddedLog::open(directory.path()).unwrap()),
        }
    }
}
