//! The framing of RocksDB's write-ahead logs and manifests, as far as a start has to look at it itself.
//!
//! Such a file is a row of blocks, a block a row of records: checksum (4 bytes), length (2, little-endian), type (1), data. There are types for
//! files that are used again. We never use one again, but a type byte can change into one, and on meeting it after a record of another
//! type RocksDB's reader (11.8.1, `log_reader.cc`) consumes nothing and tries again, for ever. Every other change it refuses by checksum.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::storage::{Damage, StorageError};

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
const TYPES_OF_REUSED_FILES: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Refuses a database that its engine would not come back from opening. One that is not there is fine.
pub(crate) fn check(database: &Path) -> Result<(), StorageError> {
    let names = match file_names(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names.map_err(|error| StorageError::Engine(format!("cannot list {}: {error}", database.display())))?,
    };
    for name in names.into_iter().filter(|name| name.ends_with(".log") || name.starts_with("MANIFEST-")) {
        let is_sound = is_sound(&database.join(&name)).map_err(|error| StorageError::Engine(format!("cannot read {name}: {error}")))?;
        if !is_sound {
            return Err(Damage::File { name }.into());
        }
    }
    Ok(())
}

fn file_names(directory: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn is_sound(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    loop {
        block.clear();
        (&mut file).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(true);
        }
        if record_types(&block).any(|kind| TYPES_OF_REUSED_FILES.contains(&kind)) {
            return Ok(false);
        }
    }
}

/// The types of the records of a block, up to where its lengths lead out of it.
fn record_types(mut block: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let [_, _, _, _, low, high, kind] = *block.first_chunk::<HEADER_BYTES>()?;
        let length = usize::from(u16::from_le_bytes([low, high]));
        block = block.get(HEADER_BYTES + length..).unwrap_or_default();
        Some(kind)
    })
}
