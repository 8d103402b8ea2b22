//! What the commands on keys, upstreams and pools share.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::client::{Call, Client};
use super::failure::Failure;

/// The most entries of a page, so that a list needs few.
const PAGE: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct Because {
    pub(super) id: String,
    /// Free text for the record; it is sealed
    #[arg(long)]
    pub(super) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Listing {
    /// At most this many [default: all]
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
}

/// All pages of a list, or as much of them as is wanted, as one.
pub(super) async fn list(client: &Client, noun: &'static str, limit: Option<usize>) -> Result<Value, Failure> {
    list_where(client, noun, limit, &[]).await
}

/// The same of a list that takes more parameters.
pub(super) async fn list_where(
    client: &Client,
    noun: &'static str,
    limit: Option<usize>,
    parameters: &[(&'static str, String)],
) -> Result<Value, Failure> {
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let wanted = limit.map_or(PAGE, |limit| limit.saturating_sub(found.len()).min(PAGE));
        if wanted == 0 {
            return Ok(json!({ noun: found }));
        }
        let path = [noun];
        let mut call = Call::get(&path).query("limit", Some(wanted)).query("cursor", cursor);
        for (name, value) in parameters {
            call = call.query(name, Some(value));
        }
        let mut page = client.send(call).await?;
        if let Value::Array(rows) = page[noun].take() {
            found.extend(rows);
        }
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(json!({ noun: found, "as_of": page["as_of"] }));
        }
    }
}

pub(super) fn rows<'a>(page: &'a Value, noun: &str) -> &'a [Value] {
    page[noun].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A secret in a file, or on standard input with `-`.
pub(super) fn read_secret(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if file == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).context("cannot read the secret from standard input")?;
    } else {
        *text = std::fs::read_to_string(file).with_context(|| format!("cannot read the secret from {}", file.display()))?;
    }
    Ok(text)
}
