//! `keyrelay upstreams rotate`: the next credential of an upstream. The secret comes in a file, on standard input or in the environment, never as an
//! argument, which others could read in the process list.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use http::Method;
use schemas::Timestamp;
use serde_json::{Map, Value, json};

use super::super::client::{Call, Client};
use super::super::failure::Failure;
use super::super::output::Output;
use super::super::render::{self, Field};
use super::super::resource::{read_secret, rows};
use super::secret_source::{self, Found};

#[derive(Debug, Args)]
pub(in crate::cli) struct Rotate {
    /// Name or id
    id: String,
    /// The new credential in a file, or on standard input with '-'; else KEYRELAY_CREDENTIAL is taken, and without that it is ordered from its provider
    #[arg(long, value_name = "FILE")]
    credential_file: Option<PathBuf>,
    /// Take the new credential from where you keep it, and do nothing if it is in use: vault:MOUNT/PATH#FIELD or aws:NAME#FIELD@STAGE
    #[arg(long, value_name = "SECRET", conflicts_with = "credential_file")]
    credential_from: Option<String>,
    /// Do nothing unless the credential in use is at least this old
    #[arg(long, value_name = "AGE")]
    if_older_than: Option<String>,
    /// Do nothing unless the credential in use is as old as the upstream's risk class allows
    #[arg(long)]
    if_due: bool,
    /// The old credential is known to others: end it as soon as the new one is tested
    #[arg(long)]
    compromise: bool,
    /// How long the old credential is kept for a rollback [default: 48h]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// How long the old credential is the fall-back [default: half of the grace, at most 24h]
    #[arg(long, value_name = "TIME")]
    window: Option<String>,
    /// End both early once the old credential was not needed for this long
    #[arg(long, value_name = "TIME")]
    unused_after: Option<String>,
    /// Free text for the record; it is sealed
    #[arg(long)]
    reason: Option<String>,
    /// The rotation that is meant, or the id of the new one [default: the newest, or one of its own]
    #[arg(long, value_name = "ROTATION")]
    rotation: Option<String>,
    #[command(flatten)]
    steering: Steering,
    /// With --advance, do nothing if the rotation has come this far
    #[arg(long, value_name = "STATUS", requires = "advance")]
    to: Option<String>,
    /// With --advance, take the step although a live node does not know of the last one, or the new credential does not pass a test
    #[arg(long, requires = "advance")]
    force: bool,
}

/// What to do with a rotation that is there, instead of beginning one.
#[derive(Debug, Args)]
#[group(multiple = false, conflicts_with_all = [
    "credential_file", "credential_from", "if_older_than", "if_due", "compromise", "grace", "window", "unused_after", "reason",
])]
struct Steering {
    /// Show the rotations of the upstream, newest first
    #[arg(long)]
    status: bool,
    /// Take the next step now
    #[arg(long)]
    advance: bool,
    /// Give up the new credential before it is in use
    #[arg(long)]
    abort: bool,
    /// Use the old credential again
    #[arg(long)]
    rollback: bool,
}

const COLUMNS: [Field; 7] = [
    ("id", "/id"),
    ("status", "/status"),
    ("since", "/status_at"),
    ("by", "/status_by"),
    ("old uses", "/previous_uses"),
    ("finishes", "/finishes_at"),
    ("ended because", "/ended_because"),
];
const FIELDS: [Field; 14] = [
    ("id", "/id"),
    ("status", "/status"),
    ("since", "/status_at"),
    ("by", "/status_by"),
    ("new", "/new"),
    ("previous", "/previous"),
    ("compromise", "/compromise"),
    ("window", "/window"),
    ("grace", "/grace"),
    ("tested", "/tested"),
    ("finishes", "/finishes_at"),
    ("old one needed", "/previous_uses"),
    ("old one last needed", "/previous_last_used_at"),
    ("ended because", "/ended_because"),
];

const ORDER_FIELDS: [Field; 5] =
    [("ordered", "/id"), ("from", "/provider"), ("since", "/ordered_at"), ("asked", "/asked"), ("asked last", "/asked_at")];

