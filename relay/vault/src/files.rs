//! Secrets that are files: the data directory, `root.key`, `owner.token`, `writer.key`.
//!
//! A directory is 0700 and a file 0600 from the moment it exists. A file that has its name is whole: it is written under a partial name,
//! synced, renamed, and the directory synced. Founding keeps its files under temporary names until the log has its founding, so writing and
//! naming are two steps there: [`write_secret_temporary`] and [`promote`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

/// The longest secret file that is read; all of ours are one line.
pub const FILE_BYTES_MAX: usize = 4096;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What others than the owner may do.
const OTHERS: u32 = 0o077;
/// Where systemd puts the credentials of services, and the widest mode that they show there.
const CREDENTIALS: &str = "/run/credentials";
const CREDENTIAL_MODE: u32 = 0o440;

/// Why a directory cannot hold secrets.
#[derive(Debug, Error)]
pub enum PrivateDirError {
    #[error("others may enter {} (mode {mode:03o}); to mend it: chmod 700 {}", path.display(), shell_word(path))]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("cannot use {} as a private directory", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a secret file is not read.
#[derive(Debug, Error)]
pub enum ReadSecretError {
    #[error("there is no file {}", path.display())]
    Missing { path: PathBuf },
    #[error("others may read or write {} (mode {mode:03o}); to mend it: chmod 600 {}", path.display(), shell_word(path))]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("{} is not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} has more than {FILE_BYTES_MAX} bytes and is no secret file", path.display())]
    TooLarge { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a secret file is not written or named.
#[derive(Debug, Error)]
pub enum WriteSecretError {
    #[error("{} exists with other content and is left as it is", path.display())]
    Occupied { path: PathBuf },
    #[error("a secret file has at most {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(transparent)]
    Read(#[from] ReadSecretError),
    #[error("cannot write {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Creates a directory that only its owner may enter, with what is missing above it. One that exists and is wider is refused.
pub fn private_dir(path: &Path) -> Result<(), PrivateDirError> {
    let failed = |source| PrivateDirError::Io { path: path.to_owned(), source };
    match DirBuilder::new().mode(DIRECTORY_MODE).recursive(true).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(PrivateDirError::NotADirectory { path: path.to_owned() }),
        Err(error) => return Err(failed(error)),
    }
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(PrivateDirError::TooOpen { path: path.to_owned(), mode });
    }
    sync_parent(path).map_err(failed)
}

/// Writes a secret file, replacing an earlier one. When this returns, the whole file is durable; if it fails, the earlier one is.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), WriteSecretError> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(WriteSecretError::TooLarge);
    }
    write_whole(path, bytes).map_err(|source| WriteSecretError::Io { path: path.to_owned(), source })
}

/// Writes a file of sealed bytes, however many, in the same way.
pub fn write_sealed(path: &Path, bytes: &[u8]) -> Result<(), WriteSecretError> {
    write_whole(path, bytes).map_err(|source| WriteSecretError::Io { path: path.to_owned(), source })
}

/// The name under which a secret file waits for [`promote`].
pub fn temporary_path(path: &Path) -> PathBuf {
    suffixed(path, ".new")
}

/// Writes a secret file, whole and durable, under its temporary name.
pub fn write_secret_temporary(path: &Path, bytes: &[u8]) -> Result<(), WriteSecretError> {
    write_secret(&temporary_path(path), bytes)
}

/// Gives a temporary file its name, durably. Doing it again is safe. A file that has the name with other content is never replaced.
pub fn promote(path: &Path) -> Result<(), WriteSecretError> {
    let temporary = temporary_path(path);
    let failed = |source| WriteSecretError::Io { path: path.to_owned(), source };
    let named = found(read_secret(path))?;
    match (found(read_secret(&temporary))?, named) {
        (None, Some(_)) => return Ok(()),
        (None, None) => return Err(ReadSecretError::Missing { path: temporary }.into()),
        (Some(_), None) => fs::rename(&temporary, path).map_err(failed)?,
        (Some(new), Some(named)) if new == named => fs::remove_file(&temporary).map_err(failed)?,
        (Some(_), Some(_)) => return Err(WriteSecretError::Occupied { path: path.to_owned() }),
    }
    sync_parent(path).map_err(failed)
}

/// Removes a temporary file that is not to get its name, durably. It is no error if there is none.
pub fn discard_temporary(path: &Path) -> Result<(), WriteSecretError> {
    let temporary = temporary_path(path);
    let removed = match fs::remove_file(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.and_then(|()| sync_parent(&temporary)),
    };
    removed.map_err(|source| WriteSecretError::Io { path: temporary, source })
}

/// Reads a secret file. One that others may read or write is refused: what it holds may be known.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, ReadSecretError> {
    let failed = |source| ReadSecretError::Io { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadSecretError::Missing { path: path.to_owned() }),
        opened => opened.map_err(failed)?,
    };
    // Asked of the open file, so that what was judged is what is read.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ReadSecretError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS != 0 && !is_handed_out(path, metadata.uid(), mode) {
        return Err(ReadSecretError::TooOpen { path: path.to_owned(), mode });
    }
    // One allocation for the longest file, so that growing leaves no copies.
    let mut bytes = Zeroizing::new(vec![0; FILE_BYTES_MAX + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if length > FILE_BYTES_MAX {
        return Err(ReadSecretError::TooLarge { path: path.to_owned() });
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Whether systemd hands this file to a service as a credential. Newer releases do so by an access list that names the service's user alone; the
/// file is root's, and where the group's bits stand the mode shows the list's mask.
fn is_handed_out(path: &Path, owner: u32, mode: u32) -> bool {
    let is_below = path.starts_with(CREDENTIALS) && path.components().all(|component| component != Component::ParentDir);
    is_below && owner == 0 && mode & !CREDENTIAL_MODE == 0
}

fn found(read: Result<Zeroizing<Vec<u8>>, ReadSecretError>) -> Result<Option<Zeroizing<Vec<u8>>>, ReadSecretError> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReadSecretError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = suffixed(path, ".partial");
    // One that a crash left may have any mode and content; a new file has ours.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    sync_parent(path)
}

/// Makes a name in a directory durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A path as a shell takes it, so that the command in an error can be copied.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_hands_out_is_taken_and_nothing_else_that_others_may_read() {
        let credential = Path::new("/run/credentials/keyrelay.service/root.key");
        assert!(is_handed_out(credential, 0, 0o440) && is_handed_out(credential, 0, 0o400));
        for (owner, mode) in [(0, 0o444), (0, 0o460), (0, 0o640), (1000, 0o440)] {
            assert!(!is_handed_out(credential, owner, mode), "{owner} {mode:o}");
        }
        for elsewhere in ["/etc/keyrelay/root.key", "/run/credentials/../keyrelay/root.key", "/run/credentials.d/root.key"] {
            assert!(!is_handed_out(Path::new(elsewhere), 0, 0o440), "{elsewhere}");
        }
    }
}
