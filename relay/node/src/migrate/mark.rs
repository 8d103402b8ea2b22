//! `DATA/log.moved`: the mark that this directory's log lives in JetStream now. It is written last, and is what decides.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use schemas::{ClusterId, Digest, Sequence};
use serde::{Deserialize, Serialize};
use vault::files;

const FILE: &str = "log.moved";

/// What was handed over, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub(crate) to: String,
    pub(crate) cluster: ClusterId,
    pub(crate) size: Sequence,
    pub(crate) root: Digest,
}

impl Moved {
    /// The mark of a data directory, if it has one.
    pub(crate) fn read(data: &Path) -> Result<Option<Self>> {
        let path = path(data);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is not a mark of keyrelay", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the mark durably: from here on the embedded log is a copy.
    pub(super) fn write(&self, data: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("a mark is plain data")?;
        Ok(files::write_secret(&path(data), &text)?)
    }

    /// Removes the mark durably: from here on the embedded log is the log.
    pub(super) fn remove(data: &Path) -> Result<()> {
        let path = path(data);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        Ok(fs::File::open(data)?.sync_all()?)
    }
}

fn path(data: &Path) -> PathBuf {
    data.join(FILE)
}
