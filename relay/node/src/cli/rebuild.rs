//! `keyrelay log rebuild`: starts a rebuild on the node, and waits for its end.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::progress;
use super::render::{self, Field};

/// How often the node is asked how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
const PATH: [&str; 2] = ["log", "rebuild"];

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    /// Judge every record anew, signature and all, instead of repeating the verdicts that are known with the log's root
    #[arg(long)]
    judge: bool,
}

const FIELDS: [Field; 6] = [
    ("state", "/state"),
    ("verdicts", "/verdicts"),
    ("position", "/position"),
    ("root", "/root"),
    ("elapsed ms", "/elapsed_ms"),
    ("reason", "/reason"),
];

/// A rebuild that failed is a finding: the node serves what it served, and its log and its models differ, or the log could not be read.
pub(super) async fn run(args: Rebuild, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let mut rebuild = client.send(Call::new(Method::POST, &PATH).body(json!({ "judge": args.judge }))).await?;
    let bar = progress::records(number(&rebuild, "goal"));
    while rebuild["state"] == "running" {
        bar.set_length(number(&rebuild, "goal"));
        bar.set_position(number(&rebuild, "position"));
        tokio::time::sleep(ASK_INTERVAL).await;
        rebuild = client.send(Call::get(&PATH)).await?;
    }
    bar.finish_and_clear();
    output.answer(&rebuild, |rebuild| render::block(rebuild, &FIELDS))?;
    if rebuild["state"] == "done" { Ok(()) } else { Err(Failure::Findings) }
}

fn number(rebuild: &Value, name: &str) -> u64 {
    rebuild[name].as_u64().unwrap_or_default()
}
