//! Answers as people read them: tables of many things, blocks of one.

use serde_json::Value;

/// A title, and where the value stands in the answer (a JSON pointer).
pub(super) type Field = (&'static str, &'static str);

/// One line for each of the values, under titles; columns are as wide as their widest cell.
pub(super) fn table(rows: &[Value], fields: &[Field]) -> String {
    if rows.is_empty() {
        return "none".to_owned();
    }
    let titles = fields.iter().map(|(title, _)| title.to_uppercase()).collect();
    let cells = rows.iter().map(|row| fields.iter().map(|(_, pointer)| cell(row.pointer(pointer))).collect());
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(cells).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..fields.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One line for each field of a value, title first. A field that the value does not have is left out.
pub(super) fn block(value: &Value, fields: &[Field]) -> String {
    let present = fields.iter().filter_map(|(title, pointer)| Some((*title, cell(Some(value.pointer(pointer)?)))));
    pairs(&present.collect::<Vec<_>>())
}

/// Titles and texts, aligned.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(title, _)| title.len()).max().unwrap_or_default();
    pairs.iter().map(|(title, text)| format!("{title:<width$}  {text}")).collect::<Vec<_>>().join("\n")
}

/// A value on one line. Control characters are taken out: a name must not be able to steer a terminal.
pub(super) fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Some(Value::Array(values)) if values.is_empty() => "-".to_owned(),
        Some(Value::Array(values)) => values.iter().map(|value| cell(Some(value))).collect::<Vec<_>>().join(", "),
        Some(Value::Object(members)) => {
            let given = members.iter().filter(|(_, value)| !value.is_null());
            given.map(|(name, value)| format!("{name} {}", cell(Some(value)))).collect::<Vec<_>>().join(", ")
        }
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_and_blocks_are_aligned() {
        let rows = [json!({"id": "a", "state": {"now": "active"}}), json!({"id": "long", "state": {"now": "x"}, "n": 3})];
        let fields: [Field; 3] = [("id", "/id"), ("state", "/state/now"), ("n", "/n")];
        assert_eq!(table(&rows, &fields), "ID    STATE   N\na     active  -\nlong  x       3");
        assert_eq!(table(&[], &fields), "none");
        assert_eq!(block(&rows[0], &fields), "id     a\nstate  active");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(cell(Some(&json!("a\u{1b}[31mb\n"))), "a\u{fffd}[31mb\u{fffd}");
        assert_eq!(cell(Some(&json!(["a", "b"]))), "a, b");
    }

    #[test]
    fn what_is_in_a_value_is_told_member_by_member() {
        assert_eq!(cell(Some(&json!({"at": "now", "by": "owner", "reason": null}))), "at now, by owner");
        assert_eq!(cell(Some(&json!([]))), "-");
    }
}
