//! An export as a folder.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::report::{Expected, Report};
use super::verification::Verification;

/// Verifies the export in a folder. An error is a folder that cannot be read; everything else is in the report.
///
/// `progress` is told the bytes of each file that was done.
pub fn verify_directory(directory: &Path, expected: Expected, mut progress: impl FnMut(u64)) -> io::Result<Report> {
    let mut verification = Verification::new();
    for name in names(directory, "", &mut verification)? {
        match File::open(directory.join(&name)) {
            Ok(file) => {
                let bytes = file.metadata()?.len();
                verification.file(&name, file)?;
                progress(bytes);
            }
            Err(error) => verification.refuse(&name, &format!("cannot be read: {error}")),
        }
    }
    Ok(verification.finish(expected))
}

/// The length of all files together.
pub fn directory_bytes(directory: &Path) -> io::Result<u64> {
    let names = names(directory, "", &mut Verification::new())?;
    // A file that cannot be read is a finding of the verification, not of this estimate.
    Ok(names.iter().filter_map(|name| fs::metadata(directory.join(name)).ok()).map(|file| file.len()).sum())
}

/// All files, by the names they have in an export. Sorted, records come before the state, and in their order.
fn names(directory: &Path, prefix: &str, verification: &mut Verification) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_file() {
            names.push(name);
        } else if kind.is_dir() && prefix.is_empty() {
            names.extend(self::names(&entry.path(), &format!("{name}/"), verification)?);
        } else {
            verification.refuse(&name, "neither a file nor the folder of the records");
        }
    }
    names.sort_unstable();
    Ok(names)
}
