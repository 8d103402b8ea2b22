//! Artefacts in a directory: `<kind>/<digest>`, whole before they have their name.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use schemas::Digest;

use super::{ARTEFACT_BYTES_MAX, ArtefactEntry, ArtefactError, ArtefactKind, Artefacts, check_size};

/// The end of a name that is not given yet.
const UNFINISHED: &str = ".new";
const KINDS: [ArtefactKind; 1] = [ArtefactKind::PolicyModule];

/// [`Artefacts`] in a directory of this machine, which one process uses. A clone is the same directory.
#[derive(Clone)]
pub struct FileArtefacts {
    path: Arc<Path>,
    /// Numbers the files under way, so that two of one digest do not meet.
    unfinished: Arc<AtomicU64>,
}

impl FileArtefacts {
    /// Opens the directory, which is made if it is not there, and removes what an earlier process left unfinished.
    pub fn open(path: &Path) -> Result<Self, ArtefactError> {
        for kind in KINDS {
            let path = path.join(kind.as_str());
            sweep(&path).map_err(|source| ArtefactError::Io { path, source })?;
        }
        Ok(Self { path: path.into(), unfinished: Arc::default() })
    }

    fn path_of(&self, kind: ArtefactKind, digest: &Digest) -> PathBuf {
        self.path.join(kind.as_str()).join(digest.to_string())
    }

    /// Runs what touches the disk where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        path: PathBuf,
        run: impl FnOnce(&Path) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, ArtefactError> {
        let task = tokio::task::spawn_blocking(move || {
            run(&path).map_err(|fault| match fault {
                Fault::Io(source) => ArtefactError::Io { path, source },
                Fault::Other(error) => error,
            })
        });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(ArtefactError::Unavailable { reason: "the process is shutting down".to_owned() }),
        }
    }
}

/// What went wrong with a file.
enum Fault {
    Io(io::Error),
    Other(ArtefactError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[async_trait]
impl Artefacts for FileArtefacts {
    async fn put(&self, kind: ArtefactKind, bytes: Bytes) -> Result<Digest, ArtefactError> {
        check_size(bytes.len() as u64)?;
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        // Hashing takes its time too, so that it is done there.
        self.blocking(self.path.join(kind.as_str()), move |directory| {
            let digest = Digest::blake3(&bytes);
            let path = directory.join(digest.to_string());
            if matches!(read(&path, &digest), Ok(Some(_))) {
                return Ok(digest);
            }
            let temporary = directory.join(format!("{digest}.{number}{UNFINISHED}"));
            let written = write(&temporary, &bytes).and_then(|()| fs::rename(&temporary, &path));
            if let Err(error) = written {
                // Losing this error is right: the first one is told, and the next start sweeps.
                let _ = fs::remove_file(&temporary);
                return Err(error.into());
            }
            File::open(directory)?.sync_all()?;
            read(&path, &digest)?.map(|_| digest).ok_or(Fault::Other(ArtefactError::Damaged { digest }))
        })
        .await
    }

    async fn get(&self, kind: ArtefactKind, digest: &Digest) -> Result<Option<Bytes>, ArtefactError> {
        let digest = *digest;
        self.blocking(self.path_of(kind, &digest), move |path| read(path, &digest)).await
    }

    async fn list(&self, kind: ArtefactKind) -> Result<Vec<ArtefactEntry>, ArtefactError> {
        self.blocking(self.path.join(kind.as_str()), |directory| {
            let mut entries = Vec::new();
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                    entries.push(ArtefactEntry { digest, bytes: entry.metadata()?.len() });
                }
            }
            entries.sort_unstable();
            Ok(entries)
        })
        .await
    }

    async fn delete(&self, kind: ArtefactKind, digest: &Digest) -> Result<(), ArtefactError> {
        self.blocking(self.path_of(kind, digest), |path| {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all()).map_err(Fault::Io)
        })
        .await
    }
}

/// Makes the directory of a kind and removes unfinished files from it.
fn sweep(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The bytes of a file, checked; none if there is no file.
fn read(path: &Path, digest: &Digest) -> Result<Option<Bytes>, Fault> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(ARTEFACT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if Digest::blake3(&bytes) == *digest { Ok(Some(bytes.into())) } else { Err(Fault::Other(ArtefactError::Damaged { digest: *digest })) }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
