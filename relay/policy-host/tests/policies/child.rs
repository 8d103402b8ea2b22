//! Compiling in a process of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use policy_host::host::CompileError;
use policy_host::{AdmissionError, Compiler};
use schemas::policy::{PolicyClass, PolicyKind};

use crate::guest::Guest;
use crate::world::{World, input};

/// The example of that name, which is built with the tests.
fn compiler() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples/compile_policy");
    assert!(program.exists(), "{} is not built: run the tests of the whole package", program.display());
    program
}

fn in_child(program: PathBuf) -> World {
    World::with(Compiler::Child { program })
}

/// A program that is no compiler.
fn script(world: &World, text: &str) -> PathBuf {
    let path = world.directory.path().join("script");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn the_child_makes_what_this_process_would_make() {
    let (child, here) = (in_child(compiler()), World::new());
    for class in [PolicyClass::Fast, PolicyClass::Slow] {
        let uploaded = Guest::new(PolicyKind::Quota).module();
        let one = child.host.admit(&uploaded, PolicyKind::Quota, class).unwrap();
        let other = here.host.admit(&uploaded, PolicyKind::Quota, class).unwrap();
        assert_eq!((one.digest, &one.component, &one.manifest), (other.digest, &other.component, &other.manifest));
        let asked = input(PolicyKind::Quota, 1);
        let (one, other) = (one.module.decide(&asked), other.module.decide(&asked));
        assert_eq!((one.result, one.fuel), (other.result, other.fuel));
    }
}

#[test]
fn what_is_wrong_with_an_upload_comes_through() {
    let world = in_child(compiler());
    let refused = |uploaded: &[u8]| match world.host.admit(uploaded, PolicyKind::Route, PolicyClass::Fast) {
        Err(AdmissionError::Compile(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(b"(module)"), CompileError::Malformed(_)));
    assert!(matches!(refused(b"\0asm\x01\0\0\0\xff\xff"), CompileError::Encode(_)));
    assert!(matches!(refused(&vec![0; (1 << 20) + 1]), CompileError::TooLarge { .. }));
}

#[test]
fn a_child_that_dies_or_talks_nonsense_is_an_error_and_no_more() {
    let world = World::new();
    let cases = [
        ("exit 3", "Overrun"),
        ("kill -9 $$", "Overrun"),
        ("exec cat > /dev/null", "Overrun"),
        ("echo nonsense", "Child"),
        ("head -c 100 /dev/zero | tr '\\0' '\\377'", "Child"),
    ];
    for (text, expected) in cases {
        let host = in_child(script(&world, text));
        let error = host.host.admit(&Guest::new(PolicyKind::Route).module(), PolicyKind::Route, PolicyClass::Fast).unwrap_err();
        assert!(matches!(error, AdmissionError::Compile(_)) && format!("{error:?}").contains(expected), "{text}: {error:?}");
    }
    let error = in_child("/nowhere/keyrelay".into()).host.admit(b"", PolicyKind::Route, PolicyClass::Fast).unwrap_err();
    assert!(matches!(error, AdmissionError::Compile(CompileError::Child(_))), "{error:?}");
}

#[test]
fn the_child_has_limits_and_nothing_of_the_environment() {
    let world = World::new();
    let seen = world.directory.path().join("seen");
    let limits = script(&world, &format!("{{ env; pwd; }} > {}; exit 1", seen.display()));
    drop(in_child(limits).host.admit(b"", PolicyKind::Route, PolicyClass::Fast));
    let text = std::fs::read_to_string(seen).unwrap();
    // What a shell sets by itself.
    let foreign: Vec<_> =
        text.lines().filter(|line| !["PWD=", "OLDPWD=", "_=", "SHLVL="].iter().any(|own| line.starts_with(own))).collect();
    assert_eq!(foreign, ["/"]);

    // The compiler itself, stopped in the middle of reading: its limits are set by then.
    let mut child = std::process::Command::new(compiler());
    child.args(["compile-policy", "--class", "fast"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = child.spawn().unwrap();
    let path = format!("/proc/{}/limits", child.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_set = |limits: &str| {
        let line =
            |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().rev().nth(1).unwrap().to_owned();
        line("Max file size") == "0" && line("Max open files") != "0"
    };
    let limits = loop {
        let limits = std::fs::read_to_string(&path).unwrap();
        if is_set(&limits) || Instant::now() > deadline {
            break limits;
        }
        std::thread::yield_now();
    };
    child.kill().unwrap();
    child.wait().unwrap();
    for (name, max) in [("Max cpu time", "30"), ("Max address space", "2147483648"), ("Max file size", "0")] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.split_whitespace().filter(|word| *word == max).count() >= 2, "{line}");
    }
}
