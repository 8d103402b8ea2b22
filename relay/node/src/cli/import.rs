//! `keyrelay import`: a file that an export wrote, or another system, taken in.

use std::io::{self, BufRead as _, BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::export::{read_identities, read_secret};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::{progress, stream};
use crate::config::Secret;

/// The whole file is checked before the answer begins.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Objects that are shown of those that went as they should. Whatever there is a reason to tell of is shown, first and all of it.
const SHOWN_MAX: usize = 50;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    file: PathBuf,
    /// Leave what is here and differs as it is
    #[arg(long, group = "manner")]
    skip_conflicts: bool,
    /// Set what is here to the file's state
    #[arg(long, group = "manner")]
    force: bool,
    /// Give what is here only what it does not have
    #[arg(long, group = "manner")]
    merge: bool,
    /// Take away what is not in the file, of the types that it has: keys are archived, the rest is removed
    #[arg(long, requires = "force")]
    prune: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// A file with the passphrase that the file was sealed under; - is stdin
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// A file with the identity of age that the file was sealed to, as age-keygen writes it; - is stdin
    #[arg(long = "identity", value_name = "FILE")]
    identity_file: Option<PathBuf>,
    /// The other system that wrote the file
    #[arg(long, value_name = "SYSTEM", conflicts_with_all = ["prune", "passphrase_file", "identity_file"])]
    from: Option<System>,
    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Systems whose files can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    /// The JSON of its scripts/data-transfer.js or of GET /admin/sync/export-accounts
    ClaudeRelayService,
    /// A group's key list as text, the CSV of its log, or GET /api/groups
    GptLoad,
    /// GET /key/list?return_full_object=true
    Litellm,
    /// GET /api/token/
    OneApi,
}

/// What has to be said about another system's file.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --from")]
struct Elsewhere {
    /// A file with the ENCRYPTION_KEY of the claude-relay-service; - is stdin
    #[arg(long, value_name = "FILE", requires = "from")]
    old_key_file: Option<PathBuf>,
    /// The pool of all keys; of GPT-Load's credentials the one that they go to, created if there is none
    #[arg(long, requires = "from")]
    pool: Option<String>,
    /// Of GPT-Load: take this group only
    #[arg(long, requires = "from")]
    group: Option<String>,
    /// Of GPT-Load: what the provider of the credentials speaks (openai, anthropic)
    #[arg(long, requires = "from")]
    dialect: Option<String>,
    /// Of GPT-Load: where the provider of the credentials is
    #[arg(long, requires = "from", value_name = "URL")]
    base_url: Option<String>,
    /// Bring secrets that can be guessed too
    #[arg(long, requires = "from")]
    allow_weak: bool,
}

const OBJECT: [Field; 5] = [("line", "/line"), ("type", "/kind"), ("id", "/id"), ("outcome", "/outcome"), ("why", "/detail")];
const OBJECT_ELSEWHERE: [Field; 5] = [("source", "/source"), ("type", "/kind"), ("id", "/id"), ("outcome", "/outcome"), ("why", "/detail")];
const NOT_CARRIED: [Field; 3] = [("source", "/source"), ("not carried", "/what"), ("why", "/why")];

/// What an answer came to.
struct Heard {
    items: Vec<Value>,
    more: u64,
    /// What of another system's file nothing is made of: all of it, since nobody else tells.
    not_carried: Vec<Value>,
    last: Value,
}

/// What travels in headers.
#[derive(Clone, Default)]
struct Secrets {
    passphrase: Option<Secret>,
    identity: Option<Secret>,
    old_key: Option<Secret>,
}

pub(super) async fn run(args: ImportArgs, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let passphrase = args.passphrase_file.as_deref().map(|path| read_secret(path, "passphrase")).transpose()?;
    let old_key = args.elsewhere.old_key_file.as_deref().map(|path| read_secret(path, "ENCRYPTION_KEY")).transpose()?;
    let identity = args.identity_file.as_deref().map(read_identities).transpose()?;
    let secrets = Secrets { passphrase, identity, old_key };
    if args.dry_run || !args.yes {
        let heard = send(&args, true, secrets.clone(), client).await?;
        if args.dry_run {
            return conclude(&heard, true, output);
        }
        if heard.last["conflicts"].as_u64().is_some_and(|conflicts| conflicts > 0) {
            conclude(&heard, true, output)?;
            output.note("nothing was applied: say --skip-conflicts, --force or --merge");
            return Err(Failure::Findings);
        }
        if !confirmed(&heard.last, output)? {
            return Err(Failure::Findings);
        }
    }
    let heard = send(&args, false, secrets, client).await?;
    conclude(&heard, false, output)
}

