//! `keyrelay nodes`: who is in the cluster, and how one leaves it.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::resource::{Listing, list, rows};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct NodesArgs {
    #[command(subcommand)]
    command: Option<NodesCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
    /// Retire a node that has stopped for good: what it signs counts no more, and nobody waits for it
    Retire { id: String },
    /// Let the node that this command talks to leave for good: it retires itself and stops. A node that only stops needs none of this
    Leave,
}

const COLUMNS: [Field; 9] = [
    ("id", "/id"),
    ("this", "/this"),
    ("membership", "/membership"),
    ("live", "/live"),
    ("applied", "/applied"),
    ("lag", "/lag"),
    ("release", "/release"),
    ("admin", "/admin"),
    ("heard", "/heard_at"),
];
const FIELDS: [Field; 12] = [
    ("id", "/id"),
    ("membership", "/membership"),
    ("live", "/live"),
    ("ready", "/ready"),
    ("release", "/release"),
    ("format level", "/format_level"),
    ("relay", "/relay"),
    ("admin", "/admin"),
    ("applied", "/applied"),
    ("lag", "/lag"),
    ("started", "/started_at"),
    ("heard", "/heard_at"),
];

pub(super) async fn run(args: NodesArgs, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let answer = match args.command {
        None => {
            let page = list(client, "nodes", args.listing.limit).await?;
            return output.answer(&page, |page| render::table(rows(page, "nodes"), &COLUMNS));
        }
        Some(NodesCommand::Retire { id }) => client.send(Call::new(Method::DELETE, &["nodes", &id])).await?,
        Some(NodesCommand::Leave) => client.send(Call::new(Method::POST, &["nodes", "leave"]).body(json!({}))).await?,
    };
    output.answer(&answer, |answer| render::block(&answer["node"], &FIELDS))
}
