//! One judgement: which parts of some settings do not fit a schema that was taken in.

use std::cmp::Ordering;
use std::collections::HashSet;

use serde_json::{Map, Number, Value};

use super::{SCHEMA_CODE, Schema, below};
use crate::canonical_json;
use crate::limits::FAULTS_MAX;
use crate::manifest::shown;
use crate::module::SettingsFault;

/// The most steps of a judgement. A step is about one comparison, or [`STEP_BYTES`] of a text that is compared, copied or written.
pub(super) const STEPS_MAX: u64 = 250_000;
const STEP_BYTES: usize = 64;
/// The most schemas within one another, references followed.
const DEPTH_MAX: usize = 256;
/// Alternatives that a fault tells of.
const TOLD_MAX: usize = 3;

/// Why a judgement goes no further.
enum Stop {
    /// The schema leads into too many alternatives, or around in a circle.
    Endless,
    /// As much is wrong as is asked for.
    Enough,
}

/// What is wrong, as far as it was found out and is asked for.
struct Found {
    faults: Vec<SettingsFault>,
    max: usize,
}

impl Found {
    const fn at_most(max: usize) -> Self {
        Self { faults: Vec::new(), max }
    }

    /// Whoever pushes stops with the last fault that is asked for, so that no more are made than are kept.
    fn push(&mut self, path: &str, detail: String) -> Result<(), Stop> {
        self.faults.push(fault(path, detail));
        if self.faults.len() < self.max { Ok(()) } else { Err(Stop::Enough) }
    }
}

pub(super) struct Judge<'a> {
    schema: &'a Schema<'a>,
    pub(super) steps: u64,
}

fn fault(path: &str, detail: String) -> SettingsFault {
    SettingsFault { code: SCHEMA_CODE.to_owned(), path: Some(shown(path)), detail }
}

impl<'a> Judge<'a> {
    pub(super) const fn of(schema: &'a Schema<'a>) -> Self {
        Self { schema, steps: 0 }
    }

    /// What is wrong with settings, or that it would take too long to say.
    pub(super) fn faults(&mut self, settings: &Value) -> Vec<SettingsFault> {
        let mut found = Found::at_most(FAULTS_MAX);
        match self.value(self.schema.root, settings, "", 0, &mut found) {
            Ok(()) | Err(Stop::Enough) => found.faults,
            Err(Stop::Endless) => vec![fault("", "the policy's schema takes too long to judge these settings".to_owned())],
        }
    }

    fn spend(&mut self, steps: usize) -> Result<(), Stop> {
        self.steps = self.steps.saturating_add(steps as u64);
        if self.steps > STEPS_MAX { Err(Stop::Endless) } else { Ok(()) }
    }

    fn spend_on(&mut self, bytes: usize) -> Result<(), Stop> {
        self.spend(1 + bytes / STEP_BYTES)
    }

    fn value(&mut self, schema: &'a Value, value: &Value, path: &str, depth: usize, found: &mut Found) -> Result<(), Stop> {
        self.spend(1)?;
        let members = match schema {
            Value::Object(members) => members,
            Value::Bool(false) => return found.push(path, "must not be there".to_owned()),
            _ => return Ok(()),
        };
        if depth > DEPTH_MAX {
            return Err(Stop::Endless);
        }
        if let Some(types) = members.get("type") {
            self.spend(types.as_array().map_or(0, Vec::len))?;
            if !is_of(types, value) {
                // What else is said is about a value of that type.
                return found.push(path, format!("expected {}, found {}", shown(&type_names(types)), self.told(value)?));
            }
        }
        self.choice(members, value, path, found)?;
        self.combined(members, value, path, depth, found)?;
        match value {
            Value::Object(entries) => self.object(members, entries, path, depth, found),
            Value::Array(entries) => self.list(members, entries, path, depth, found),
            Value::String(text) => self.text(members, text, path, found),
            Value::Number(number) => bounds(members, number, path, found),
            Value::Null | Value::Bool(_) => Ok(()),
        }
    }

