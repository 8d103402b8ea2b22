//! What the embedded log does with storage that is not what it wrote: it refuses it, or shows exactly what was there.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use event_log::faults::{Fault, fail_next_write};
use event_log::{AppendError, Appended, Damage, EmbeddedLog, EventLog, Expect, OpenError, StorageError, Stored};
use schemas::Sequence;
use tempfile::TempDir;

const SUBJECT: &str = "kr.e.default.key.one";

fn last(sequence: u64) -> Expect {
    Expect { subject: Sequence(sequence), log: None }
}

async fn fill(path: &Path, from: u64, count: u64) {
    let log = EmbeddedLog::open(path).unwrap();
    for n in from..from + count {
        // Not compressible, so that sorted files have several blocks.
        let record: Vec<u8> = (0..10_u64).flat_map(|i| (n * 31 + i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
        let subject = format!("{SUBJECT}.{}", n % 7);
        let expect = Expect { subject: log.last(&subject).await.unwrap(), log: None };
        assert_eq!(log.append(&subject, expect, record.into()).await, Ok(Appended::Appended(Sequence(n))));
    }
}

/// A log with records in sorted files (replayed at the second start) and in the write-ahead log.
async fn filled() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 1, 200).await;
    fill(directory.path(), 201, 60).await;
    directory
}

async fn content(path: &Path) -> Result<Vec<Stored>, OpenError> {
    let log = EmbeddedLog::open(path)?;
    Ok(log.read_range(Sequence(1), usize::MAX).await.unwrap())
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (folders, mut files): (Vec<_>, Vec<_>) = paths.drain(..).partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| self::files(folder)));
    files.sort();
    files
}

/// A copy of a log, for one fault.
fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in files(from) {
        let target = to.path().join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
    to
}

fn wal(directory: &Path) -> PathBuf {
    files(directory).into_iter().rfind(|path| path.extension().is_some_and(|extension| extension == "log")).unwrap()
}

