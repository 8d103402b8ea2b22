//! claude-relay-service: what its `scripts/data-transfer.js` and `data-transfer-enhanced.js` export as JSON, and what its
//! `GET /admin/sync/export-accounts` answers.
//!
//! A key stands in it by SHA-256 of the key and the `ENCRYPTION_KEY`, in hexadecimal; all values are texts, as Redis keeps them. Accounts with an API
//! key become upstreams; those of an OAuth login cannot, since their tokens are refreshed by whoever holds them, and two would cut each other off.

use std::collections::HashMap;

use schemas::UpstreamId;
use schemas::key::{Endpoint, Limits, SecretScheme};
use schemas::upstream::Dialect;
use serde_json::{Map, Value};

use super::draft::{Draft, NewUpstream, UNKNOWN_TIME, fact};
use super::entry::Entry;
use super::{Source, SourceError};
use crate::transfer::line::{DedicatedLine, KeyLine};
use crate::transfer::privacy::plain;

const SYSTEM: &str = "claude-relay-service";
/// Restrictions that a key has there and not here.
const BUDGETS: &str = "keys have no budget of their own here";
/// The days that an activation lasts where a key does not say.
const ACTIVATION_DAYS: u64 = 30;
const PRIORITY: u32 = 50;

/// Where an export keeps accounts with an API key, and what they speak.
const API_ACCOUNTS: [(&str, Dialect); 2] = [("claudeConsoleAccounts", Dialect::Anthropic), ("openaiResponsesAccounts", Dialect::Openai)];
const OAUTH_ACCOUNTS: [&str; 3] = ["claudeAccounts", "geminiAccounts", "openaiOAuthAccounts"];
/// The members of a key that bind it to an account.
const BINDINGS: [&str; 8] = [
    "claudeAccountId",
    "claudeConsoleAccountId",
    "openaiAccountId",
    "geminiAccountId",
    "azureOpenaiAccountId",
    "bedrockAccountId",
    "vertexAccountId",
    "droidAccountId",
];

pub(super) fn read(source: &Source, draft: &mut Draft<'_>) -> Result<(), SourceError> {
    let document: Value = serde_json::from_str(source.text()?).map_err(|error| source.form(error.to_string()))?;
    let metadata = &document["metadata"];
    if metadata["sanitized"] == Value::Bool(true) {
        return Err(SourceError::Sanitized);
    }
    let data = document["data"].as_object().ok_or_else(|| source.form("there is no `data` in it"))?;
    let keys = entries(data, "apiKeys").map_err(|detail| source.form(detail))?;
    if draft.salt.is_none() && keys.iter().any(|key| key["apiKey"].as_str().is_some_and(is_hash)) {
        return Err(SourceError::OldKeyNeeded);
    }
    let mut accounts = HashMap::new();
    for (list, dialect) in API_ACCOUNTS {
        for (index, account) in entries(data, list).map_err(|detail| source.form(detail))?.iter().enumerate() {
            let place = format!("/data/{list}/{index}");
            match api_account(&place, account, dialect, draft) {
                Ok(account) => accounts.extend(account),
                Err(detail) => draft.fault(&place, detail),
            }
        }
    }
    for list in OAUTH_ACCOUNTS {
        for (index, account) in entries(data, list).map_err(|detail| source.form(detail))?.iter().enumerate() {
            let name = account["name"].as_str().unwrap_or_default();
            draft.leave(
                &format!("/data/{list}/{index}"),
                format!("the account {name:?}"),
                "accounts of an OAuth login are not carried; log in again",
            );
        }
    }
    for (index, key) in keys.iter().enumerate() {
        let place = format!("/data/apiKeys/{index}");
        if let Err(detail) = api_key(place.clone(), key, draft, &accounts) {
            draft.fault(&place, detail);
        }
    }
    let known = ["apiKeys", "exportedAt"].iter().chain(&OAUTH_ACCOUNTS).copied().chain(API_ACCOUNTS.map(|(list, _)| list));
    let known: Vec<_> = known.collect();
    for (name, value) in data.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        let many = value.as_array().map(|entries| format!("{} {name}", entries.len()));
        let why =
            if name == "admins" { "who logs in here is another matter" } else { "usage is counted from requests, and never imported" };
        draft.leave(&format!("/data/{name}"), many.unwrap_or_else(|| name.clone()), why);
    }
    Ok(())
}

