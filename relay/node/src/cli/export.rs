//! `keyrelay export`: data as a file that another node takes in.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use control::transfer::file::{FileError, Head};
use control::transfer::line::Line;
use control::transfer::sealing::SealingTerms;
use schemas::Digest;
use serde_json::json;
use zeroize::Zeroizing;

use super::client::{Call, Client};
use super::failure::{Failure, Problem};
use super::output::Output;
use super::{progress, render, stream};
use crate::config::Secret;

/// The most bytes of a file with a passphrase or with identities.
const SECRET_BYTES_MAX: u64 = 16 * 1024;
/// An export counts and hashes everything before it answers.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3600);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ExportArgs {
    #[command(subcommand)]
    pub(super) command: Option<ExportCommand>,
    /// Of tenants, pools, prices, upstreams, keys, policies, bindings, usage, users, separated by commas; there are no users yet
    /// [default: all]
    #[arg(long, value_name = "TYPES")]
    types: Option<String>,
    /// Where to write; it must not be there yet [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Leave out secrets, hashes of secrets and personal texts
    #[arg(long, conflicts_with = "passphrase_file")]
    sanitize: bool,
    /// A file with the passphrase to seal credentials and personal texts under; - is stdin
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// A public key of age to seal them to, instead: age1…; may be said again for others
    #[arg(long = "recipient", value_name = "AGE1…", conflicts_with_all = ["sanitize", "passphrase_file"])]
    recipients: Vec<String>,
    /// csv is a table of keys, for spreadsheets
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum ExportCommand {
    /// Show what a file holds, and check that it is whole; exit code 1 if it is not. Needs no node
    Inspect { file: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Jsonl,
    Csv,
}

pub(super) async fn run(args: ExportArgs, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let is_table = args.format == Format::Csv;
    let types = args.types.or_else(|| is_table.then(|| "keys".to_owned()));
    // Here and not only at the node: what was mistyped may be a secret key, and this goes into an address.
    for recipient in &args.recipients {
        let parsed = recipient.parse::<vault::Recipient>();
        let refused = |error: vault::ParseKeyError| Problem {
            status: 400,
            code: "bad_recipient".to_owned(),
            detail: error.to_string(),
            lines: Vec::new(),
        };
        parsed.map_err(|error| Failure::Refused(refused(error)))?;
    }
    let passphrase = args.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    let call = Call::get(&["export"]).query("types", types).query("sanitize", args.sanitize.then_some(true));
    let call = call.query("recipients", (!args.recipients.is_empty()).then(|| args.recipients.join(",")));
    let call = call.query("tenant", client.named_tenant());
    let call = call.query("format", is_table.then_some("csv")).passphrase(passphrase).patience(PATIENCE);
    let body = client.open(call).await?.into_body();
    let (path, bar) = (args.output.clone(), progress::unbounded());
    let written = stream::drive(body, move |body| {
        let mut body = bar.wrap_read(body);
        let bytes = match &path {
            Some(path) => write_new(path, &mut body),
            None => io::copy(&mut body, &mut io::stdout().lock()).map_err(anyhow::Error::from),
        };
        bar.finish_and_clear();
        bytes
    });
    let bytes = written.await??;
    match args.output {
        Some(path) => {
            let answer = json!({ "file": path.display().to_string(), "bytes": bytes });
            output.answer(&answer, |_| format!("{bytes} bytes are in {0}. Look into it with: keyrelay export inspect {0}", path.display()))
        }
        None => Ok(()),
    }
}

/// Writes a file for its owner's eyes only; what broke off is removed.
fn write_new(path: &Path, body: &mut impl io::Read) -> anyhow::Result<u64> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).with_context(|| format!("cannot create {}", path.display()))?;
    let copied = io::copy(body, &mut file).and_then(|bytes| file.flush().and_then(|()| file.sync_all()).map(|()| bytes));
    copied.map_err(|error| {
        // What is left is no export; that it could not be removed either adds nothing.
        let _ = std::fs::remove_file(path);
        anyhow!(error).context(format!("cannot write {}", path.display()))
    })
}

/// The first line of a file, or of stdin.
pub(super) fn read_passphrase(path: &Path) -> anyhow::Result<Secret> {
    read_secret(path, "passphrase")
}

/// Reads the first line of a file, or of stdin.
pub(super) fn read_secret(path: &Path, what: &str) -> anyhow::Result<Secret> {
    let text = read_text(path, what)?;
    let line = text.lines().next().filter(|line| !line.is_empty()).with_context(|| format!("{} has no {what}", path.display()))?;
    Ok(Secret::new(line.to_owned()))
}

