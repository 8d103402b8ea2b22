//! LiteLLM: what its proxy answers to `GET /key/list?return_full_object=true`.
//!
//! A key stands in it by SHA-256 of the key alone, in hexadecimal, as `token`.

use schemas::key::SecretScheme;
use serde_json::Value;

use super::draft::{Draft, UNKNOWN_TIME, fact};
use super::entry::Entry;
use super::{Source, SourceError};

const SYSTEM: &str = "litellm";
const BUDGETS: &str = "keys have no budget of their own here";
/// What stands for every model.
const ALL_MODELS: &str = "all-proxy-models";
/// What stands for models that the file does not name.
const OTHER_MODELS: [&str; 2] = ["all-team-models", "no-default-models"];

pub(super) fn read(source: &Source, draft: &mut Draft<'_>) -> Result<(), SourceError> {
    let document: Value = serde_json::from_str(source.text()?).map_err(|error| source.form(error.to_string()))?;
    let (place, keys) = match &document {
        Value::Array(keys) => ("", keys),
        other => ("/keys", other["keys"].as_array().ok_or_else(|| source.form("there is no list `keys` in it"))?),
    };
    if keys.iter().any(Value::is_string) {
        return Err(source.form("it has hashes only; ask for return_full_object=true"));
    }
    let pages = document["total_pages"].as_u64().unwrap_or(1);
    if pages > 1 {
        let page = document["current_page"].as_u64().unwrap_or(1);
        draft.leave("/total_pages", format!("all pages but {page}"), format!("the file is one of {pages} pages; import each"));
    }
    for (index, value) in keys.iter().enumerate() {
        let place = format!("{place}/{index}");
        if let Err(detail) = key(place.clone(), value, draft) {
            draft.fault(&place, detail);
        }
    }
    Ok(())
}

fn key(place: String, value: &Value, draft: &mut Draft<'_>) -> Result<(), String> {
    let mut entry = Entry::new(place.clone(), value)?;
    let token = entry.text("token").ok_or("it has no token")?;
    let hash = token.parse();
    let (id, secret) = match hash {
        Ok(hash) if token.len() == 64 => (draft.id("key", &[SYSTEM, &token]), draft.hashed(&place, hash, SecretScheme::UNSALTED)),
        _ if token.starts_with("sk-") => (draft.id("key", &[SYSTEM, &draft.mark(&token)]), draft.brought(&place, &token)),
        _ => return Err("its token is neither a SHA-256 in hexadecimal nor a key".to_owned()),
    };
    let Some(secret) = secret else { return Ok(()) };
    let (alias, shown) = (entry.text("key_alias"), entry.text("key_name"));
    let name = draft.name(&place, &alias.or(shown).unwrap_or_default(), "imported");
    let created_at = entry.time("created_at").unwrap_or(UNKNOWN_TIME);
    let mut key = draft.bare_key(id, name, secret, created_at);
    key.owner = entry.text("user_id").map(|owner| draft.name(&place, &owner, "imported"));
    match entry.time("expires") {
        Some(at) => key.expires_at = Some(at),
        None => key.expiry_unset = true,
    }
    key.limits.requests_per_minute = entry.count("rpm_limit");
    key.limits.concurrency = entry.count("max_parallel_requests");
    let models = entry.list("models");
    for model in models.iter().filter(|model| OTHER_MODELS.contains(&&model[..])) {
        draft.leave(&place, format!("model {model}"), "the file does not say which; the key may use none by it: set its models");
    }
    let models = if models.iter().any(|model| model == ALL_MODELS) { Vec::new() } else { models };
    key.models = draft.names(&place, "model", models);
    if entry.flag("blocked") == Some(true) {
        key.disabled = Some(fact());
    }
    if let Some(Value::Object(mut metadata)) = entry.value("metadata") {
        if let Some(Value::Array(tags)) = metadata.remove("tags") {
            let tags = tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect();
            key.tags = draft.names(&place, "tag", tags);
        }
        key.metadata = metadata;
    }
    entry.keep(&["max_budget", "soft_budget", "budget_duration", "model_max_budget", "budget_id"], BUDGETS, draft);
    entry.keep(&["tpm_limit", "model_rpm_limit", "model_tpm_limit"], "keys are limited in requests here, not in tokens or by model", draft);
    entry.keep(&["allowed_routes", "permissions", "allowed_cache_controls"], "a key's endpoints are other ones here", draft);
    entry.keep(&["aliases"], "models are not renamed here", draft);
    entry.keep(&["team_id", "organization_id"], "there are no teams here", draft);
    // What was used, and what says when and by whom.
    entry.pass_over(&[
        "spend",
        "model_spend",
        "budget_reset_at",
        "budget_started_at",
        "created_by",
        "updated_at",
        "updated_by",
        "user_role",
        "last_active",
        "user_email",
        "soft_budget_cooldown",
        "last_refreshed_at",
        "user",
        "token_id",
    ]);
    draft.key_of(SYSTEM, entry, key)
}
