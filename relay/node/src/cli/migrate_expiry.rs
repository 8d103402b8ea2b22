//! `keyrelay migrate-expiry`: an expiry for keys that were imported without one.
//!
//! A key whose `never` somebody chose keeps it. What was given one does not match any more, so that a second run finds nothing to do.

use clap::Args;
use serde_json::json;

use super::client::Client;
use super::failure::Failure;
use super::keys::batch::{Batch, How};
use super::output::Output;

#[derive(Debug, Args)]
pub(super) struct MigrateExpiry {
    /// How long the keys are good from now on
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    #[command(flatten)]
    how: How,
}

pub(super) async fn run(args: MigrateExpiry, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let body = json!({ "renew": { "expires_in": format!("{}d", args.days) }, "filter": { "expiry_unset": true } });
    Batch { body, verb: "renew", secrets: None }.run(args.how, client, output).await
}
