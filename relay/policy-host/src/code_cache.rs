//! Machine code on disk, by digest. What this node has not written itself is never run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use schemas::Digest;
use schemas::policy::PolicyClass;

/// Bytes of the tag before the machine code.
const TAG_BYTES: usize = 32;
const KEY_FILE: &str = "key";

/// A directory of machine code, each file with a tag under a key that only this node's user can read.
pub(crate) struct CodeCache {
    directory: PathBuf,
    key: [u8; 32],
    profile: blake3::Hash,
}

impl CodeCache {
    /// Opens or makes the directory. Files of other profiles, left by another release, are removed.
    pub(crate) fn open(directory: &Path, profile: blake3::Hash) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let cache = Self { directory: directory.to_owned(), key: key(directory)?, profile };
        let suffix = cache.suffix();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".code") && !name.ends_with(&suffix) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(cache)
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
            fs::remove_file(&path)?;
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

/// The directory's key, drawn at first use. Two processes that start at once agree on one: a file is linked into place whole, once.
fn key(directory: &Path) -> io::Result<[u8; 32]> {
    let path = directory.join(KEY_FILE);
    for _ in 0..2 {
        match File::open(&path) {
            Ok(mut file) => {
                let mut key = [0; 32];
                file.read_exact(&mut key)?;
                return Ok(key);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => draw_key(directory, &path)?,
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the key of the machine code cache cannot be made"))
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
    fs::remove_file(&partial)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
