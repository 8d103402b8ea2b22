#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::splice::splice;

fn spliced(body: &str) -> Option<String> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let option = RequestHead::parse(&body).unwrap().usage_option(&body)?;
    Some(String::from_utf8(splice(&body, vec![option]).to_vec()).unwrap())
}

fn capped(dialect: Dialect, body: &str, tokens: u64) -> String {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let splices = RequestHead::parse(&body).unwrap().capped(&body, dialect, tokens);
    String::from_utf8(splice(&body, splices).to_vec()).unwrap()
}

#[test]
fn a_bound_on_the_answer_is_lowered_where_it_stands_and_set_where_there_is_none() {
    for (dialect, body, expected) in [
        (Dialect::Openai, r#"{"model":"a","max_tokens": 500}"#, r#"{"model":"a","max_tokens": 100}"#),
        (Dialect::Openai, r#"{"max_completion_tokens":101,"model":"a"}"#, r#"{"max_completion_tokens":100,"model":"a"}"#),
        (
            Dialect::Openai,
            r#"{"max_tokens":7,"model":"a","max_completion_tokens":900}"#,
            r#"{"max_tokens":7,"model":"a","max_completion_tokens":100}"#,
        ),
        (Dialect::Openai, r#"{"model":"a"}"#, r#"{"max_completion_tokens":100,"model":"a"}"#),
        (Dialect::Openai, r#"{"model":"a","max_tokens":null}"#, r#"{"model":"a","max_tokens":100}"#),
        (Dialect::Openai, r#"{"model":"a","max_tokens":"999"}"#, r#"{"model":"a","max_tokens":100}"#),
        (Dialect::Openai, r#"{"model":"a","n":4,"max_tokens":60}"#, r#"{"model":"a","n":4,"max_tokens":25}"#),
        (Dialect::Anthropic, r#"{"model":"a","max_tokens":1e9}"#, r#"{"model":"a","max_tokens":100}"#),
        (Dialect::Anthropic, r#"{"model":"a","max_completion_tokens":5}"#, r#"{"max_tokens":100,"model":"a","max_completion_tokens":5}"#),
    ] {
        assert_eq!(capped(dialect, body, 100), expected, "{body}");
        assert_eq!(capped(dialect, expected, 100), expected, "a second time: {body}");
    }
    for untouched in [r#"{"model":"a","max_tokens":100}"#, r#"{"model":"a","max_tokens":5.0}"#, r#"{"n":2,"model":"a","max_tokens":50}"#] {
        assert_eq!(capped(Dialect::Openai, untouched, 100), untouched);
    }
    assert_eq!(capped(Dialect::Openai, r#"{"model":"a","n":9,"max_tokens":5}"#, 2), r#"{"model":"a","n":9,"max_tokens":1}"#);
}

#[test]
fn the_clients_own_bound_counts_for_all_its_answers() {
    let bound = |dialect, body: &str| RequestHead::parse(body.as_bytes()).unwrap().output_tokens_max(dialect);
    assert_eq!(bound(Dialect::Openai, r#"{"model":"a","max_tokens":50,"max_completion_tokens":40}"#), Some(40));
    assert_eq!(bound(Dialect::Openai, r#"{"model":"a","max_tokens":50,"n":3}"#), Some(150));
    assert_eq!(bound(Dialect::Anthropic, r#"{"model":"a","max_tokens":50,"n":3}"#), Some(50));
    for none in [r#"{"model":"a"}"#, r#"{"model":"a","max_tokens":null}"#, r#"{"model":"a","max_tokens":-1}"#] {
        assert_eq!(bound(Dialect::Openai, none), None, "{none}");
    }
}

#[test]
fn both_edits_of_a_body_go_together() {
    let body = Bytes::from_static(br#"{"model":"a","stream":true}"#);
    let head = RequestHead::parse(&body).unwrap();
    let splices = head.usage_option(&body).into_iter().chain(head.capped(&body, Dialect::Openai, 9)).collect();
    let spliced: Value = serde_json::from_slice(&splice(&body, splices)).unwrap();
    assert_eq!(spliced, json!({"model": "a", "stream": true, "stream_options": {"include_usage": true}, "max_completion_tokens": 9}));
}

#[test]
fn the_head_is_read_and_the_rest_is_skipped() {
    let head =
        RequestHead::parse(br#" {"messages":[{"stream":true,"model":"inner"}],"mod\u0065l":"gpt-\u0034o","stream":true,"x":1e999} "#);
    assert_eq!(head.as_ref().unwrap().model, "gpt-4o");
    assert!(head.unwrap().stream);
    assert!(!RequestHead::parse(br#"{"model":"a","stream":null}"#).unwrap().stream);
}

#[test]
fn of_a_field_given_twice_the_last_counts_but_two_models_are_refused() {
    assert!(!RequestHead::parse(br#"{"model":"a","stream":true,"stream":false}"#).unwrap().stream);
    assert!(RequestHead::parse(br#"{"model":"a","stream":false,"stream":true}"#).unwrap().stream);
    assert!(RequestHead::parse(br#"{"model":"a","model":"a"}"#).is_ok());
    assert_eq!(RequestHead::parse(br#"{"model":"a","model":"b"}"#).unwrap_err(), BodyFault::ModelTwice);
}

#[test]
fn unusable_bodies_are_refused_without_being_quoted() {
    assert_eq!(RequestHead::parse(b"{}").unwrap_err(), BodyFault::ModelMissing);
    for wrong in ["", "[]", "null", "{\"model\":1}", "{\"model\":\"a\"", "{\"model\":\"a\"} x", "{\"secret\":tru}", "\"model\""] {
        assert!(matches!(RequestHead::parse(wrong.as_bytes()), Err(BodyFault::Json { .. })), "{wrong}");
    }
    let deep = |depth: usize| format!("{{\"model\":\"a\",\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(RequestHead::parse(deep(DEPTH_MAX - 1).as_bytes()).is_ok());
    assert_eq!(RequestHead::parse(deep(DEPTH_MAX).as_bytes()).unwrap_err(), BodyFault::TooDeep);
    assert_eq!(RequestHead::parse(deep(1_000_000).as_bytes()).unwrap_err(), BodyFault::TooDeep);
    assert!(RequestHead::parse(format!("{{\"model\":\"{}\"}}", "[\\\"{".repeat(100)).as_bytes()).is_ok());
}

#[test]
fn the_option_is_spliced_in_where_it_is_absent() {
    for (body, expected) in [
        (r#"{"model":"a"}"#, r#"{"stream_options":{"include_usage":true},"model":"a"}"#),
        (" {\n \"model\":\"a\"}\n", " {\"stream_options\":{\"include_usage\":true},\n \"model\":\"a\"}\n"),
        (r#"{"model":"a","stream_options":null}"#, r#"{"model":"a","stream_options":{"include_usage":true}}"#),
        (r#"{"model":"a","stream_options":{ }}"#, r#"{"model":"a","stream_options":{"include_usage":true }}"#),
        (r#"{"stream_options": {"x":1},"model":"a"}"#, r#"{"stream_options": {"include_usage":true,"x":1},"model":"a"}"#),
        (r#"{"stream_options":{"include_usage": false},"model":"a"}"#, r#"{"stream_options":{"include_usage": true},"model":"a"}"#),
        (
            r#"{"stream_options":{"include_usage":true},"model":"a","stream_options":{"x":1}}"#,
            r#"{"stream_options":{"include_usage":true},"model":"a","stream_options":{"include_usage":true,"x":1}}"#,
        ),
    ] {
        assert_eq!(spliced(body).as_deref(), Some(expected));
    }
    for untouched in [r#"{"model":"a","stream_options":{"include_usage":true}}"#, r#"{"model":"a","stream_options":"x"}"#] {
        assert_eq!(spliced(untouched), None);
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("\\PC{0,8}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn options() -> impl Strategy<Value = Option<Value>> {
    let fields = proptest::collection::btree_map("[a-z_]{1,10}", json_value(), 0..3);
    let include = prop_oneof![Just(None), Just(Some(Value::Null)), any::<bool>().prop_map(|b| Some(Value::from(b)))];
    let object = (fields, include).prop_map(|(fields, include)| {
        let mut object: Map<String, Value> = fields.into_iter().filter(|(name, _)| name != "include_usage").collect();
        object.extend(include.map(|value| ("include_usage".to_owned(), value)));
        Some(Value::Object(object))
    });
    prop_oneof![Just(None), Just(Some(Value::Null)), object]
}

proptest! {
    #[test]
    fn a_spliced_body_is_the_original_and_the_option(
        rest in proptest::collection::btree_map("\\PC{0,10}", json_value(), 0..6),
        options in options(),
        pretty in any::<bool>(),
    ) {
        let mut body: Map<String, Value> = rest.into_iter().collect();
        body.insert("model".into(), json!("gpt-4o"));
        body.insert("stream".into(), json!(true));
        body.remove("stream_options");
        if let Some(options) = options.clone() {
            body.insert("stream_options".into(), options);
        }
        let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.unwrap();
        let asked = options.is_some_and(|options| options["include_usage"] == json!(true));
        match spliced(&text) {
            None => prop_assert!(asked),
            Some(spliced) => {
                prop_assert!(!asked);
                let expected = body.entry("stream_options").or_insert(json!({}));
                if expected.is_null() {
                    *expected = json!({});
                }
                expected["include_usage"] = json!(true);
                prop_assert_eq!(serde_json::from_str::<Value>(&spliced).unwrap(), Value::Object(body));
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = RequestHead::parse(&bytes);
        let _ = is_deeper_than(&bytes, 3);
    }
}
