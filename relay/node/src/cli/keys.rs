//! `keyrelay keys`: client keys and their whole life.

pub(super) mod batch;
mod choice;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{Call, Client, idempotency_key};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::resource::{list_where, read_secret, rows};
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
        /// Lift a disable as well
        #[arg(long)]
        enable: bool,
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
    /// Take the secret that a rotation by schedule left for the key; shown this once
    Collect {
        id: String,
        /// Go on with a call whose answer was lost; it said this word
        #[arg(long, value_name = "WORD")]
        resume: Option<String>,
    },
    /// End the overlap of a rotation early: the secret before the current one is refused from now on
    FinishRotation { id: String },
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
    /// Put a key away, or many: it is refused until it is restored
    Archive(BecauseOf),
    /// Take an archived key back, or many; what else is true of it stays true
    Restore(Target),
    /// Take an archived key out of everything for good, or many; what happened to it stays in the log. Asks first
    Purge(Target),
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
    #[command(flatten)]
    rotation: Rotation,
    /// A secret that a client has already, in a file, or on standard input with '-'; without it one is issued
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Take that secret although it would be cheap to guess
    #[arg(long, requires = "secret_file")]
    allow_weak: bool,
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
    /// Send requests to the key's pools again
    #[arg(long, conflicts_with_all = ["upstream", "upstream_fallback"])]
    no_upstream: bool,
    #[command(flatten)]
    rotation: Rotation,
    /// Rotate the key by hand only
    #[arg(long, conflicts_with = "rotate_every")]
    no_rotation: bool,
    /// Change this version only
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["filters", "ids_file"])]
    if_version: Option<u64>,
}

/// When a key gets a new secret by itself.
#[derive(Debug, Args)]
struct Rotation {
    /// Give the key a new secret by itself whenever its secret is so old, such as 30d; `keys collect` gives it out
    #[arg(long, value_name = "DURATION")]
    rotate_every: Option<String>,
    /// How long the secret before it stays good, at most 30d [default: 7d]
    #[arg(long, value_name = "DURATION", requires = "rotate_every")]
    rotate_overlap: Option<String>,
}

impl Rotation {
    /// The schedule as a body has it, if one is given.
    fn body(self) -> Option<(String, Value)> {
        let overlap = self.rotate_overlap.map(|overlap| ("overlap".to_owned(), overlap.into()));
        let schedule: Map<String, Value> = [("every".to_owned(), self.rotate_every?.into())].into_iter().chain(overlap).collect();
        Some(("rotation".to_owned(), schedule.into()))
    }
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
    /// Members for policies, such as '{"team":"search"}'; '{}' takes them away
    #[arg(long, value_name = "JSON", value_parser = object)]
    metadata: Option<Value>,
    /// The one upstream that the key's requests go to, by name or id
    #[arg(long, value_name = "UPSTREAM")]
    upstream: Option<String>,
    /// Let the key's pools follow when that upstream cannot answer
    #[arg(long, requires = "upstream")]
    upstream_fallback: bool,
}

/// A JSON object.
fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => Ok(Value::Object(members)),
        _ => Err("expected a JSON object".to_owned()),
    }
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
    /// From its first accepted request on, such as 30d or 12h
    #[arg(long, value_name = "DURATION")]
    expires_after_first_use: Option<String>,
}

const COLUMNS: [Field; 6] =
    [("id", "/id"), ("name", "/name"), ("state", "/state"), ("expires", "/expires_at"), ("pools", "/pools"), ("version", "/version")];
const FIELDS: [Field; 28] = [
    ("id", "/id"),
    ("name", "/name"),
    ("state", "/state"),
    ("expires", "/expires_at"),
    ("after first use", "/expires_after_first_use"),
    ("first used", "/first_used_at"),
    ("description", "/description"),
    ("owner", "/owner"),
    ("tags", "/tags"),
    ("pools", "/pools"),
    ("models", "/models"),
    ("endpoints", "/endpoints"),
    ("requests/minute", "/limits/requests_per_minute"),
    ("concurrency", "/limits/concurrency"),
    ("metadata", "/metadata"),
    ("upstream", "/upstream"),
    ("or its pools", "/upstream_fallback"),
    ("secrets", "/secrets"),
    ("rotation", "/rotation"),
    ("to be collected", "/successor"),
    ("leaks", "/leaks"),
    ("created", "/created_at"),
    ("renewed", "/renewed_at"),
    ("rotated", "/rotated_at"),
    ("disabled", "/disabled"),
    ("revoked", "/revoked"),
    ("archived", "/archived"),
    ("version", "/version"),
];

