//! The one spelling of a JSON value, so that equal settings and manifests have equal bytes and equal digests.

use serde_json::Value;

/// The value with the keys of all objects sorted by their bytes and without spaces.
///
/// Numbers are spelled as `serde_json` spells them: integers as such, others in the shortest form that reads back as the same double.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => text.push_str(&value.to_string()),
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            // A dependency may have asked for maps in the order of insertion: features are one for the whole build.
            members.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            text.push('{');
            for (n, (name, member)) in members.into_iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                text.push_str(&Value::String(name.clone()).to_string());
                text.push(':');
                write(member, text);
            }
            text.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_spelling() {
        let spellings =
            [r#"{"b":[1,2.50,{"z":null,"a":true}],"a":"\u00e9\n"}"#, " { \"a\" : \"é\\n\", \"b\": [1, 2.5, {\"a\":true,\"z\":null}] }"];
        let texts = spellings.map(|text| canonical_json(&serde_json::from_str(text).unwrap()));
        assert_eq!(texts, [r#"{"a":"é\n","b":[1,2.5,{"a":true,"z":null}]}"#; 2]);
        let again: Value = serde_json::from_str(&texts[0]).unwrap();
        assert_eq!(canonical_json(&again), texts[0]);
    }

    #[test]
    fn names_sort_by_bytes() {
        let value = serde_json::json!({ "é": 1, "z": 2, "Z": 3, "": 4 });
        assert_eq!(canonical_json(&value), r#"{"":4,"Z":3,"z":2,"é":1}"#);
    }
}