/// Asks, on a terminal.
fn confirmed(tally: &Value, output: &mut Output) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(anyhow!("say --yes to import without being asked").into());
    }
    output.note(&format!("this would be done: {}. Go on? [y/N]", counts(tally)));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("no answer can be read")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn send(args: &ImportArgs, dry_run: bool, secrets: Secrets, client: &Client) -> Result<Heard, Failure> {
    let on_conflict = match (args.skip_conflicts, args.force, args.merge) {
        (true, _, _) => "skip",
        (_, true, _) => "force",
        (_, _, true) => "merge",
        _ => "ask",
    };
    let call = Call::new(Method::POST, &["import"]).query("on_conflict", Some(on_conflict));
    let call = call.query("prune", args.prune.then_some(true)).query("dry_run", dry_run.then_some(true));
    let call = args.elsewhere(call, client).lines(args.file.clone()).patience(PATIENCE);
    let call = call.passphrase(secrets.passphrase).secret("keyrelay-identity", secrets.identity);
    let call = call.secret("keyrelay-old-key", secrets.old_key);
    let body = client.open(call).await?.into_body();
    Ok(stream::drive(body, hear).await??)
}

impl ImportArgs {
    fn elsewhere<'a>(&self, call: Call<'a>, client: &Client) -> Call<'a> {
        let Some(system) = self.from.as_ref().and_then(ValueEnum::to_possible_value) else {
            return call.query("tenant", client.named_tenant());
        };
        let Elsewhere { pool, group, dialect, base_url, allow_weak, .. } = &self.elsewhere;
        let call = call.query("from", Some(system.get_name())).query("tenant", Some(client.tenant()));
        let call = call.query("pool", pool.as_ref()).query("group", group.as_ref()).query("dialect", dialect.as_ref());
        call.query("base_url", base_url.as_ref()).query("allow_weak", allow_weak.then_some(true))
    }
}

/// Takes in an answer as it comes, with a bar over its lines.
fn hear(body: stream::BodyReader) -> anyhow::Result<Heard> {
    let (mut heard, mut bar) = (Heard { items: Vec::new(), more: 0, not_carried: Vec::new(), last: Value::Null }, None);
    let mut plain = 0;
    for line in BufReader::new(body).lines() {
        let line = line.context("the answer broke off; import the file again and it goes on")?;
        let told: Value = serde_json::from_str(&line).context("the node's answer is not JSON")?;
        match told["event"].as_str() {
            Some("plan") => bar = told["lines"].as_u64().map(progress::records),
            Some("not_carried") => heard.not_carried.push(told),
            Some("item") => {
                bar.iter().for_each(|bar| bar.inc(1));
                let says_why = told["detail"].is_string();
                if told["outcome"] == "unchanged" {
                    continue;
                }
                plain += usize::from(!says_why);
                if says_why || plain <= SHOWN_MAX {
                    heard.items.push(told);
                } else {
                    heard.more += 1;
                }
            }
            _ => heard.last = told,
        }
    }
    bar.iter().for_each(|bar| bar.finish_and_clear());
    heard.items.sort_by_key(|item| !item["detail"].is_string());
    if heard.last.is_null() { Err(anyhow!("the answer broke off; import the file again and it goes on")) } else { Ok(heard) }
}

fn conclude(heard: &Heard, dry_run: bool, output: &mut Output) -> Result<(), Failure> {
    let Heard { items, more, not_carried, last } = heard;
    let answer = json!({ "dry_run": dry_run, "result": last, "items": items, "items_more": more, "not_carried": not_carried });
    output.answer(&answer, |_| {
        let mut lines = Vec::new();
        if !items.is_empty() {
            let is_elsewhere = items.iter().any(|item| item["source"].is_string());
            lines.push(render::table(items, if is_elsewhere { &OBJECT_ELSEWHERE } else { &OBJECT }));
        }
        if *more > 0 {
            lines.push(format!("... and {more} more"));
        }
        if !not_carried.is_empty() {
            lines.push(render::table(not_carried, &NOT_CARRIED));
        }
        lines.push(match last["event"].as_str() {
            Some("done") if dry_run => format!("would be: {}", counts(last)),
            Some("done") => format!("done: {}", counts(last)),
            _ => format!("STOPPED: {}; import the file again and it goes on", render::cell(last.get("detail"))),
        });
        lines.join("\n")
    })?;
    let is_done = last["event"] == "done" && ["failed", "refused"].iter().all(|count| last[count] == 0);
    if is_done { Ok(()) } else { Err(Failure::Findings) }
}

fn counts(tally: &Value) -> String {
    let counts =
        tally.as_object().into_iter().flatten().filter_map(|(name, count)| Some((name, count.as_u64().filter(|count| *count > 0)?)));
    let counts: Vec<_> = counts.map(|(name, count)| format!("{count} {}", name.replace('_', " "))).collect();
    if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") }
}
