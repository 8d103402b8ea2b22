//! The format of a data directory as a whole, checked before anything in it is opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vault::files;

/// The format of data directories that this release writes and reads.
const FORMAT: u32 = 1;
const FILE: &str = "format";

/// Why a data directory is not opened.
#[derive(Debug, Error)]
pub(crate) enum DataError {
    #[error(
        "{} was written by a newer release: data format {found}, written by keyrelay {release}; this is keyrelay {this}, \
         which reads up to format {FORMAT}. Nothing was changed",
        path.display(),
        this = env!("CARGO_PKG_VERSION")
    )]
    Newer { path: PathBuf, found: u32, release: String },
    #[error("{} is not what keyrelay writes; nothing was changed", path.display())]
    Malformed { path: PathBuf },
    #[error("{} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the format cannot be written")]
    Write(#[from] files::WriteSecretError),
}

/// Whether a node began to serve from this directory.
pub(crate) fn is_data(path: &Path) -> bool {
    path.join(FILE).exists()
}

/// Refuses data of a newer release; a new directory has no format yet.
pub(super) fn check_format(data: &Path) -> Result<(), DataError> {
    let path = data.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(DataError::Read { path, source }),
    };
    // `1 0.1.0`: the format, then the release that wrote it.
    let mut words = text.split_whitespace();
    let (format, release) = (words.next().and_then(|word| word.parse().ok()), words.next());
    match (format, release) {
        (Some(format), Some(_)) if format <= FORMAT => Ok(()),
        (Some(found), Some(release)) => Err(DataError::Newer { path: data.to_owned(), found, release: release.to_owned() }),
        _ => Err(DataError::Malformed { path }),
    }
}

/// Marks the directory with this release's format.
pub(crate) fn write_format(data: &Path) -> Result<(), DataError> {
    Ok(files::write_secret(&data.join(FILE), format!("{FORMAT} {}\n", env!("CARGO_PKG_VERSION")).as_bytes())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]
    use super::*;

    #[test]
    fn data_of_a_newer_release_is_refused_with_both_named() {
        let data = tempfile::tempdir().unwrap();
        assert!(check_format(data.path()).is_ok());
        write_format(data.path()).unwrap();
        assert!(check_format(data.path()).is_ok());
        fs::write(data.path().join(FILE), "2 9.9.9\n").unwrap();
        let text = check_format(data.path()).unwrap_err().to_string();
        assert!(text.contains("9.9.9") && text.contains(env!("CARGO_PKG_VERSION")) && text.contains("format 2"), "{text}");
        fs::write(data.path().join(FILE), "what").unwrap();
        assert!(matches!(check_format(data.path()), Err(DataError::Malformed { .. })));
    }
}
