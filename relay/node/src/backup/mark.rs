//! `DATA/restore.unfinished`: the mark of a directory that is half restored. It is made first and removed last, and whoever restores
//! holds a lock on it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use thiserror::Error;

const FILE: &str = "restore.unfinished";
/// What a restore makes, and what it may therefore remove again under its mark.
const MADE: [&str; 9] =
    ["log", "keys", "artefacts", "usage-log", "decision-log", "read-models", "usage-models", "decision-models", "format"];
/// What may lie in a directory that is restored into: secrets that the operator brought, and what a file system puts there.
const BROUGHT: [&str; 3] = ["root.key", "owner.token", "lost+found"];

/// A directory that a restore was cut off in.
#[derive(Debug, Error)]
#[error(
    "{} is half restored from a backup: run keyrelay restore on it again, with any backup, to make it whole; or empty it",
    data.display()
)]
pub(crate) struct HalfRestored {
    data: PathBuf,
}

/// Refuses a directory that is no node's yet.
pub(crate) fn refuse_unfinished(data: &Path) -> Result<(), HalfRestored> {
    if data.join(FILE).exists() { Err(HalfRestored { data: data.to_owned() }) } else { Ok(()) }
}

/// The mark, held by the one process that restores.
pub(super) struct Mark {
    path: PathBuf,
    data: PathBuf,
    /// Unlocked when it is closed.
    _file: File,
}

impl Mark {
    /// Refuses a directory that holds anything, unless it is half restored. Changes nothing.
    pub(super) fn check(data: &Path) -> Result<()> {
        let entries = match fs::read_dir(data) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.with_context(|| format!("cannot read {}", data.display()))?,
        };
        if data.join(FILE).exists() {
            return Ok(());
        }
        for entry in entries {
            let name = entry?.file_name();
            ensure!(
                BROUGHT.iter().any(|brought| name == *brought),
                "{} is not empty, it holds {}: restore into a new directory; nothing was changed",
                data.display(),
                name.display()
            );
        }
        Ok(())
    }

    /// Marks the directory, durably, and removes what a restore that was cut off had made in it.
    pub(super) fn begin(data: &Path) -> Result<Self> {
        Self::check(data)?;
        let path = data.join(FILE);
        let marking = || format!("cannot mark {}", data.display());
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).with_context(marking)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another restore into {} is running", data.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(marking),
        }
        // One that ended between the opening and the locking took its mark with it.
        let is_there = fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
        ensure!(is_there, "another restore into {} has just ended", data.display());
        file.sync_all().with_context(marking)?;
        let mark = Self { path, data: data.to_owned(), _file: file };
        mark.sync()?;
        for name in MADE {
            let made = data.join(name);
            let removed = if made.is_dir() { fs::remove_dir_all(&made) } else { fs::remove_file(&made) };
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", made.display()));
                }
                _ => {}
            }
        }
        mark.sync()?;
        Ok(mark)
    }

    /// Removes the mark, durably: from here on the directory is a node's.
    pub(super) fn finish(self) -> Result<()> {
        self.sync()?;
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        let synced = File::open(&self.data).and_then(|directory| directory.sync_all());
        synced.with_context(|| format!("cannot sync {}", self.data.display()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

    use super::*;

    #[test]
    fn a_directory_with_anything_in_it_is_left_alone() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("root.key"), "brought").unwrap();
        Mark::check(data.path()).unwrap();
        fs::create_dir(data.path().join("log")).unwrap();
        assert!(Mark::begin(data.path()).err().unwrap().to_string().contains("log"));
        assert!(data.path().join("log").is_dir() && !data.path().join(FILE).exists());
    }

    #[test]
    fn a_half_restored_directory_is_refused_to_nodes_and_begun_anew() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("owner.token"), "brought").unwrap();
        let mark = Mark::begin(data.path()).unwrap();
        assert!(Mark::begin(data.path()).err().unwrap().to_string().contains("another restore"));
        fs::create_dir(data.path().join("keys")).unwrap();
        drop(mark);
        assert!(refuse_unfinished(data.path()).unwrap_err().to_string().contains("half restored"));
        Mark::begin(data.path()).unwrap().finish().unwrap();
        assert!(!data.path().join("keys").exists() && data.path().join("owner.token").exists());
        refuse_unfinished(data.path()).unwrap();
    }
}
