//! What a policy says of itself. It is the answer of guest code, so it is read as hostile input: bounded, and nothing unknown is let through.

use schemas::policy::{MANIFEST_BYTES_MAX, PolicyKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::canonical_json;
use crate::contract::Effect;

/// The most reasons a policy declares.
pub const REASONS_MAX: usize = 64;
/// The most meters a policy is given.
pub const METERS_MAX: usize = 16;
/// The most bytes of a code: of a reason, a meter.
pub const CODE_BYTES_MAX: usize = 64;
/// The most bytes of a free text.
pub const TEXT_BYTES_MAX: usize = 1024;
/// The kinds of obligations, by their names in a manifest.
pub const OBLIGATIONS: [&str; 4] = ["cap_output", "cap_parallel", "tag_usage", "pin_region"];
/// The kinds of advice, by their names in a manifest.
pub const ADVICE: [&str; 2] = ["rotate_key_by", "warn"];

/// A policy's manifest. `describe` returns it as JSON; what is optional there may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    pub kind: PolicyKind,
    #[serde(default)]
    pub description: String,
    /// What it can answer besides a fault. An answer that is not declared is a fault.
    pub effects: Vec<Effect>,
    #[serde(default)]
    pub reasons: Vec<DeclaredReason>,
    /// The kinds that it may use, of [`OBLIGATIONS`].
    #[serde(default)]
    pub obligations: Vec<String>,
    /// The kinds that it may use, of [`ADVICE`].
    #[serde(default)]
    pub advice: Vec<String>,
    /// The meters that a quota policy is given: `<scope>.<unit>.<window>`.
    #[serde(default)]
    pub meters: Vec<String>,
    /// Whether a quota policy is asked a second time, with the price of the chosen upstream.
    #[serde(default)]
    pub asks_for_price: bool,
    /// A JSON Schema of the settings.
    #[serde(default = "any_settings")]
    pub settings: Value,
}

/// A reason that a policy may give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredReason {
    /// `area.detail`, in lower case.
    pub code: String,
    /// What it means, for people.
    #[serde(default)]
    pub text: String,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    #[error("the manifest has more than {MANIFEST_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the manifest is not the JSON of a manifest: {0}")]
    Json(String),
    #[error("the manifest says kind {}, expected {}", found.as_str(), expected.as_str())]
    Kind { expected: PolicyKind, found: PolicyKind },
    #[error("{0} of the manifest is empty, too long, or has characters that are not allowed")]
    Text(&'static str),
    #[error("{0} of the manifest has too many entries")]
    TooMany(&'static str),
    #[error("{0} of the manifest has an entry twice")]
    Repeated(&'static str),
    #[error("the manifest declares no effect")]
    NoEffect,
    #[error("{0} of the manifest has an entry that this version does not know")]
    Unknown(&'static str),
    #[error("only a quota policy has {0}")]
    NotForKind(&'static str),
    #[error("the schema of the settings is an object or a boolean")]
    Schema,
}

fn any_settings() -> Value {
    Value::Bool(true)
}

impl Manifest {
    /// Reads what `describe` of a policy of this kind returned.
    pub fn parse(text: &str, kind: PolicyKind) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge);
        }
        // The parser's message names a line and a column and quotes at most a member's name; it is cut all the same.
        let manifest: Self = serde_json::from_str(text).map_err(|error| ManifestError::Json(shown(&error.to_string())))?;
        if manifest.kind != kind {
            return Err(ManifestError::Kind { expected: kind, found: manifest.kind });
        }
        manifest.check()?;
        // Escapes and numbers may grow when they are written again.
        if manifest.canonical().len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge);
        }
        Ok(manifest)
    }

    /// The canonical JSON, with all members.
    pub fn canonical(&self) -> String {
        let value = serde_json::to_value(self).expect("plain data with text keys; encoding to memory cannot fail");
        canonical_json(&value)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if !is_text(&self.name, CODE_BYTES_MAX) || self.name.is_empty() {
            return Err(ManifestError::Text("name"));
        }
        if !is_text(&self.version, CODE_BYTES_MAX) || self.version.is_empty() {
            return Err(ManifestError::Text("version"));
        }
        if !is_text(&self.description, TEXT_BYTES_MAX) {
            return Err(ManifestError::Text("description"));
        }
        if self.effects.is_empty() {
            return Err(ManifestError::NoEffect);
        }
        unique("effects", 3, self.effects.iter().map(|effect| *effect as u8))?;
        unique("reasons", REASONS_MAX, self.reasons.iter().map(|reason| reason.code.as_str()))?;
        for reason in &self.reasons {
            if !is_code(&reason.code, 2..=4) || !is_text(&reason.text, TEXT_BYTES_MAX) {
                return Err(ManifestError::Text("reasons"));
            }
        }
        known("obligations", &OBLIGATIONS, &self.obligations)?;
        known("advice", &ADVICE, &self.advice)?;
        unique("meters", METERS_MAX, self.meters.iter())?;
        if !self.meters.iter().all(|meter| is_code(meter, 3..=3)) {
            return Err(ManifestError::Text("meters"));
        }
        if self.kind != PolicyKind::Quota && !self.meters.is_empty() {
            return Err(ManifestError::NotForKind("meters"));
        }
        if self.kind != PolicyKind::Quota && self.asks_for_price {
            return Err(ManifestError::NotForKind("asks_for_price"));
        }
        if self.settings.is_object() || self.settings.is_boolean() { Ok(()) } else { Err(ManifestError::Schema) }
    }
}

