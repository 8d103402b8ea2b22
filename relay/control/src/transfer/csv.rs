//! Keys as a table for spreadsheets: no secret, no hash, no personal text.

use std::io::{self, Write};

use projector::ReadError;
use schemas::key::{Expiry, Key};
use schemas::{Aggregate, StreamKind, TenantId, Timestamp};

use super::export::ExportError;
use crate::App;

const COLUMNS: &str = "id,tenant,name,state,owner,tags,pools,models,expires_at,activation_seconds,requests_per_minute,concurrency,created_at,renewed_at,rotated_at";

/// Writes a row for every key, of one tenant where one is named; gives their number.
pub(crate) fn write(app: &App, tenant: Option<&TenantId>, out: &mut impl Write) -> Result<u64, ExportError> {
    let now = app.now();
    app.models.of_one_moment(tenant, |whole| {
        writeln!(out, "{COLUMNS}")?;
        let mut rows = 0;
        for aggregate in whole.aggregates(StreamKind::Key) {
            let Aggregate::Key(key) = aggregate?.value else { continue };
            if !key.is_purged() {
                row(&key, now, out)?;
                rows += 1;
            }
        }
        Ok(rows)
    })?
}

fn row(key: &Key, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    let details = &key.details;
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let state = serde_json::to_value(key.state(now)).ok().and_then(|state| state.as_str().map(str::to_owned)).unwrap_or_default();
    let cells = [
        key.id.to_string(),
        key.tenant.to_string(),
        details.name.clone(),
        state,
        details.owner.clone().unwrap_or_default(),
        details.tags.join(" "),
        details.pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        details.models.join(" "),
        time(match key.expiry {
            Expiry::At(at) => Some(at),
            Expiry::Never => None,
        }),
        number(key.activation.map(|activation| activation.seconds)),
        number(details.limits.requests_per_minute.map(u64::from)),
        number(details.limits.concurrency.map(u64::from)),
        time(Some(key.created_at)),
        time(key.renewed_at),
        time(key.rotated_at),
    ];
    writeln!(out, "{}", cells.map(|text| cell(&text)).join(","))
}

/// A cell as RFC 4180 has it. What a spreadsheet would take for a formula is made text by an apostrophe before it.
fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

impl From<ReadError> for ExportError {
    fn from(error: ReadError) -> Self {
        Self::Models(error)
    }
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn a_cell_is_quoted_where_it_must_be_and_never_a_formula() {
        for (text, expected) in [
            ("ci", "ci"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            ("-1", "\"'-1\""),
            ("@a", "\"'@a\""),
        ] {
            assert_eq!(cell(text), expected);
        }
    }
}