    fn choice(&mut self, members: &Map<String, Value>, value: &Value, path: &str, found: &mut Found) -> Result<(), Stop> {
        if let Some(Value::Array(allowed)) = members.get("enum") {
            let mut is_allowed = false;
            for one in allowed {
                is_allowed = self.is_equal(one, value)?;
                if is_allowed {
                    break;
                }
            }
            if !is_allowed {
                let names = allowed.iter().map(canonical_json).collect::<Vec<_>>().join(", ");
                self.spend_on(names.len())?;
                found.push(path, format!("expected one of {}, found {}", shown(&names), self.told(value)?))?;
            }
        }
        if let Some(only) = members.get("const")
            && !self.is_equal(only, value)?
        {
            found.push(path, format!("expected {}, found {}", self.told(only)?, self.told(value)?))?;
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
    ) -> Result<(), Stop> {
        if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
            self.spend_on(reference.len())?;
            if let Some(referred) = self.schema.referred(reference) {
                self.value(referred, value, path, depth + 1, found)?;
            }
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
                match self.misfit(alternative, value, path, depth)? {
                    None => fitting += 1,
                    // Cut, since alternatives within alternatives would multiply it.
                    Some(misfit) if why.len() < TOLD_MAX => why.push(shown(&misfit.place_and_detail())),
                    Some(_) => {}
                }
            }
            match (fitting, keyword) {
                (0, _) => found.push(path, format!("fits none of the alternatives ({})", why.join("; or ")))?,
                (1, _) | (_, "anyOf") => {}
                (_, _) => found.push(path, "fits more than one of the alternatives".to_owned())?,
            }
        }
        if let Some(not) = members.get("not")
            && self.misfit(not, value, path, depth)?.is_none()
        {
            found.push(path, format!("must not be {}", self.told(value)?))?;
        }
        if let Some(condition) = members.get("if") {
            let consequence = if self.misfit(condition, value, path, depth)?.is_none() { "then" } else { "else" };
            if let Some(consequence) = members.get(consequence) {
                self.value(consequence, value, path, depth + 1, found)?;
            }
        }
        Ok(())
    }

    /// The first thing that does not fit a schema within another; none if all does.
    fn misfit(&mut self, schema: &'a Value, value: &Value, path: &str, depth: usize) -> Result<Option<SettingsFault>, Stop> {
        let mut found = Found::at_most(1);
        match self.value(schema, value, path, depth + 1, &mut found) {
            Ok(()) | Err(Stop::Enough) => Ok(found.faults.pop()),
            Err(Stop::Endless) => Err(Stop::Endless),
        }
    }

    fn object(
        &mut self,
        members: &'a Map<String, Value>,
        entries: &Map<String, Value>,
        path: &str,
        depth: usize,
        found: &mut Found,
    ) -> Result<(), Stop> {
        counts(members, ("minProperties", "maxProperties"), (entries.len(), "members"), path, found)?;
        self.required(list(members, "required"), entries, path, found)?;
        for (name, needed) in members.get("dependentRequired").and_then(Value::as_object).into_iter().flatten() {
            self.spend_on(name.len())?;
            if entries.contains_key(name) {
                self.required(needed.as_array().map_or(&[], Vec::as_slice), entries, path, found)?;
            }
        }
        let named = members.get("properties").and_then(Value::as_object);
        let by_pattern = members.get("patternProperties").and_then(Value::as_object);
        let (names, others) = (members.get("propertyNames"), members.get("additionalProperties"));
        if named.is_none() && by_pattern.is_none() && names.is_none() && others.is_none() {
            return Ok(());
        }
        for (name, entry) in entries {
            self.spend_on(path.len() + name.len())?;
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
            if let Some(names) = names {
                self.value(names, &Value::String(name.clone()), &at, depth + 1, found)?;
            }
            match others.filter(|_| !is_known) {
                Some(Value::Bool(false)) => {
                    self.spend(named.map_or(0, Map::len))?;
                    let names = named.map(|named| named.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
                    let of = names.filter(|names| !names.is_empty()).map_or_else(String::new, |names| format!(", expected {names}"));
                    self.spend_on(of.len())?;
                    found.push(&at, shown(&format!("is not known{of}")))?;
                }
                Some(others) => self.value(others, entry, &at, depth + 1, found)?,
                None => {}
            }
        }
        Ok(())
    }

    fn required(&mut self, names: &[Value], entries: &Map<String, Value>, path: &str, found: &mut Found) -> Result<(), Stop> {
        for name in names.iter().filter_map(Value::as_str) {
            self.spend_on(name.len())?;
            if !entries.contains_key(name) {
                self.spend_on(path.len())?;
                found.push(&below(path, name), "is missing".to_owned())?;
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
    ) -> Result<(), Stop> {
        counts(members, ("minItems", "maxItems"), (entries.len(), "entries"), path, found)?;
        let (first, others) = (list(members, "prefixItems"), members.get("items"));
        for (place, entry) in entries.iter().enumerate() {
            let Some(schema) = first.get(place).or(others) else { break };
            self.spend_on(path.len())?;
            self.value(schema, entry, &below(path, &place.to_string()), depth + 1, found)?;
        }
        if let Some(wanted) = members.get("contains") {
            let mut is_there = false;
            for entry in entries {
                is_there = self.misfit(wanted, entry, path, depth)?.is_none();
                if is_there {
                    break;
                }
            }
            if !is_there {
                found.push(path, "has no entry of the kind that is asked for".to_owned())?;
            }
        }
        if members.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut seen = HashSet::new();
            for (place, entry) in entries.iter().enumerate() {
                let text = canonical_json(entry);
                self.spend_on(text.len())?;
                if !seen.insert(text) {
                    found.push(&below(path, &place.to_string()), "is there twice".to_owned())?;
                    break;
                }
            }
        }
        Ok(())
    }

    fn text(&mut self, members: &Map<String, Value>, text: &str, path: &str, found: &mut Found) -> Result<(), Stop> {
        self.spend_on(text.len())?;
        counts(members, ("minLength", "maxLength"), (text.chars().count(), "characters"), path, found)?;
        if let Some(pattern) = members.get("pattern").and_then(Value::as_str)
            && !self.matches(pattern, text)?
        {
            let text = self.told(&Value::String(text.to_owned()))?;
            found.push(path, format!("{text} does not match {}", shown(pattern)))?;
        }
        Ok(())
    }

    /// Equal as JSON has it: 1 and 1.0 are.
    fn is_equal(&mut self, a: &Value, b: &Value) -> Result<bool, Stop> {
        self.spend(1)?;
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => Ok(compare(a, b) == Some(Ordering::Equal)),
            (Value::String(a), Value::String(b)) => {
                self.spend_on(a.len().min(b.len()))?;
                Ok(a == b)
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (a, b) in a.iter().zip(b) {
                    if !self.is_equal(a, b)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
                for (name, a) in a {
                    self.spend_on(name.len())?;
                    let Some(b) = b.get(name) else { return Ok(false) };
                    if !self.is_equal(a, b)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
            (Value::Null, Value::Null) => Ok(true),
            (_, _) => Ok(false),
        }
    }

    /// A value in a few words.
    fn told(&mut self, value: &Value) -> Result<String, Stop> {
        const TOLD_CHARS_MAX: usize = 60;
        let text = canonical_json(value);
        self.spend_on(text.len())?;
        let text = shown(&text);
        let is_short = text.chars().count() <= TOLD_CHARS_MAX;
        Ok(if is_short { text } else { text.chars().take(TOLD_CHARS_MAX).chain("…".chars()).collect() })
    }

    fn matches(&mut self, pattern: &str, text: &str) -> Result<bool, Stop> {
        // In the worst case it looks at every byte of the text in every state of the pattern.
        self.spend(1 + text.len() * pattern.len() / 16)?;
        Ok(self.schema.patterns.get(pattern).is_some_and(|regex| regex.is_match(text)))
    }
}

fn list<'a>(members: &'a Map<String, Value>, keyword: &str) -> &'a [Value] {
    members.get(keyword).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn counts(
    members: &Map<String, Value>,
    (least, most): (&str, &str),
    (count, of): (usize, &str),
    path: &str,
    found: &mut Found,
) -> Result<(), Stop> {
    let bound = |keyword: &str| members.get(keyword).and_then(Value::as_u64);
    if let Some(least) = bound(least).filter(|least| (count as u64) < *least) {
        found.push(path, format!("has {count} {of}, at least {least} are needed"))?;
    }
    if let Some(most) = bound(most).filter(|most| count as u64 > *most) {
        found.push(path, format!("has {count} {of}, at most {most} are allowed"))?;
    }
    Ok(())
}

fn bounds(members: &Map<String, Value>, number: &Number, path: &str, found: &mut Found) -> Result<(), Stop> {
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
            found.push(path, format!("{number} {complaint} {bound}"))?;
        }
    }
    if let Some(Value::Number(step)) = members.get("multipleOf")
        && !is_multiple(number, step)
    {
        found.push(path, format!("{number} is no multiple of {step}"))?;
    }
    Ok(())
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
        _ => number.as_f64().zip(step.as_f64()).is_some_and(|(number, step)| is_about_whole(number / step)),
    }
}

/// Whether a quotient of decimal fractions is whole but for how doubles round them: 0.3 / 0.1 is a little less than 3.
fn is_about_whole(quotient: f64) -> bool {
    const SLACK: f64 = 1e-9;
    // Of large quotients so much would be more than what doubles round off, and let tenths through.
    const SLACK_MAX: f64 = 1e-3;
    (quotient - quotient.round()).abs() <= (quotient.abs() * SLACK).min(SLACK_MAX)
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
