//! Commands on many keys at once: the plan is told first, then each key's line as it comes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::choice;
use crate::cli::client::{self, Call, Client};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::{progress, render};

/// Which keys, and how to go about it.
#[derive(Debug, Args)]
pub(in crate::cli) struct Many {
    /// All keys that match, such as tag=ci, state=expired or unused_since=2026-01-31T00:00:00Z; several must all hold
    #[arg(long = "filter", value_name = "NAME=VALUE", conflicts_with_all = ["id", "ids_file"])]
    filters: Vec<String>,
    /// The keys whose ids stand in a file, one a line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    ids_file: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// How to go about a batch.
#[derive(Debug, Args)]
pub(in crate::cli) struct How {
    /// Of many: tell what would change, key by key, and change nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Of many, and of a purge: do not ask first
    #[arg(long)]
    pub(in crate::cli) yes: bool,
    /// Of many: go on with a run that broke off; it said this word
    #[arg(long, value_name = "WORD")]
    pub(in crate::cli) resume: Option<String>,
}

/// Keys that differ in their names.
#[derive(Debug, Args)]
pub(in crate::cli) struct Count {
    /// Create so many keys, 10,000 at most
    #[arg(long, value_name = "N", requires = "name_pattern", conflicts_with = "name")]
    count: Option<usize>,
    /// Their names, such as ci-{n:04}: with the number of each, here in four digits at least
    #[arg(long, value_name = "PATTERN", requires = "count")]
    name_pattern: Option<String>,
    /// The number of the first one [default: 1]
    #[arg(long, value_name = "N", requires = "count")]
    first: Option<u64>,
    /// Write ids, names and secrets to a new file (mode 0600), not to stdout
    #[arg(long, value_name = "FILE", requires = "count")]
    output: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

impl Many {
    pub(in crate::cli) fn is_meant(&self) -> bool {
        !self.filters.is_empty() || self.ids_file.is_some()
    }

    /// Lets people think again about what cannot be undone, of a key that is named by its id.
    pub(in crate::cli) fn confirm(&self, question: &str, output: &mut Output) -> Result<(), Failure> {
        if self.how.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(anyhow::anyhow!("this cannot be undone: give --yes").into());
        }
        answered(question, output)
    }

    /// Does one thing to these keys; `verb` says what, as the API calls it.
    pub(in crate::cli) async fn run(self, verb: &str, body: Value, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let mut batch = json!({ verb: body });
        match &self.ids_file {
            Some(path) => batch["keys"] = ids(path)?.into(),
            None => batch["filter"] = choice::filter(&self.filters)?,
        }
        Batch { body: batch, verb, secrets: None }.run(self.how, client, output).await
    }
}

impl Count {
    pub(in crate::cli) const fn is_meant(&self) -> bool {
        self.count.is_some()
    }

    /// Creates keys that are like this one but for their names.
    pub(in crate::cli) async fn run(self, mut key: Value, client: &Client, output: &mut Output) -> Result<(), Failure> {
        key["name"] = self.name_pattern.into();
        let mut create = json!({ "count": self.count, "key": key });
        if let Some(first) = self.first {
            create["first"] = first.into();
        }
        let is_resumed = self.how.resume.is_some();
        let secrets = match self.output.filter(|_| !self.how.dry_run) {
            Some(path) => Some(private_file(&path, is_resumed).with_context(|| {
                format!("cannot write {}; a run that was cut off goes on with the word that it told: --resume WORD", path.display())
            })?),
            None => None,
        };
        // Whoever names a count has said how many.
        let how = How { yes: true, ..self.how };
        Batch { body: json!({ "create": create }), verb: "create", secrets }.run(how, client, output).await
    }
}

/// The ids in a file.
fn ids(path: &Path) -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_string(&mut text)
    } else {
        File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// A file that only its owner reads. One that is there is written over only by the run that goes on with it.
fn private_file(path: &Path, is_resumed: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if is_resumed {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(path)
}

/// Goes on only where the answer is yes.
fn answered(question: &str, output: &mut Output) -> Result<(), Failure> {
    output.note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(anyhow::anyhow!("nothing was changed").into()) }
}

/// A batch and where its secrets go.
pub(in crate::cli) struct Batch<'a> {
    pub(in crate::cli) body: Value,
    pub(in crate::cli) verb: &'a str,
    pub(in crate::cli) secrets: Option<File>,
}

