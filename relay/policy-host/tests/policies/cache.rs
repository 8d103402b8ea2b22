//! Machine code on disk: only what this node wrote is run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use policy_host::{AdmissionError, CacheError, Compiler, HostError};
use schemas::policy::{PolicyClass, PolicyKind};

use crate::guest::Guest;
use crate::world::{World, input};

fn code_files(world: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.directory.path().join("cache")).unwrap();
    let mut files: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|x| x == "code")).collect();
    files.sort();
    files
}

#[test]
fn a_restart_loads_what_was_compiled_without_the_component() {
    let world = World::new();
    let admitted = world.admit(&Guest::new(PolicyKind::Quota)).unwrap();
    let module = world.restarted().load_cached(&admitted.digest, PolicyKind::Quota, PolicyClass::Fast).unwrap().unwrap();
    let asked = input(PolicyKind::Quota, 3);
    assert_eq!((module.decide(&asked).result, module.decide(&asked).fuel), {
        let evaluation = admitted.module.decide(&asked);
        (evaluation.result, evaluation.fuel)
    });
    assert!(world.restarted().load_cached(&admitted.digest, PolicyKind::Quota, PolicyClass::Slow).unwrap().is_none());
}

#[test]
fn a_file_that_was_changed_or_came_from_elsewhere_is_thrown_away_and_compiled_anew() {
    let world = World::new();
    let guest = Guest::new(PolicyKind::Route);
    let admitted = world.admit(&guest).unwrap();
    let other = world.admit(&Guest::new(PolicyKind::Expiry)).unwrap();
    let [one, two] = <[PathBuf; 2]>::try_from(code_files(&world)).unwrap();
    let (path, foreign) = if one.to_string_lossy().contains(&admitted.digest.to_string()) { (one, two) } else { (two, one) };
    let good = fs::read(&path).unwrap();
    let elsewhere = World::new();
    elsewhere.admit(&guest).unwrap();
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let bad = [
        vec![],
        good[..31].to_vec(),
        good[..good.len() - 1].to_vec(),
        [good.as_slice(), &[0]].concat(),
        changed(0),
        changed(32),
        changed(good.len() / 2),
        changed(good.len() - 1),
        // Whole and authentic, but of another policy, or of another node.
        fs::read(&foreign).unwrap(),
        fs::read(&code_files(&elsewhere)[0]).unwrap(),
    ];
    for bytes in bad {
        fs::write(&path, &bytes).unwrap();
        assert!(world.host.load_cached(&admitted.digest, PolicyKind::Route, PolicyClass::Fast).unwrap().is_none());
        assert!(!path.exists(), "thrown away");
        let module = world.host.load(&admitted.digest, PolicyKind::Route, PolicyClass::Fast, &admitted.component).unwrap();
        assert!(module.decide(&input(PolicyKind::Route, 1)).result.is_ok());
        assert!(path.exists(), "compiled anew");
    }
    drop(other);
}

#[test]
fn a_component_that_was_admitted_is_admitted_again_without_a_compiler() {
    let world = World::new();
    let admitted = world.admit(&Guest::new(PolicyKind::Quota)).unwrap();
    let without = world.restarted_with(Compiler::Child { program: PathBuf::from("/nonexistent") });
    let again = without.admit(&admitted.component, PolicyKind::Quota, PolicyClass::Fast).unwrap();
    assert_eq!((again.digest, again.manifest, again.component), (admitted.digest, admitted.manifest, admitted.component.clone()));
    // What it is admitted as is judged anew, and other bytes or another class are compiled.
    let other = without.admit(&admitted.component, PolicyKind::Route, PolicyClass::Fast);
    assert!(matches!(other, Err(AdmissionError::World(_))), "{other:?}");
    for (bytes, class) in [(&Guest::new(PolicyKind::Expiry).module(), PolicyClass::Fast), (&admitted.component, PolicyClass::Slow)] {
        let compiled = without.admit(bytes, PolicyKind::Quota, class);
        assert!(matches!(compiled, Err(AdmissionError::Compile(_))), "{compiled:?}");
    }
}

