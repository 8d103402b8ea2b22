//! An export as the tar stream that a node sends.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use control::audit::manifest::{MANIFEST, Manifest, SIGNATURE};
use control::audit::record;
use control::audit::state::{self, ReadRowError, STATE, StateRow};
use event_log::Stored;
use schemas::{ClusterId, Digest, Sequence};
use thiserror::Error;

use super::report::{Expected, Report};
use super::verification::Verification;

/// Why a stream cannot be taken.
#[derive(Debug, Error)]
pub enum StreamError {
    #[error("the export ended early or cannot be read")]
    Stream(#[source] io::Error),
    #[error("the export ended before its signature")]
    CutShort,
    #[error("the export has {name:?}, which does not belong into one")]
    Unexpected { name: String },
    #[error("{} is there already and is not an empty folder", path.display())]
    NotEmpty { path: PathBuf },
    #[error("the export has no manifest that this release reads")]
    Manifest(#[source] serde_json::Error),
    #[error("cannot unpack {}", path.display())]
    Unpack {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Verifies a stream without keeping it. `progress` is told the records folded so far, after each file.
pub fn verify_stream(stream: impl Read, expected: Expected, mut progress: impl FnMut(Sequence)) -> Result<Report, StreamError> {
    let mut verification = Verification::new();
    each_file(stream, |name, content| {
        verification.file(name, content).map_err(StreamError::Stream)?;
        progress(verification.size());
        Ok(())
    })?;
    Ok(verification.finish(expected))
}

/// Unpacks a stream into a folder, which must not be there or be empty; it appears whole or not at all.
///
/// A name that no export has, a link, and a name that comes twice are refused: nothing is written anywhere else. Gives the manifest as it
/// came; nothing is verified.
pub fn unpack(stream: impl Read, directory: &Path) -> Result<Manifest, StreamError> {
    let unpack_error = |path: &Path, source| StreamError::Unpack { path: path.to_owned(), source };
    if fs::read_dir(directory).map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |mut entries| entries.next().is_some()) {
        return Err(StreamError::NotEmpty { path: directory.to_owned() });
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished =
        tempfile::Builder::new().prefix(".keyrelay-export-").tempdir_in(parent).map_err(|error| unpack_error(parent, error))?;
    let records = unfinished.path().join(record::FOLDER);
    DirBuilder::new().mode(0o700).create(&records).map_err(|error| unpack_error(&records, error))?;
    each_file(stream, |name, content| {
        let path = unfinished.path().join(name);
        let mut file = create(&path).map_err(|error| unpack_error(&path, error))?;
        io::copy(content, &mut file).map_err(|error| unpack_error(&path, error))?;
        file.sync_all().map_err(|error| unpack_error(&path, error))
    })?;
    let manifest = unfinished.path().join(MANIFEST);
    let manifest = fs::read(&manifest).map_err(|error| unpack_error(&manifest, error))?;
    let manifest = serde_json::from_slice(&manifest).map_err(StreamError::Manifest)?;
    fs::rename(unfinished.path(), directory).map_err(|error| unpack_error(directory, error))?;
    // It has its name now; what is at the old one must not be removed.
    let _ = unfinished.keep();
    Ok(manifest)
}

/// Hands on the records of a stream in runs, in order; nothing is verified. `take` says whether it wants more.
pub fn each_run(stream: impl Read, mut take: impl FnMut(Vec<Stored>) -> bool) -> Result<(), StreamError> {
    let mut is_wanted = true;
    each_file(stream, |name, content| {
        let Some(mut sequence) = record::first_of(name).filter(|_| is_wanted) else { return Ok(()) };
        let (mut content, mut run) = (BufReader::new(content), Vec::new());
        while let Some((subject, bytes)) = record::read(&mut content).map_err(|error| StreamError::Stream(io::Error::other(error)))? {
            run.push(Stored { sequence, subject: subject.into(), bytes: bytes.into() });
            sequence = sequence.next();
        }
        is_wanted = take(run);
        Ok(())
    })
}

/// What a node says of its own log in an export; nothing is verified.
pub struct Verdicts {
    pub cluster: ClusterId,
    pub size: Sequence,
    /// Over all records.
    pub root: Digest,
    /// The records that it judged void.
    pub voids: BTreeSet<Sequence>,
}

/// Reads what a stream says besides its records.
pub fn verdicts(stream: impl Read) -> Result<Verdicts, StreamError> {
    let (mut voids, mut manifest) = (BTreeSet::new(), None);
    each_file(stream, |name, content| {
        match name {
            STATE => {
                let mut content = BufReader::new(content);
                let broken = |error: ReadRowError| StreamError::Stream(io::Error::other(error));
                while let Some(row) = state::read(&mut content).map_err(broken)? {
                    if let StateRow::Void { sequence, .. } = row {
                        voids.insert(sequence);
                    }
                }
            }
            MANIFEST => manifest = Some(serde_json::from_reader::<_, Manifest>(content).map_err(StreamError::Manifest)?),
            _ => {}
        }
        Ok(())
    })?;
    let Manifest { cluster, size, root, .. } = manifest.ok_or(StreamError::CutShort)?;
    Ok(Verdicts { cluster, size, root, voids })
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Hands on the files of a stream, by the names that an export has. The signature comes last and must be there.
fn each_file(stream: impl Read, mut take: impl FnMut(&str, &mut dyn Read) -> Result<(), StreamError>) -> Result<(), StreamError> {
    let mut archive = tar::Archive::new(stream);
    let mut is_complete = false;
    for entry in archive.entries().map_err(StreamError::Stream)? {
        let mut entry = entry.map_err(StreamError::Stream)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if is_complete || !entry.header().entry_type().is_file() || !is_expected(&name) {
            return Err(StreamError::Unexpected { name });
        }
        is_complete = name == SIGNATURE;
        take(&name, &mut entry)?;
    }
    if is_complete { Ok(()) } else { Err(StreamError::CutShort) }
}

fn is_expected(name: &str) -> bool {
    matches!(name, MANIFEST | SIGNATURE | STATE) || record::first_of(name).is_some()
}
