//! `keyrelay pools`: groups of upstreams.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::resource::{Listing, list, rows};

#[derive(Debug, Subcommand)]
pub(super) enum PoolsCommand {
    /// Create a pool
    Create { name: String },
    /// List pools
    List(Listing),
    /// Show a pool, by id or name
    Show { id: String },
    /// Give a pool another name
    Update {
        id: String,
        #[arg(long)]
        name: String,
        /// Change this version only
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
    },
    /// Remove a pool that has no upstreams
    Remove { id: String },
}

const FIELDS: [Field; 5] =
    [("id", "/id"), ("name", "/name"), ("upstreams", "/upstreams"), ("created", "/created_at"), ("version", "/version")];

pub(super) async fn run(command: PoolsCommand, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let answer = match command {
        PoolsCommand::List(Listing { limit }) => {
            let page = list(client, "pools", limit).await?;
            return output.answer(&page, |page| render::table(rows(page, "pools"), &FIELDS));
        }
        PoolsCommand::Create { name } => client.send(Call::new(Method::POST, &["pools"]).body(json!({ "name": name }))).await?,
        PoolsCommand::Show { id } => client.send(Call::get(&["pools", &id])).await?,
        PoolsCommand::Update { id, name, if_version } => {
            client.send(Call::new(Method::PATCH, &["pools", &id]).body(json!({ "name": name })).if_version(if_version)).await?
        }
        PoolsCommand::Remove { id } => client.send(Call::new(Method::DELETE, &["pools", &id])).await?,
    };
    output.answer(&answer, |answer: &Value| render::block(&answer["pool"], &FIELDS))
}