fn read_text(path: &Path, what: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let unreadable = || format!("cannot read the {what} from {}", path.display());
    if path.as_os_str() == "-" {
        io::stdin().lock().take(SECRET_BYTES_MAX).read_to_string(&mut text).with_context(unreadable)?;
    } else {
        File::open(path).with_context(unreadable)?.take(SECRET_BYTES_MAX).read_to_string(&mut text).with_context(unreadable)?;
    }
    Ok(text)
}

/// The identities of a file as `age-keygen` writes it, for a header: lines that begin with `#` say nothing.
pub(super) fn read_identities(path: &Path) -> anyhow::Result<Secret> {
    let text = read_text(path, "identity")?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<&str> = lines.collect();
    match lines.first() {
        None => Err(anyhow!("{} has no identity", path.display())),
        Some(first) if first.starts_with("-----BEGIN AGE") || first.starts_with("age-encryption.org/") => {
            Err(anyhow!("{0} is sealed itself; open it first: age -d {0}", path.display()))
        }
        Some(_) => Ok(Secret::new(lines.join(","))),
    }
}

/// Shows the head of a file, and checks digest, counts and the form of every line.
pub(super) fn inspect(path: &Path, output: &mut Output) -> Result<(), Failure> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut reader = BufReader::new(File::open(path).with_context(unreadable)?);
    let mut line = String::new();
    reader.by_ref().take(64 * 1024).read_line(&mut line).with_context(unreadable)?;
    let head = match Head::parse(line.trim_end_matches('\n')) {
        Ok(head) => head,
        Err(error) => {
            output.answer(&json!({ "ok": false, "findings": [error.to_string()] }), |_| format!("NOT GOOD: {error}"))?;
            return Err(Failure::Findings);
        }
    };
    let mut findings = Vec::new();
    let (mut hasher, mut number, mut counts) = (blake3::Hasher::new(), 1_u64, std::collections::BTreeMap::new());
    let mut text = Vec::new();
    while {
        text.clear();
        reader.read_until(b'\n', &mut text).with_context(unreadable)?
    } > 0
    {
        number += 1;
        hasher.update(&text);
        match serde_json::from_slice::<Line>(&text) {
            Ok(line) => *counts.entry(line.kind()).or_insert(0_u64) += 1,
            Err(error) if findings.len() < 20 => findings.push(format!("line {number}: {error}")),
            Err(_) => {}
        }
    }
    if !head.is_over(&Digest::from_bytes(*hasher.finalize().as_bytes())) {
        findings.insert(0, FileError::Digest.to_string());
    }
    for count in &head.kinds {
        let found = counts.get(&count.kind).copied().unwrap_or_default();
        if found != count.lines {
            findings.push(format!("the head says {} {}, the file has {found}", count.lines, count.kind.as_str()));
        }
    }
    let answer = json!({ "ok": findings.is_empty(), "head": head, "findings": findings });
    output.answer(&answer, |_| {
        let kinds: Vec<_> = head.kinds.iter().map(|count| format!("{} {}", count.lines, count.kind.as_str())).collect();
        let mut pairs = vec![
            ("from", format!("{} {}", head.origin, head.cluster_id)),
            ("as of", format!("sequence {} at {}", head.sequence, head.created_at)),
            ("holds", kinds.join(", ")),
            ("secrets", secrets(&head)),
            ("digest", head.digest.to_string()),
        ];
        pairs.extend(head.tenant.iter().map(|tenant| ("tenant", tenant.to_string())));
        pairs.extend(head.left_out.iter().map(|left_out| ("left out", format!("{}: {}", left_out.what, left_out.why))));
        let mut lines = vec![render::pairs(&pairs)];
        lines.extend(findings.iter().map(|finding| format!("FINDING: {finding}")));
        lines.push(if findings.is_empty() { "good: no findings" } else { "NOT GOOD" }.to_owned());
        lines.join("\n")
    })?;
    if findings.is_empty() { Ok(()) } else { Err(Failure::Findings) }
}

fn secrets(head: &Head) -> String {
    match &head.sealing {
        _ if head.sanitized => "none: the file is sanitised".to_owned(),
        Some(SealingTerms::Passphrase { memory_kib, passes, .. }) => {
            format!("sealed under a passphrase (Argon2id with {memory_kib} KiB and {passes} passes, XChaCha20-Poly1305)")
        }
        Some(SealingTerms::Recipients { recipients, .. }) => {
            format!("sealed to {} (age X25519, XChaCha20-Poly1305)", recipients.join(", "))
        }
        None => "none".to_owned(),
    }
}
