//! A payload of an operator's own: JSON with places such as `{{text}}` inside its strings.

use serde_json::Value;
use thiserror::Error;

use super::notice::Notice;

/// The largest template, in bytes.
const BYTES_MAX: usize = 8 * 1024;
const PLACES: [&str; 6] = ["id", "kind", "tenant", "subject", "text", "at"];

/// A template that was checked: whatever a notice says, it gives JSON of the same shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Value);

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("the template has more than {BYTES_MAX} bytes")]
    TooLong,
    #[error("the template is not JSON; places such as {{{{text}}}} stand inside strings")]
    NotJson,
    #[error("the template has {{{{{0}}}}}; known are id, kind, tenant, subject, text and at")]
    Place(String),
    #[error("the template opens {{{{ and does not close it")]
    Open,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > BYTES_MAX {
            return Err(TemplateError::TooLong);
        }
        let value: Value = serde_json::from_str(text).map_err(|_| TemplateError::NotJson)?;
        check(&value)?;
        Ok(Self(value))
    }

    /// The payload for a notice. Places are filled inside strings that are already parsed, so that no text can end one.
    pub(super) fn fill(&self, notice: &Notice) -> Value {
        filled(&self.0, notice)
    }
}

fn check(value: &Value) -> Result<(), TemplateError> {
    match value {
        Value::String(text) => check_text(text),
        Value::Array(values) => values.iter().try_for_each(check),
        Value::Object(members) => members.values().try_for_each(check),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn check_text(text: &str) -> Result<(), TemplateError> {
    for part in text.split("{{").skip(1) {
        let (place, _) = part.split_once("}}").ok_or(TemplateError::Open)?;
        if !PLACES.contains(&place.trim()) {
            return Err(TemplateError::Place(place.trim().to_owned()));
        }
    }
    Ok(())
}

fn filled(value: &Value, notice: &Notice) -> Value {
    match value {
        Value::String(text) => Value::String(filled_text(text, notice)),
        Value::Array(values) => values.iter().map(|value| filled(value, notice)).collect(),
        Value::Object(members) => Value::Object(members.iter().map(|(name, value)| (name.clone(), filled(value, notice))).collect()),
        other => other.clone(),
    }
}

fn filled_text(text: &str, notice: &Notice) -> String {
    let mut parts = text.split("{{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // What was checked has a known place here.
        let (place, rest) = part.split_once("}}").unwrap_or((part, ""));
        out.push_str(&said(place.trim(), notice));
        out.push_str(rest);
    }
    out
}

fn said(place: &str, notice: &Notice) -> String {
    match place {
        "id" => notice.id.clone(),
        "kind" => notice.kind.name().to_owned(),
        "tenant" => notice.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
        "subject" => notice.subject.clone(),
        "text" => notice.text.clone(),
        _ => notice.at.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use schemas::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::notices::Kind;

    #[test]
    fn a_text_cannot_leave_its_string_nor_open_a_place() {
        let template = Template::parse(r#"{"a": ["{{ kind }}: {{text}}!"], "n": 1}"#).unwrap();
        let notice = Notice::new(Kind::Test, None, "x".to_owned(), r#"", "evil": "{{id}}"#, Timestamp::from_micros(0));
        assert_eq!(template.fill(&notice), json!({ "a": [r#"test: ", "evil": "{{id}}!"#], "n": 1 }));
    }

    #[test]
    fn a_template_that_is_wrong_is_refused_with_what_is_wrong() {
        assert_eq!(Template::parse("{{text}}"), Err(TemplateError::NotJson));
        assert_eq!(Template::parse(r#"["{{secret}}"]"#), Err(TemplateError::Place("secret".to_owned())));
        assert_eq!(Template::parse(r#"["{{text"]"#), Err(TemplateError::Open));
        assert_eq!(Template::parse(&format!("\"{}\"", "a".repeat(BYTES_MAX))), Err(TemplateError::TooLong));
    }
}
