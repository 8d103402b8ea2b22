//! Where the command line finds things in the data directory of a node on this machine.

use std::path::{Path, PathBuf};

/// A data directory, by what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    data: PathBuf,
}

impl Layout {
    pub(crate) fn new(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into() }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The embedded event log.
    pub(crate) fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    /// The read models of the event log. They can be removed: the next start folds them again.
    pub(crate) fn read_models(&self) -> PathBuf {
        self.data.join("read-models")
    }

    /// Policy modules: all of them, or those that this node of a cluster used.
    pub(crate) fn artefacts(&self) -> PathBuf {
        self.data.join("artefacts")
    }

    /// The owner's token, as the founding wrote it.
    pub(crate) fn owner_token(&self) -> PathBuf {
        self.data.join("owner.token")
    }

    /// The origin of the admin listener of the node that serves from here, written when it is ready. Port 0 makes it unforeseeable.
    pub(crate) fn admin_address(&self) -> PathBuf {
        self.data.join("admin.address")
    }
}
