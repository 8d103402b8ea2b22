//! The directory of an embedded log: whose it is, in which format, and how far it had come.
//!
//! - `LOCK` is locked by the one process that has the log open.
//! - `FORMAT` says what is kept here, in which format, and which release began it.
//! - `HEAD` holds the last sequence that was answered for. It is written after each synced batch and left to the kernel to sync, so it is never
//!   ahead of the log and seldom behind. A log that ends before it has lost records: that is how a write-ahead log cut short in its middle
//!   is told from one whose last, never answered write was torn.
//! - `rocks` is the database.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use schemas::Sequence;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::storage::{Damage, StorageError};

/// Why a log cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is open in another process, or already in this one", path.display())]
    AlreadyOpen { path: PathBuf },
    #[error("{} has format {found}, begun by release {release}; this release ({RELEASE}) reads up to format {supported}", path.display())]
    NewerFormat { path: PathBuf, found: u32, release: String, supported: u32 },
    #[error("{} does not hold an {expected}", path.display())]
    Foreign { path: PathBuf, expected: &'static str },
    /// Checksums, sizes or rows say that this is not what was written.
    #[error("the storage in {} is refused", path.display())]
    Storage {
        path: PathBuf,
        #[source]
        source: StorageError,
    },
}

/// What a directory holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The newest format that this release reads, and the one it writes.
    pub(crate) format: u32,
}

/// A directory that is ours alone.
pub(crate) struct Directory {
    path: PathBuf,
    head: File,
    /// What `HEAD` said at opening.
    remembered: Sequence,
    /// Unlocked when it is closed.
    _lock: File,
}

const RELEASE: &str = env!("CARGO_PKG_VERSION");
const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const HEAD: &str = "HEAD";
const ROCKS: &str = "rocks";

impl Directory {
    /// Takes the directory, making it if it is not there. A directory of a newer format is left as it is.
    pub(crate) fn open(path: &Path, kind: Kind) -> Result<Self, OpenError> {
        let at = |name: &str| path.join(name);
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let is_new = !check_format(path, kind)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(at(LOCK)).map_err(io)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::AlreadyOpen { path: path.to_owned() },
            TryLockError::Error(source) => io(source),
        })?;
        if is_new {
            write_durably(path, FORMAT, format_text(kind).as_bytes()).map_err(io)?;
        }
        // HEAD comes before the database, so that a database without it has lost it.
        if !at(HEAD).exists() && !at(ROCKS).exists() {
            write_durably(path, HEAD, &head_bytes(Sequence::ZERO)).map_err(io)?;
        }
        let (head, remembered) = open_head(&at(HEAD))
            .map_err(io)?
            .ok_or_else(|| OpenError::Storage { path: path.to_owned(), source: Damage::File { name: HEAD.to_owned() }.into() })?;
        Ok(Self { path: path.to_owned(), head, remembered, _lock: lock })
    }

    /// Where the database is.
    pub(crate) fn rocks(&self) -> PathBuf {
        self.path.join(ROCKS)
    }

    /// Whether nothing was ever answered for, so that the database may be missing.
    pub(crate) fn is_fresh(&self) -> bool {
        self.remembered == Sequence::ZERO
    }

    /// Checks the end of the log against the last answer.
    pub(crate) fn check_head(&self, found: Sequence) -> Result<(), StorageError> {
        let remembered = self.remembered;
        if found < remembered { Err(Damage::Lost { remembered, found }.into()) } else { Ok(()) }
    }

    /// Remembers the end of the log. Only for what is on stable storage already.
    pub(crate) fn remember(&self, head: Sequence) -> Result<(), StorageError> {
        self.head.write_all_at(&head_bytes(head), 0).map_err(|error| StorageError::Engine(format!("cannot write {HEAD}: {error}")))
    }

    pub(crate) fn refuse(&self, source: impl Into<StorageError>) -> OpenError {
        OpenError::Storage { path: self.path.clone(), source: source.into() }
    }
}

/// Whether the directory has a format already, and one that this release reads.
fn check_format(path: &Path, kind: Kind) -> Result<bool, OpenError> {
    let foreign = || OpenError::Foreign { path: path.to_owned(), expected: kind.name };
    let text = match fs::read(path.join(FORMAT)) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| foreign())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.join(ROCKS).exists() => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(foreign()),
        Err(source) => return Err(OpenError::Io { path: path.to_owned(), source }),
    };
    let mut lines = text.lines();
    let name = lines.next().and_then(|line| line.strip_prefix("keyrelay "));
    let format = lines.next().and_then(|line| line.strip_prefix("format ")).and_then(|number| number.parse::<u32>().ok());
    let release = lines.next().and_then(|line| line.strip_prefix("begun by "));
    match (name, format) {
        (Some(name), Some(found)) if name == kind.name && found > kind.format => Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found,
            release: release.unwrap_or("unknown").to_owned(),
            supported: kind.format,
        }),
        (Some(name), Some(1..)) if name == kind.name => Ok(true),
        _ => Err(foreign()),
    }
}

fn format_text(kind: Kind) -> String {
    format!("keyrelay {}\nformat {}\nbegun by {RELEASE}\n", kind.name, kind.format)
}

/// The sequence and a checksum over it.
fn head_bytes(head: Sequence) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&head.0.to_be_bytes());
    let checksum = Sha256::digest(&bytes[..8]);
    bytes[8..].copy_from_slice(&checksum[..8]);
    bytes
}

/// None if the file is missing or is not one that [`head_bytes`] filled.
fn open_head(path: &Path) -> io::Result<Option<(File, Sequence)>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(head) = bytes.first_chunk().map(|head| Sequence(u64::from_be_bytes(*head))).filter(|head| bytes == head_bytes(*head)) else {
        return Ok(None);
    };
    Ok(Some((OpenOptions::new().write(true).open(path)?, head)))
}

/// Makes a file with this content, or nothing: it is whole before it has its name.
pub(crate) fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}
