//! Installing a snapshot: every check first, then one rename.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use event_log::EventLog;
use schemas::{ClusterId, Digest, PublicKey, Sequence, WriterId};
use thiserror::Error;

use super::manifest::{SNAPSHOT_FORMAT, SnapshotFile, SnapshotManifest, key_of};
use super::writers::WriterOf;
use super::{MANIFEST, ROWS, SIGNATURE};
use crate::VERSION;
use crate::contact::ContactFile;
use crate::directory::{Directory, DirectoryError, Generation};
use crate::fold::Folder;
use crate::fold::rows::{FAMILIES, META, PositionRow, position_key};
use crate::memory::Memory;
use crate::models::Position;
use crate::projector::{Config, blocking};
use crate::start::CheckError;
use crate::store::{ReadError, Store};

/// Why a snapshot was not installed. Nothing that was in use was changed.
#[derive(Debug, Error)]
pub enum InstallError {
    #[error("{} cannot be used", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the snapshot's manifest cannot be read")]
    Manifest,
    #[error("the snapshot has format {found}, this release reads format {SNAPSHOT_FORMAT}")]
    OtherFormat { found: u32 },
    #[error("the snapshot is of cluster {found}, expected is {expected}")]
    OtherCluster { found: ClusterId, expected: ClusterId },
    #[error("the snapshot's writer {writer} is not one that the cluster key has enrolled")]
    NotEnrolled { writer: WriterId },
    #[error("the snapshot's writer {writer} is retired")]
    Retired { writer: WriterId },
    #[error("the snapshot's manifest is not signed by its writer")]
    Signature,
    #[error("the snapshot's rows have version {found}, this release's have {VERSION}")]
    OtherVersion { found: u32 },
    #[error("the snapshot names a file {name:?}")]
    FileName { name: String },
    #[error("the snapshot's file {name} is missing or is not the one that the manifest names")]
    FileDiffers { name: String },
    /// The log goes on from other records, or does not reach the snapshot.
    #[error("the snapshot does not belong to the log")]
    Log(#[from] CheckError),
    #[error("the snapshot's rows are not at the position and root that the manifest names")]
    RowsDiffer,
    #[error("the read models are at sequence {position} already, the snapshot is at {snapshot}")]
    NotAhead { position: Sequence, snapshot: Sequence },
    #[error("the read models have version {found}, this release reads up to version {VERSION}")]
    NewerVersion { found: u32 },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Storage(#[from] ReadError),
}

/// Makes a snapshot the read models of this node, which must not run. `cluster` and `cluster_key` are what the log's first record says.
///
/// The next [`Projector::open`](crate::Projector::open) begins with it. How stale it is nobody knows until the log is followed.
pub async fn install_snapshot(
    config: &Config,
    from: &Path,
    cluster: ClusterId,
    cluster_key: PublicKey,
    log: &dyn EventLog,
) -> Result<Position, InstallError> {
    let place = Place { models: config.data.join("read-models"), from: from.to_owned(), memory: config.memory.clone() };
    let (place, directory, manifest) = blocking(move || {
        let (bytes, signature) = (place.read(MANIFEST)?, place.read(SIGNATURE)?);
        let manifest = SnapshotManifest::verify(&bytes, &signature, cluster, &cluster_key)?;
        let directory = place.hold_if_behind(&manifest)?;
        Ok::<_, InstallError>((place, directory, manifest))
    })
    .await?;
    manifest.anchor().check(log).await?;
    let cluster_key = key_of(&cluster_key).ok_or(InstallError::NotEnrolled { writer: manifest.writer_id() })?;
    let writer = WriterOf { cluster, cluster_key: &cluster_key, public_key: manifest.writer.public_key };
    if writer.is_retired(log).await.map_err(CheckError::Log)? {
        return Err(InstallError::Retired { writer: manifest.writer_id() });
    }
    blocking(move || {
        let scratch = Scratch::begin(&directory)?;
        place.copy_rows(&manifest, &scratch.path)?;
        let store = Store::open(&scratch.path, FAMILIES, &place.memory)?;
        let folder = Folder::open(Arc::new(store))?;
        let row = folder.row();
        let is_named = (row.cluster, row.sequence, row.root, row.leaf)
            == (Some(manifest.cluster), manifest.position, manifest.root, Some(manifest.leaf));
        let is_rooted = row.frontier.size() == manifest.position.0 && row.frontier.root() == manifest.root;
        let is_ruled = folder.authority().cluster == Some((manifest.cluster, cluster_key));
        if !(is_named && is_rooted && is_ruled) {
            return Err(InstallError::RowsDiffer);
        }
        let position = row.position();
        folder.store().sync()?;
        drop(folder);
        ContactFile::new(&place.models).forget().map_err(|source| InstallError::Io { path: place.models.clone(), source })?;
        scratch.put_in_use(&directory)?;
        tracing::info!(position = %position.sequence, root = %position.root, writer = %manifest.writer_id(), "a snapshot was installed");
        Ok(position)
    })
    .await
}

/// Where a snapshot comes from and where it goes.
struct Place {
    models: PathBuf,
    from: PathBuf,
    memory: Memory,
}

impl Place {
    fn read(&self, name: &str) -> Result<Vec<u8>, InstallError> {
        let path = self.from.join(name);
        fs::read(&path).map_err(|source| InstallError::Io { path, source })
    }

    /// Holds the directory of the read models if those in it are older than the snapshot.
    fn hold_if_behind(&self, manifest: &SnapshotManifest) -> Result<Directory, InstallError> {
        let current = Directory::peek(&self.models)?;
        if let Some(Generation { version: found, .. }) = current.filter(|current| current.version > VERSION) {
            return Err(InstallError::NewerVersion { found });
        }
        let directory = Directory::hold(self.models.clone())?;
        let path = current.filter(|current| current.version == VERSION).map(|current| directory.path_of(current));
        let Some(path) = path.filter(|path| path.is_dir()) else { return Ok(directory) };
        let store = Store::open_read_only(&path, FAMILIES, &self.memory)?;
        let row = store.get::<PositionRow>(META, &position_key())?.unwrap_or_else(PositionRow::empty);
        match row.cluster {
            Some(found) if found != manifest.cluster => Err(CheckError::OtherCluster { found, expected: manifest.cluster }.into()),
            Some(_) if row.sequence >= manifest.position => {
                Err(InstallError::NotAhead { position: row.sequence, snapshot: manifest.position })
            }
            _ => Ok(directory),
        }
    }

    /// Copies the files that the manifest names, each checked by the bytes that were copied.
    fn copy_rows(&self, manifest: &SnapshotManifest, into: &Path) -> Result<(), InstallError> {
        let (rows, mut buffer) = (self.from.join(ROWS), vec![0; 1 << 20]);
        for file in &manifest.files {
            let (source, target) = (rows.join(&file.name), into.join(&file.name));
            match copy(&source, &target, file, &mut buffer) {
                Ok(true) => {}
                Ok(false) => return Err(InstallError::FileDiffers { name: file.name.clone() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(InstallError::FileDiffers { name: file.name.clone() });
                }
                Err(error) => return Err(InstallError::Io { path: source, source: error }),
            }
        }
        let sync = || File::open(into)?.sync_all();
        sync().map_err(|source| InstallError::Io { path: into.to_owned(), source })
    }
}

/// Copies one file durably; false if it is not the file that is due. Never writes more than that one has.
fn copy(source: &Path, target: &Path, due: &SnapshotFile, buffer: &mut [u8]) -> Result<bool, io::Error> {
    let (mut source, mut target) = (File::open(source)?, File::create_new(target)?);
    let (mut hash, mut bytes) = (blake3::Hasher::new(), 0);
    while bytes <= due.bytes {
        let read = source.read(buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
        target.write_all(&buffer[..read])?;
    }
    target.sync_all()?;
    Ok(bytes == due.bytes && Digest::from_bytes(*hash.finalize().as_bytes()) == due.blake3)
}

/// A generation that goes if it is not put in use.
struct Scratch {
    generation: Generation,
    path: PathBuf,
    in_use: bool,
}

impl Scratch {
    fn begin(directory: &Directory) -> Result<Self, InstallError> {
        let generation = directory.next()?;
        let path = directory.path_of(generation);
        fs::create_dir(&path).map_err(|source| InstallError::Io { path: path.clone(), source })?;
        Ok(Self { generation, path, in_use: false })
    }

    fn put_in_use(mut self, directory: &Directory) -> Result<(), DirectoryError> {
        // Whatever comes of it, the pointer may name the generation from here on; one that it does not name is swept by the next start.
        self.in_use = true;
        directory.point_to(self.generation)?;
        directory.sweep(self.generation)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.in_use
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            // The next start sweeps what no pointer names.
            tracing::warn!(path = %self.path.display(), error = %error, "a refused snapshot could not be removed");
        }
    }
}
