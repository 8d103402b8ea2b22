//! `keyrelay tenants`: whom keys, upstreams, pools, policies and bindings belong to.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{Call, Client};
use super::failure::Failure;
use super::keys::FENCE;
use super::output::Output;
use super::render::{self, Field};
use super::resource::{Because, Listing, list, rows};

#[derive(Debug, Subcommand)]
pub(super) enum TenantsCommand {
    /// Create a tenant and its pool `default`
    Create(Create),
    /// List tenants
    List(Listing),
    /// Show a tenant
    Show { id: String },
    /// Change a tenant's name, or what it says about the expiry of keys
    Update(Update),
    /// Refuse all keys of a tenant until it is resumed
    Suspend {
        #[command(flatten)]
        because: Because,
        /// Wait until every live node refuses them, 10 seconds at most; exit code 1 if one did not in time (the tenant is suspended all the same)
        #[arg(long)]
        wait: bool,
    },
    /// Let a suspended tenant's keys in again
    Resume { id: String },
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// 1 to 32 characters of a-z, 0-9 and '-'; it never changes
    id: String,
    /// For people [default: the id]
    #[arg(long)]
    name: Option<String>,
    /// How long a key is good that is created without an expiry, such as 30d [default: each creation must say]
    #[arg(long, value_name = "DURATION")]
    default_expiry: Option<String>,
    /// The longest that a key may be given, such as 90d [default: any time, and for ever]
    #[arg(long, value_name = "DURATION")]
    expiry_max: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    id: String,
    #[arg(long)]
    name: Option<String>,
    /// How long a key is good that is created without an expiry
    #[arg(long, value_name = "DURATION", conflicts_with = "no_default_expiry")]
    default_expiry: Option<String>,
    /// Let each creation say
    #[arg(long)]
    no_default_expiry: bool,
    /// The longest that a key may be given
    #[arg(long, value_name = "DURATION", conflicts_with = "no_expiry_max")]
    expiry_max: Option<String>,
    /// Allow any time, and for ever
    #[arg(long)]
    no_expiry_max: bool,
    /// Give keys with a tag a new secret by themselves whenever theirs is so old, such as 'ci=30d' or, with an overlap, 'ci=30d/7d'; all at once
    #[arg(long = "rotate-tag", value_name = "TAG=EVERY", value_parser = rotation, conflicts_with = "no_rotations")]
    rotate_tags: Vec<Value>,
    /// Rotate keys by hand, or by schedules of their own
    #[arg(long)]
    no_rotations: bool,
    /// Change this version only
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
}

const FIELDS: [Field; 9] = [
    ("id", "/id"),
    ("name", "/name"),
    ("state", "/state"),
    ("default expiry", "/default_expiry"),
    ("expiry max", "/expiry_max"),
    ("rotations", "/rotations"),
    ("suspended", "/suspended"),
    ("created", "/created_at"),
    ("version", "/version"),
];

pub(super) async fn run(command: TenantsCommand, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let answer = match command {
        TenantsCommand::List(Listing { limit }) => {
            let page = list(client, "tenants", limit).await?;
            return output.answer(&page, |page| render::table(rows(page, "tenants"), &FIELDS));
        }
        TenantsCommand::Create(create) => client.send(Call::new(Method::POST, &["tenants"]).body(create.body())).await?,
        TenantsCommand::Show { id } => client.send(Call::get(&["tenants", &id])).await?,
        TenantsCommand::Update(update) => {
            let (path, if_version) = (["tenants", &update.id.clone()], update.if_version);
            client.send(Call::new(Method::PATCH, &path).body(update.body()).if_version(if_version)).await?
        }
        TenantsCommand::Suspend { because: Because { id, reason }, wait } => {
            let path = ["tenants", &id, "suspend"];
            let call = Call::new(Method::POST, &path).query("wait", wait.then_some(true)).body(json!({ "reason": reason }));
            return suspended(&client.send(call).await?, output);
        }
        TenantsCommand::Resume { id } => client.send(Call::new(Method::POST, &["tenants", &id, "resume"]).body(json!({}))).await?,
    };
    shown(&answer, output)
}

fn shown(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| render::block(&answer["tenant"], &FIELDS))
}

/// A fence that was not reached is a finding: the tenant is suspended, and somebody should look at the nodes that are named.
fn suspended(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    let fence = &answer["fence"];
    if fence.is_null() {
        return shown(answer, output);
    }
    output
        .answer(answer, |answer| format!("{}\n\n{}", render::block(&answer["tenant"], &FIELDS), render::block(&answer["fence"], &FENCE)))?;
    if fence["reached"] == json!(true) {
        return Ok(());
    }
    output.note("The tenant is suspended, but not every live node had applied that in time.");
    Err(Failure::Findings)
}

impl Create {
    fn body(self) -> Value {
        members([("id", Some(self.id)), ("name", self.name), ("default_expiry", self.default_expiry), ("expiry_max", self.expiry_max)])
            .into()
    }
}

impl Update {
    /// What is given; what is taken away is `null`.
    fn body(self) -> Value {
        let mut body = members([("name", self.name), ("default_expiry", self.default_expiry), ("expiry_max", self.expiry_max)]);
        body.extend(self.no_default_expiry.then(|| ("default_expiry".to_owned(), Value::Null)));
        body.extend(self.no_expiry_max.then(|| ("expiry_max".to_owned(), Value::Null)));
        if self.no_rotations || !self.rotate_tags.is_empty() {
            body.insert("rotations".to_owned(), self.rotate_tags.into());
        }
        body.into()
    }
}

/// `TAG=EVERY` or `TAG=EVERY/OVERLAP`.
fn rotation(text: &str) -> Result<Value, String> {
    let (tag, times) = text.rsplit_once('=').ok_or("expected TAG=EVERY or TAG=EVERY/OVERLAP")?;
    Ok(match times.split_once('/') {
        None => json!({ "tag": tag, "every": times }),
        Some((every, overlap)) => json!({ "tag": tag, "every": every, "overlap": overlap }),
    })
}

fn members<const N: usize>(given: [(&str, Option<String>); N]) -> Map<String, Value> {
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
}
