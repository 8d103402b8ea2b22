//! One judgement: which parts of some settings do not fit a schema that was taken in.

use std::cmp::Ordering;
use std::collections::HashSet;

use serde_json::{Map, Number, Value};

use super::{SCHEMA_CODE, Schema, below};
use crate::canonical_json;
use crate::limits::FAULTS_MAX;
use crate::manifest::shown;
use crate::module::SettingsFault;

/// The most steps of a judgement. A step is about one comparison.
const STEPS_MAX: u64 = 250_000;
/// The most schemas within one another, references followed.
const DEPTH_MAX: usize = 256;
/// Alternatives that a fault tells of.
const TOLD_MAX: usize = 3;

/// The schema leads into too many alternatives, or around in a circle.
struct Endless;

struct Judge<'a> {
    schema: &'a Schema<'a>,
    steps: u64,
}

/// What is wrong, as far as it was found out.
type Found = Vec<SettingsFault>;

pub(super) fn faults(schema: &Schema<'_>, settings: &Value) -> Found {
    let (mut judge, mut found) = (Judge { schema, steps: 0 }, Vec::new());
    if judge.value(schema.root, settings, "", 0, &mut found).is_err() {
        return vec![fault("", "the policy's schema takes too long to judge these settings".to_owned())];
    }
    found.truncate(FAULTS_MAX);
    found
}

fn fault(path: &str, detail: String) -> SettingsFault {
    SettingsFault { code: SCHEMA_CODE.to_owned(), path: Some(shown(path)), detail }
}

impl<'a> Judge<'a> {
    fn spend(&mut self, steps: usize) -> Result<(), Endless> {
        self.steps = self.steps.saturating_add(steps as u64);
        if self.steps > STEPS_MAX { Err(Endless) } else { Ok(()) }
    }

    fn value(&mut self, schema: &'a Value, value: &Value, path: &str, depth: usize, found: &mut Found) -> Result<(), Endless> {
        self.spend(1)?;
        let members = match schema {
            Value::Object(members) => members,
            Value::Bool(false) => {
                found.push(fault(path, "must not be there".to_owned()));
                return Ok(());
            }
            _ => return Ok(()),
        };
        if depth > DEPTH_MAX {
            return Err(Endless);
        }
        if let Some(types) = members.get("type")
            && !is_of(types, value)
        {
            found.push(fault(path, format!("expected {}, found {}", type_names(types), told(value))));
            // What else is said is about a value of that type.
            return Ok(());
        }
        self.choice(members, value, path, found)?;
        self.combined(members, value, path, depth, found)?;
        match value {
            Value::Object(entries) => self.object(members, entries, path, depth, found),
            Value::Array(entries) => self.list(members, entries, path, depth, found),
            Value::String(text) => self.text(members, text, path, found),
            Value::Number(number) => {
                bounds(members, number, path, found);
                Ok(())
            }
            Value::Null | Value::Bool(_) => Ok(()),
        }
    }

    fn choice(&mut self, members: &Map<String, Value>, value: &Value, path: &str, found: &mut Found) -> Result<(), Endless> {
        if let Some(Value::Array(allowed)) = members.get("enum") {
            self.spend(allowed.len())?;
            if !allowed.iter().any(|one| is_equal(one, value)) {
                let names = shown(&allowed.iter().map(canonical_json).collect::<Vec<_>>().join(", "));
                found.push(fault(path, format!("expected one of {names}, found {}", told(value))));
            }
        }
        if let Some(only) = members.get("const").filter(|only| !is_equal(only, value)) {
            found.push(fault(path, format!("expected {}, found {}", told(only), told(value))));
        }
        Ok(())
    }