#[test]
fn nobody_else_reads_the_key_and_nothing_half_written_stays() {
    let world = World::new();
    world.admit(&Guest::new(PolicyKind::Route)).unwrap();
    let mode = |path: &str| fs::metadata(world.directory.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("cache"), mode("cache/key")), (0o700, 0o600));
    for entry in fs::read_dir(world.directory.path().join("cache")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!entry.file_name().to_string_lossy().ends_with(".partial"));
    }
}

#[test]
fn code_of_another_release_is_removed_at_start() {
    let world = World::new();
    let path = world.directory.path().join("cache").join(format!("{}.fast.0123456789abcdef.code", "0".repeat(64)));
    fs::write(&path, b"old").unwrap();
    drop(world.restarted());
    assert!(!path.exists());
}

#[test]
fn what_others_have_a_part_in_is_not_used() {
    let world = World::new();
    let directory = world.directory.path().join("cache");
    let key = directory.join("key");
    let refused = || match world.reopened() {
        Err(HostError::Cache { source, .. }) => source,
        other => panic!("{:?}", other.err()),
    };
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, own, modes) in [(&directory, 0o700, [0o777, 0o750, 0o701]), (&key, 0o600, [0o644, 0o660, 0o602])] {
        for mode in modes {
            chmod(path, mode);
            let error = refused();
            assert!(matches!(&error, CacheError::TooOpen { path: told, mode: found } if told == path && *found == mode), "{error:?}");
        }
        chmod(path, own);
        // Only root can give away what it has.
        if rustix::process::geteuid().is_root() {
            chown(path, Some(1), None).unwrap();
            let error = refused();
            assert!(matches!(&error, CacheError::NotOurs { path: told, owner: 1 } if told == path), "{error:?}");
            chown(path, Some(0), None).unwrap();
        }
        world.reopened().unwrap();
    }

    let elsewhere = world.directory.path().join("elsewhere");
    fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    assert!(matches!(refused(), CacheError::NotAFile { path } if path == key));
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(matches!(refused(), CacheError::NotAFile { path } if path == key));
}

#[test]
fn a_cache_that_cannot_be_used_costs_time_and_no_policy() {
    let world = World::new();
    let guest = Guest::new(PolicyKind::Route);
    let admitted = world.admit(&guest).unwrap();
    let serves = || {
        let module = world.host.load(&admitted.digest, PolicyKind::Route, PolicyClass::Fast, &admitted.component).unwrap();
        assert!(module.decide(&input(PolicyKind::Route, 1)).result.is_ok());
        let again = world.host.admit(&admitted.component, PolicyKind::Route, PolicyClass::Fast).unwrap();
        assert_eq!((again.digest, world.admit(&guest).unwrap().digest), (admitted.digest, admitted.digest));
    };
    // What can be neither read, removed nor replaced stands in the place of the code.
    let [code] = <[PathBuf; 1]>::try_from(code_files(&world)).unwrap();
    fs::remove_file(&code).unwrap();
    fs::create_dir(&code).unwrap();
    serves();
    assert!(code.is_dir());
    // And in the place of the whole directory; then there is none.
    let directory = world.directory.path().join("cache");
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, b"").unwrap();
    serves();
    fs::remove_file(&directory).unwrap();
    serves();
}

#[test]
fn what_was_never_finished_is_removed_an_hour_later() {
    let world = World::new();
    let partial = |name: &str| world.directory.path().join("cache").join(format!("{name}.partial"));
    let (old, young) = (partial("0123456789abcdef"), partial("fedcba9876543210"));
    for path in [&old, &young] {
        fs::write(path, b"half").unwrap();
    }
    fs::File::options().write(true).open(&old).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
    drop(world.restarted());
    assert_eq!((old.exists(), young.exists()), (false, true));
}

#[test]
fn a_cache_that_is_full_keeps_what_is_loaded() {
    let world = World::new();
    let host = world.bounded(1);
    let admit = |kind| host.admit(&Guest::new(kind).module(), kind, PolicyClass::Fast).unwrap();
    let held = admit(PolicyKind::Route);
    let let_go = admit(PolicyKind::Expiry).digest;
    let last = admit(PolicyKind::Quota);
    let is_kept = |digest| code_files(&world).iter().any(|path| path.to_string_lossy().contains(&format!("{digest}")));
    assert_eq!((is_kept(held.digest), is_kept(let_go), is_kept(last.digest)), (true, false, true));
}
