//! What the stream of the log is: what is asked for when it is made, and what is compared when it is there.

use std::fmt;

use serde_json::{Map, Value, json};

use super::{STREAM, SUBJECT_PREFIX};

/// A record and what the server needs beside it, see [`RECORD_BYTES_MAX`](crate::RECORD_BYTES_MAX).
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
/// How long the server remembers ids of messages. It makes retries cheap; what makes them exact is the expectation.
const DUPLICATE_WINDOW_NANOS: u64 = 120_000_000_000;

/// A property of the stream that is not what it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub field: &'static str,
    pub asked: String,
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} and has to be {}", self.field, self.found, self.asked)
    }
}

/// The properties that matter, each as it has to be. A property that the server leaves out has the value that is empty.
fn properties(replicas: usize) -> Vec<(&'static str, Value)> {
    vec![
        ("subjects", json!([format!("{SUBJECT_PREFIX}>")])),
        ("storage", json!("file")),
        ("num_replicas", json!(replicas)),
        ("retention", json!("limits")),
        // A full stream refuses: nothing makes room by throwing records away.
        ("discard", json!("new")),
        ("max_msgs", json!(-1)),
        ("max_bytes", json!(-1)),
        ("max_age", json!(0)),
        ("max_msgs_per_subject", json!(-1)),
        ("max_msg_size", json!(MESSAGE_BYTES_MAX)),
        ("duplicate_window", json!(DUPLICATE_WINDOW_NANOS)),
        ("deny_delete", json!(true)),
        ("deny_purge", json!(true)),
        ("allow_rollup_hdrs", json!(false)),
        ("allow_direct", json!(true)),
        ("sealed", json!(false)),
        ("no_ack", json!(false)),
        // Sequences begin with 1.
        ("first_seq", json!(0)),
        ("mirror", Value::Null),
        ("sources", Value::Null),
        ("subject_transform", Value::Null),
        ("republish", Value::Null),
        ("compression", json!("none")),
        // A stream that answers before it has written has another idea of durable.
        ("persist_mode", json!("")),
        ("allow_msg_ttl", json!(false)),
        ("allow_msg_counter", json!(false)),
        ("allow_msg_schedules", json!(false)),
    ]
}

/// What is sent to make the stream.
pub(super) fn creation(replicas: usize) -> Map<String, Value> {
    let mut creation = Map::new();
    creation.insert("name".to_owned(), json!(STREAM));
    for (field, value) in properties(replicas).into_iter().filter(|(_, value)| !is_empty(value)) {
        creation.insert(field.to_owned(), value);
    }
    creation
}

/// Where a stream that is there is another one than what is asked for.
pub(super) fn differences(found: &Map<String, Value>, replicas: usize) -> Vec<Difference> {
    let differs = |(field, asked): (&'static str, Value)| {
        let found = found.get(field).unwrap_or(&Value::Null);
        let same = *found == asked || (is_empty(found) && is_empty(&asked)) || is_default(field, found);
        (!same).then(|| Difference { field, asked: asked.to_string(), found: found.to_string() })
    };
    properties(replicas).into_iter().filter_map(differs).collect()
}

/// Values that servers spell out or leave out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Other words for what is asked.
fn is_default(field: &str, found: &Value) -> bool {
    match field {
        "first_seq" => *found == json!(1),
        "persist_mode" => *found == json!("default"),
        "compression" => is_empty(found),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_as_created_does_not_differ() {
        let mut stream = creation(3);
        assert_eq!(differences(&stream, 3), []);
        // What a server adds.
        stream.insert("metadata".to_owned(), json!({"_nats.ver": "2.15.1"}));
        stream.insert("sealed".to_owned(), json!(false));
        stream.insert("first_seq".to_owned(), json!(1));
        stream.insert("persist_mode".to_owned(), json!("default"));
        assert_eq!(differences(&stream, 3), []);
    }

    #[test]
    fn every_property_is_compared() {
        for (field, _) in properties(3) {
            let mut stream = creation(3);
            stream.insert(field.to_owned(), json!("something else"));
            assert_eq!(differences(&stream, 3).iter().map(|difference| difference.field).collect::<Vec<_>>(), [field]);
        }
        let replicas = &differences(&creation(1), 3)[0];
        assert_eq!(replicas.to_string(), "num_replicas is 1 and has to be 3");
    }
}