    /// What other schemas say of the same value.
    fn combined(
        &mut self,
        members: &'a Map<String, Value>,
        value: &Value,
        path: &str,
        depth: usize,
        found: &mut Found,
    ) -> Result<(), Endless> {
        let schema = self.schema;
        if let Some(referred) = members.get("$ref").and_then(Value::as_str).and_then(|reference| schema.referred(reference)) {
            self.value(referred, value, path, depth + 1, found)?;
        }
        for all in list(members, "allOf") {
            self.value(all, value, path, depth + 1, found)?;
        }
        for keyword in ["anyOf", "oneOf"] {
            let alternatives = list(members, keyword);
            if alternatives.is_empty() {
                continue;
            }
            let (mut fitting, mut why) = (0, Vec::new());
            for alternative in alternatives {
                let mut misfits = Vec::new();
                self.value(alternative, value, path, depth + 1, &mut misfits)?;
                match misfits.into_iter().next() {
                    None => fitting += 1,
                    Some(first) if why.len() < TOLD_MAX => why.push(first.place_and_detail()),
                    Some(_) => {}
                }
            }
            match (fitting, keyword) {
                (0, _) => found.push(fault(path, format!("fits none of the alternatives ({})", why.join("; or ")))),
                (1, _) | (_, "anyOf") => {}
                (_, _) => found.push(fault(path, "fits more than one of the alternatives".to_owned())),
            }
        }
        if let Some(not) = members.get("not")
            && self.fits(not, value, path, depth)?
        {
            found.push(fault(path, format!("must not be {}", told(value))));
        }
        if let Some(condition) = members.get("if") {
            let consequence = if self.fits(condition, value, path, depth)? { "then" } else { "else" };
            if let Some(consequence) = members.get(consequence) {
                self.value(consequence, value, path, depth + 1, found)?;
            }
        }
        Ok(())
    }

    fn fits(&mut self, schema: &'a Value, value: &Value, path: &str, depth: usize) -> Result<bool, Endless> {
        let mut misfits = Vec::new();
        self.value(schema, value, path, depth + 1, &mut misfits)?;
        Ok(misfits.is_empty())
    }

