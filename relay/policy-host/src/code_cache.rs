//! Machine code on disk, by digest. What this node has not written itself is never run, so nobody else may have a part in the directory: who
//! reads its key could write code that counts.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use schemas::Digest;
use schemas::policy::PolicyClass;
use thiserror::Error;

/// Bytes of the tag before the machine code.
const TAG_BYTES: usize = 32;
const KEY_FILE: &str = "key";
/// What is still being written is younger; what is older was left by a process that ended in the middle.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(3600);
/// Permissions of the group and of all others.
const OTHERS: u32 = 0o077;

/// Why a directory is not used for machine code.
#[derive(Debug, Error)]
pub enum CacheError {
    #[error("{} belongs to another user, {owner}", path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error("{} is open to others than its owner (mode {mode:04o}); it can be removed, and is made anew", path.display())]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("{} is not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A directory of machine code, each file with a tag under a key that only this node's user can read.
pub(crate) struct CodeCache {
    directory: PathBuf,
    bytes_max: u64,
    key: [u8; 32],
    profile: blake3::Hash,
}

impl CodeCache {
    /// Opens or makes the directory, if it is this user's alone. Files of other profiles, left by another release, are removed, and what was never
    /// finished.
    pub(crate) fn open(directory: &Path, bytes_max: u64, profile: blake3::Hash) -> Result<Self, CacheError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        check_owned(directory, &fs::metadata(directory)?)?;
        let cache = Self { directory: directory.to_owned(), bytes_max, key: key(directory)?, profile };
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if cache.is_left_over(&path)
                && let Err(error) = remove(&path)
            {
                tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "an old file of machine code cannot be removed");
            }
        }
        Ok(cache)
    }

    fn is_left_over(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".partial") {
            let age = fs::symlink_metadata(path).and_then(|file| file.modified()).map(|modified| modified.elapsed().unwrap_or_default());
            return age.is_ok_and(|age| age > PARTIAL_AGE_MAX);
        }
        name.ends_with(".code") && !name.ends_with(&self.suffix())
    }

    /// The machine code, if it is here and is what this node wrote. Anything else is removed.
    pub(crate) fn get(&self, digest: &Digest, class: PolicyClass) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(digest, class);
        let mut bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_ours = bytes.split_first_chunk::<TAG_BYTES>().is_some_and(|(tag, code)| self.tag(digest, class, code) == *tag);
        if !is_ours {
            tracing::warn!(policy.digest = %digest, path = %path.display(), "machine code was not written by this node, removed");
            remove(&path)?;
            return Ok(None);
        }
        bytes.drain(..TAG_BYTES);
        Ok(Some(bytes))
    }

    /// Writes it whole or not at all.
    pub(crate) fn put(&self, digest: &Digest, class: PolicyClass, code: &[u8]) -> io::Result<()> {
        let path = self.path(digest, class);
        let mut suffix = [0; 8];
        getrandom::fill(&mut suffix).map_err(io::Error::other)?;
        let partial = self.directory.join(format!("{}.partial", data_encoding::HEXLOWER.encode(&suffix)));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        let tag = self.tag(digest, class, code);
        let written = file.write_all(tag.as_bytes()).and_then(|()| file.write_all(code)).and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            // The first error says more than this one could.
            drop(fs::remove_file(&partial));
        }
        written
    }

    /// Removes the oldest machine code until no more bytes are left than may be, other than of these policies. What another process removes or
    /// is about to read is no matter: it is compiled again.
    pub(crate) fn prune(&self, needed: &HashSet<(Digest, PolicyClass)>) -> io::Result<()> {
        let needed: HashSet<PathBuf> = needed.iter().map(|(digest, class)| self.path(digest, *class)).collect();
        let entries = fs::read_dir(&self.directory)?.flatten();
        let code = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "code"));
        let mut kept: Vec<_> = code
            .filter_map(|entry| {
                let file = entry.metadata().ok()?;
                Some((file.modified().ok()?, file.len(), entry.path()))
            })
            .collect();
        kept.sort_unstable();
        let mut bytes: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, freed, path) in kept.into_iter().filter(|(_, _, path)| !needed.contains(path)) {
            if bytes <= self.bytes_max {
                break;
            }
            remove(&path)?;
            bytes -= freed;
        }
        Ok(())
    }

    fn tag(&self, digest: &Digest, class: PolicyClass, code: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(digest.as_bytes()).update(&[class as u8]).update(self.profile.as_bytes()).update(code);
        hasher.finalize()
    }

    fn path(&self, digest: &Digest, class: PolicyClass) -> PathBuf {
        self.directory.join(format!("{digest}.{}.{}", class.as_str(), self.suffix()))
    }

    fn suffix(&self) -> String {
        format!("{}.code", &self.profile.to_hex()[..16])
    }
}

/// Removes a file. Another process that removes it first does no harm.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn check_owned(path: &Path, metadata: &fs::Metadata) -> Result<(), CacheError> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(CacheError::NotOurs { path: path.to_owned(), owner: metadata.uid() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS == 0 { Ok(()) } else { Err(CacheError::TooOpen { path: path.to_owned(), mode }) }
}

/// The directory's key, drawn at first use. Two processes that start at once agree on one: a file is linked into place whole, once.
fn key(directory: &Path) -> Result<[u8; 32], CacheError> {
    let path = directory.join(KEY_FILE);
    // Neither a link to what is elsewhere nor a wait for whoever writes into a pipe.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    for _ in 0..2 {
        match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => return read_key(file, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => draw_key(directory, &path)?,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(CacheError::NotAFile { path });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("the key of the machine code cache cannot be made").into())
}

fn read_key(mut file: File, path: &Path) -> Result<[u8; 32], CacheError> {
    // Asked of the open file, so that what was judged is what is read.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(CacheError::NotAFile { path: path.to_owned() });
    }
    check_owned(path, &metadata)?;
    let mut key = [0; 32];
    file.read_exact(&mut key)?;
    Ok(key)
}

fn draw_key(directory: &Path, path: &Path) -> io::Result<()> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(io::Error::other)?;
    let partial = directory.join(format!("{}.partial", data_encoding::HEXLOWER.encode(&name)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(&key)?;
    file.sync_all()?;
    let linked = fs::hard_link(&partial, path);
    remove(&partial)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_oldest_machine_code_goes_first_and_nothing_that_is_needed_does() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("cache");
        let open = |bytes_max| CodeCache::open(&directory, bytes_max, blake3::hash(b"profile")).unwrap();
        let digests = ["c", "a", "b"].map(|text| Digest::blake3(text.as_bytes()));
        let cache = open(u64::MAX);
        for (age, digest) in digests.iter().enumerate() {
            cache.put(digest, PolicyClass::Fast, b"code").unwrap();
            let path = cache.path(digest, PolicyClass::Fast);
            let time = UNIX_EPOCH + Duration::from_secs(1000 + age as u64);
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
        let left = || digests.each_ref().map(|digest| cache.get(digest, PolicyClass::Fast).unwrap().is_some());
        let each = TAG_BYTES as u64 + 4;
        let needed = HashSet::from([(digests[1], PolicyClass::Fast), (digests[0], PolicyClass::Slow)]);
        open(3 * each).prune(&needed).unwrap();
        assert_eq!(left(), [true; 3]);
        open(3 * each - 1).prune(&needed).unwrap();
        assert_eq!(left(), [false, true, true]);
        open(each).prune(&needed).unwrap();
        assert_eq!(left(), [false, true, false]);
        open(0).prune(&needed).unwrap();
        assert_eq!(left(), [false, true, false]);
        assert!(directory.join(KEY_FILE).exists());
    }
}
