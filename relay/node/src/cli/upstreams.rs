//! `keyrelay upstreams`: accounts at providers.

mod login;
mod rotate;
mod secret_source;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::resource::{Because, Listing, list, read_secret, rows};

#[derive(Debug, Subcommand)]
pub(super) enum UpstreamsCommand {
    /// Add an upstream
    Add(Add),
    /// List upstreams
    List(Listing),
    /// Show an upstream, by id or name
    Show { id: String },
    /// Change an upstream; another base URL drops its credential unless one comes along
    Update(Update),
    /// Send no more requests to an upstream until it is enabled again
    Disable(Because),
    /// Use an upstream again
    Enable { id: String },
    /// Remove an upstream and destroy its credential
    Remove { id: String },
    /// Log in at a provider: for a new upstream, or for one that is there
    Login(Box<login::Login>),
    /// Ask an upstream for its models with its credential; exit code 1 if that fails
    Test { id: String },
    /// Show what the last test calls of an upstream came to
    Tests { id: String },
    /// Give an upstream its next credential while requests go on, or see and steer a rotation that is under way
    Rotate(rotate::Rotate),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    name: String,
    /// openai or anthropic
    #[arg(long)]
    dialect: String,
    /// An OpenAI one ends in /v1, an Anthropic one has no version
    #[arg(long, value_name = "URL")]
    base_url: String,
    #[command(flatten)]
    details: Details,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    id: String,
    #[arg(long)]
    name: Option<String>,
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    #[command(flatten)]
    details: Details,
    /// Take the credential away
    #[arg(long, conflicts_with_all = ["credential", "credential_file"])]
    no_credential: bool,
    /// Change this version only
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
}