fn cut(path: &Path, length: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn is_lost(opened: &Result<Vec<Stored>, OpenError>) -> bool {
    matches!(opened, Err(OpenError::Storage { source: StorageError::Damage(Damage::Lost { .. }), .. }))
}

#[tokio::test]
async fn a_byte_that_changed_is_refused_or_means_nothing() {
    let original = filled().await;
    let pristine = copy(original.path());
    let expected = content(original.path()).await.unwrap();
    let (mut refused, mut same) = (Vec::new(), Vec::new());
    for file in files(pristine.path()) {
        let name = file.strip_prefix(pristine.path()).unwrap();
        let length = fs::metadata(&file).unwrap().len() as usize;
        for eighth in (0..8).filter(|_| length > 0) {
            let damaged = copy(pristine.path());
            let path = damaged.path().join(name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[length * eighth / 8 + length / 16] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            match content(damaged.path()).await {
                Ok(content) => {
                    assert!(content == expected, "{} changed at {eighth}/8: other content", name.display());
                    same.push(name.to_owned());
                }
                Err(_) => refused.push(name.to_owned()),
            }
        }
    }
    // Every file that holds records was refused at least once, so the test has bitten.
    for kind in ["log", "sst"] {
        assert!(refused.iter().any(|name| name.extension().is_some_and(|extension| extension == kind)), "{refused:?} {same:?}");
    }
    assert!(!same.contains(&"HEAD".into()));
}

/// Where the records of a write-ahead log or a manifest of one block begin: checksum 4, length 2, type 1, data.
fn headers(file: &Path) -> Vec<usize> {
    let bytes = fs::read(file).unwrap();
    let mut headers = vec![0];
    while headers[headers.len() - 1] + 7 < bytes.len() {
        let last = headers[headers.len() - 1];
        headers.push(last + 7 + usize::from(u16::from_le_bytes([bytes[last + 4], bytes[last + 5]])));
    }
    headers.pop();
    headers
}

#[tokio::test]
async fn a_header_that_changed_neither_hangs_the_start_nor_passes_for_a_torn_tail() {
    let original = filled().await;
    let expected = content(copy(original.path()).path()).await.unwrap();
    let manifest = files(original.path()).into_iter().find(|path| path.to_string_lossy().contains("MANIFEST-")).unwrap();
    for file in [wal(original.path()), manifest] {
        let headers = headers(&file);
        assert!(headers.len() > 2);
        let name = file.strip_prefix(original.path()).unwrap();
        for header in [headers[0], headers[headers.len() / 2], headers[headers.len() - 1]] {
            // A length that points behind the end of the file looks like a write that was cut off; types 5 to 8, 11 and 131
            // belong to files that are used again, 0 to space that was never written.
            let lengths = [(5, 0x7F), (5, 0xFF)];
            let types = [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 130, 131].map(|kind| (6, kind));
            for (offset, value) in lengths.into_iter().chain(types) {
                let damaged = copy(original.path());
                let mut bytes = fs::read(&file).unwrap();
                bytes[header + offset] = value;
                fs::write(damaged.path().join(name), bytes).unwrap();
                if let Ok(content) = content(damaged.path()).await {
                    assert!(content == expected, "{} at {header}: byte {offset} is {value}", name.display());
                }
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_refused_or_means_nothing() {
    let original = filled().await;
    let pristine = copy(original.path());
    let expected = content(original.path()).await.unwrap();
    for file in files(pristine.path()) {
        let name = file.strip_prefix(pristine.path()).unwrap();
        let damaged = copy(pristine.path());
        fs::remove_file(damaged.path().join(name)).unwrap();
        match content(damaged.path()).await {
            Ok(content) => assert!(content == expected, "{} is missing: other content", name.display()),
            Err(error) => assert!(!matches!(error, OpenError::AlreadyOpen { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_torn_tail_is_tolerated() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(before.path(), 1, 20).await;
    fill(after.path(), 1, 21).await;
    let length = |directory: &TempDir| fs::metadata(wal(directory.path())).unwrap().len();
    let (whole, end) = (length(&before), length(&after));
    // The power fails while record 21 is being written, at any byte of it: nobody was told of it yet.
    fs::copy(before.path().join("HEAD"), after.path().join("HEAD")).unwrap();
    let expected = content(copy(before.path()).path()).await.unwrap();
    for length in [whole, whole + 1, whole + 7, (whole + end) / 2, end - 1] {
        let torn = copy(after.path());
        cut(&wal(torn.path()), length);
        assert_eq!(content(torn.path()).await.unwrap(), expected);
        // The place is free, and the log goes on from it.
        fill(torn.path(), 21, 5).await;
    }
    assert_eq!(content(after.path()).await.unwrap().len(), 21);
}

#[tokio::test]
async fn a_write_ahead_log_cut_below_the_last_answer_is_refused() {
    let original = filled().await;
    let length = fs::metadata(wal(original.path())).unwrap().len();
    for part in [0, 1, 2, 3, 5, 7] {
        let damaged = copy(original.path());
        cut(&wal(damaged.path()), length * part / 8);
        let opened = content(damaged.path()).await;
        assert!(is_lost(&opened), "{part}/8: {opened:?}");
    }
    let damaged = copy(original.path());
    cut(&wal(damaged.path()), length - 1);
    assert!(is_lost(&content(damaged.path()).await));
}

#[tokio::test]
async fn a_log_that_is_open_is_not_opened_twice() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(directory.path()).unwrap();
    assert!(matches!(EmbeddedLog::open(directory.path()), Err(OpenError::AlreadyOpen { .. })));
    assert_eq!(log.append(SUBJECT, last(0), Bytes::from("a")).await, Ok(Appended::Appended(Sequence(1))));
    drop(log);
    assert_eq!(content(directory.path()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let directory = filled().await;
    fs::write(directory.path().join("FORMAT"), "keyrelay embedded event log\nformat 2\nbegun by 9.1.0\nand more\n").unwrap();
    let state = |path: &Path| files(path).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect::<Vec<_>>();
    let before = state(directory.path());
    let Err(error) = EmbeddedLog::open(directory.path()) else { panic!("opened") };
    assert!(matches!(&error, OpenError::NewerFormat { found: 2, supported: 1, release, .. } if release == "9.1.0"));
    let text = error.to_string();
    assert!(text.contains("9.1.0") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    assert!(state(directory.path()) == before);
}

#[tokio::test]
async fn a_closed_log_takes_nothing_and_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(directory.path()).unwrap();
    let record = Bytes::from("a");
    assert_eq!(log.append(SUBJECT, last(0), record.clone()).await, Ok(Appended::Appended(Sequence(1))));
    log.close().await;
    log.close().await;
    assert_eq!(log.append(SUBJECT, last(1), record).await, Err(AppendError::Closed));
    assert_eq!(log.head().await, Ok(Sequence(1)));
    drop(log);
    assert_eq!(content(directory.path()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_failed_write_stops_the_log_until_it_is_opened_again() {
    for (fault, resolved) in [(Fault::NotKept, Appended::Appended(Sequence(2))), (Fault::Kept, Appended::AlreadyAppended(Sequence(2)))] {
        let directory = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(directory.path()).unwrap();
        assert_eq!(log.append(SUBJECT, last(0), Bytes::from("a")).await, Ok(Appended::Appended(Sequence(1))));
        fail_next_write(fault);
        assert_eq!(log.append(SUBJECT, last(1), Bytes::from("b")).await, Ok(Appended::Unknown));
        // Neither the same record nor another one, nor one that would be a conflict.
        for (subject, expect) in [(SUBJECT, last(1)), ("other", last(0)), (SUBJECT, last(7))] {
            assert!(matches!(log.append(subject, expect, Bytes::from("b")).await, Err(AppendError::Failed(_))));
        }
        assert_eq!(log.head().await, Ok(Sequence(1)));
        assert_eq!(log.read_range(Sequence(1), 10).await.unwrap().len(), 1);
        drop(log);

        let log = EmbeddedLog::open(directory.path()).unwrap();
        assert_eq!(log.append(SUBJECT, last(1), Bytes::from("b")).await, Ok(resolved));
    }
}