/// What the id of a key begins with.
const KEY_ID_PREFIX: &str = "key_";
const PURGED: [Field; 3] = [("id", "/id"), ("erased", "/erased"), ("sequence", "/sequence")];
pub(super) const FENCE: [Field; 5] =
    [("reached", "/reached"), ("nodes", "/nodes"), ("elapsed ms", "/elapsed_ms"), ("missing", "/missing"), ("not live", "/not_live")];

pub(super) async fn run(command: KeysCommand, client: &Client, output: &mut Output) -> Result<(), Failure> {
    match command {
        KeysCommand::Create(create) => {
            let Create { name, count, expiry, details, rotation, secret_file, allow_weak } = *create;
            let mut body = details.body();
            body.insert("name".to_owned(), name.into());
            body.extend(expiry.body());
            body.extend(rotation.body());
            if let Some(file) = secret_file {
                body.insert("secret".to_owned(), read_secret(&file)?.trim().into());
                body.insert("allow_weak".to_owned(), allow_weak.into());
            }
            if count.is_meant() {
                return count.run(body.into(), client, output).await;
            }
            issued(&client.send(Call::new(Method::POST, &["keys"]).body(body.into())).await?, output)
        }
        KeysCommand::List(listing) => {
            let page = list_where(client, "keys", listing.limit, &listing.query()).await?;
            output.answer(&page, |page| render::table(rows(page, "keys"), &COLUMNS))
        }
        KeysCommand::Show { id } => shown(&client.send(Call::get(&["keys", &id])).await.map_err(|failure| by_name(failure, &id))?, output),
        KeysCommand::Update(update) => {
            let Update { target: Target { id, many }, name, details, no_limits, no_upstream, rotation, no_rotation, if_version } = *update;
            let mut body = details.body();
            body.extend(name.map(|name| ("name".to_owned(), name.into())));
            body.extend(no_limits.then(|| ("limits".to_owned(), json!({}))));
            body.extend(no_upstream.then(|| ("upstream".to_owned(), Value::Null)));
            body.extend(no_rotation.then(|| ("rotation".to_owned(), Value::Null)));
            body.extend(rotation.body());
            if many.is_meant() {
                return many.run("change", body.into(), client, output).await;
            }
            shown(&client.send(Call::new(Method::PATCH, &["keys", &id]).body(body.into()).if_version(if_version)).await?, output)
        }
        KeysCommand::Renew { target: Target { id, many }, expiry, enable } => {
            let mut body = expiry.required()?;
            body.insert("enable".to_owned(), enable.into());
            if many.is_meant() {
                return many.run("renew", body.into(), client, output).await;
            }
            renewed(&act(client, &id, "renew", body.into()).await?, output)
        }
        KeysCommand::Rotate { id, overlap, finish_previous } => {
            let mut body = json!({ "finish_previous": finish_previous });
            if let Some(overlap) = overlap {
                body["overlap"] = overlap.into();
            }
            issued(&act(client, &id, "rotate", body).await?, output)
        }
        KeysCommand::Collect { id, resume } => collect(&id, resume, client, output).await,
        KeysCommand::FinishRotation { id } => shown(&act(client, &id, "finish-rotation", json!({})).await?, output),
        KeysCommand::Archive(BecauseOf { target, reason }) => target.run("archive", json!({ "reason": reason }), client, output).await,
        KeysCommand::Restore(target) => target.run("restore", json!({}), client, output).await,
        KeysCommand::Purge(Target { many, .. }) if many.is_meant() => many.run("purge", json!({}), client, output).await,
        KeysCommand::Purge(Target { id, many }) => {
            many.confirm(&format!("This takes {id} out of everything for good, and destroys its description and reasons. Purge?"), output)?;
            purged(&act(client, &id, "purge", json!({})).await?, output)
        }
        KeysCommand::Disable(BecauseOf { target, reason }) => target.run("disable", json!({ "reason": reason }), client, output).await,
        KeysCommand::Enable(target) => target.run("enable", json!({}), client, output).await,
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

/// What a renewal did not do is worth a word.
fn renewed(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    shown(answer, output)?;
    match (answer["reenabled"].as_bool(), answer["key"]["state"].as_str()) {
        (Some(true), _) => output.note("The key is active again."),
        (_, Some("disabled")) => output.note("The key is still disabled: a renewal lifts that only with --enable."),
        _ => {}
    }
    Ok(())
}

fn purged(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| render::block(answer, &PURGED))?;
    if answer["erased"] != json!(true) {
        output.note(
            "The key is gone, but its description and reasons are not destroyed yet: the key store could not be reached. A node does that once it is back.",
        );
    }
    Ok(())
}

/// Keys go by their ids: what is not found may be a name.
fn by_name(failure: Failure, id: &str) -> Failure {
    match failure {
        Failure::Refused(mut problem) if problem.code == "not_found" && !id.starts_with(KEY_ID_PREFIX) => {
            problem.detail =
                format!("{}; a key goes by its id, and this finds it by its name: keyrelay keys list --search {id:?}", problem.detail);
            Failure::Refused(problem)
        }
        failure => failure,
    }
}

async fn act(client: &Client, id: &str, verb: &str, body: Value) -> Result<Value, Failure> {
    client.send(Call::new(Method::POST, &["keys", id, verb]).body(body)).await.map_err(|failure| by_name(failure, id))
}

/// Takes the secret that waits. It is given out once, so it is told beforehand how to come by the same again.
async fn collect(id: &str, resume: Option<String>, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let word = resume.map_or_else(idempotency_key, Ok)?;
    let path = ["keys", id, "successor"];
    output.note(&format!("For 24 hours the secret comes again, if this is cut off, with the same command and: --resume {word}"));
    let call = Call::new(Method::POST, &path).body(json!({})).idempotency_key(&word);
    issued(&client.send(call).await?, output)
}

fn shown(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| render::block(&answer["key"], &FIELDS))
}

