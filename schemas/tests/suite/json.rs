//! The committed JSON Schemas are those of the events. `KEYRELAY_SCHEMAS=write` writes them anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use schemas::{Event, event};
use serde_json::Value;

use crate::samples;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("json")
}

#[allow(clippy::disallowed_methods, reason = "the switch of a test, not a setting of the program")]
fn writes() -> bool {
    std::env::var_os("KEYRELAY_SCHEMAS").is_some_and(|value| value == "write")
}

/// The same value with its keys in order, whichever map serde_json was built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            fields.sort_by(|left, right| left.0.cmp(&right.0));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(entries) => Value::Array(entries.into_iter().map(sorted).collect()),
        plain => plain,
    }
}

#[test]
fn committed_schemas_are_those_of_the_events() {
    for (name, schema) in event::json_schemas() {
        let path = folder().join(format!("{name}.json"));
        let current = serde_json::to_string_pretty(&sorted(schema.to_value())).unwrap() + "\n";
        if writes() {
            fs::create_dir_all(folder()).unwrap();
            fs::write(&path, &current).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_else(|error| panic!("json/{name}.json: {error}; see schemas/README.md"));
        assert_eq!(committed, current, "json/{name}.json is not what this release says; see schemas/README.md");
    }
}

#[test]
fn every_event_has_a_schema_and_every_schema_an_event() {
    let names: BTreeSet<String> = Event::NAMES.iter().map(|name| format!("{name}.json")).collect();
    let generated: BTreeSet<String> = event::json_schemas().iter().map(|(name, _)| format!("{name}.json")).collect();
    let committed: BTreeSet<String> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(generated, names);
    assert_eq!(committed, names);
}

/// Not a validator: only that what an event's JSON has and what its schema names are the same fields.
#[test]
fn a_schema_names_the_fields_that_the_json_has() {
    for (event, (name, schema)) in samples::events().into_iter().zip(event::json_schemas()) {
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], name);
        let fields = |value: &Value| value.as_object().map(|fields| fields.keys().cloned().collect::<BTreeSet<_>>()).unwrap_or_default();
        assert_eq!(fields(&json["data"]), fields(&schema.to_value()["properties"]), "{name}");
    }
}
