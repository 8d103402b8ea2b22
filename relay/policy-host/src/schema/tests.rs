use serde_json::{Value, json};

use super::judge::{Judge, STEPS_MAX};
use super::*;
use crate::limits::FAULTS_MAX;

/// Paths and details of what is wrong.
fn wrong(schema: &Value, settings: &Value) -> Vec<String> {
    let schema = Schema::parse(schema).unwrap();
    schema.faults(settings).iter().map(SettingsFault::place_and_detail).collect()
}

#[test]
fn every_keyword_takes_what_fits_and_names_the_place_of_what_does_not() {
    let tag = json!({ "type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$" });
    let cases = [
        (json!({ "type": "integer" }), json!(1), json!("1"), "settings: expected integer, found \"1\""),
        (json!({ "type": ["string", "null"] }), json!(null), json!(1), "settings: expected string or null, found 1"),
        (json!({ "type": "integer" }), json!(1.0), json!(1.5), "settings: expected integer, found 1.5"),
        (json!({ "type": "number" }), json!(1.5), json!(true), "settings: expected number, found true"),
        (json!({ "enum": ["a", 1] }), json!(1.0), json!("b"), "settings: expected one of \"a\", 1, found \"b\""),
        (json!({ "const": { "a": 1 } }), json!({ "a": 1.0 }), json!({ "a": 2 }), "settings: expected {\"a\":1}, found {\"a\":2}"),
        (json!({ "required": ["a/b"] }), json!({ "a/b": 1 }), json!({}), "/a~1b: is missing"),
        (json!({ "dependentRequired": { "a": ["b"] } }), json!({ "b": 1 }), json!({ "a": 1 }), "/b: is missing"),
        (
            json!({ "properties": { "a": tag } }),
            json!({ "a": "ab", "b": 1 }),
            json!({ "a": "a" }),
            "/a: has 1 characters, at least 2 are needed",
        ),
        (json!({ "properties": { "a": tag } }), json!({ "a": "abcd" }), json!({ "a": "AB" }), "/a: \"AB\" does not match ^[a-z]+$"),
        (
            json!({ "properties": { "a": true }, "additionalProperties": false }),
            json!({ "a": 1 }),
            json!({ "b": 1 }),
            "/b: is not known, expected `a`",
        ),
        (json!({ "additionalProperties": tag }), json!({ "x": "ab" }), json!({ "x": 1 }), "/x: expected string, found 1"),
        (
            json!({ "patternProperties": { "^x": { "type": "null" } }, "additionalProperties": false }),
            json!({ "xy": null }),
            json!({ "yx": null }),
            "/yx: is not known",
        ),
        (json!({ "propertyNames": tag }), json!({ "ab": 1 }), json!({ "abcde": 1 }), "/abcde: has 5 characters, at most 4 are allowed"),
        (json!({ "minProperties": 1 }), json!({ "a": 1 }), json!({}), "settings: has 0 members, at least 1 are needed"),
        (json!({ "items": tag }), json!(["ab", "cd"]), json!(["ab", 1]), "/1: expected string, found 1"),
        (
            json!({ "prefixItems": [{ "type": "null" }], "items": tag }),
            json!([null, "ab"]),
            json!(["ab"]),
            "/0: expected null, found \"ab\"",
        ),
        (json!({ "maxItems": 1 }), json!([1]), json!([1, 2]), "settings: has 2 entries, at most 1 are allowed"),
        (json!({ "uniqueItems": true }), json!([1, 2]), json!([{ "a": 1 }, { "a": 1 }]), "/1: is there twice"),
        (json!({ "contains": { "const": 1 } }), json!([2, 1]), json!([2]), "settings: has no entry of the kind that is asked for"),
        (json!({ "minimum": 1 }), json!(1), json!(0), "settings: 0 is less than 1"),
        (json!({ "maximum": 1.5 }), json!(1), json!(2), "settings: 2 is more than 1.5"),
        (json!({ "exclusiveMinimum": 1 }), json!(2), json!(1), "settings: 1 is not more than 1"),
        (
            json!({ "exclusiveMaximum": u64::MAX }),
            json!(u64::MAX - 1),
            json!(u64::MAX),
            "settings: 18446744073709551615 is not less than 18446744073709551615",
        ),
        (json!({ "multipleOf": 5 }), json!(10), json!(11), "settings: 11 is no multiple of 5"),
        (json!({ "multipleOf": 0.1 }), json!(0.3), json!(0.35), "settings: 0.35 is no multiple of 0.1"),
        (json!({ "multipleOf": 0.01 }), json!(19.99), json!(19.999), "settings: 19.999 is no multiple of 0.01"),
        (json!({ "multipleOf": 0.01 }), json!(123456789.12), json!(123456789.123), "settings: 123456789.123 is no multiple of 0.01"),
        (json!({ "multipleOf": 0.1 }), json!(0), json!(1e-13), "settings: 1e-13 is no multiple of 0.1"),
        (json!({ "allOf": [{ "minimum": 1 }, { "maximum": 3 }] }), json!(2), json!(4), "settings: 4 is more than 3"),
        (
            json!({ "anyOf": [{ "required": ["a"] }, { "required": ["b"] }] }),
            json!({ "a": 1, "b": 1 }),
            json!({ "c": 1 }),
            "settings: fits none of the alternatives (/a: is missing; or /b: is missing)",
        ),
        (json!({ "oneOf": [{ "minimum": 1 }, { "maximum": 3 }] }), json!(0), json!(2), "settings: fits more than one of the alternatives"),
        (json!({ "not": { "const": 1 } }), json!(2), json!(1), "settings: must not be 1"),
        (json!({ "if": { "type": "string" }, "then": tag, "else": { "minimum": 1 } }), json!("ab"), json!(0), "settings: 0 is less than 1"),
        (json!({ "$ref": "#/$defs/tag", "$defs": { "tag": tag } }), json!("ab"), json!(0), "settings: expected string, found 0"),
        (
            json!({ "properties": { "next": { "$ref": "#" } }, "maxProperties": 1 }),
            json!({ "next": { "next": {} } }),
            json!({ "next": { "a": 1, "b": 2 } }),
            "/next: has 2 members, at most 1 are allowed",
        ),
        (json!({ "properties": { "a": false } }), json!({}), json!({ "a": 1 }), "/a: must not be there"),
    ];
    for (schema, right, not_right, told) in cases {
        assert_eq!(wrong(&schema, &right), [""; 0], "{schema} {right}");
        assert_eq!(wrong(&schema, &not_right), [told], "{schema} {not_right}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let schema = json!({
        "type": "object", "required": ["from"], "additionalProperties": false,
        "properties": { "from": { "type": "string" }, "days": { "items": { "enum": ["mon", "tue"] } } },
    });
    let told = wrong(&schema, &json!({ "days": ["mon", "Tue"], "too": 1 }));
    let expected =
        ["/from: is missing", "/days/1: expected one of \"mon\", \"tue\", found \"Tue\"", "/too: is not known, expected `days`, `from`"];
    assert_eq!(told, expected);
}