/// The secret stands on a line of its own, so that it can be marked and copied; nothing else goes to where scripts read it.
fn issued(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| format!("{}\n\n{}", render::block(&answer["key"], &FIELDS), render::cell(answer.get("secret"))))?;
    let is_brought =
        answer["key"]["secrets"].as_array().and_then(|secrets| secrets.last()).is_some_and(|last| last["brought"] == json!(true));
    match answer["secret"].as_str() {
        None if is_brought => output.note("The key has the secret that was brought; the relay keeps only a hash of it."),
        Some(_) => output.note("The secret is shown this once. Keep it now; the relay has only its hash."),
        None => output.note("The secret was shown more than 24 hours ago and is not kept. Rotate the key for a new one."),
    }
    Ok(())
}

impl Target {
    /// Does one thing to the key, or to all of them.
    async fn run(self, verb: &str, body: Value, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let Self { id, many } = self;
        if many.is_meant() {
            return many.run(verb, body, client, output).await;
        }
        shown(&act(client, &id, verb, body).await?, output)
    }
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
            ("metadata", self.metadata),
            ("upstream_fallback", self.upstream.is_some().then_some(self.upstream_fallback.into())),
            ("upstream", self.upstream.map(Value::from)),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

impl Expiry {
    /// For a command to which no tenant has a default.
    fn required(self) -> anyhow::Result<Map<String, Value>> {
        let body = self.body();
        anyhow::ensure!(!body.is_empty(), "give one of --expires-in, --expires-at, --expires-after-first-use and --never-expires");
        Ok(body)
    }

    fn body(self) -> Map<String, Value> {
        let never = self.never_expires.then(|| "never".to_owned());
        let members = [
            ("expires_in", self.expires_in),
            ("expires_at", self.expires_at),
            ("expires", never),
            ("expires_after_first_use", self.expires_after_first_use),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
    }
}
