//! An ordinary request, and what an author's file changes in it: so that a test vector says only what it is about.
//!
//! Files are merged over the example as RFC 7396 has it (`null` takes a member out), with three short forms: a time `x_ms` may be written
//! as `x` with a text, RFC 3339 or from now (`-30d`); candidates are merged over an ordinary candidate, and their id is `up_` and the name
//! unless it is given; meters may be an object of names and amounts, over the meters of the manifest with nothing used.

use anyhow::{Context as _, Result, bail};
use policy_host::contract::{expiry, quota, route};
use policy_host::{Input, Manifest, canonical_json};
use schemas::policy::PolicyKind;
use schemas::{DurationText, Timestamp};
use serde_json::{Map, Value, json};

/// Monday, 2026-06-01 12:00 UTC; `keyrelay_policy::testing` has the same.
const NOW_MS: i64 = 1_780_315_200_000;
/// The members that are times in the contract, without their unit.
const TIMES: [&str; 8] = ["now", "created", "renewed", "rotated", "last_used", "expires", "resets", "valid_until"];

/// The input of a kind with a file's changes, and settings as a binding has them.
pub(super) fn input(manifest: &Manifest, changes: &Value, settings: &Value) -> Result<Input> {
    let mut value = example(manifest.kind);
    let mut changes = changes.clone();
    let now_ms = now_ms(&changes)?;
    times(&mut changes, now_ms)?;
    merge(&mut value, &changes);
    value["settings"] = canonical_json(settings).into();
    match manifest.kind {
        PolicyKind::Route => {
            let candidates = value["candidates"].as_array().context("`candidates` is a list")?;
            value["candidates"] = candidates.iter().map(candidate).collect::<Result<_>>()?;
            Ok(Input::Route(serde_json::from_value::<route::Input>(value)?))
        }
        PolicyKind::Quota => {
            value["meters"] = meters(manifest, &value["meters"])?;
            Ok(Input::Quota(serde_json::from_value::<quota::Input>(value)?))
        }
        PolicyKind::Expiry => Ok(Input::Expiry(serde_json::from_value::<expiry::Input>(value)?)),
    }
}

fn example(kind: PolicyKind) -> Value {
    let subject = json!({ "tenant": "default", "key": "key_test" });
    let demand = json!({
        "dialect": "openai", "endpoint": "chat_completions", "model": "gpt-4o", "request_bytes": 1000, "input_tokens": 250,
    });
    match kind {
        PolicyKind::Route => json!({
            "now_ms": NOW_MS, "seed": 1, "subject": subject, "demand": demand, "candidates": [{ "name": "a" }, { "name": "b" }],
        }),
        PolicyKind::Quota => json!({ "now_ms": NOW_MS, "seed": 1, "subject": subject, "demand": demand, "meters": {} }),
        PolicyKind::Expiry => json!({
            "now_ms": NOW_MS, "seed": 1, "subject": subject, "key": { "created_ms": NOW_MS - 30 * 24 * 60 * 60 * 1000_i64 },
        }),
    }
}

fn candidate(changes: &Value) -> Result<Value> {
    let name = changes["name"].as_str().context("a candidate has a `name`")?;
    let mut value = json!({
        "id": format!("up_{name}"), "pool": "pool_default", "pool_name": "default", "priority": 50, "weight": 1,
    });
    merge(&mut value, changes);
    Ok(value)
}

fn meters(manifest: &Manifest, given: &Value) -> Result<Value> {
    let Value::Object(given) = given else { return Ok(given.clone()) };
    if let Some(name) = given.keys().find(|name| !manifest.meters.contains(name)) {
        bail!("the manifest does not list the meter {name}");
    }
    let meter = |name: &String| {
        let unit = name.split('.').nth(1).context("a meter is named <scope>.<unit>.<window>")?;
        let mut value = json!({ "name": name, "unit": unit, "used": 0 });
        match given.get(name) {
            None => {}
            Some(used @ Value::Number(_)) => value["used"] = used.clone(),
            Some(changes) => merge(&mut value, changes),
        }
        Ok(value)
    };
    manifest.meters.iter().map(meter).collect()
}

/// RFC 7396.
pub(super) fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(members) = value else { return };
    for (name, patch) in patch {
        if patch.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name).or_insert(Value::Null), patch);
        }
    }
}