    fn object(
        &mut self,
        members: &'a Map<String, Value>,
        entries: &Map<String, Value>,
        path: &str,
        depth: usize,
        found: &mut Found,
    ) -> Result<(), Endless> {
        counts(members, ("minProperties", "maxProperties"), (entries.len(), "members"), path, found);
        let absent = |name: &&Value| name.as_str().is_some_and(|name| !entries.contains_key(name));
        let missing = |name: &Value| fault(&below(path, name.as_str().unwrap_or_default()), "is missing".to_owned());
        found.extend(list(members, "required").iter().filter(absent).map(missing));
        for (name, needed) in members.get("dependentRequired").and_then(Value::as_object).into_iter().flatten() {
            if entries.contains_key(name) {
                found.extend(needed.as_array().into_iter().flatten().filter(absent).map(missing));
            }
        }
        let named = members.get("properties").and_then(Value::as_object);
        let by_pattern = members.get("patternProperties").and_then(Value::as_object);
        for (name, entry) in entries {
            let at = below(path, name);
            let mut is_known = false;
            if let Some(schema) = named.and_then(|named| named.get(name)) {
                is_known = true;
                self.value(schema, entry, &at, depth + 1, found)?;
            }
            for (pattern, schema) in by_pattern.into_iter().flatten() {
                if self.matches(pattern, name)? {
                    is_known = true;
                    self.value(schema, entry, &at, depth + 1, found)?;
                }
            }
            if let Some(names) = members.get("propertyNames") {
                self.value(names, &Value::String(name.clone()), &at, depth + 1, found)?;
            }
            match members.get("additionalProperties").filter(|_| !is_known) {
                Some(Value::Bool(false)) => {
                    let names = named.map(|named| named.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
                    let of = names.filter(|names| !names.is_empty()).map_or_else(String::new, |names| format!(", expected {names}"));
                    found.push(fault(&at, shown(&format!("is not known{of}"))));
                }
                Some(others) => self.value(others, entry, &at, depth + 1, found)?,
                None => {}
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        members: &'a Map<String, Value>,
        entries: &[Value],
        path: &str,
        depth: usize,
        found: &mut Found,
    ) -> Result<(), Endless> {
        counts(members, ("minItems", "maxItems"), (entries.len(), "entries"), path, found);
        let first = list(members, "prefixItems");
        for (place, entry) in entries.iter().enumerate() {
            if let Some(schema) = first.get(place).or_else(|| members.get("items")) {
                self.value(schema, entry, &below(path, &place.to_string()), depth + 1, found)?;
            }
        }
        if let Some(wanted) = members.get("contains") {
            let mut is_there = false;
            for entry in entries {
                is_there = is_there || self.fits(wanted, entry, path, depth)?;
            }
            if !is_there {
                found.push(fault(path, "has no entry of the kind that is asked for".to_owned()));
            }
        }
        if members.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut seen = HashSet::new();
            if let Some(twice) = entries.iter().position(|entry| !seen.insert(canonical_json(entry))) {
                found.push(fault(&below(path, &twice.to_string()), "is there twice".to_owned()));
            }
        }
        Ok(())
    }

    fn text(&mut self, members: &Map<String, Value>, text: &str, path: &str, found: &mut Found) -> Result<(), Endless> {
        counts(members, ("minLength", "maxLength"), (text.chars().count(), "characters"), path, found);
        if let Some(pattern) = members.get("pattern").and_then(Value::as_str)
            && !self.matches(pattern, text)?
        {
            found.push(fault(path, format!("{} does not match {}", told(&Value::String(text.to_owned())), shown(pattern))));
        }
        Ok(())
    }

    fn matches(&mut self, pattern: &str, text: &str) -> Result<bool, Endless> {
        // In the worst case it looks at every byte of the text in every state of the pattern.
        self.spend(1 + text.len() * pattern.len() / 16)?;
        Ok(self.schema.patterns.get(pattern).is_some_and(|regex| regex.is_match(text)))
    }
}

fn list<'a>(members: &'a Map<String, Value>, keyword: &str) -> &'a [Value] {
    members.get(keyword).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn counts(members: &Map<String, Value>, (least, most): (&str, &str), (count, of): (usize, &str), path: &str, found: &mut Found) {
    let bound = |keyword: &str| members.get(keyword).and_then(Value::as_u64);
    if let Some(least) = bound(least).filter(|least| (count as u64) < *least) {
        found.push(fault(path, format!("has {count} {of}, at least {least} are needed")));
    }
    if let Some(most) = bound(most).filter(|most| count as u64 > *most) {
        found.push(fault(path, format!("has {count} {of}, at most {most} are allowed")));
    }
}

fn bounds(members: &Map<String, Value>, number: &Number, path: &str, found: &mut Found) {
    type Holds = fn(Ordering) -> bool;
    let rules: [(&str, &str, Holds); 4] = [
        ("minimum", "is less than", Ordering::is_ge),
        ("maximum", "is more than", Ordering::is_le),
        ("exclusiveMinimum", "is not more than", Ordering::is_gt),
        ("exclusiveMaximum", "is not less than", Ordering::is_lt),
    ];
    for (keyword, complaint, is_right) in rules {
        let Some(Value::Number(bound)) = members.get(keyword) else { continue };
        if !compare(number, bound).is_some_and(is_right) {
            found.push(fault(path, format!("{number} {complaint} {bound}")));
        }
    }
    if let Some(Value::Number(step)) = members.get("multipleOf")
        && !is_multiple(number, step)
    {
        found.push(fault(path, format!("{number} is no multiple of {step}")));
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

fn is_multiple(number: &Number, step: &Number) -> bool {
    match (whole(number), whole(step)) {
        (Some(number), Some(step)) => step != 0 && number % step == 0,
        _ => number.as_f64().zip(step.as_f64()).is_some_and(|(number, step)| (number / step).fract() == 0.0),
    }
}

/// Equal as JSON has it: 1 and 1.0 are.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Some(Ordering::Equal),
        _ => a == b,
    }
}

fn is_of(types: &Value, value: &Value) -> bool {
    let is_one = |name: &Value| match (name.as_str().unwrap_or_default(), value) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) | ("object", Value::Object(_)) => true,
        ("array", Value::Array(_)) | ("number", Value::Number(_)) | ("string", Value::String(_)) => true,
        ("integer", Value::Number(number)) => whole(number).is_some() || number.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    };
    types.as_array().map_or_else(|| is_one(types), |types| types.iter().any(is_one))
}

fn type_names(types: &Value) -> String {
    let names = types.as_array().map_or(std::slice::from_ref(types), Vec::as_slice);
    names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")
}

/// A value in a few words.
fn told(value: &Value) -> String {
    const TOLD_CHARS_MAX: usize = 60;
    let text = shown(&canonical_json(value));
    if text.chars().count() <= TOLD_CHARS_MAX { text } else { text.chars().take(TOLD_CHARS_MAX).chain("…".chars()).collect() }
}
