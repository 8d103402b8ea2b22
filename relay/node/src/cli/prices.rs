//! `keyrelay prices`: what models cost in a pool.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};

#[derive(Debug, Subcommand)]
pub(super) enum PricesCommand {
    /// Set all prices of a pool
    Set {
        /// Id or name
        pool: String,
        /// JSON, `-` for standard input: a list such as [{"model":"gpt-4o*","input":2500000,"output":10000000}], or what `prices show --json`
        /// prints; micro-dollars per million tokens. Without cache_read and cache_write those tokens cost as input
        file: PathBuf,
        /// Change this version of the pool only
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
    },
    /// Show the prices of a pool, or of all
    Show {
        /// Id or name
        pool: Option<String>,
    },
}

const FIELDS: [Field; 6] = [
    ("pool", "/pool"),
    ("model", "/model"),
    ("input", "/input"),
    ("output", "/output"),
    ("cache read", "/cache_read"),
    ("cache write", "/cache_write"),
];

pub(super) async fn run(command: PricesCommand, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let answer = match command {
        PricesCommand::Set { pool, file, if_version } => {
            let body = json!({ "prices": read(&file)? });
            client.send(Call::new(Method::PUT, &["pools", &pool, "prices"]).body(body).if_version(if_version)).await?
        }
        PricesCommand::Show { pool: Some(pool) } => client.send(Call::get(&["pools", &pool, "prices"])).await?,
        PricesCommand::Show { pool: None } => client.send(Call::get(&["prices"])).await?,
    };
    output.answer(&answer, |answer| render::table(&rows(answer), &FIELDS))
}

/// The list of prices in a file.
fn read(file: &Path) -> anyhow::Result<Value> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).context("cannot read the prices from standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read the prices from {}", file.display()))?;
    }
    let mut value: Value = serde_json::from_str(&text).context("the prices are not JSON")?;
    Ok(if value.is_array() { value } else { value["prices"].take() })
}

/// One row for each price, with the name of its pool.
fn rows(answer: &Value) -> Vec<Value> {
    let lists = answer["pools"].as_array().map_or_else(|| std::slice::from_ref(answer), Vec::as_slice);
    let rows = lists.iter().flat_map(|list| list["prices"].as_array().into_iter().flatten().map(move |price| (list, price)));
    rows.map(|(list, price)| {
        let mut row = price.clone();
        row["pool"] = list["name"].clone();
        row
    })
    .collect()
}