#[test]
fn what_a_schema_cannot_mean_is_refused_with_its_place() {
    let deep = (0..70).fold(json!(true), |schema, _| json!({ "not": schema }));
    let cases = [
        (json!({ "type": "text" }), "/type"),
        (json!({ "type": [] }), "/type"),
        (json!({ "properties": { "a": { "type": 1 } } }), "/properties/a/type"),
        (json!({ "properties": [] }), "/properties"),
        (json!({ "items": [{ "type": "string" }] }), "/items"),
        (json!({ "anyOf": [] }), "/anyOf"),
        (json!({ "allOf": [true, 1] }), "/allOf/1"),
        (json!({ "enum": [] }), "/enum"),
        (json!({ "required": "a" }), "/required"),
        (json!({ "minLength": -1 }), "/minLength"),
        (json!({ "minimum": "1" }), "/minimum"),
        (json!({ "multipleOf": 0 }), "/multipleOf"),
        (json!({ "pattern": "(" }), "/pattern"),
        (json!({ "pattern": "(?=a)" }), "/pattern"),
        (json!({ "pattern": "(?:(?:a{1000}){1000})" }), "/pattern"),
        (json!({ "$ref": "https://example.org/schema" }), "/$ref"),
        (json!({ "$ref": "#/properties/a", "properties": { "a": true } }), "/$ref"),
        (json!({ "$ref": "#/$defs/none" }), "/$ref"),
        (json!({ "propertys": {} }), "/propertys"),
        (json!({ "unevaluatedProperties": false }), "/unevaluatedProperties"),
        (json!(7), ""),
    ];
    for (schema, path) in cases {
        assert_eq!(Schema::parse(&schema).unwrap_err().path, path, "{schema}");
    }
    assert!(Schema::parse(&deep).is_err());
    let many = (0..65).map(|n| (format!("p{n}"), json!({ "pattern": format!("^{n}$") }))).collect::<serde_json::Map<_, _>>();
    assert!(Schema::parse(&json!({ "properties": many })).is_err());
}

#[test]
fn remarks_are_passed_over() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Settings", "description": "…", "default": {},
        "examples": [{}], "format": "date", "x-order": 1, "deprecated": true,
    });
    assert_eq!(wrong(&schema, &json!({ "any": "thing" })), [""; 0]);
}

#[test]
fn a_judgement_ends_whatever_the_schema_is() {
    let endless = ["the policy's schema takes too long to judge these settings"];
    let circle = json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } });
    let doubled = |n: usize| json!({ "allOf": [{ "$ref": format!("#/$defs/s{n}") }, { "$ref": format!("#/$defs/s{n}") }] });
    let defs: serde_json::Map<_, _> = (0..40).map(|n| (format!("s{n}"), if n == 39 { json!(true) } else { doubled(n + 1) })).collect();
    let explosion = json!({ "$ref": "#/$defs/s0", "$defs": defs });
    let heavy = json!({ "items": { "pattern": format!("^(a|aa)*{}$", "a?".repeat(400)) } });
    let text = Value::String("a".repeat(15_000));
    for (schema, settings) in [(circle, json!({})), (explosion, json!({})), (heavy, json!([text]))] {
        let told: Vec<_> = Schema::parse(&schema).unwrap().faults(&settings).into_iter().map(|fault| fault.detail).collect();
        assert_eq!(told, endless, "{}", &schema.to_string()[..40]);
    }
}

