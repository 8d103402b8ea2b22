//! A node's stream into a file, which has its name only when it is whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use control::backup::{BackupError, Manifest, read};

use super::retention::{UNFINISHED_PREFIX, UNFINISHED_SUFFIX, file_name};

/// Where a backup goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A folder that is there; the backup gets a name that tells what it is.
    Folder(PathBuf),
    /// A file that is not there.
    File(PathBuf),
}

/// A backup that was received whole.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: PathBuf,
    pub bytes: u64,
    pub manifest: Manifest,
}

impl Target {
    /// A path is a folder if there is one, or if it ends like one.
    pub fn of(path: &Path) -> Self {
        let ends_like_a_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if path.is_dir() || ends_like_a_folder { Self::Folder(path.to_owned()) } else { Self::File(path.to_owned()) }
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            Self::File(path) => path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        }
    }

    /// Refuses a file that is there.
    pub fn check(&self) -> Result<()> {
        ensure!(self.folder().is_dir(), "there is no folder {}", self.folder().display());
        match self {
            Self::File(path) => ensure!(!path.exists(), "{} is there already, and stays as it is", path.display()),
            Self::Folder(_) => {}
        }
        Ok(())
    }
}

/// Writes a backup from a stream, checking its framing and its digests on the way. What breaks off leaves no file.
pub fn receive(stream: impl Read, target: &Target) -> Result<Received> {
    target.check()?;
    let folder = target.folder();
    let failed = || format!("cannot write into {}", folder.display());
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED_PREFIX).suffix(UNFINISHED_SUFFIX).tempfile_in(folder);
    let mut unfinished = unfinished.with_context(failed)?;
    // For whoever tidies up after processes that are gone.
    unfinished.as_file().lock().with_context(failed)?;
    let mut copying = Copying { from: stream, to: unfinished.as_file_mut(), bytes: 0, failed: None };
    let read = read::<BackupError>(&mut copying, |_| Ok(()));
    let (bytes, failure) = (copying.bytes, copying.failed);
    if let Some(error) = failure {
        return Err(error).with_context(failed);
    }
    let manifest = read.context("the backup of the running node cannot be taken")?.manifest;
    unfinished.as_file().sync_all().with_context(failed)?;
    let path = match target {
        Target::Folder(folder) => folder.join(file_name(&manifest)),
        Target::File(path) => path.clone(),
    };
    unfinished.persist_noclobber(&path).map_err(|error| error.error).with_context(|| format!("cannot name {}", path.display()))?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(failed)?;
    Ok(Received { path, bytes, manifest })
}

/// Copies what is read through it.
struct Copying<'a, R> {
    from: R,
    to: &'a mut File,
    bytes: u64,
    /// Why the copy failed, which is not the stream's fault.
    failed: Option<io::Error>,
}

impl<R: Read> Read for Copying<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        if let Err(error) = self.to.write_all(&buffer[..length]) {
            self.failed = Some(error);
            return Err(io::Error::other("the copy cannot be written"));
        }
        self.bytes += length as u64;
        Ok(length)
    }
}
