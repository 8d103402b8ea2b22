//! `keyrelay keys`: client keys and their whole life.

pub(super) mod batch;
mod choice;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::resource::{list_where, rows};
use batch::{Count, Many};
use choice::KeyListing;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Create a key, or many; a secret is shown this once
    Create(Box<Create>),
    /// List keys
    List(Box<KeyListing>),
    /// Show a key
    Show { id: String },
    /// Change details and limits of a key, or of many
    Update(Box<Update>),
    /// Move the expiry of a key, or of many
    Renew {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        expiry: Expiry,
    },
    /// Give a key a new secret, shown this once; the one before stays good for the overlap
    Rotate {
        id: String,
        /// How long, such as 24h; at most 30d [default: 24h]
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
        /// End an overlap that is still running
        #[arg(long)]
        finish_previous: bool,
    },
    /// Refuse a key until it is enabled again
    Disable(BecauseOf),
    /// Lift a disable
    Enable(Target),
    /// Refuse a key for ever
    Revoke {
        #[command(flatten)]
        because: BecauseOf,
        /// Wait until every live node refuses it, 10 seconds at most; exit code 1 if one did not in time (the key is revoked all the same)
        #[arg(long, conflicts_with_all = ["filters", "ids_file"])]
        wait: bool,
    },
}

/// A key, or many.
#[derive(Debug, Args)]
pub(super) struct Target {
    #[arg(required_unless_present_any = ["filters", "ids_file"], default_value = "", hide_default_value = true)]
    id: String,
    #[command(flatten)]
    many: Many,
}

#[derive(Debug, Args)]
pub(super) struct BecauseOf {
    #[command(flatten)]
    target: Target,
    /// Free text for the record; it is sealed
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[arg(required_unless_present = "count", default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    count: Count,
    #[command(flatten)]
    expiry: Expiry,
    #[command(flatten)]
    details: Details,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    #[command(flatten)]
    target: Target,
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    details: Details,
    /// Take all limits away
    #[arg(long, conflicts_with_all = ["requests_per_minute", "concurrency"])]
    no_limits: bool,
    /// Change this version only
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["filters", "ids_file"])]
    if_version: Option<u64>,
}

/// What a key may have; lists and limits are given whole.
#[derive(Debug, Args)]
struct Details {
    /// Free text; an empty one takes it away
    #[arg(long)]
    description: Option<String>,
    /// A label or a user's id; an empty one takes it away
    #[arg(long)]
    owner: Option<String>,
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A pool it may use, by name or id; several in order of preference
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// A pattern of the models it may use, such as 'gpt-*' [default: all]
    #[arg(long = "model", value_name = "PATTERN")]
    models: Vec<String>,
    /// An endpoint it may use: chat_completions, messages or models [default: all]
    #[arg(long = "endpoint", value_name = "ENDPOINT")]
    endpoints: Vec<String>,
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Requests under way at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
}

/// A creation that says nothing leaves it to the tenant's default.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct Expiry {
    /// From now, such as 30d, 24h, 15m or 2s
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// RFC 3339, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// It does not expire
    #[arg(long)]
    never_expires: bool,
}

const COLUMNS: [Field; 6] =
    [("id", "/id"), ("name", "/name"), ("state", "/state"), ("expires", "/expires_at"), ("pools", "/pools"), ("version", "/version")];
const FIELDS: [Field; 19] = [
    ("id", "/id"),
    ("name", "/name"),
    ("state", "/state"),
    ("expires", "/expires_at"),
    ("description", "/description"),
    ("owner", "/owner"),
    ("tags", "/tags"),
    ("pools", "/pools"),
    ("models", "/models"),
    ("endpoints", "/endpoints"),
    ("requests/minute", "/limits/requests_per_minute"),
    ("concurrency", "/limits/concurrency"),
    ("secrets", "/secrets"),
    ("created", "/created_at"),
    ("renewed", "/renewed_at"),
    ("rotated", "/rotated_at"),
    ("disabled", "/disabled"),
    ("revoked", "/revoked"),
    ("version", "/version"),
];

pub(super) const FENCE: [Field; 5] =
    [("reached", "/reached"), ("nodes", "/nodes"), ("elapsed ms", "/elapsed_ms"), ("missing", "/missing"), ("not live", "/not_live")];

