//! What `policy new` writes: files of `plugins/`, built into this binary, so that a policy is begun and built without a network.

use std::path::PathBuf;

use clap::ValueEnum;

use schemas::policy::PolicyKind;

use super::Kind;

/// What a policy is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    Rust,
    Js,
    Python,
}

macro_rules! plugins {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/", $path))
    };
}

const CONTRACT: &str = plugins!("wit/policy.wit");

/// The SDK's sources. A copy goes into each policy in Rust, because the crate is in no registry.
const SDK: [(&str, &str); 10] = [
    ("Cargo.toml", plugins!("templates/rust/sdk.toml")),
    ("src/bindings.rs", plugins!("sdk/rust/src/bindings.rs")),
    ("src/guest.rs", plugins!("sdk/rust/src/guest.rs")),
    ("src/lib.rs", plugins!("sdk/rust/src/lib.rs")),
    ("src/manifest.rs", plugins!("sdk/rust/src/manifest.rs")),
    ("src/outputs.rs", plugins!("sdk/rust/src/outputs.rs")),
    ("src/policy.rs", plugins!("sdk/rust/src/policy.rs")),
    ("src/subject.rs", plugins!("sdk/rust/src/subject.rs")),
    ("src/testing.rs", plugins!("sdk/rust/src/testing.rs")),
    ("src/verdict.rs", plugins!("sdk/rust/src/verdict.rs")),
];

/// The files of a new policy, by their paths in its folder.
pub(super) fn files(name: &str, kind: Kind, language: Language) -> Vec<(PathBuf, String)> {
    let vectors = match kind {
        Kind::Route => plugins!("templates/vectors/route.json"),
        Kind::Quota => plugins!("templates/vectors/quota.json"),
        Kind::Expiry => plugins!("templates/vectors/expiry.json"),
    };
    let mut files: Vec<(PathBuf, &str)> = match language {
        Language::Rust => rust(kind),
        Language::Js => js(kind),
        Language::Python => python(kind),
    };
    files.push(("vectors.json".into(), vectors));
    let filled = |text: &str| {
        text.replace("{{name}}", name).replace("{{module}}", &name.replace('-', "_")).replace("{{kind}}", PolicyKind::from(kind).as_str())
    };
    files.into_iter().map(|(path, text)| (path, filled(text))).collect()
}

fn rust(kind: Kind) -> Vec<(PathBuf, &'static str)> {
    let source = match kind {
        Kind::Route => plugins!("templates/rust/route.rs"),
        Kind::Quota => plugins!("templates/rust/quota.rs"),
        Kind::Expiry => plugins!("templates/rust/expiry.rs"),
    };
    let mut files: Vec<(PathBuf, &str)> = vec![
        ("Cargo.toml".into(), plugins!("templates/rust/Cargo.toml")),
        (".cargo/config.toml".into(), plugins!("templates/rust/cargo-config.toml")),
        (".gitignore".into(), plugins!("templates/rust/gitignore")),
        ("README.md".into(), plugins!("templates/rust/README.md")),
        ("src/lib.rs".into(), source),
        ("keyrelay/wit/policy.wit".into(), CONTRACT),
    ];
    // The SDK finds the contract where it finds it in its own repository.
    files.extend(SDK.map(|(path, text)| (PathBuf::from("keyrelay/sdk/rust").join(path), text)));
    files
}

fn js(kind: Kind) -> Vec<(PathBuf, &'static str)> {
    let source = match kind {
        Kind::Route => plugins!("templates/js/route.js"),
        Kind::Quota => plugins!("templates/js/quota.js"),
        Kind::Expiry => plugins!("templates/js/expiry.js"),
    };
    vec![
        ("package.json".into(), plugins!("templates/js/package.json")),
        ("build.mjs".into(), plugins!("templates/js/build.mjs")),
        (".gitignore".into(), plugins!("templates/js/gitignore")),
        ("README.md".into(), plugins!("templates/js/README.md")),
        ("policy.js".into(), source),
        ("wit/policy.wit".into(), CONTRACT),
    ]
}

fn python(kind: Kind) -> Vec<(PathBuf, &'static str)> {
    let source = match kind {
        Kind::Route => plugins!("templates/python/route.py"),
        Kind::Quota => plugins!("templates/python/quota.py"),
        Kind::Expiry => plugins!("templates/python/expiry.py"),
    };
    vec![
        ("requirements.txt".into(), plugins!("templates/python/requirements.txt")),
        (".gitignore".into(), plugins!("templates/python/gitignore")),
        ("README.md".into(), plugins!("templates/python/README.md")),
        ("policy.py".into(), source),
        ("wit/policy.wit".into(), CONTRACT),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test says where")]

    use super::*;

    #[test]
    fn the_copy_of_the_sdk_has_all_of_its_sources() {
        let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/sdk/rust/src");
        let mut there: Vec<String> =
            std::fs::read_dir(sources).unwrap().map(|entry| format!("src/{}", entry.unwrap().file_name().to_string_lossy())).collect();
        there.sort_unstable();
        assert_eq!(SDK.iter().skip(1).map(|(path, _)| (*path).to_owned()).collect::<Vec<_>>(), there);
    }

    #[test]
    fn the_copy_depends_on_what_the_sdk_depends_on() {
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        let workspace = table(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")));
        let (own, copy) = (table(plugins!("sdk/rust/Cargo.toml")), table(SDK[0].1));
        let names = |table: &toml::Table| table["dependencies"].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&own), names(&copy));
        let version = |entry: &toml::Value| entry.as_str().map_or_else(|| entry["version"].as_str().unwrap().to_owned(), str::to_owned);
        for name in names(&own) {
            assert_eq!(version(&copy["dependencies"][&name]), version(&workspace["workspace"]["dependencies"][&name]), "{name}");
        }
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for kind in [Kind::Route, Kind::Quota, Kind::Expiry] {
            for language in [Language::Rust, Language::Js, Language::Python] {
                let files = files("my-policy", kind, language);
                assert!(files.iter().all(|(_, text)| !text.contains("{{")), "{kind:?} {language:?}");
            }
        }
    }
}
