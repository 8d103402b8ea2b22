//! Recorded decisions: a list of them, an export, and reading them back from a file or from the node.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use control::decisions::ExportedDecision;
use http_body_util::BodyExt as _;
use schemas::decision::{DecisionEffect, DecisionMode, DecisionRecord};
use schemas::policy::PolicyKind;
use schemas::{BindingId, Digest, KeyId, RequestId, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cli::client::{Call, Client};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::render::{self, Field};
use crate::cli::resource::rows;
use crate::cli::stream;

/// Decisions of a list where nothing else is asked for.
const LISTED_DEFAULT: usize = 100;
/// The most decisions of a page of the API.
const PAGE: usize = 1000;

const COLUMNS: [Field; 10] = [
    ("id", "/id"),
    ("at", "/at"),
    ("kind", "/kind"),
    ("effect", "/effect"),
    ("combined", "/combined"),
    ("mode", "/mode"),
    ("reasons", "/reasons"),
    ("binding", "/binding"),
    ("key", "/key"),
    ("request", "/request"),
];

#[derive(Debug, Args)]
pub(in crate::cli) struct Decisions {
    #[command(flatten)]
    filters: Filters,
    /// At most this many [default: 100; of an export: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write them to a file for 'policy replay' and 'policy diff', one JSON object a line; '-' is standard output
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
}

/// Which decisions; all that is given must fit.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filters {
    /// What x-request-id said
    #[arg(long, value_name = "ID")]
    request: Option<RequestId>,
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    #[arg(long, value_name = "ID")]
    binding: Option<BindingId>,
    /// The digest of a policy
    #[arg(long, value_name = "DIGEST")]
    policy: Option<Digest>,
    /// expiry, quota or route
    #[arg(long, value_parser = word::<PolicyKind>)]
    kind: Option<PolicyKind>,
    /// permit, deny, not_applicable or fault
    #[arg(long, value_parser = word::<DecisionEffect>)]
    effect: Option<DecisionEffect>,
    /// enforced, canary or shadow
    #[arg(long, value_parser = word::<DecisionMode>)]
    mode: Option<DecisionMode>,
    /// The earliest moment, such as 2026-11-22T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// The latest moment
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
}

/// Where recorded decisions come from.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// A file that 'policy decisions --export' wrote, instead of the node; '-' is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) from: Option<PathBuf>,
    #[command(flatten)]
    filters: Filters,
    /// The newest of them, at most this many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// A word of a closed set, as JSON spells it.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

fn text(word: &impl Serialize) -> Option<String> {
    serde_json::to_value(word).ok().and_then(|value| value.as_str().map(str::to_owned))
}

impl Filters {
    fn ask<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.query("request", self.request)
            .query("key", self.key)
            .query("binding", self.binding)
            .query("policy", self.policy)
            .query("kind", self.kind.as_ref().and_then(text))
            .query("effect", self.effect.as_ref().and_then(text))
            .query("mode", self.mode.as_ref().and_then(text))
            .query("from", self.since)
            .query("to", self.until)
    }

    fn fit(&self, record: &DecisionRecord) -> bool {
        self.request.is_none_or(|request| request == record.request)
            && self.key.is_none_or(|key| key == record.key)
            && self.binding.is_none_or(|binding| binding == record.binding)
            && self.policy.is_none_or(|policy| policy == record.policy)
            && self.kind.is_none_or(|kind| kind == record.kind)
            && self.effect.is_none_or(|effect| effect == record.effect)
            && self.mode.is_none_or(|mode| mode == record.mode)
            && self.since.is_none_or(|since| since <= record.at)
            && self.until.is_none_or(|until| until >= record.at)
    }
}

pub(super) async fn run(args: Decisions, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let Decisions { filters, limit, export } = args;
    match export {
        None => {
            let page = list(&filters, limit.unwrap_or(LISTED_DEFAULT), client).await?;
            output.answer(&page, |page| render::table(rows(page, "decisions"), &COLUMNS))
        }
        Some(file) => write(&filters, limit, &file, client, output).await,
    }
}

/// All pages of a list, or as much of them as is wanted, as one.
async fn list(filters: &Filters, limit: usize, client: &Client) -> Result<Value, Failure> {
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let wanted = limit.saturating_sub(found.len()).min(PAGE);
        if wanted == 0 {
            return Ok(json!({ "decisions": found, "next": cursor }));
        }
        let call = filters.ask(Call::get(&["decisions"])).query("limit", Some(wanted)).query("cursor", cursor);
        let mut page = client.send(call).await?;
        if let Value::Array(rows) = page["decisions"].take() {
            found.extend(rows);
        }
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(json!({ "decisions": found, "next": null, "as_of": page["as_of"] }));
        }
    }
}

/// Writes the node's export to a file, or to standard output.
async fn write(filters: &Filters, limit: Option<usize>, file: &Path, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let is_stdout = file == Path::new("-");
    // Before the node does any work. What is there may be all that is left of decisions that the node has let go.
    let mut out: Box<dyn std::io::Write> = if is_stdout {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(File::create_new(file).with_context(|| format!("cannot create {}", file.display()))?)
    };
    let mut body = client.open(filters.ask(Call::get(&["decisions", "export"])).query("limit", limit)).await?.into_body();
    let mut lines = 0;
    while let Some(frame) = body.frame().await {
        let chunk = frame.map_err(|error| anyhow!(error).context("the node's answer broke off"))?.into_data().unwrap_or_default();
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
        out.write_all(&chunk).map_err(anyhow::Error::from)?;
    }
    out.flush().map_err(anyhow::Error::from)?;
    if is_stdout {
        return Ok(());
    }
    let answer = json!({ "file": file.display().to_string(), "decisions": lines });
    output.answer(&answer, |_| format!("{lines} decisions are in {}", file.display()))
}

/// A recorded decision and its name, or why a line is none.
type Line = anyhow::Result<(String, DecisionRecord)>;

/// Runs blocking work over recorded decisions, on a thread of its own.
pub(super) async fn process<T: Send + 'static>(
    source: Source,
    client: Option<&Client>,
    work: impl FnOnce(&mut dyn Iterator<Item = Line>) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let Source { from, filters, limit } = source;
    let limit_here = limit.unwrap_or(usize::MAX);
    let fit = filters.clone();
    let over = move |reader: Box<dyn Read>| {
        work(&mut lines(reader).filter(move |line| line.as_ref().map_or(true, |(_, record)| fit.fit(record))).take(limit_here))
    };
    let Some(from) = from else {
        let client = client.context("decisions of a node need the node")?;
        let body = client.open(filters.ask(Call::get(&["decisions", "export"])).query("limit", limit)).await?.into_body();
        return Ok(stream::drive(body, move |body| over(Box::new(body))).await??);
    };
    let done = tokio::task::spawn_blocking(move || {
        let reader: Box<dyn Read> = if from == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            Box::new(File::open(&from).with_context(|| format!("cannot read {}", from.display()))?)
        };
        over(reader)
    });
    Ok(done.await.map_err(anyhow::Error::from)??)
}

fn lines(reader: impl Read) -> impl Iterator<Item = Line> {
    BufReader::new(reader).lines().zip(1..).map(|(line, number): (_, u64)| {
        let line = line.context("the decisions broke off")?;
        let exported: ExportedDecision = serde_json::from_str(&line).with_context(|| format!("line {number} is no decision"))?;
        let id = exported.id.clone();
        Ok((id, exported.into_record().with_context(|| format!("line {number} is no decision"))?))
    })
}
