//! Where the read models lie: `DATA/read-models`, a folder per generation, and a pointer to the one in use.
//!
//! ```text
//! read-models/LOCK       held by the one process that may open a model
//! read-models/CURRENT    names the folder in use, replaced by rename
//! read-models/v1-3/      version 1 of the rows, third generation: a RocksDB directory
//! ```
//!
//! A folder that `CURRENT` does not name is left over from a crash and is swept at the next start.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::VERSION;

/// The version of the rows and a number that no other folder had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation {
    pub version: u32,
    pub number: u64,
}

/// Why the directory of the read models cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("{} cannot be used", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} does not name a generation such as v1-3; remove it to have the read models rebuilt", path.display())]
    Pointer { path: PathBuf },
    #[error("{} is held by another process", path.display())]
    Locked { path: PathBuf },
}

/// The directory, held for this process as long as the value lives.
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Generation {
    fn parse(name: &str) -> Option<Self> {
        let (version, number) = name.strip_prefix('v')?.split_once('-')?;
        Some(Self { version: version.parse().ok()?, number: number.parse().ok()? })
    }

    fn name(self) -> String {
        format!("v{}-{}", self.version, self.number)
    }
}

impl Directory {
    /// The generation that the pointer names, read without touching anything.
    pub(crate) fn peek(path: &Path) -> Result<Option<Generation>, DirectoryError> {
        let pointer = path.join("CURRENT");
        match fs::read_to_string(&pointer) {
            Ok(text) => Generation::parse(text.trim_end()).map(Some).ok_or(DirectoryError::Pointer { path: pointer }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DirectoryError::Io { path: pointer, source }),
        }
    }

    pub(crate) fn hold(path: PathBuf) -> Result<Self, DirectoryError> {
        let lock = path.join("LOCK");
        let open = || {
            fs::create_dir_all(&path)?;
            File::options().create(true).truncate(false).write(true).open(&lock)
        };
        let file = open().map_err(|source| DirectoryError::Io { path: lock.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _lock: file }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked { path: lock }),
            Err(TryLockError::Error(source)) => Err(DirectoryError::Io { path: lock, source }),
        }
    }

    /// The next generation of this release's rows.
    pub(crate) fn next(&self) -> Result<Generation, DirectoryError> {
        let last = self.generations()?.iter().map(|generation| generation.number).max();
        Ok(Generation { version: VERSION, number: last.unwrap_or_default() + 1 })
    }

    pub(crate) fn path_of(&self, generation: Generation) -> PathBuf {
        self.path.join(generation.name())
    }

    /// Makes a generation the one in use; after this a start opens it.
    pub(crate) fn point_to(&self, generation: Generation) -> Result<(), DirectoryError> {
        let (pointer, temporary) = (self.path.join("CURRENT"), self.path.join("CURRENT.new"));
        let replace = || {
            let mut file = File::create(&temporary)?;
            writeln!(file, "{}", generation.name())?;
            file.sync_all()?;
            fs::rename(&temporary, &pointer)?;
            File::open(&self.path)?.sync_all()
        };
        replace().map_err(|source| DirectoryError::Io { path: pointer.clone(), source })
    }

    /// Removes every folder but this one.
    pub(crate) fn sweep(&self, kept: Generation) -> Result<(), DirectoryError> {
        for generation in self.generations()?.into_iter().filter(|generation| *generation != kept) {
            let path = self.path_of(generation);
            fs::remove_dir_all(&path).map_err(|source| DirectoryError::Io { path, source })?;
        }
        Ok(())
    }

    fn generations(&self) -> Result<Vec<Generation>, DirectoryError> {
        let list = || fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, io::Error>>();
        let names = list().map_err(|source| DirectoryError::Io { path: self.path.clone(), source })?;
        Ok(names.iter().filter_map(|name| Generation::parse(name.to_str()?)).collect())
    }
}
