//! GPT-Load: the list of a group's keys that it exports as text, the CSV that its request log exports, and what its `GET /api/groups` answers.
//!
//! Its keys are credentials of providers: each becomes an upstream, in a pool named like the group. The proxy keys of groups are what clients show:
//! they become keys.

use std::collections::BTreeMap;

use schemas::upstream::Dialect;
use serde_json::Value;

use super::draft::{Draft, NewUpstream, UNKNOWN_TIME};
use super::entry::Entry;
use super::{Source, SourceError};

const SYSTEM: &str = "gpt-load";
const COLUMNS: [&str; 3] = ["key_value", "group_name", "status_code"];
const UNREADABLE: &str = "[failed to decrypt]";
const PRIORITY: u32 = 50;
/// The digits of a credential's mark that stand in its upstream's name.
const MARK_DIGITS: usize = 12;

pub(super) fn read(source: &Source, draft: &mut Draft<'_>) -> Result<(), SourceError> {
    let text = source.text()?;
    if text.trim_start().starts_with(['{', '[']) {
        return groups(source, text, draft);
    }
    let dialect = source.dialect.ok_or(SourceError::Missing("the dialect that their provider speaks"))?;
    let base_url = source.base_url.as_deref().ok_or(SourceError::Missing("the base URL of their provider"))?;
    let is_csv = text.lines().next().is_some_and(|line| line.trim().trim_matches('"').starts_with(COLUMNS[0]));
    if is_csv {
        return table(source, text, (dialect, base_url), draft);
    }
    let group = source.pool.as_deref().or(source.group.as_deref()).ok_or(SourceError::Missing("the name of a pool"))?;
    for (index, line) in text.lines().enumerate() {
        let place = format!("line {}", index + 1);
        for credential in line.split([' ', '\t', ',', ';']).filter(|credential| !credential.is_empty()) {
            credential_of(&place, credential, group, (dialect, base_url), draft);
        }
    }
    Ok(())
}

fn table(source: &Source, text: &str, to: (Dialect, &str), draft: &mut Draft<'_>) -> Result<(), SourceError> {
    let mut lines = text.lines().enumerate();
    let header: Vec<String> = lines.next().map(|(_, line)| cells(line)).unwrap_or_default();
    if header != COLUMNS {
        return Err(source.form(format!("its columns are not {}", COLUMNS.join(","))));
    }
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("line {}", index + 1);
        match &cells(line)[..] {
            [credential, ..] if credential == UNREADABLE => draft.leave(&place, "the credential", "GPT-Load could not decrypt it"),
            [credential, group, _] if source.group.as_ref().is_none_or(|one| one == group) => {
                let pool = source.pool.as_deref().unwrap_or(group);
                credential_of(&place, credential, pool, to, draft);
            }
            [_, group, _] => draft.leave(&place, "the credential", format!("it is of the group {group:?}, and another was asked for")),
            other => draft.fault(&place, format!("it has {} cells", other.len())),
        }
    }
    Ok(())
}

/// The cells of a line of CSV. None of these holds a line's end.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => cell.extend(chars.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(std::mem::take(&mut cell)),
            other => cell.push(other),
        }
    }
    cells.push(cell);
    cells
}

fn credential_of(place: &str, credential: &str, group: &str, (dialect, base_url): (Dialect, &str), draft: &mut Draft<'_>) {
    let pool = draft.pool_named(place, group);
    let mark = draft.mark(credential);
    let name = format!("{}-{}", group.chars().take(64).collect::<String>(), &mark[..MARK_DIGITS]);
    let new = NewUpstream {
        parts: &[SYSTEM, group, base_url, &mark],
        name,
        dialect,
        base_url: base_url.to_owned(),
        pool,
        priority: PRIORITY,
        models: Vec::new(),
        credential,
        is_disabled: false,
    };
    draft.upstream(place, new);
}

/// Groups: their pools, and the keys that clients show to them.
fn groups(source: &Source, text: &str, draft: &mut Draft<'_>) -> Result<(), SourceError> {
    let document: Value = serde_json::from_str(text).map_err(|error| source.form(error.to_string()))?;
    let groups = document.as_array().or_else(|| document["data"].as_array()).ok_or_else(|| source.form("there is no list `data` in it"))?;
    // One proxy key may be good for several groups: it is one key here, with all their pools.
    let mut proxy_keys: BTreeMap<String, (String, Vec<schemas::PoolId>)> = BTreeMap::new();
    for (index, value) in groups.iter().enumerate() {
        let place = format!("/data/{index}");
        let group = value["name"].as_str().filter(|name| source.group.as_ref().is_none_or(|one| one == name));
        let (Some(group), Ok(mut entry)) = (group, Entry::new(place.clone(), value)) else { continue };
        let pool = draft.pool_named(&place, group);
        for secret in entry.list("proxy_keys") {
            proxy_keys.entry(secret).or_insert_with(|| (place.clone(), Vec::new())).1.push(pool);
        }
        draft.leave(
            &place,
            format!("the credentials of {group:?}"),
            "they are not in this file: export the group's keys, and import the list with this pool",
        );
        entry.pass_over(&[
            "id",
            "name",
            "endpoint",
            "created_at",
            "updated_at",
            "last_validated_at",
            "sort",
            "effective_config",
            "display_name",
        ]);
        entry.rest(draft);
    }
    for (secret, (place, pools)) in proxy_keys {
        if let Some(line) = draft.brought(&place, &secret) {
            let mark = draft.mark(&secret);
            let mut key = draft.bare_key(draft.id("key", &[SYSTEM, &mark]), format!("proxy-{}", &mark[..MARK_DIGITS]), line, UNKNOWN_TIME);
            (key.pools, key.expiry_unset) = (pools, true);
            draft.key(&place, key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_may_be_quoted() {
        assert_eq!(cells("sk-a,\"a, \"\"b\"\"\",200\r"), ["sk-a", "a, \"b\"", "200"]);
    }
}