/// A schema by as many references as a manifest has room for.
fn fanned_out(schema: &Value) -> Value {
    json!({ "$defs": { "o": schema }, "allOf": vec![json!({ "$ref": "#/$defs/o" }); 1400] })
}

/// The same in two steps.
fn fanned_out_twice(schema: &Value) -> Value {
    let all = |name: &str| json!({ "allOf": vec![json!({ "$ref": format!("#/$defs/{name}") }); 600] });
    let mut top = all("a");
    top["$defs"] = json!({ "a": all("o"), "o": schema });
    top
}

#[test]
fn whatever_costs_something_counts_behind_any_number_of_references() {
    let names: Vec<String> = (0..2000).map(|n| format!("k{n}")).collect();
    let object: Value = names.iter().map(|name| (name.clone(), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let list: Value = (0..2000).collect::<Vec<u32>>().into();
    let text = Value::String("a".repeat(15_000));
    let others: Value = (0..200).map(|n| (format!("p{n}"), json!(true))).collect::<serde_json::Map<_, _>>().into();
    // In none of these is anything wrong before the end.
    let cases = [
        (json!({ "additionalProperties": true }), &object),
        (json!({ "properties": { "other": false } }), &object),
        (json!({ "required": names }), &object),
        (json!({ "dependentRequired": { "k0": names } }), &object),
        (json!({ "uniqueItems": true }), &list),
        (json!({ "contains": { "const": 1999 } }), &list),
        (json!({ "const": list }), &list),
        (json!({ "enum": [[], object] }), &object),
        (json!({ "maxLength": 20_000 }), &text),
        (json!({ "const": text }), &text),
        (json!({ "not": { "type": "null" } }), &text),
        (json!({ "not": { "enum": [[list]] } }), &list),
        (json!({ "not": { "additionalProperties": false, "properties": others } }), &object),
    ];
    for (schema, settings) in cases {
        for whole in [fanned_out(&schema), fanned_out_twice(&schema)] {
            let schema = Schema::parse(&whole).unwrap();
            let mut judge = Judge::of(&schema);
            let told: Vec<_> = judge.faults(settings).into_iter().map(|fault| fault.detail).collect();
            assert_eq!(told, ["the policy's schema takes too long to judge these settings"], "{}", &whole.to_string()[..60]);
            // What goes over the bound is one value at most.
            assert!(judge.steps < STEPS_MAX + 1000, "{}", judge.steps);
        }
    }
}

#[test]
fn a_judgement_ends_with_the_last_fault_that_is_told() {
    let object: Value = (0..2000).map(|n| (format!("k{n}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let missing: Vec<String> = (0..2000).map(|n| format!("m{n}")).collect();
    let cases = [
        (json!({ "additionalProperties": false }), "is not known"),
        (json!({ "additionalProperties": { "type": "null" } }), "expected null, found 1"),
        (json!({ "propertyNames": { "maxLength": 1 } }), "characters, at most 1 are allowed"),
        (json!({ "required": missing }), "is missing"),
        (json!({ "dependentRequired": { "k0": missing } }), "is missing"),
        (json!({ "maxProperties": 1 }), "has 2000 members, at most 1 are allowed"),
    ];
    for (schema, detail) in cases {
        for whole in [fanned_out(&schema), fanned_out_twice(&schema)] {
            let schema = Schema::parse(&whole).unwrap();
            let mut judge = Judge::of(&schema);
            let told = judge.faults(&object);
            assert!(told.len() == FAULTS_MAX && told.iter().all(|fault| fault.detail.ends_with(detail)), "{detail}: {told:?}");
            assert!(judge.steps < 500, "{detail}: {}", judge.steps);
        }
    }
}

#[test]
fn alternatives_within_alternatives_are_told_in_few_words() {
    let leaf = json!({ "const": "x".repeat(100) });
    let schema = (0..8).fold(leaf, |within, _| json!({ "anyOf": [within, within, within] }));
    let told = wrong(&schema, &json!("y".repeat(100)));
    assert!(told.len() == 1 && told[0].starts_with("settings: fits none of the alternatives (") && told[0].len() < 800, "{told:?}");
}

#[test]
fn what_is_told_of_foreign_settings_is_bounded() {
    let long = "x".repeat(10_000);
    let many: serde_json::Map<_, _> = (0..500).map(|n| (format!("{long}{n}"), json!("\u{1b}[31m"))).collect();
    let told = Schema::parse(&json!({ "additionalProperties": { "type": "null" } })).unwrap().faults(&Value::Object(many));
    assert_eq!(told.len(), FAULTS_MAX);
    assert!(told.iter().all(|fault| fault.to_string().len() < 600 && !fault.to_string().contains('\u{1b}')));
}
