//! Secret files: their modes, their two steps, and the commands that errors name.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vault::files::{self, PrivateDirError, ReadSecretError, WriteSecretError};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_private_from_the_start() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("above/keyrelay-data");
    files::private_dir(&dir).unwrap();
    files::private_dir(&dir).unwrap();
    assert_eq!(mode(&dir), 0o700);
}

#[test]
fn a_wider_directory_is_refused_with_the_command_that_mends_it() {
    let root = tempfile::tempdir().unwrap();
    for wide in [0o755, 0o750, 0o701, 0o720] {
        set_mode(root.path(), wide);
        let refused = files::private_dir(root.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("chmod 700 {}", root.path().display())), "{refused}");
    }
    set_mode(root.path(), 0o700);
    files::private_dir(root.path()).unwrap();

    let spaced = root.path().join("my data");
    fs::create_dir(&spaced).unwrap();
    set_mode(&spaced, 0o755);
    let refused = files::private_dir(&spaced).unwrap_err().to_string();
    assert!(refused.contains(&format!("chmod 700 '{}'", spaced.display())), "{refused}");

    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(files::private_dir(&file), Err(PrivateDirError::NotADirectory { .. })));
}

#[test]
fn a_secret_file_is_private_whole_and_replaceable() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("writer.key");
    // What a crash in the middle of an earlier write may have left.
    fs::write(root.path().join("writer.key.partial"), b"torn").unwrap();
    for content in [&b"first"[..], b"second"] {
        files::write_secret(&path, content).unwrap();
        assert_eq!(*files::read_secret(&path).unwrap(), content);
        assert_eq!(mode(&path), 0o600);
    }
    assert_eq!(names(root.path()), ["writer.key"]);
}

#[test]
fn a_wider_secret_file_is_refused_with_the_command_that_mends_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("root.key");
    files::write_secret(&path, b"secret").unwrap();
    for wide in [0o644, 0o640, 0o604, 0o620, 0o610] {
        set_mode(&path, wide);
        let refused = files::read_secret(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("chmod 600 {}", path.display())) && !refused.contains("secret\""), "{refused}");
    }
    set_mode(&path, 0o400);
    assert_eq!(*files::read_secret(&path).unwrap(), b"secret");
}

#[test]
fn what_is_no_secret_file_is_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("root.key");
    assert!(matches!(files::read_secret(&path), Err(ReadSecretError::Missing { .. })));
    assert!(matches!(files::read_secret(root.path()), Err(ReadSecretError::NotAFile { .. })));
    assert!(matches!(files::write_secret(&path, &[0; files::FILE_BYTES_MAX + 1]), Err(WriteSecretError::TooLarge)));
    files::write_secret(&path, &[1; files::FILE_BYTES_MAX]).unwrap();
    assert_eq!(files::read_secret(&path).unwrap().len(), files::FILE_BYTES_MAX);
    fs::write(&path, [1; files::FILE_BYTES_MAX + 1]).unwrap();
    assert!(matches!(files::read_secret(&path), Err(ReadSecretError::TooLarge { .. })));
}

#[test]
fn a_temporary_file_gets_its_name_once() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("root.key");
    assert!(matches!(files::promote(&path), Err(WriteSecretError::Read(ReadSecretError::Missing { .. }))));

    files::write_secret_temporary(&path, b"one").unwrap();
    assert_eq!(names(root.path()), ["root.key.new"]);
    assert_eq!(mode(&files::temporary_path(&path)), 0o600);
    files::promote(&path).unwrap();
    files::promote(&path).unwrap();
    assert_eq!((names(root.path()), &**files::read_secret(&path).unwrap()), (vec!["root.key".to_owned()], &b"one"[..]));

    files::write_secret_temporary(&path, b"one").unwrap();
    files::promote(&path).unwrap();
    assert_eq!(names(root.path()), ["root.key"]);

    files::write_secret_temporary(&path, b"two").unwrap();
    assert!(matches!(files::promote(&path), Err(WriteSecretError::Occupied { .. })));
    assert_eq!(*files::read_secret(&path).unwrap(), b"one");
    files::discard_temporary(&path).unwrap();
    files::discard_temporary(&path).unwrap();
    assert_eq!(names(root.path()), ["root.key"]);
}