pub(super) async fn run(
    rotate: Rotate,
    client: &Client,
    environment: &BTreeMap<String, String>,
    output: &mut Output,
) -> Result<(), Failure> {
    let Steering { status, advance, abort, rollback } = rotate.steering;
    let (id, rotation) = (rotate.id.clone(), rotate.rotation.clone());
    if status {
        return show(client, &id, rotation, output).await;
    }
    let verb = [(advance, "advance"), (abort, "abort"), (rollback, "rollback")].into_iter().find_map(|(is, verb)| is.then_some(verb));
    let Some(verb) = verb else {
        let found = match &rotate.credential_from {
            Some(reference) => Some(secret_source::read(reference, environment, now()).await?),
            None => None,
        };
        let is_from_source = found.is_some();
        let path = ["upstreams", &id, "rotations"];
        let call = Call::new(Method::POST, &path).body(rotate.body(environment, found)?.into());
        return match client.send(call).await {
            Err(Failure::Refused(problem)) if is_from_source && problem.code == "same_secret" => shown(&json!({ "due": false }), output),
            answer => shown(&answer?, output),
        };
    };
    let rotation = match rotation {
        Some(rotation) => rotation,
        None => newest(client, &id).await?,
    };
    let mut body = rotate.to.map_or(json!({}), |to| json!({ "to": to }));
    if rotate.force {
        body["force"] = true.into();
    }
    shown(&client.send(Call::new(Method::POST, &["upstreams", &id, "rotations", &rotation, verb]).body(body)).await?, output)
}

/// The command line has no node whose clock it could take.
#[expect(clippy::disallowed_methods, reason = "a command is a composition root of its own")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

async fn show(client: &Client, id: &str, rotation: Option<String>, output: &mut Output) -> Result<(), Failure> {
    match rotation {
        Some(rotation) => shown(&client.send(Call::get(&["upstreams", id, "rotations", &rotation])).await?, output),
        None => {
            let page = client.send(Call::get(&["upstreams", id, "rotations"])).await?;
            output.answer(&page, |page| {
                let order = (!page["order"].is_null()).then(|| render::block(&page["order"], &ORDER_FIELDS) + "\n\n");
                order.unwrap_or_default() + &render::table(rows(page, "rotations"), &COLUMNS)
            })
        }
    }
}

async fn newest(client: &Client, id: &str) -> Result<String, Failure> {
    let page = client.send(Call::get(&["upstreams", id, "rotations"])).await?;
    let newest = page["rotations"][0]["id"].as_str().map(str::to_owned);
    // An order comes before any rotation that there was.
    let newest = page["order"]["id"].as_str().map(str::to_owned).or(newest);
    newest.ok_or_else(|| anyhow::anyhow!("upstream {id} has had no rotation").into())
}

fn shown(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| {
        if answer["due"] == false {
            "nothing is due".to_owned()
        } else if answer["rotation"].is_null() && !answer["order"].is_null() {
            render::block(&answer["order"], &ORDER_FIELDS)
        } else if answer["rotation"].is_null() {
            "the order is given up".to_owned()
        } else {
            render::block(&answer["rotation"], &FIELDS)
        }
    })
}

impl Rotate {
    fn body(self, environment: &BTreeMap<String, String>, found: Option<Found>) -> anyhow::Result<Map<String, Value>> {
        let from_environment = || environment.get("KEYRELAY_CREDENTIAL").filter(|secret| !secret.is_empty()).cloned();
        let credential = match (&found, self.credential_file) {
            (Some(found), _) => Some(found.secret.value.to_string()),
            (None, Some(file)) => Some(read_secret(&file)?.trim().to_owned()),
            (None, None) => from_environment(),
        };
        let rotation = self.rotation.or_else(|| found.map(|found| found.rotation.to_string()));
        let members = [
            ("credential", credential.map(Value::from)),
            ("if_older_than", self.if_older_than.map(Value::from)),
            ("if_due", self.if_due.then_some(Value::Bool(true))),
            ("compromise", self.compromise.then_some(Value::Bool(true))),
            ("grace", self.grace.map(Value::from)),
            ("window", self.window.map(Value::from)),
            ("unused_after", self.unused_after.map(Value::from)),
            ("rotation_id", rotation.map(Value::from)),
            ("reason", self.reason.map(Value::from)),
        ];
        Ok(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}
