//! `keyrelay root-key`: root keys as files, and what the cluster knows of them.
//!
//! A root key is never sent to a node and never stands on a command line: nodes are given files, and what is sent is the commitment.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use control::founding::NEXT_ROOT_KEY;
use http::Method;
use schemas::Digest;
use serde_json::{Value, json};
use vault::{RootKey, files, root_key};
use zeroize::Zeroizing;

use super::client::{Call, Client};
use super::failure::{Failure, Problem};
use super::output::Output;
use super::render::{self, Field};
use crate::layout::Layout;

#[derive(Debug, Subcommand)]
pub(super) enum RootKeyCommand {
    /// Make a new root key in a file that nobody else can read. It is in use only after `announce` and `migrate-keys`
    New(New),
    /// Print the commitment of a root key: what the log, errors and other commands name it by
    Fingerprint(File),
    /// Show which root keys there are, which nodes lack one, and how far data keys are wrapped under the newest
    Show,
    /// Tell the cluster of a root key that is to follow, so that nodes take it as soon as they are given it
    Announce(File),
    /// Withdraw a root key that was announced and is not to be used after all
    Withdraw(Named),
    /// Copy a root key to another place, read the copy back, and record that there is one
    Backup(Backup),
    /// Hold a copy against what the cluster knows: whether it is a root key, and which
    VerifyBackup(File),
    /// Destroy a root key after a change, when nothing lies under it any more. Backups from before the change still need it: keep a copy
    Destroy(Named),
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// A file that is not there [default: DIR/root.key.next, where a node on this machine finds it]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct File {
    /// A root key's file, or - for standard input
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// A root key's file, or its commitment
    root_key: String,
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The copy: a file that is not there, best on another medium
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The root key to copy [default: DIR/root.key.next if it is there, else DIR/root.key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

const COLUMNS: [Field; 5] = [
    ("commitment", "/commitment"),
    ("state", "/state"),
    ("since", "/since"),
    ("backed up", "/backed_up_at"),
    ("missing on", "/missing_on"),
];
const REWRAP: [Field; 6] = [
    ("re-wrap", "/state"),
    ("data keys", "/total"),
    ("wrapped again", "/rewrapped"),
    ("damaged", "/damaged"),
    ("under no known root key", "/unheld"),
    ("reason", "/reason"),
];

impl RootKeyCommand {
    /// Whether it is about files alone.
    pub(super) const fn needs_no_node(&self) -> bool {
        matches!(self, Self::New(_) | Self::Fingerprint(_))
    }
}

/// Runs what needs no node.
pub(super) fn local(command: RootKeyCommand, layout: &Layout, output: &mut Output) -> Result<(), Failure> {
    match command {
        RootKeyCommand::New(args) => new(args, layout, output),
        RootKeyCommand::Fingerprint(File { file }) => {
            let commitment = read(&file)?.commitment();
            output.answer(&json!({ "commitment": commitment }), |_| commitment.to_string())
        }
        _ => unreachable!("the other commands talk to a node"),
    }
}

pub(super) async fn run(command: RootKeyCommand, client: &Client, layout: &Layout, output: &mut Output) -> Result<(), Failure> {
    let answer = match command {
        RootKeyCommand::Show => client.send(Call::get(&["root-key"])).await?,
        RootKeyCommand::Announce(File { file }) => post(client, "announce", read(&file)?.commitment()).await?,
        RootKeyCommand::Withdraw(Named { root_key }) => post(client, "withdraw", named(&root_key)?).await?,
        RootKeyCommand::Destroy(Named { root_key }) => post(client, "destroy", named(&root_key)?).await?,
        RootKeyCommand::Backup(args) => back_up(args, client, layout, output).await?,
        RootKeyCommand::VerifyBackup(File { file }) => return verify_backup(&file, client, output).await,
        RootKeyCommand::New(_) | RootKeyCommand::Fingerprint(_) => unreachable!("these need no node and were run before"),
    };
    output.answer(&answer, text)
}

pub(super) fn text(answer: &Value) -> String {
    let keys = answer["root_keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    format!("{}\n\n{}", render::table(keys, &COLUMNS).trim_end(), render::block(&answer["rewrap"], &REWRAP))
}

/// Reads a root key from a file that nobody else can read, or from standard input.
pub(super) fn read(file: &Path) -> Result<RootKey, Failure> {
    if file.as_os_str().to_string_lossy().starts_with(root_key::PREFIX) {
        let why = "a root key does not belong on a command line, where every process of the machine can read it: name a file, or - for standard \
                   input; and change this root key, for it may be known now";
        return Err(refused("root_key_in_arguments", why));
    }
    let bytes = if file == Path::new("-") {
        let mut bytes = Zeroizing::new(Vec::with_capacity(files::FILE_BYTES_MAX + 1));
        let limit = files::FILE_BYTES_MAX as u64 + 1;
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
        bytes
    } else {
        files::read_secret(file).map_err(anyhow::Error::from)?
    };
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", file.display()))?;
    Ok(RootKey::parse(text.trim()).with_context(|| format!("{} holds no root key", file.display()))?)
}

/// A refusal by the command line itself, worded as a node words one.
pub(super) fn refused(code: &str, detail: &str) -> Failure {
    Failure::Refused(Problem { status: 400, code: code.to_owned(), detail: detail.to_owned(), lines: Vec::new() })
}

fn new(args: New, layout: &Layout, output: &mut Output) -> Result<(), Failure> {
    let path = args.output.unwrap_or_else(|| layout.data().join(NEXT_ROOT_KEY));
    let key = RootKey::generate().map_err(anyhow::Error::from)?;
    create(&path, &key)?;
    let (commitment, file) = (key.commitment(), path.display().to_string());
    output.answer(&json!({ "file": file, "commitment": commitment }), |_| {
        format!(
            "A new root key is in {file}: {commitment}\nIt is not in use yet. Copy it to every node as root.key.next, then: keyrelay root-key \
             announce {file}; keyrelay root-key backup --key {file} --to ANOTHER-PLACE; keyrelay migrate-keys --from OLD --to {file}"
        )
    })
}

/// Writes a root key where there is no file, and never over one.
fn create(path: &Path, key: &RootKey) -> Result<(), Failure> {
    if path.exists() {
        return Err(anyhow!("{} exists and is left as it is", path.display()).into());
    }
    Ok(files::write_secret(path, format!("{}\n", key.text().as_str()).as_bytes()).map_err(anyhow::Error::from)?)
}

fn named(text: &str) -> Result<Digest, Failure> {
    match text.parse() {
        Ok(commitment) => Ok(commitment),
        Err(_) => Ok(read(Path::new(text))?.commitment()),
    }
}

async fn post(client: &Client, verb: &str, commitment: Digest) -> Result<Value, Failure> {
    client.send(Call::new(Method::POST, &["root-key", verb]).body(json!({ "commitment": commitment }))).await
}

async fn back_up(args: Backup, client: &Client, layout: &Layout, output: &mut Output) -> Result<Value, Failure> {
    let next = layout.data().join(NEXT_ROOT_KEY);
    let source = args.key.unwrap_or_else(|| if next.exists() { next } else { layout.data().join("root.key") });
    let key = read(&source)?;
    create(&args.to, &key)?;
    // What counts is what can be read again.
    if read(&args.to)?.commitment() != key.commitment() {
        return Err(anyhow!("{} does not read back as it was written", args.to.display()).into());
    }
    let answer = post(client, "backups", key.commitment()).await?;
    output.note(&format!("{} is a copy of the root key {}. Keep it apart from backups of the data.", args.to.display(), key.commitment()));
    Ok(answer)
}

async fn verify_backup(file: &Path, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let commitment = read(file)?.commitment();
    let root_keys = client.send(Call::get(&["root-key"])).await?;
    let keys = root_keys["root_keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let state = keys.iter().find(|key| key["commitment"] == json!(commitment)).map(|key| key["state"].clone());
    let answer = json!({ "commitment": commitment, "state": state, "ok": state.is_some() });
    output.answer(&answer, |_| match &state {
        Some(state) => format!("good: {} is the cluster's root key {commitment}, {}", file.display(), render::cell(Some(state))),
        None => format!("NOT GOOD: {} is a root key, {commitment}, but not one of this cluster", file.display()),
    })?;
    if state.is_some() { Ok(()) } else { Err(Failure::Findings) }
}
