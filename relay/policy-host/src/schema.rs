//! Settings against the JSON Schema that a policy's manifest has of them.
//!
//! The keywords are those that people write and generators make, and no others: an unknown one is refused when the policy is uploaded, so that
//! whatever a schema says holds. Schema and settings are both foreign, so every judgement is bounded by steps and faults, and patterns by their size;
//! a reference leads to `$defs` of the same schema and nowhere else.

mod judge;
mod keywords;

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::Value;
use thiserror::Error;

use crate::module::SettingsFault;

/// The code of what a schema finds wrong with settings.
pub const SCHEMA_CODE: &str = "settings.schema";
/// The most schemas within one another.
const DEPTH_MAX: usize = 64;
/// The most patterns of one schema.
const PATTERNS_MAX: usize = 64;
/// The most bytes of a pattern, and of what it is compiled to.
const PATTERN_BYTES_MAX: usize = 1024;
const PATTERN_SIZE_MAX: usize = 64 * 1024;

/// Why a schema is refused: where in it, as a JSON pointer, and what.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {detail}", if path.is_empty() { "at its top" } else { path })]
pub struct SchemaError {
    pub path: String,
    pub detail: String,
}

/// A schema that is understood whole.
#[derive(Debug)]
pub(crate) struct Schema<'a> {
    root: &'a Value,
    /// By their text.
    patterns: BTreeMap<&'a str, Regex>,
}

impl<'a> Schema<'a> {
    pub(crate) fn parse(root: &'a Value) -> Result<Self, SchemaError> {
        let mut schema = Self { root, patterns: BTreeMap::new() };
        schema.take(root, "", 0)?;
        Ok(schema)
    }

    /// What is wrong with settings, at most [`crate::limits::FAULTS_MAX`] things; empty if nothing is.
    pub(crate) fn faults(&self, settings: &Value) -> Vec<SettingsFault> {
        judge::Judge::of(self).faults(settings)
    }

    /// The schema that a reference stands for.
    fn referred(&self, reference: &str) -> Option<&'a Value> {
        let pointer = reference.strip_prefix('#')?;
        let mut parts = pointer.split('/').skip(1);
        let is_known = match (parts.next(), parts.next(), parts.next()) {
            (None, None, None) => pointer.is_empty(),
            (Some("$defs" | "definitions"), Some(_), None) => true,
            _ => false,
        };
        if is_known { self.root.pointer(pointer) } else { None }
    }

    fn pattern(&mut self, text: &'a str) -> Result<(), String> {
        if self.patterns.contains_key(text) {
            return Ok(());
        }
        if self.patterns.len() == PATTERNS_MAX {
            return Err(format!("there are more than {PATTERNS_MAX} patterns"));
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes"));
        }
        let compiled = regex_lite::RegexBuilder::new(text).size_limit(PATTERN_SIZE_MAX).build();
        let regex = compiled.map_err(|error| format!("the pattern is not understood: {error}"))?;
        self.patterns.insert(text, regex);
        Ok(())
    }
}

/// A member of an object or an entry of a list, as a JSON pointer.
fn below(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests;