fn entries<'a>(data: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], String> {
    match data.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err(format!("{name} is no list")),
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An account with an API key: its id there, and the upstream that it becomes.
fn api_account(place: &str, value: &Value, dialect: Dialect, draft: &mut Draft<'_>) -> Result<Option<(String, UpstreamId)>, String> {
    let mut entry = Entry::new(place.to_owned(), value)?;
    let id = entry.text("id").ok_or("it has no id")?;
    let name = entry.text("name").unwrap_or_else(|| id.clone());
    let mut credentials = Entry::new(format!("{place}/credentials"), &entry.value("credentials").unwrap_or_default())?;
    let secret = credentials.text("api_key").ok_or("it has no api_key")?;
    let base_url = base_url(&credentials.text("base_url").ok_or("it has no base_url")?, dialect);
    let mapping = credentials.value("model_mapping");
    let (same, other): (Vec<_>, Vec<_>) =
        mapping.as_ref().and_then(Value::as_object).into_iter().flatten().partition(|(from, to)| to.as_str() == Some(from.as_str()));
    for (from, to) in &other {
        draft.leave(place, format!("model {from} as {}", to.as_str().unwrap_or_default()), "models are not renamed here");
    }
    let is_proxied = entry.value("proxy").is_some();
    if is_proxied {
        draft.leave(place, "proxy", "upstreams have no proxy; the upstream is disabled, so that nothing goes out another way");
    }
    // With renamed models only, a list without them would be every model.
    let has_lost_all = same.is_empty() && !other.is_empty();
    let is_disabled = [entry.flag("isActive"), entry.flag("schedulable")].contains(&Some(false)) || is_proxied || has_lost_all;
    let new = NewUpstream {
        parts: &[SYSTEM, &id],
        name,
        dialect,
        base_url,
        pool: draft.pool,
        priority: entry.count("priority").unwrap_or(PRIORITY).min(schemas::upstream::RANK_MAX),
        models: draft.names(place, "model", same.into_iter().map(|(model, _)| model.clone()).collect()),
        credential: &secret,
        is_disabled,
    };
    credentials.rest(draft);
    entry.pass_over(&["kind", "platform", "status", "extra", "description", "authType"]);
    entry.rest(draft);
    match entry.fault() {
        Some(detail) => Err(detail),
        None => Ok(draft.upstream(place, new).map(|upstream| (id.clone(), upstream))),
    }
}

/// The address as our dialect has it, of one to which that system appends the path.
fn base_url(text: &str, dialect: Dialect) -> String {
    let text = text.trim_end_matches('/');
    match dialect {
        Dialect::Anthropic => text.trim_end_matches("/messages").trim_end_matches("/v1").to_owned(),
        Dialect::Openai if text.ends_with("/v1") => text.to_owned(),
        Dialect::Openai => format!("{text}/v1"),
    }
}

fn api_key(place: String, value: &Value, draft: &mut Draft<'_>, accounts: &HashMap<String, UpstreamId>) -> Result<(), String> {
    let mut entry = Entry::new(place.clone(), value)?;
    let id = entry.text("id").ok_or("it has no id")?;
    let secret = entry.text("apiKey").ok_or("it has no apiKey")?;
    let secret = match (draft.salt, is_hash(&secret)) {
        (Some(salt), true) => {
            let hash = secret.to_ascii_lowercase().parse().map_err(|_| "apiKey is no hash")?;
            draft.hashed(&place, hash, SecretScheme::ClaudeRelayService { salt })
        }
        _ => draft.brought(&place, &secret),
    };
    let Some(secret) = secret else { return Ok(()) };
    let name = entry.text("name").unwrap_or_default();
    let name = draft.name(&place, &name, "imported");
    let created_at = entry.time("createdAt").unwrap_or(UNKNOWN_TIME);
    let mut key = draft.bare_key(draft.id("key", &[SYSTEM, &id]), name, secret, created_at);
    key.description = entry.text("description").map(|text| plain(&text));
    key.owner = entry.text("userUsername").map(|owner| draft.name(&place, &owner, "imported"));
    key.tags = entry.list("tags");
    key.tags = draft.names(&place, "tag", key.tags);
    if entry.flag("isActive") == Some(false) {
        key.disabled = Some(fact());
    }
    if entry.flag("isDeleted") == Some(true) {
        key.archived = Some(fact());
    }
    term(&mut entry, &mut key)?;
    key.limits = limits(&mut entry, draft);
    key.endpoints = endpoints(&mut entry, draft);
    bind(&mut entry, &mut key, draft, accounts);
    let models_restricted = entry.flag("enableModelRestriction") == Some(true);
    let clients_restricted = entry.flag("enableClientRestriction") == Some(true);
    if models_restricted {
        entry.keep(&["restrictedModels"], "keys name the models they may use here, not those they may not", draft);
    }
    if clients_restricted {
        entry.keep(&["allowedClients"], "keys are not bound to client programs here", draft);
    }
    entry.keep(
        &["tokenLimit", "rateLimitCost", "dailyCostLimit", "totalCostLimit", "weeklyOpusCostLimit", "dailyOpusCostLimit", "serviceRates"],
        BUDGETS,
        draft,
    );
    if entry.flag("enableOpenAIResponsesPayloadRules") == Some(true) {
        entry.keep(&["openaiResponsesPayloadRules"], "bodies are forwarded as they are", draft);
    }
    // What says when and by whom, and settings of what was told above or is off.
    entry.pass_over(&[
        "lastUsedAt",
        "createdBy",
        "userId",
        "updatedAt",
        "deletedAt",
        "deletedBy",
        "deletedByType",
        "restrictedModels",
        "allowedClients",
        "weeklyResetDay",
        "weeklyResetHour",
        "enableOpenAIResponsesCodexAdaptation",
        "openaiResponsesPayloadRules",
        "restoredAt",
        "restoredBy",
        "restoredByType",
    ]);
    if entry.value("usageStats").is_some() {
        draft.leave(&place, "usageStats", "usage is counted from requests, and never imported");
    }
    draft.key_of(SYSTEM, entry, key)
}

