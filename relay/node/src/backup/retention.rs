//! Backups in a folder: their names, and how long they are kept.
//!
//! A name tells the cluster, the time and the sequence: `keyrelay-<cluster>-20261122T020000Z-4711.backup`. Only files of that name are ever
//! removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use control::backup::Manifest;
use schemas::{ClusterId, DurationText, Timestamp};

const SUFFIX: &str = ".backup";
/// A backup that is not whole yet.
pub(super) const UNFINISHED_PREFIX: &str = ".keyrelay-backup-";
pub(super) const UNFINISHED_SUFFIX: &str = ".partial";

/// The name of a backup in a folder.
pub(super) fn file_name(manifest: &Manifest) -> String {
    let Manifest { cluster, created_at, sequence, .. } = manifest;
    format!("keyrelay-{cluster}-{}-{sequence}{SUFFIX}", stamp(*created_at))
}

/// Removes this cluster's backups that are older than `keep` before the newest, which stays, and what was left unfinished by a process that is
/// gone. Gives what was removed.
pub fn prune(newest: &Path, manifest: &Manifest, keep: DurationText) -> io::Result<Vec<PathBuf>> {
    let Some(folder) = newest.parent() else { return Ok(Vec::new()) };
    let kept_micros = keep.as_seconds().saturating_mul(1_000_000);
    let oldest = stamp(Timestamp::from_micros(manifest.created_at.as_micros().saturating_sub(kept_micros)));
    let mut removed = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let is_old = path != newest && stamp_of(name, manifest.cluster).is_some_and(|stamp| stamp < oldest.as_str());
        if is_old || is_abandoned(name, &path) {
            fs::remove_file(&path)?;
            removed.push(path);
        }
    }
    removed.sort();
    Ok(removed)
}

/// The time in the name of one of this cluster's backups. Texts of this form sort as times do.
fn stamp_of(name: &str, cluster: ClusterId) -> Option<&str> {
    let rest = name.strip_prefix(&format!("keyrelay-{cluster}-"))?.strip_suffix(SUFFIX)?;
    let (stamp, sequence) = rest.split_once('-')?;
    let is_stamp = stamp.len() == 16 && stamp.bytes().all(|b| b.is_ascii_digit() || b == b'T' || b == b'Z');
    (is_stamp && !sequence.is_empty() && sequence.bytes().all(|b| b.is_ascii_digit())).then_some(stamp)
}

/// Whoever writes a backup holds a lock on it.
fn is_abandoned(name: &str, path: &Path) -> bool {
    let is_unfinished = name.starts_with(UNFINISHED_PREFIX) && name.ends_with(UNFINISHED_SUFFIX);
    is_unfinished && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// A time to the second, without what a file name is better without: `20261122T020000Z`.
fn stamp(time: Timestamp) -> String {
    let text = Timestamp::from_micros(time.as_seconds() * 1_000_000).to_string();
    let text = text.split('.').next().unwrap_or_default();
    text.chars().filter(|c| c.is_ascii_digit() || *c == 'T').chain(['Z']).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

    use super::super::verification::tests::manifest;
    use super::*;

    const DAY: u64 = 24 * 3600 * 1_000_000;

    fn at(day: u64) -> Manifest {
        Manifest { created_at: Timestamp::from_micros(20_000 * DAY + day * DAY + 7_200_123_456), ..manifest() }
    }

    #[test]
    fn a_week_is_kept_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        for day in 0..=10 {
            write(&file_name(&at(day)));
        }
        let other = Manifest { cluster: ClusterId::from_bytes([9; 16]), ..at(0) };
        let others = [file_name(&other), "keyrelay-notes.backup".to_owned(), "keyrelay.backup".to_owned(), "x".to_owned()];
        others.iter().for_each(|name| write(name));
        write(".keyrelay-backup-abc.partial");
        let newest = folder.path().join(file_name(&at(10)));
        let removed = prune(&newest, &at(10), "7d".parse().unwrap()).unwrap();
        let names: Vec<_> = removed.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        let expected: Vec<_> =
            [".keyrelay-backup-abc.partial".to_owned()].into_iter().chain((0..3).map(|day| file_name(&at(day)))).collect();
        assert_eq!(names, expected);
        assert!(others.iter().all(|name| folder.path().join(name).exists()) && newest.exists());
        assert!(prune(&newest, &at(10), "0s".parse().unwrap()).unwrap().len() == 7 && newest.exists());
    }

    #[test]
    fn a_name_tells_the_time_to_the_second() {
        let name = file_name(&at(0));
        assert!(name.ends_with("-20241004T020000Z-3.backup"), "{name}");
        assert_eq!(stamp_of(&name, manifest().cluster), Some("20241004T020000Z"));
    }
}