/// The moment that an input is about.
pub(super) fn now_ms(changes: &Value) -> Result<i64> {
    match (&changes["now"], &changes["now_ms"]) {
        (Value::String(text), _) => moment_ms(text, NOW_MS),
        (_, Value::Number(number)) => number.as_i64().context("`now_ms` is a whole number"),
        _ => Ok(NOW_MS),
    }
}

/// Writes times that are texts as milliseconds, under the contract's names.
pub(super) fn times(value: &mut Value, now_ms: i64) -> Result<()> {
    match value {
        Value::Array(values) => values.iter_mut().try_for_each(|value| times(value, now_ms)),
        Value::Object(members) => {
            for name in TIMES {
                if let Some(Value::String(text)) = members.get(name) {
                    let at_ms = moment_ms(text, now_ms).with_context(|| format!("`{name}` is no time"))?;
                    members.remove(name);
                    members.insert(format!("{name}_ms"), at_ms.into());
                }
            }
            members.values_mut().try_for_each(|value| times(value, now_ms))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// `2026-06-01T12:00:00Z`, or `-30d` and `+5m` from now.
fn moment_ms(text: &str, now_ms: i64) -> Result<i64> {
    let distance_ms = |text: &str| {
        let seconds = text.parse::<DurationText>()?.as_seconds();
        i64::try_from(seconds)?.checked_mul(1000).context("the distance is too large")
    };
    match text.split_at_checked(1) {
        Some(("-", distance)) => Ok(now_ms.saturating_sub(distance_ms(distance)?)),
        Some(("+", distance)) => Ok(now_ms.saturating_add(distance_ms(distance)?)),
        _ => Ok(i64::try_from(text.parse::<Timestamp>()?.as_micros() / 1000)?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test says where")]

    use super::*;

    fn manifest(kind: &str, more: &str) -> Manifest {
        let parsed: PolicyKind = serde_json::from_value(kind.into()).unwrap();
        let text = format!(r#"{{"name":"a","version":"1","kind":"{kind}","description":"d","effects":["permit"],"settings":true{more}}}"#);
        Manifest::parse(&text, parsed).unwrap()
    }

    #[test]
    fn a_vector_says_only_what_it_is_about() {
        let changes = json!({ "demand": { "model": "o1" }, "candidates": [{ "name": "x", "region": "eu" }] });
        let Input::Route(input) = input(&manifest("route", ""), &changes, &json!({ "b": 1, "a": 2 })).unwrap() else { panic!("a route") };
        assert_eq!((input.demand.model.as_str(), input.demand.input_tokens), ("o1", 250));
        assert_eq!((input.candidates[0].id.as_str(), input.candidates[0].priority), ("up_x", 50));
        assert_eq!(input.settings, r#"{"a":2,"b":1}"#);
    }

    #[test]
    fn times_are_texts_and_may_count_from_now() {
        let changes = json!({ "now": "2026-01-02T00:00:00Z", "key": { "last_used": "-1d", "created": "2025-01-01T00:00:00Z" } });
        let Input::Expiry(input) = input(&manifest("expiry", ""), &changes, &json!({})).unwrap() else { panic!("an expiry") };
        assert_eq!(input.key.last_used_ms, Some(input.now_ms - 86_400_000));
        assert_eq!((input.now_ms, input.key.created_ms), (1_767_312_000_000, 1_735_689_600_000));
    }

    #[test]
    fn meters_are_those_of_the_manifest() {
        let manifest = manifest("quota", r#","meters":["key.tokens.day","key.micro_usd.day"]"#);
        let changes = json!({ "meters": { "key.tokens.day": 7 } });
        let Input::Quota(given) = input(&manifest, &changes, &json!({})).unwrap() else { panic!("a quota") };
        assert_eq!(given.meters.iter().map(|meter| meter.used).collect::<Vec<_>>(), [7, 0]);
        let unknown = json!({ "meters": { "key.tokens.month": 7 } });
        assert!(input(&manifest, &unknown, &json!({})).is_err());
    }

    #[test]
    fn an_unknown_member_is_refused() {
        assert!(input(&manifest("route", ""), &json!({ "canddates": [] }), &json!({})).is_err());
    }
}
