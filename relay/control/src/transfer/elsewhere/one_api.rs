//! One API: what its `GET /api/token/` answers.
//!
//! A key stands in it in clear, without the `sk-` that clients put before it.

use serde_json::Value;

use super::draft::{Draft, UNKNOWN_TIME, fact};
use super::entry::Entry;
use super::{Source, SourceError};

const SYSTEM: &str = "one-api";
const PREFIX: &str = "sk-";
/// The values of `status`.
const ENABLED: u32 = 1;
const EXPIRED: u32 = 3;

pub(super) fn read(source: &Source, draft: &mut Draft<'_>) -> Result<(), SourceError> {
    let document: Value = serde_json::from_str(source.text()?).map_err(|error| source.form(error.to_string()))?;
    let (place, tokens) = match &document {
        Value::Array(tokens) => ("", tokens),
        other => ("/data", other["data"].as_array().ok_or_else(|| source.form("there is no list `data` in it"))?),
    };
    for (index, value) in tokens.iter().enumerate() {
        let place = format!("{place}/{index}");
        if let Err(detail) = token(place.clone(), value, draft) {
            draft.fault(&place, detail);
        }
    }
    Ok(())
}

fn token(place: String, value: &Value, draft: &mut Draft<'_>) -> Result<(), String> {
    let mut entry = Entry::new(place.clone(), value)?;
    let secret = entry.text("key").ok_or("it has no key")?;
    if secret.contains('*') {
        draft.leave(&place, "the key", "it is shown in part only");
        return Ok(());
    }
    let secret = if secret.starts_with(PREFIX) { secret } else { format!("{PREFIX}{secret}") };
    let Some(line) = draft.brought(&place, &secret) else { return Ok(()) };
    // Numbers of tokens begin anew in every installation.
    let id = draft.id("key", &[SYSTEM, &draft.mark(&secret)]);
    let name = entry.text("name").unwrap_or_default();
    let name = draft.name(&place, &name, "imported");
    let created_at = entry.seconds("created_time").unwrap_or(UNKNOWN_TIME);
    let mut key = draft.bare_key(id, name, line, created_at);
    key.expires_at = entry.seconds("expired_time");
    let status = entry.count("status").unwrap_or(ENABLED);
    if status != ENABLED && !(status == EXPIRED && key.expires_at.is_some()) {
        key.disabled = Some(fact());
    }
    let models = entry.list("models");
    key.models = draft.names(&place, "model", models);
    let is_unlimited = entry.flag("unlimited_quota") == Some(true);
    if is_unlimited {
        entry.pass_over(&["remain_quota"]);
    } else {
        entry.keep(&["remain_quota"], "keys have no budget of their own here", draft);
    }
    entry.keep(&["subnet"], "keys are not bound to addresses here", draft);
    entry.pass_over(&["id", "user_id", "accessed_time", "used_quota"]);
    draft.key_of(SYSTEM, entry, key)
}