/// No time is a key that nobody has decided on: that system has no other word for one that never expires.
fn term(entry: &mut Entry, key: &mut KeyLine) -> Result<(), String> {
    let expires_at = entry.time("expiresAt");
    let activated_at = entry.time("activatedAt");
    let is_activated = entry.flag("isActivated") == Some(true);
    let mode = entry.text("expirationMode");
    let (count, unit) = (entry.count("activationDays"), entry.text("activationUnit"));
    match (mode.as_deref(), expires_at) {
        (Some("activation"), None) if !is_activated => {
            let seconds = if unit.as_deref() == Some("hours") { 3600 } else { 86_400 };
            key.activation_seconds = Some(count.map_or(ACTIVATION_DAYS, u64::from) * seconds);
        }
        (Some("activation"), Some(at)) => (key.expires_at, key.first_used_at) = (Some(at), activated_at),
        (None | Some("fixed"), Some(at)) => key.expires_at = Some(at),
        (None | Some("fixed" | "activation"), None) => key.expiry_unset = true,
        (Some(other), _) => return Err(format!("the expirationMode {other:?} is not known")),
    }
    Ok(())
}

fn limits(entry: &mut Entry, draft: &mut Draft<'_>) -> Limits {
    let concurrency = entry.count("concurrencyLimit");
    let (window, requests) = (entry.count("rateLimitWindow"), entry.count("rateLimitRequests"));
    let requests_per_minute = requests.filter(|_| window == Some(1));
    let other = requests.filter(|_| requests_per_minute.is_none()).zip(window);
    if let Some((requests, minutes)) = other {
        let what = format!("{requests} requests in {minutes} minutes");
        draft.leave(&entry.place, what, "a key's window is one minute here; it stands in the key's metadata, for a policy");
        entry.kept.insert("rateLimitRequests".to_owned(), requests.into());
    }
    // Tokens and cost are counted in the same window, and mean nothing without it.
    let has_others = ["tokenLimit", "rateLimitCost"].iter().any(|name| entry.has(name));
    if let Some(minutes) = window.filter(|_| other.is_some() || has_others) {
        entry.kept.insert("rateLimitWindow".to_owned(), minutes.into());
    }
    Limits { requests_per_minute, concurrency }
}

/// The services of a key, as the endpoints that speak to them. Where none is left the key may list models, and nothing more.
fn endpoints(entry: &mut Entry, draft: &mut Draft<'_>) -> Vec<Endpoint> {
    let services: Vec<_> = entry.list("permissions").into_iter().filter(|service| service != "all").collect();
    if services.is_empty() {
        return Vec::new();
    }
    let mut endpoints = vec![Endpoint::Models];
    for service in services {
        let endpoint = match &service[..] {
            "claude" => Endpoint::Messages,
            "openai" => Endpoint::ChatCompletions,
            other => {
                draft.leave(&entry.place, format!("permission {other}"), "no endpoint here is like it");
                continue;
            }
        };
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

fn bind(entry: &mut Entry, key: &mut KeyLine, draft: &mut Draft<'_>, accounts: &HashMap<String, UpstreamId>) {
    for member in BINDINGS {
        let Some(bound) = entry.text(member) else { continue };
        let account = bound.rsplit_once(':').map_or(&bound[..], |(_, id)| id);
        let upstream = accounts.get(account).copied().or_else(|| draft.upstream_here(&[SYSTEM, account]));
        match upstream {
            Some(upstream) if key.dedicated.is_none() => key.dedicated = Some(DedicatedLine { upstream, fallback: false }),
            Some(_) => {
                draft.leave(&entry.place, format!("{member} {bound}"), "a key is dedicated to one upstream here, and it is to another")
            }
            None => draft.leave(&entry.place, format!("{member} {bound}"), "no such account was carried; the key uses its pool"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn an_address_is_without_what_the_dialect_adds() {
        for text in ["https://relay.example/api/v1/messages", "https://relay.example/api/", "https://relay.example/api/v1"] {
            assert_eq!(base_url(text, Dialect::Anthropic), "https://relay.example/api");
        }
        for text in ["https://api.example", "https://api.example/v1/"] {
            assert_eq!(base_url(text, Dialect::Openai), "https://api.example/v1");
        }
    }
}