impl Batch<'_> {
    pub(in crate::cli) async fn run(mut self, how: How, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let word = how.resume.map_or_else(client::idempotency_key, Ok)?;
        if !how.dry_run && !how.yes {
            self.ask(&word, client, output).await?;
        }
        self.body["dry_run"] = how.dry_run.into();
        if !how.dry_run {
            // Before anything is done: whoever is cut off needs the word to go on.
            output.note(&format!("If this is cut off, go on with the same command and: --resume {word}"));
        }
        match self.send(&word, client, output, how.dry_run).await {
            Ok(End { is_done: true, failed: 0 }) => Ok(()),
            Ok(End { is_done: true, .. }) => Err(Failure::Findings),
            Ok(End { is_done: false, .. }) => {
                output.note(&format!("The node or its log went away. Go on with the same command and: --resume {word}"));
                Err(Failure::Findings)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Says how many keys it is about, and lets people think again.
    async fn ask(&mut self, word: &str, client: &Client, output: &mut Output) -> Result<(), Failure> {
        if !io::stdin().is_terminal() {
            return Err(anyhow::anyhow!("this changes many keys: give --yes, or --dry-run to see them").into());
        }
        self.body["dry_run"] = true.into();
        let mut lines = Lines::open(&self.body, word, client).await?;
        let mut changes = 0_u64;
        while let Some(line) = lines.next().await? {
            changes += u64::from(line["outcome"] == "changed");
        }
        answered(&format!("{changes} keys would change (--dry-run shows how). {}?", self.verb), output)
    }

    async fn send(&mut self, word: &str, client: &Client, output: &mut Output, is_rehearsal: bool) -> Result<End, Failure> {
        let mut lines = Lines::open(&self.body, word, client).await?;
        let mut bar = progress::keys(0);
        while let Some(line) = lines.next().await? {
            match line["type"].as_str() {
                Some("begin") => bar.set_length(line["items"].as_u64().unwrap_or_default()),
                Some("item") => {
                    bar.inc(1);
                    self.item(&line, output, is_rehearsal, &mut bar)?;
                }
                _ => {
                    bar.finish_and_clear();
                    let (counts, is_done) = (&line["counts"], line["done"] == true);
                    if output.is_json() {
                        output.line(&line.to_string())?;
                    } else {
                        output.note(&format!("{}: {}", self.verb, render::cell(Some(counts))));
                    }
                    return Ok(End { is_done, failed: counts["failed"].as_u64().unwrap_or_default() });
                }
            }
        }
        bar.finish_and_clear();
        Err(anyhow::anyhow!("the node's answer broke off").into())
    }

    /// Tells of one key: what has a secret always, otherwise what failed, and what a dry run found.
    fn item(&mut self, line: &Value, output: &mut Output, is_rehearsal: bool, bar: &mut indicatif::ProgressBar) -> Result<(), Failure> {
        let text = match line["code"].as_str() {
            _ if output.is_json() => Some(line.to_string()),
            Some(code) => Some(format!("{} FAILED {} ({code})", name(line), render::cell(line.get("detail")))),
            None if is_rehearsal => (line["outcome"] == "changed").then(|| format!("{} {}", name(line), difference(line))),
            None if self.verb == "create" => Some(format!("{} {}", name(line), render::cell(line.get("secret")))),
            None => None,
        };
        let Some(text) = text else { return Ok(()) };
        if let Some(file) = &mut self.secrets
            && line["code"].is_null()
        {
            return Ok(writeln!(file, "{text}").context("cannot write the secrets")?);
        }
        bar.suspend(|| output.line(&text))
    }
}

/// How a batch ended.
struct End {
    is_done: bool,
    failed: u64,
}

/// Id and name of a line's key, as far as it has them.
fn name(line: &Value) -> String {
    let of = |member: &str| line.get(member).filter(|value| !value.is_null()).map(|value| render::cell(Some(value)));
    [of("id"), of("name")].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn difference(line: &Value) -> String {
    let members = line["difference"]["members"].as_object();
    let change =
        |(name, change): (&String, &Value)| format!("{name}: {} -> {}", render::cell(change.get("from")), render::cell(change.get("to")));
    members.map(|members| members.iter().map(change).collect::<Vec<_>>().join("; ")).unwrap_or_default()
}

/// The lines of a batch's answer as they come.
struct Lines {
    body: hyper::body::Incoming,
    held: Vec<u8>,
    /// How much of `held` was given out.
    given: usize,
}

impl Lines {
    async fn open(body: &Value, word: &str, client: &Client) -> Result<Self, Failure> {
        let call = Call::new(Method::POST, &["keys", "batch"]).body(body.clone()).idempotency_key(word);
        Ok(Self { body: client.open(call).await?.into_body(), held: Vec::new(), given: 0 })
    }

    async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(length) = self.held[self.given..].iter().position(|byte| *byte == b'\n') {
                let line = &self.held[self.given..self.given + length];
                let line = serde_json::from_slice(line).context("the node's answer is not lines of JSON")?;
                self.given += length + 1;
                return Ok(Some(line));
            }
            self.held.drain(..std::mem::take(&mut self.given));
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.context("the connection to the node was lost")?;
            self.held.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
}
