//! The settings that a policy takes, as people read them: its JSON Schema, a line for each setting.

use serde_json::Value;

use super::super::render::cell;

/// How deep settings within settings are told; deeper ones are named and no more.
const DEPTH_MAX: usize = 8;
/// What stands before the lines of a setting's own settings.
const INDENT: &str = "  ";

/// The settings under a title; a schema that is not one of named settings is told in one line.
pub(super) fn text(schema: &Value) -> String {
    let mut lines = Vec::new();
    members(schema, 1, &mut lines);
    match schema {
        Value::Bool(true) => "settings: any".to_owned(),
        Value::Bool(false) => "settings: none can be given".to_owned(),
        _ if lines.is_empty() => format!("settings: {}", shape(schema)),
        _ => {
            let mut title = "settings".to_owned();
            let rules = choices(schema);
            if !rules.is_empty() {
                title = format!("{title}: {}", rules.join("; "));
            }
            if schema["additionalProperties"] != Value::Bool(false) {
                lines.push(format!("{INDENT}any other"));
            }
            format!("{title}\n{}", lines.join("\n"))
        }
    }
}

/// A line for each named setting, and below it those that it has itself.
fn members(schema: &Value, depth: usize, lines: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object().filter(|_| depth <= DEPTH_MAX) else { return };
    let is_required = |name: &str| schema["required"].as_array().is_some_and(|required| required.iter().any(|one| one == name));
    let width = properties.keys().map(|name| name.chars().count()).max().unwrap_or_default();
    for (name, setting) in properties {
        let mut said = vec![shape(setting)];
        said.extend(is_required(name).then(|| "required".to_owned()));
        said.extend(setting.get("default").map(|default| format!("default {}", compact(default))));
        let about = setting["description"].as_str().map(|about| format!(". {}", cell(Some(&about.into())))).unwrap_or_default();
        let name = cell(Some(&name.as_str().into()));
        lines.push(format!("{}{name:<width$}  {}{about}", INDENT.repeat(depth), said.join(", ")));
        members(setting, depth + 1, lines);
        members(&setting["items"], depth + 1, lines);
    }
}

/// What a value may be, in a few words.
fn shape(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return format!("one of {}", values.iter().map(compact).collect::<Vec<_>>().join(", "));
    }
    if let Some(value) = schema.get("const") {
        return format!("only {}", compact(value));
    }
    let kind = match (&schema["type"], schema["$ref"].as_str()) {
        (Value::Array(kinds), _) => kinds.iter().map(|kind| cell(Some(kind))).collect::<Vec<_>>().join(" or "),
        (Value::String(kind), _) if kind == "array" && !schema["items"].is_null() => format!("list of {}", shape(&schema["items"])),
        (kind @ Value::String(_), _) => cell(Some(kind)),
        (_, Some(reference)) => format!("as {}", cell(Some(&reference.rsplit('/').next().unwrap_or(reference).into()))),
        _ => "anything".to_owned(),
    };
    let bounds: Vec<String> =
        BOUNDS.iter().filter_map(|(keyword, words)| Some(format!("{words} {}", compact(schema.get(*keyword)?)))).collect();
    [vec![kind], bounds].concat().join(", ")
}

/// Keywords with one value, and how they are said.
const BOUNDS: [(&str, &str); 11] = [
    ("minimum", "at least"),
    ("exclusiveMinimum", "more than"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "less than"),
    ("multipleOf", "a multiple of"),
    ("minLength", "characters at least"),
    ("maxLength", "characters at most"),
    ("pattern", "like"),
    ("format", "in the form of a"),
    ("minItems", "entries at least"),
    ("maxItems", "entries at most"),
];

/// Which settings must be there together, of those that a schema says so of in the plain way.
fn choices(schema: &Value) -> Vec<String> {
    let named = |alternatives: &Value| {
        let each = alternatives.as_array()?.iter().map(|one| {
            let names = one["required"].as_array().filter(|names| !names.is_empty())?;
            Some(names.iter().map(|name| cell(Some(name))).collect::<Vec<_>>().join(" and "))
        });
        each.collect::<Option<Vec<_>>>()
    };
    let any = named(&schema["anyOf"]).map(|names| format!("at least one of {}", names.join(", ")));
    let one = named(&schema["oneOf"]).map(|names| format!("exactly one of {}", names.join(", ")));
    any.into_iter().chain(one).collect()
}

/// A value as it would be written, on one line, without what steers a terminal: JSON has that escaped.
fn compact(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && !text.contains(char::is_whitespace) => cell(Some(value)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_setting_has_a_line_with_what_it_may_be() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["limit"],
            "anyOf": [{ "required": ["limit"] }, { "required": ["days"] }],
            "properties": {
                "limit": { "type": "integer", "minimum": 1, "maximum": 9, "description": "How much." },
                "of": { "enum": ["key", "the tenant"], "default": "key" },
                "days": { "type": "array", "items": { "type": "string", "pattern": "^[a-z]+$" }, "minItems": 1, "default": [] },
                "window": { "type": "object", "properties": { "from": { "type": ["string", "null"] } } },
            },
        });
        let expected = "\
settings: at least one of limit, days
  days    list of string, like ^[a-z]+$, entries at least 1, default []
  limit   integer, at least 1, at most 9, required. How much.
  of      one of key, \"the tenant\", default key
  window  object
    from  string or null";
        let told = text(&schema);
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&told), sorted(expected), "{told}");
        let open = json!({ "type": "object", "properties": { "a": {} } });
        assert_eq!(text(&open), "settings\n  a  anything\n  any other");
    }

    #[test]
    fn a_schema_without_named_settings_is_one_line() {
        assert_eq!(text(&json!(true)), "settings: any");
        assert_eq!(text(&json!(false)), "settings: none can be given");
        assert_eq!(text(&json!({ "type": "object", "additionalProperties": true })), "settings: object");
    }

    #[test]
    fn a_schema_cannot_steer_the_terminal() {
        let schema = json!({ "properties": { "a\u{1b}[31m": { "default": "\u{1b}c", "description": "\u{7}" } } });
        assert!(text(&schema).chars().all(|c| c == '\n' || !c.is_control()), "{:?}", text(&schema));
    }
}
