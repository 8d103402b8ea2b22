//! Taking a snapshot of the model in use.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::{Digest, PublicKey, WriterId};
use thiserror::Error;

use super::manifest::{SNAPSHOT_FORMAT, SnapshotFile, SnapshotManifest, signature_text, statement};
use super::writers::WriterOf;
use super::{MANIFEST, ROWS, SIGNATURE};
use crate::VERSION;
use crate::fold::rows::PositionRow;
use crate::projector::{Projector, blocking};
use crate::start::Anchor;
use crate::store::ReadError;

/// Why there is no snapshot. What was made of it is removed.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("the read models hold nothing yet")]
    Empty,
    /// Nobody would install what it signs.
    #[error("the log has no enrolment of {writer}")]
    NotEnrolled { writer: WriterId },
    #[error("{} cannot be written", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Storage(#[from] ReadError),
    #[error(transparent)]
    Log(#[from] event_log::ReadError),
}

impl Projector {
    /// Takes a snapshot at the position announced last, in a directory that must not exist. `writer` is this node's public key and
    /// `sign` signs with it. The fold waits only while files are linked.
    pub async fn snapshot(
        &self,
        into: &Path,
        writer: PublicKey,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<SnapshotManifest, SnapshotError> {
        let (cluster, cluster_key) = self.shared.view().authority.cluster.ok_or(SnapshotError::Empty)?;
        let writer_of = WriterOf { cluster, cluster_key: &cluster_key, public_key: writer };
        let not_enrolled = SnapshotError::NotEnrolled { writer: WriterId::of(&writer) };
        let writer = writer_of.enrolment(&*self.log).await?.ok_or(not_enrolled)?;
        let partial = Partial::begin(into)?;
        let (row, files) = self.copy_rows(partial.path.join(ROWS)).await?;
        let Anchor { cluster, position, leaf } = Anchor::of(&row).ok_or(SnapshotError::Empty)?;
        let manifest =
            SnapshotManifest { format: SNAPSHOT_FORMAT, cluster, version: VERSION, position, root: row.root, leaf, writer, files };
        let mut bytes = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data; encoding to memory cannot fail");
        bytes.push(b'\n');
        let signature = signature_text(&sign(&statement(&bytes)));
        blocking(move || partial.finish(&bytes, &signature)).await?;
        tracing::info!(%position, root = %manifest.root, files = manifest.files.len(), "a snapshot was taken");
        Ok(manifest)
    }

    /// Copies the rows as they are at one position. Gives the position and the files.
    async fn copy_rows(&self, into: PathBuf) -> Result<(PositionRow, Vec<SnapshotFile>), SnapshotError> {
        let (folder, shared) = (Arc::clone(&self.folder), Arc::clone(&self.shared));
        blocking(move || {
            // What takes long is done before the fold has to wait.
            shared.view().store.flush()?;
            let row = {
                let folder = folder.lock();
                folder.store().checkpoint(&into)?;
                folder.row().clone()
            };
            let files = list(&into).map_err(|source| SnapshotError::Io { path: into, source })?;
            Ok((row, files))
        })
        .await
    }
}

/// A snapshot that goes if it is not finished.
struct Partial {
    path: PathBuf,
    is_finished: bool,
}

impl Partial {
    fn begin(path: &Path) -> Result<Self, SnapshotError> {
        fs::create_dir(path).map_err(|source| SnapshotError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), is_finished: false })
    }

    fn finish(mut self, manifest: &[u8], signature: &str) -> Result<(), SnapshotError> {
        for (name, bytes) in [(SIGNATURE, signature.as_bytes()), (MANIFEST, manifest)] {
            let path = self.path.join(name);
            let write = || {
                let mut file = File::create_new(&path)?;
                file.write_all(bytes)?;
                file.sync_all()
            };
            write().map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        }
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %error, "an unfinished snapshot could not be removed");
        }
    }
}

/// The files of a directory in the order of their names, with their lengths and digests.
fn list(directory: &Path) -> Result<Vec<SnapshotFile>, io::Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|_| io::ErrorKind::InvalidFilename)?;
        let (bytes, blake3) = digest(&entry.path())?;
        files.push(SnapshotFile { name, bytes, blake3 });
    }
    files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn digest(path: &Path) -> Result<(u64, Digest), io::Error> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, blake3::Hasher::new(), vec![0; 1 << 20]);
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, Digest::from_bytes(*hash.finalize().as_bytes())));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}
