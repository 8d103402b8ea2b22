//! `keyrelay policy new`: a policy to begin with.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::super::failure::Failure;
use super::super::output::Output;
use super::Kind;
use super::template::{self, Language};

/// As long as the manifest's.
const NAME_BYTES_MAX: usize = 64;

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Lower-case letters, digits and hyphens
    name: String,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// Where to write it; not there yet, or empty [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &New, output: &mut Output) -> Result<(), Failure> {
    let directory = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let written = write(args, &directory)?;
    let answer = json!({ "directory": directory.display().to_string(), "files": written });
    output.answer(&answer, |_| {
        format!("{} files are in {}. Its README.md says how it is built and tried.", written.len(), directory.display())
    })
}

fn write(args: &New, directory: &PathBuf) -> anyhow::Result<Vec<String>> {
    check(&args.name)?;
    if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty", directory.display());
    }
    let mut written = Vec::new();
    for (path, text) in template::files(&args.name, args.kind, args.lang) {
        let target = directory.join(&path);
        let unwritable = || format!("cannot write {}", target.display());
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).with_context(unwritable)?;
        }
        fs::write(&target, text).with_context(unwritable)?;
        written.push(path.display().to_string());
    }
    Ok(written)
}

/// A name that a crate, a package and a manifest may have.
fn check(name: &str) -> anyhow::Result<()> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase();
    let is_good = name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit() || byte == b'-')
        && name.bytes().next().is_some_and(is_letter)
        && !name.ends_with('-');
    if !is_good || name.len() > NAME_BYTES_MAX {
        bail!("`{name}` is no name: begin with a lower-case letter, then lower-case letters, digits and hyphens, at most {NAME_BYTES_MAX}");
    }
    Ok(())
}
