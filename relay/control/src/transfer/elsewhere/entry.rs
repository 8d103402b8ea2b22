//! One object of a JSON file, taken apart member by member, so that nothing of it is lost without a word.

use schemas::Timestamp;
use serde_json::{Map, Value};

use super::draft::Draft;

/// An object, and where it stands. What is taken is removed; [`Entry::rest`] tells of what is left.
pub(super) struct Entry {
    pub(super) place: String,
    members: Map<String, Value>,
    /// What is kept for policies in the key's metadata.
    pub(super) kept: Map<String, Value>,
    fault: Option<String>,
}

impl Entry {
    pub(super) fn new(place: String, value: &Value) -> Result<Self, String> {
        match value {
            Value::Object(members) => Ok(Self { place, members: members.clone(), kept: Map::new(), fault: None }),
            _ => Err("it is no object".to_owned()),
        }
    }

    /// What was wrong with a member that was taken.
    pub(super) fn fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    fn wrong(&mut self, name: &str, what: &str) {
        self.fault.get_or_insert_with(|| format!("{name} is no {what}"));
    }

    /// A member that says something; texts that hold JSON, as Redis keeps them, are read.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        let value = self.members.remove(name)?;
        let value = match &value {
            Value::String(text) if text.starts_with(['[', '{']) => serde_json::from_str(text).unwrap_or(value),
            _ => value,
        };
        says_something(&value).then_some(value)
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.members.remove(name)? {
            Value::String(text) if !matches!(&text[..], "" | "null" | "undefined") => Some(text),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::String(_) => None,
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                self.wrong(name, "text");
                None
            }
        }
    }

    /// A whole number above zero, which elsewhere stands for no limit.
    pub(super) fn count(&mut self, name: &str) -> Option<u32> {
        let text = self.text(name)?;
        let number = text.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number));
        match number {
            Some(number) => Some(number as u32).filter(|number| *number > 0),
            None => {
                self.wrong(name, "whole number");
                None
            }
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        match self.members.remove(name)? {
            Value::Bool(flag) => Some(flag),
            Value::String(text) if text == "true" => Some(true),
            Value::String(text) if text == "false" => Some(false),
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            _ => {
                self.wrong(name, "truth value");
                None
            }
        }
    }

    /// A list of texts; one text is a list of those between its commas.
    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        match self.value(name) {
            None => Vec::new(),
            Some(Value::Array(entries)) => {
                entries.iter().map(|entry| entry.as_str().map_or_else(|| entry.to_string(), str::to_owned)).collect()
            }
            Some(Value::String(text)) => text.split(',').map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty()).collect(),
            Some(_) => {
                self.wrong(name, "list");
                Vec::new()
            }
        }
    }

    /// A time with a zone, or in UTC without one.
    pub(super) fn time(&mut self, name: &str) -> Option<Timestamp> {
        let text = self.text(name)?;
        let in_utc =
            || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().to_string().parse().ok();
        let time = text.parse().ok().or_else(in_utc);
        if time.is_none() {
            self.wrong(name, "time");
        }
        time
    }

    /// A time in seconds since 1970; negative ones are none.
    pub(super) fn seconds(&mut self, name: &str) -> Option<Timestamp> {
        match self.members.remove(name)? {
            Value::Number(number) => match number.as_i64() {
                Some(seconds) if seconds >= 0 => {
                    Some(Timestamp::from_micros((seconds as u64).saturating_mul(1_000_000)).min(Timestamp::MAX))
                }
                Some(_) => None,
                None => {
                    self.wrong(name, "time");
                    None
                }
            },
            Value::Null => None,
            _ => {
                self.wrong(name, "time");
                None
            }
        }
    }

    /// Whether a member that nobody has taken says something.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(says_something)
    }

    /// Leaves out what says nothing about what the object may do.
    pub(super) fn pass_over(&mut self, names: &[&str]) {
        names.iter().for_each(|name| drop(self.members.remove(*name)));
    }

    /// Members that restrict the object and cannot be carried: told, and kept in the key's metadata, where a policy finds them.
    pub(super) fn keep(&mut self, names: &[&str], why: &str, draft: &mut Draft<'_>) {
        for name in names {
            if let Some(value) = self.value(name) {
                draft.leave(
                    &self.place,
                    format!("{name} {}", short(&value)),
                    format!("{why}; it stands in the key's metadata, for a policy"),
                );
                self.kept.insert((*name).to_owned(), value);
            }
        }
    }

    /// Tells of every member that nobody has asked for and that says something.
    pub(super) fn rest(&mut self, draft: &mut Draft<'_>) {
        for (name, value) in std::mem::take(&mut self.members) {
            if says_something(&value) {
                draft.leave(&self.place, name, "nothing here is like it");
            }
        }
    }
}

/// Whether a value is more than the absence of one.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(&text[..], "" | "0" | "false" | "null" | "undefined" | "[]" | "{}"),
        Value::Array(entries) => !entries.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// A value as a reader needs it to recognise.
fn short(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}