pub(super) async fn run(command: KeysCommand, client: &Client, output: &mut Output) -> Result<(), Failure> {
    match command {
        KeysCommand::Create(create) => {
            let Create { name, count, expiry, details } = *create;
            let mut body = details.body();
            body.insert("name".to_owned(), name.into());
            body.extend(expiry.body());
            if count.is_meant() {
                return count.run(body.into(), client, output).await;
            }
            issued(&client.send(Call::new(Method::POST, &["keys"]).body(body.into())).await?, output)
        }
        KeysCommand::List(listing) => {
            let page = list_where(client, "keys", listing.limit, &listing.query()).await?;
            output.answer(&page, |page| render::table(rows(page, "keys"), &COLUMNS))
        }
        KeysCommand::Show { id } => shown(&client.send(Call::get(&["keys", &id])).await?, output),
        KeysCommand::Update(update) => {
            let Update { target: Target { id, many }, name, details, no_limits, if_version } = *update;
            let mut body = details.body();
            body.extend(name.map(|name| ("name".to_owned(), name.into())));
            body.extend(no_limits.then(|| ("limits".to_owned(), json!({}))));
            if many.is_meant() {
                return many.run("change", body.into(), client, output).await;
            }
            shown(&client.send(Call::new(Method::PATCH, &["keys", &id]).body(body.into()).if_version(if_version)).await?, output)
        }
        KeysCommand::Renew { target: Target { many, .. }, expiry } if many.is_meant() => {
            many.run("renew", expiry.required()?.into(), client, output).await
        }
        KeysCommand::Renew { target: Target { id, .. }, expiry } => {
            shown(&act(client, &id, "renew", expiry.required()?.into()).await?, output)
        }
        KeysCommand::Rotate { id, overlap, finish_previous } => {
            let mut body = json!({ "finish_previous": finish_previous });
            if let Some(overlap) = overlap {
                body["overlap"] = overlap.into();
            }
            issued(&act(client, &id, "rotate", body).await?, output)
        }
        KeysCommand::Disable(BecauseOf { target: Target { id, many }, reason }) => {
            let body = json!({ "reason": reason });
            if many.is_meant() {
                many.run("disable", body, client, output).await
            } else {
                shown(&act(client, &id, "disable", body).await?, output)
            }
        }
        KeysCommand::Enable(Target { many, .. }) if many.is_meant() => many.run("enable", json!({}), client, output).await,
        KeysCommand::Enable(Target { id, .. }) => shown(&act(client, &id, "enable", json!({})).await?, output),
        KeysCommand::Revoke { because: BecauseOf { target: Target { id, many }, reason }, wait } => {
            if many.is_meant() {
                return many.run("revoke", json!({ "reason": reason }), client, output).await;
            }
            let path = ["keys", &id, "revoke"];
            let call = Call::new(Method::POST, &path).query("wait", wait.then_some(true)).body(json!({ "reason": reason }));
            revoked(&client.send(call).await?, output)
        }
    }
}

/// A fence that was not reached is a finding: the key is revoked, and somebody should look at the nodes that are named.
fn revoked(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    let fence = &answer["fence"];
    if fence.is_null() {
        return shown(answer, output);
    }
    output.answer(answer, |answer| format!("{}\n\n{}", render::block(&answer["key"], &FIELDS), render::block(&answer["fence"], &FENCE)))?;
    if fence["not_live"].as_array().is_some_and(|nodes| !nodes.is_empty()) {
        output.note("Nodes that are not live have stopped or are cut off. One that is cut off accepts the key until its relay.staleness_max is over.");
    }
    if fence["reached"] == json!(true) {
        return Ok(());
    }
    output.note("The key is revoked, but not every live node had applied that in time.");
    Err(Failure::Findings)
}

async fn act(client: &Client, id: &str, verb: &str, body: Value) -> Result<Value, Failure> {
    client.send(Call::new(Method::POST, &["keys", id, verb]).body(body)).await
}

fn shown(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| render::block(&answer["key"], &FIELDS))
}

/// The secret stands on a line of its own, so that it can be marked and copied; nothing else goes to where scripts read it.
fn issued(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| format!("{}\n\n{}", render::block(&answer["key"], &FIELDS), render::cell(answer.get("secret"))))?;
    match answer["secret"].as_str() {
        Some(_) => output.note("The secret is shown this once. Keep it now; the relay has only its hash."),
        None => output.note("The secret was shown more than 24 hours ago and is not kept. Rotate the key for a new one."),
    }
    Ok(())
}

impl Details {
    /// The members that are given. An empty text is `null`.
    fn body(self) -> Map<String, Value> {
        let text = |text: Option<String>| text.map(|text| if text.is_empty() { Value::Null } else { text.into() });
        let list = |list: Vec<String>| (!list.is_empty()).then(|| Value::from(list));
        let mut limits = Map::new();
        limits.extend(self.requests_per_minute.map(|n| ("requests_per_minute".to_owned(), n.into())));
        limits.extend(self.concurrency.map(|n| ("concurrency".to_owned(), n.into())));
        let members = [
            ("description", text(self.description)),
            ("owner", text(self.owner)),
            ("tags", list(self.tags)),
            ("pools", list(self.pools)),
            ("models", list(self.models)),
            ("endpoints", list(self.endpoints)),
            ("limits", (!limits.is_empty()).then_some(limits.into())),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

impl Expiry {
    /// For a command to which no tenant has a default.
    fn required(self) -> anyhow::Result<Map<String, Value>> {
        let body = self.body();
        anyhow::ensure!(!body.is_empty(), "give one of --expires-in, --expires-at and --never-expires");
        Ok(body)
    }

    fn body(self) -> Map<String, Value> {
        let never = self.never_expires.then(|| "never".to_owned());
        let members = [("expires_in", self.expires_in), ("expires_at", self.expires_at), ("expires", never)];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
    }
}
