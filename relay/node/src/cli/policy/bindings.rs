//! Where policies apply: `bind`, `bindings`, `update`, `rollback`, `unbind`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use crate::cli::client::{Call, Client};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::render::{self, Field};
use crate::cli::resource::{Listing, list, rows};

#[derive(Debug, Args)]
pub(in crate::cli) struct Bind {
    /// The policy's digest, or the first 8 or more characters of it
    policy: String,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    fenced: Fenced,
}

/// Whether the answer waits for the other nodes.
#[derive(Debug, Args)]
pub(in crate::cli) struct Fenced {
    /// Wait until it is in effect on every live node, at most 10 seconds; 1 if it was not in time
    #[arg(long)]
    wait: bool,
}

/// The requests that a binding is for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Scope {
    /// All requests of the tenant, which is the one to act in where no name is given
    // By the name of the option that every command has, whose value it takes and gives.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    tenant: Option<String>,
    /// The upstreams of a pool, by id or name
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// The requests of a key, by id
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Update {
    id: String,
    /// Another policy of the same kind: its digest, or the first 8 or more characters of it
    #[arg(long, value_name = "DIGEST")]
    policy: Option<String>,
    #[command(flatten)]
    terms: Terms,
    /// Change this version only
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    #[command(flatten)]
    fenced: Fenced,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Rollback {
    id: String,
    /// Roll this version back only
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    #[command(flatten)]
    fenced: Fenced,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Unbind {
    id: String,
    #[command(flatten)]
    fenced: Fenced,
}

/// How much of what a policy says counts, and with which settings.
#[derive(Debug, Args)]
struct Terms {
    /// Shadow evaluates and records, and nothing counts [default when binding: enforce]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// With --mode canary: so many per cent of the keys
    #[arg(long, value_name = "1-99", value_parser = clap::value_parser!(u8).range(1..=99))]
    canary_percent: Option<u8>,
    /// What a fault of the policy counts as [default when binding: deny for expiry, else baseline]
    #[arg(long, value_enum)]
    on_fault: Option<OnFault>,
    /// The settings as JSON, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    settings: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Enforce,
    Canary,
    Shadow,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnFault {
    Deny,
    Baseline,
    Skip,
}

const COLUMNS: [Field; 9] = [
    ("id", "/id"),
    ("kind", "/kind"),
    ("scope", "/scope"),
    ("policy", "/policy_name"),
    ("mode", "/mode"),
    ("canary %", "/canary_percent"),
    ("on fault", "/on_fault"),
    ("loaded", "/loaded"),
    ("version", "/version"),
];
const FENCE: [Field; 5] =
    [("reached", "/reached"), ("nodes", "/nodes"), ("elapsed ms", "/elapsed_ms"), ("missing", "/missing"), ("not live", "/not_live")];
const FIELDS: [Field; 13] = [
    ("id", "/id"),
    ("kind", "/kind"),
    ("scope", "/scope"),
    ("policy", "/policy"),
    ("name", "/policy_name"),
    ("mode", "/mode"),
    ("canary %", "/canary_percent"),
    ("on fault", "/on_fault"),
    ("settings", "/settings"),
    ("loaded", "/loaded"),
    ("before", "/previous"),
    ("changed", "/changed_at"),
    ("version", "/version"),
];

pub(super) async fn bind(bind: Bind, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let Bind { policy, scope, terms, fenced } = bind;
    let mut body = terms.body()?;
    body.insert("policy".to_owned(), policy.into());
    body.insert("scope".to_owned(), scope.body(client.tenant()));
    changed(Call::new(Method::POST, &["bindings"]).body(body.into()), &fenced, client, output).await
}

pub(super) async fn show(id: &str, client: &Client, output: &mut Output) -> Result<(), Failure> {
    shown(&client.send(Call::get(&["bindings", id])).await?, output)
}

pub(super) async fn list_all(listing: Listing, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let page = list(client, "bindings", listing.limit).await?;
    output.answer(&page, |page| render::table(rows(page, "bindings"), &COLUMNS))
}

pub(super) async fn update(update: Update, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let Update { id, policy, terms, if_version, fenced } = update;
    let mut body = terms.body()?;
    body.extend(policy.map(|policy| ("policy".to_owned(), policy.into())));
    changed(Call::new(Method::PATCH, &["bindings", &id]).body(body.into()).if_version(if_version), &fenced, client, output).await
}

pub(super) async fn roll_back(back: Rollback, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let Rollback { id, if_version, fenced } = back;
    let path = ["bindings", &id, "rollback"];
    changed(Call::new(Method::POST, &path).body(json!({})).if_version(if_version), &fenced, client, output).await
}

pub(super) async fn unbind(unbind: Unbind, client: &Client, output: &mut Output) -> Result<(), Failure> {
    changed(Call::new(Method::DELETE, &["bindings", &unbind.id]), &unbind.fenced, client, output).await
}

/// A fence that was not reached is a finding: what was changed is in the log, and somebody should look at the nodes that are named.
async fn changed(call: Call<'_>, fenced: &Fenced, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let answer = client.send(call.query("wait", fenced.wait.then_some(true))).await?;
    let fence = &answer["fence"];
    if fence.is_null() {
        return shown(&answer, output);
    }
    output.answer(&answer, |answer| {
        format!("{}\n\n{}", render::block(&answer["binding"], &FIELDS), render::block(&answer["fence"], &FENCE))
    })?;
    if fence["reached"] == json!(true) {
        return Ok(());
    }
    output.note("It is in the log, but was not in effect on every live node in time.");
    Err(Failure::Findings)
}

fn shown(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| render::block(&answer["binding"], &FIELDS))
}

impl Scope {
    /// A tenant may be named together with a pool or a key of it, before the command; it is the scope only by itself.
    fn body(self, tenant: &str) -> Value {
        match (self.pool, self.key) {
            (Some(pool), _) => json!({ "pool": pool }),
            (None, Some(key)) => json!({ "key": key }),
            (None, None) => json!({ "tenant": tenant }),
        }
    }
}

impl Terms {
    fn body(self) -> anyhow::Result<Map<String, Value>> {
        let name = |value: clap::builder::PossibleValue| Value::from(value.get_name());
        let members = [
            ("mode", self.mode.and_then(|mode| mode.to_possible_value()).map(name)),
            ("canary_percent", self.canary_percent.map(Value::from)),
            ("on_fault", self.on_fault.and_then(|on_fault| on_fault.to_possible_value()).map(name)),
            ("settings", self.settings.map(|text| settings(&text)).transpose()?),
        ];
        Ok(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}

/// Settings as they were given: JSON, or a file of it.
pub(super) fn settings(text: &str) -> anyhow::Result<Value> {
    let Some(file) = text.strip_prefix('@').map(PathBuf::from) else {
        return serde_json::from_str(text).context("the settings are not JSON");
    };
    let text = std::fs::read(&file).with_context(|| format!("cannot read the settings from {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))
}