/// What an upstream may have. The credential can also come in KEYRELAY_CREDENTIAL.
#[derive(Debug, Clone, Args)]
struct Details {
    /// The credential in a file, or on standard input with '-'; else KEYRELAY_CREDENTIAL is taken
    #[arg(long, value_name = "FILE")]
    credential_file: Option<PathBuf>,
    /// The credential itself; other users of this machine can see it in the process list
    #[arg(long, value_name = "SECRET", conflicts_with = "credential_file")]
    credential: Option<String>,
    /// Name or id
    #[arg(long)]
    pool: Option<String>,
    /// Lower is tried first
    #[arg(long, value_name = "N")]
    priority: Option<u32>,
    /// Share of the requests among upstreams of one priority
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// A pattern of the models it serves [default: all]
    #[arg(long = "model", value_name = "PATTERN")]
    models: Vec<String>,
    /// Where it is, in your own words: policies may route by it
    #[arg(long)]
    region: Option<String>,
    /// A label that policies may look at; may be given more than once
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

const COLUMNS: [Field; 9] = [
    ("id", "/id"),
    ("name", "/name"),
    ("dialect", "/dialect"),
    ("base url", "/base_url"),
    ("pool", "/pool"),
    ("priority", "/priority"),
    ("weight", "/weight"),
    ("disabled", "/disabled/at"),
    ("version", "/version"),
];
const FIELDS: [Field; 14] = [
    ("id", "/id"),
    ("name", "/name"),
    ("dialect", "/dialect"),
    ("base url", "/base_url"),
    ("pool", "/pool"),
    ("priority", "/priority"),
    ("weight", "/weight"),
    ("models", "/models"),
    ("region", "/region"),
    ("tags", "/tags"),
    ("credential", "/credential"),
    ("disabled", "/disabled"),
    ("created", "/created_at"),
    ("version", "/version"),
];
const LAST_FIELDS: [Field; 5] = [
    ("tested", "/last/at"),
    ("status", "/last/status"),
    ("fault", "/last/fault"),
    ("milliseconds", "/last/elapsed_ms"),
    ("rejected since", "/rejected_since"),
];
const ERROR_FIELDS: [Field; 4] = [("at", "/at"), ("fault", "/fault"), ("status", "/status"), ("milliseconds", "/elapsed_ms")];
const TEST_FIELDS: [Field; 4] = [("ok", "/ok"), ("status", "/status"), ("milliseconds", "/elapsed_ms"), ("error", "/error")];

pub(super) async fn run(
    command: UpstreamsCommand,
    client: &Client,
    environment: &BTreeMap<String, String>,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        UpstreamsCommand::Add(Add { name, dialect, base_url, details }) => {
            let mut body = details.body(environment)?;
            body.extend([("name", name), ("dialect", dialect), ("base_url", base_url)].map(|(k, v)| (k.to_owned(), v.into())));
            shown(&client.send(Call::new(Method::POST, &["upstreams"]).body(body.into())).await?, output)
        }
        UpstreamsCommand::List(Listing { limit }) => {
            let page = list(client, "upstreams", limit).await?;
            output.answer(&page, |page| render::table(rows(page, "upstreams"), &COLUMNS))
        }
        UpstreamsCommand::Show { id } => shown(&client.send(Call::get(&["upstreams", &id])).await?, output),
        UpstreamsCommand::Update(Update { id, name, base_url, details, no_credential, if_version }) => {
            let mut body = if no_credential { details.body(&BTreeMap::new())? } else { details.body(environment)? };
            let given = [("name", name), ("base_url", base_url)];
            body.extend(given.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.into()))));
            body.extend(no_credential.then(|| ("credential".to_owned(), Value::Null)));
            shown(&client.send(Call::new(Method::PATCH, &["upstreams", &id]).body(body.into()).if_version(if_version)).await?, output)
        }
        UpstreamsCommand::Disable(Because { id, reason }) => {
            shown(&act(client, &id, "disable", json!({ "reason": reason })).await?, output)
        }
        UpstreamsCommand::Enable { id } => shown(&act(client, &id, "enable", json!({})).await?, output),
        UpstreamsCommand::Remove { id } => shown(&client.send(Call::new(Method::DELETE, &["upstreams", &id])).await?, output),
        UpstreamsCommand::Login(login) => login::run(*login, client, output).await,
        UpstreamsCommand::Test { id } => {
            let result = act(client, &id, "test", json!({})).await?;
            output.answer(&result, |result| render::block(result, &TEST_FIELDS))?;
            if result["ok"] == true { Ok(()) } else { Err(Failure::Findings) }
        }
        UpstreamsCommand::Tests { id } => {
            let history = client.send(Call::get(&["upstreams", &id, "tests"])).await?;
            output.answer(&history, |history| {
                let last = render::block(history, &LAST_FIELDS);
                format!("{last}\n{}", render::table(rows(history, "errors"), &ERROR_FIELDS))
            })
        }
        UpstreamsCommand::Rotate(rotate) => rotate::run(rotate, client, environment, output).await,
    }
}

async fn act(client: &Client, id: &str, verb: &str, body: Value) -> Result<Value, Failure> {
    client.send(Call::new(Method::POST, &["upstreams", id, verb]).body(body)).await
}

fn shown(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| render::block(&answer["upstream"], &FIELDS))
}

impl Details {
    fn body(self, environment: &BTreeMap<String, String>) -> anyhow::Result<Map<String, Value>> {
        let from_environment = || environment.get("KEYRELAY_CREDENTIAL").filter(|secret| !secret.is_empty()).cloned();
        let credential = match self.credential_file {
            Some(file) => Some(read_secret(&file)?.trim().to_owned()),
            None => self.credential.or_else(from_environment),
        };
        let members = [
            ("credential", credential.map(Value::from)),
            ("pool", self.pool.map(Value::from)),
            ("priority", self.priority.map(Value::from)),
            ("weight", self.weight.map(Value::from)),
            ("models", (!self.models.is_empty()).then(|| self.models.into())),
            ("region", self.region.map(Value::from)),
            ("tags", (!self.tags.is_empty()).then(|| self.tags.into())),
        ];
        Ok(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}