fn unique<T: Ord>(what: &'static str, max: usize, entries: impl Iterator<Item = T>) -> Result<(), ManifestError> {
    let mut entries: Vec<T> = entries.collect();
    let count = entries.len();
    if count > max {
        return Err(ManifestError::TooMany(what));
    }
    entries.sort_unstable();
    entries.dedup();
    if entries.len() == count { Ok(()) } else { Err(ManifestError::Repeated(what)) }
}

fn known(what: &'static str, of: &[&str], entries: &[String]) -> Result<(), ManifestError> {
    unique(what, of.len(), entries.iter())?;
    if entries.iter().all(|entry| of.contains(&entry.as_str())) { Ok(()) } else { Err(ManifestError::Unknown(what)) }
}

/// Whether the text is so many parts of `a-z`, `0-9` and `_`, with dots between them.
fn is_code(text: &str, parts: std::ops::RangeInclusive<usize>) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    text.len() <= CODE_BYTES_MAX && parts.contains(&text.split('.').count()) && text.split('.').all(is_part)
}

/// Whether the text is short and has no control characters: it reaches terminals and logs.
pub(crate) fn is_text(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(|c| c.is_control() && c != '\n')
}

/// A foreign text, cut and without control characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn valid() -> Value {
        json!({
            "name": "daily budget", "version": "1.0.0", "kind": "quota", "description": "So much a day.",
            "effects": ["permit", "deny"], "reasons": [{ "code": "quota.day", "text": "The day's budget is spent." }],
            "obligations": ["cap_output"], "advice": ["warn"], "meters": ["key.micro_usd.day"], "asks_for_price": true,
            "settings": { "type": "object" },
        })
    }

    fn parse(value: &Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(&value.to_string(), PolicyKind::Quota)
    }

    #[test]
    fn a_manifest_is_read_and_has_one_spelling() {
        let manifest = parse(&valid()).unwrap();
        assert_eq!(manifest.effects, [Effect::Permit, Effect::Deny]);
        assert_eq!(manifest.canonical(), canonical_json(&valid()));
        assert_eq!(Manifest::parse(&manifest.canonical(), PolicyKind::Quota), Ok(manifest));
    }

    #[test]
    fn the_smallest_manifest_names_itself_and_its_effects() {
        let manifest = parse(&json!({ "name": "a", "version": "1", "kind": "quota", "effects": ["deny"] })).unwrap();
        assert_eq!((manifest.settings, manifest.asks_for_price), (Value::Bool(true), false));
    }

    #[test]
    fn what_is_not_known_or_not_bounded_is_refused() {
        let many = |n: usize| (0..n).map(|n| json!({ "code": format!("a.b{n}") })).collect::<Value>();
        let cases = [
            ("name", json!(""), ManifestError::Text("name")),
            ("name", json!("a\u{1b}[31m"), ManifestError::Text("name")),
            ("name", json!("x".repeat(65)), ManifestError::Text("name")),
            ("version", json!(""), ManifestError::Text("version")),
            ("description", json!("x".repeat(1025)), ManifestError::Text("description")),
            ("effects", json!([]), ManifestError::NoEffect),
            ("effects", json!(["deny", "deny"]), ManifestError::Repeated("effects")),
            ("kind", json!("route"), ManifestError::Kind { expected: PolicyKind::Quota, found: PolicyKind::Route }),
            ("reasons", json!([{ "code": "Quota.Day" }]), ManifestError::Text("reasons")),
            ("reasons", json!([{ "code": "quota" }]), ManifestError::Text("reasons")),
            ("reasons", many(65), ManifestError::TooMany("reasons")),
            ("reasons", json!([{ "code": "a.b" }, { "code": "a.b" }]), ManifestError::Repeated("reasons")),
            ("obligations", json!(["raise_cap"]), ManifestError::Unknown("obligations")),
            ("advice", json!(["cap_output"]), ManifestError::Unknown("advice")),
            ("meters", json!(["day"]), ManifestError::Text("meters")),
            ("settings", json!(7), ManifestError::Schema),
        ];
        for (member, value, error) in cases {
            let mut manifest = valid();
            manifest[member] = value;
            assert_eq!(parse(&manifest), Err(error), "{member}");
        }
        let mut manifest = valid();
        manifest["imports"] = json!([]);
        assert!(matches!(parse(&manifest), Err(ManifestError::Json(_))));
        let mut manifest = valid();
        manifest["kind"] = json!("route");
        assert_eq!(Manifest::parse(&manifest.to_string(), PolicyKind::Route), Err(ManifestError::NotForKind("meters")));
    }

    #[test]
    fn bombs_are_refused() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(10_000));
        for text in [deep.as_str(), "", "null", "[]", "{\"name\":1}", &"x".repeat(MANIFEST_BYTES_MAX + 1)] {
            assert!(Manifest::parse(text, PolicyKind::Quota).is_err());
        }
        let mut manifest = valid();
        manifest["settings"] = serde_json::from_str(&format!("{{\"a\":{}1{}}}", "[".repeat(90), "]".repeat(90))).unwrap();
        assert!(parse(&manifest).is_ok());
    }
}
